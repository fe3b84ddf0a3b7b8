//! First touches: which process opened which file for what before.
//!
//! A direct-mapped table of keyed words, like [`crate::clean`]'s. A word that
//! lost its place to another one makes an open an event again, never the
//! other way round. Repeats are counted for each process, and its exit tells.

use aya_ebpf::{
    macros::map,
    maps::{Array, LruHashMap},
};

use crate::{
    clean::mix,
    memory::atomic_add,
    offsets::{SEEN_SEED, setting},
    typed::{Pointer, field},
};

/// Words of the table: 1 MiB. A desktop opens some ten thousand different
/// files in an hour.
const SLOTS: u32 = 1 << 17;

#[map]
static SEEN: Array<u64> = Array::with_max_entries(SLOTS, 0);

/// Repeated opens by thread group. As many as a busy machine has processes;
/// the counts of those idle for longest go first.
#[map]
static REPEATS: LruHashMap<u32, u64> = LruHashMap::with_max_entries(65_536, 0);

/// Says whether this process opened this file for this access before, and
/// notes that it did.
#[inline(always)]
pub fn before(task: Pointer, inode: Pointer, access: u32) -> bool {
    let leader: Pointer = field!(task, task_group_leader);
    let mut key = mix(setting!(SEEN_SEED), field!(leader, task_start));
    let image: u32 = field!(task, task_exec_id);
    let tgid: u32 = field!(task, task_tgid);
    key = mix(key, u64::from(image) << 32 | u64::from(tgid));
    key = mix(key, field!(inode, inode_number));
    let superblock: Pointer = field!(inode, inode_super);
    let device: u32 = field!(superblock, super_device);
    key = mix(key, u64::from(device) << 32 | u64::from(access));
    let generation: u32 = field!(inode, inode_generation);
    key = mix(key, u64::from(generation)) | 1;
    let Some(place) = SEEN.get_ptr_mut((key >> 40) as u32 & (SLOTS - 1)) else {
        return false;
    };
    // SAFETY: a live map value of one word.
    if unsafe { core::ptr::read_volatile(place) } == key {
        return true;
    }
    // SAFETY: as above.
    unsafe { core::ptr::write_volatile(place, key) };
    false
}

/// Counts a repeat.
#[inline(always)]
pub fn repeat(tgid: u32) {
    if let Some(count) = REPEATS.get_ptr_mut(tgid) {
        // SAFETY: a live map value.
        unsafe { atomic_add(count, 1) };
        return;
    }
    let _ = REPEATS.insert(tgid, 1, 0);
}

/// Returns a process's repeats, and forgets them.
#[inline(always)]
pub fn take_repeats(tgid: u32) -> u64 {
    // SAFETY: copied at once.
    let Some(count) = (unsafe { REPEATS.get(tgid) }).copied() else {
        return 0;
    };
    let _ = REPEATS.remove(tgid);
    count
}
