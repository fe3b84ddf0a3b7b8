//! First touches: which process opened which file for what before.
//!
//! A direct-mapped table of keyed words, like [`crate::clean`]'s. A word that
//! lost its place to another one makes an open an event again, never the
//! other way round. Repeats are counted for each process, and its exit tells.

use crate::{
    device::device_of_typed,
    file_open::{O_ACCMODE, O_CREAT, O_PATH, O_TRUNC},
    global::Global,
    hash::{self, Hash},
    memory::atomic_add,
    typed::{Pointer, field, plain},
};

/// Places of the table: 1 MiB. A desktop opens some ten thousand different
/// files in an hour.
const PLACE_BITS: u32 = 17;

static SEEN: Global<[u64; 1 << PLACE_BITS]> = Global::new([0; 1 << PLACE_BITS]);

/// Places for counts of repeats: 1 MiB. With a thousand processes one in
/// sixty shares its place with another one.
const REPEAT_BITS: u32 = 16;

/// Repeated opens of a process. One that finds its place taken by another
/// process begins there anew: the other one's exit then tells too few.
#[derive(Clone, Copy)]
#[repr(C)]
struct Repeats {
    process: u64,
    count: u64,
}

static REPEATS: Global<[Repeats; 1 << REPEAT_BITS]> = Global::new(
    [Repeats {
        process: 0,
        count: 0,
    }; 1 << REPEAT_BITS],
);

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
        Self {
            start: field!(leader, task_start),
            image: field!(task, task_exec_id),
            tgid: field!(task, task_tgid),
            inode: field!(inode, inode_number),
            inode_generation: field!(inode, inode_generation),
            device: device_of_typed(inode, || plain(inode as u64)),
            access,
        }
    }
}

/// Returns what an open is for: reading, writing, making, cutting, or none.
#[inline(always)]
pub fn access(open_flags: u32) -> u32 {
    open_flags & (O_ACCMODE | O_CREAT | O_TRUNC | O_PATH)
}

/// Says whether this process opened this file for this access before; a repeat
/// is counted, and the first one noted.
#[inline(always)]
pub fn is_repeat(touch: &Touch) -> bool {
    let repeat = before(touch);
    if repeat {
        count_repeat(touch.tgid, touch.start);
    }
    repeat
}

#[inline(always)]
fn before(touch: &Touch) -> bool {
    let key = Hash::start(0)
        .word::<0>(touch.start)
        .word::<1>(u64::from(touch.image))
        .word::<2>(u64::from(touch.tgid))
        .word::<3>(touch.inode)
        .word::<4>(u64::from(touch.device))
        .word::<5>(u64::from(touch.access))
        .word::<6>(u64::from(touch.inode_generation))
        .finish();
    let place = SEEN.element(hash::place::<PLACE_BITS>(key));
    // SAFETY: the place of one word.
    if unsafe { core::ptr::read_volatile(place) } == key {
        return true;
    }
    // SAFETY: as above.
    unsafe { core::ptr::write_volatile(place, key) };
    false
}

/// Names a process among the counts.
#[inline(always)]
fn process(tgid: u32, start: u64) -> (u64, *mut Repeats) {
    let key = Hash::start(0)
        .word::<0>(u64::from(tgid))
        .word::<1>(start)
        .finish();
    (key, REPEATS.element(hash::place::<REPEAT_BITS>(key)))
}

#[inline(always)]
fn count_repeat(tgid: u32, start: u64) {
    let (key, place) = process(tgid, start);
    // SAFETY: the place of an entry.
    let count = unsafe { &raw mut (*place).count };
    // SAFETY: as above.
    let owner = unsafe { &raw mut (*place).process };
    // SAFETY: the place of one word.
    if unsafe { core::ptr::read_volatile(owner) } != key {
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(owner, key) };
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(count, 0) };
    }
    // SAFETY: as above.
    unsafe { atomic_add(count, 1) };
}

/// Returns a process's repeats, and forgets them.
#[inline(always)]
pub fn take_repeats(tgid: u32, start: u64) -> u64 {
    let (key, place) = process(tgid, start);
    // SAFETY: the place of an entry.
    let owner = unsafe { &raw mut (*place).process };
    // SAFETY: the place of one word.
    if unsafe { core::ptr::read_volatile(owner) } != key {
        return 0;
    }
    // SAFETY: as above.
    unsafe { core::ptr::write_volatile(owner, 0) };
    // SAFETY: the place of an entry.
    unsafe { core::ptr::read_volatile(&raw const (*place).count) }
}
