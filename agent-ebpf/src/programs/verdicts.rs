//! Verdicts between the decision and the return of an open.
//!
//! Nearly no open has one, so a count says whether it is worth looking: of
//! those left less those taken. One that nobody takes keeps it above 0, which
//! costs a look-up and nothing else.

use aya_ebpf::{macros::map, maps::LruHashMap};

use crate::{global::Global, memory::atomic_add, progress::Judged};

/// By task. The oldest go first: more of them at once than this would be
/// opens that block between the decision and their return.
#[map]
static VERDICTS: LruHashMap<u64, Judged> = LruHashMap::with_max_entries(8_192, 0);

static WAITING: Global<u64> = Global::new(0);

/// Leaves a verdict for the task's return.
#[inline(always)]
pub fn leave(task: u64, judged: &Judged) {
    if VERDICTS.insert(task, judged, 0).is_ok() {
        // SAFETY: a live static.
        unsafe { atomic_add(WAITING.place(), 1) };
    }
}

/// Takes the task's verdict, if one waits.
#[inline(always)]
pub fn take(task: u64) -> Option<Judged> {
    if WAITING.get() == 0 {
        return None;
    }
    // SAFETY: only the task itself touches its entry.
    let judged = unsafe { VERDICTS.get(task) }.copied()?;
    forget(task);
    Some(judged)
}

/// Removes the verdict of a task that exits before its open returns: another
/// task may get its address.
#[inline(always)]
pub fn forget(task: u64) {
    if WAITING.get() != 0 && VERDICTS.remove(task).is_ok() {
        // SAFETY: a live static.
        unsafe { atomic_add(WAITING.place(), u64::MAX) };
    }
}
