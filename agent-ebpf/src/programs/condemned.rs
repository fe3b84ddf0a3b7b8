//! Processes that a rule ended, where other exits are no events: theirs is the
//! receipt of the verdict.

use aya_ebpf::{macros::map, maps::LruHashMap};

use crate::{
    global::Global,
    memory::atomic_add,
    offsets::{RECORD_PROCESSES, setting},
    typed::{Pointer, field},
};

/// By thread group and its start. The oldest go first: more of them at once
/// than this would be processes that survive their signal.
#[map]
static CONDEMNED: LruHashMap<[u64; 2], u8> = LruHashMap::with_max_entries(4_096, 0);

/// Those entered less those taken, so that an exit need not look.
static WAITING: Global<u64> = Global::new(0);

/// Enters the process of a task.
#[inline(always)]
pub fn enter(task: Pointer) {
    if setting!(RECORD_PROCESSES) != 0 {
        return;
    }
    let tgid: u32 = field!(task, task_tgid);
    let leader: Pointer = field!(task, task_group_leader);
    let key = [u64::from(tgid), field!(leader, task_start)];
    if CONDEMNED.insert(key, 0, 0).is_ok() {
        // SAFETY: a live static.
        unsafe { atomic_add(WAITING.place(), 1) };
    }
}

/// Takes a process out; says whether it was there.
#[inline(always)]
pub fn take(tgid: u32, start: u64) -> bool {
    if WAITING.get() == 0 || CONDEMNED.remove([u64::from(tgid), start]).is_err() {
        return false;
    }
    // SAFETY: a live static.
    unsafe { atomic_add(WAITING.place(), u64::MAX) };
    true
}
