//! Verdicts between the decision and the return of an open.
//!
//! Nearly no open has one, so a count says whether it is worth looking.

use aya_ebpf::{
    macros::map,
    maps::{Array, LruHashMap},
};

use crate::{memory::atomic_add, progress::Judged};

/// By task. The oldest go first: more of them at once than this would be
/// opens that block between the decision and their return.
#[map]
static VERDICTS: LruHashMap<u64, Judged> = LruHashMap::with_max_entries(8_192, 0);

/// Verdicts ever left and taken.
#[map]
static VERDICTS_WAITING: Array<u64> = Array::with_max_entries(1, 0);

/// Leaves a verdict for the task's return.
#[inline(always)]
pub fn leave(task: u64, judged: &Judged) {
    if VERDICTS.insert(task, judged, 0).is_ok()
        && let Some(waiting) = VERDICTS_WAITING.get_ptr_mut(0)
    {
        // SAFETY: a live map value.
        unsafe { atomic_add(waiting, 1) };
    }
}

/// Takes the task's verdict, if one waits.
#[inline(always)]
pub fn take(task: u64) -> Option<Judged> {
    let waiting = VERDICTS_WAITING.get_ptr_mut(0)?;
    // SAFETY: a live map value of one word.
    if unsafe { core::ptr::read_volatile(waiting) } == 0 {
        return None;
    }
    // SAFETY: only the task itself touches its entry.
    let judged = unsafe { VERDICTS.get(task) }.copied()?;
    if VERDICTS.remove(task).is_ok() {
        // SAFETY: a live map value.
        unsafe { atomic_add(waiting, u64::MAX) };
    }
    Some(judged)
}
