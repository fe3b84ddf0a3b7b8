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

/// An open, as far as it matters whether it is the first of its kind.
pub struct Touch {
    /// Start of the process.
    pub start: u64,
    /// Counts the images that the process has run.
    pub image: u32,
    /// The process.
    pub tgid: u32,
    /// The file.
    pub inode: u64,
    /// Tells it from an earlier one of the same number.
    pub inode_generation: u32,
    /// Where it is.
    pub device: u32,
    /// What for: see [`access`].
    pub access: u32,
}

impl Touch {
    /// Reads it where the verifier knows the kernel's objects.
    #[inline(always)]
    pub fn of(task: Pointer, inode: Pointer, access: u32) -> Self {
        let leader: Pointer = field!(task, task_group_leader);
        let superblock: Pointer = field!(inode, inode_super);
        Self {
            start: field!(leader, task_start),
            image: field!(task, task_exec_id),
            tgid: field!(task, task_tgid),
            inode: field!(inode, inode_number),
            inode_generation: field!(inode, inode_generation),
            device: field!(superblock, super_device),
            access,
        }
    }
}

const O_CREAT: u32 = 0o100;
const O_TRUNC: u32 = 0o1000;
const O_PATH: u32 = 0o10_000_000;

/// Returns what an open is for: reading, writing, making, cutting, or none.
#[inline(always)]
pub fn access(file_mode: u32, open_flags: u32) -> u32 {
    file_mode & 3 | open_flags & (O_CREAT | O_TRUNC | O_PATH)
}

/// Says whether this process opened this file for this access before, and
/// notes that it did.
#[inline(always)]
pub fn before(touch: &Touch) -> bool {
    let mut key = mix(setting!(SEEN_SEED), touch.start);
    key = mix(key, u64::from(touch.image) << 32 | u64::from(touch.tgid));
    key = mix(key, touch.inode);
    key = mix(key, u64::from(touch.device) << 32 | u64::from(touch.access));
    key = mix(key, u64::from(touch.inode_generation)) | 1;
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
