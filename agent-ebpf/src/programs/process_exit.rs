//! `sched_process_exit`: the last thread of a process exits.

use aya_ebpf::{
    macros::{map, raw_tracepoint},
    maps::LruHashMap,
    programs::RawTracePointContext,
};
use shrike_agent_ebpf::{
    counter::Hook,
    record::{Exit, Kind},
};

use crate::{
    carry_out::{PF_KTHREAD, is_agent},
    condemned,
    emit::{self, Count, count, kind_and_call},
    judge,
    offsets::{RECORD_PROCESSES, setting},
    progress, scratch, seen,
    typed::{Pointer, current_task, field},
    verdicts,
};

/// `SIGNAL_GROUP_EXIT`, include/linux/sched/signal.h.
const SIGNAL_GROUP_EXIT: u32 = 4;

/// Processes whose exit was reported. The threads of a process that exit at
/// once on several CPUs all find that nobody is left: the first one to enter
/// itself reports. Entries are of use for microseconds.
#[map]
static EXITED: LruHashMap<[u64; 2], u8> = LruHashMap::with_max_entries(4_096, 0);

const BPF_NOEXIST: u64 = 1;

/// `(struct task_struct *)`
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn process_exit(_: RawTracePointContext) -> i32 {
    try_exit();
    0
}

fn try_exit() {
    let task = current_task();
    progress::forget_open(task as u64);
    progress::forget_exec(task as u64);
    verdicts::forget(task as u64);
    let task_flags: u32 = field!(task, task_flags);
    if task_flags & PF_KTHREAD != 0 {
        return;
    }
    let signal: Pointer = field!(task, task_signal);
    let live: u32 = field!(signal, signal_live);
    if live != 0 {
        return;
    }
    let tgid: u32 = field!(task, task_tgid);
    let leader: Pointer = field!(task, task_group_leader);
    let start: u64 = field!(leader, task_start);
    if setting!(RECORD_PROCESSES) == 0 && !condemned::take(tgid, start) {
        return;
    }
    let threads: u32 = field!(signal, signal_nr_threads);
    if threads > 1
        && EXITED
            .insert([signal as u64, start], 0, BPF_NOEXIST)
            .is_err()
    {
        return;
    }
    let signal_flags: u32 = field!(signal, signal_flags);
    let group_exits = signal_flags & SIGNAL_GROUP_EXIT != 0;
    let wait_status: u32 = if group_exits {
        field!(signal, signal_group_exit_code)
    } else {
        field!(leader, task_exit_code)
    };

    let slot = scratch::TRACEPOINT;
    let Some(scratch) = scratch::acquire(slot) else {
        count(Hook::ProcessExit, Count::Missed);
        return;
    };
    count(Hook::ProcessExit, Count::Seen);
    if is_agent(tgid) {
        count(Hook::ProcessExit, Count::Filtered);
    } else {
        emit::begin_record(scratch, kind_and_call(Kind::Exit as u32, 0), 0);
        emit::set_no_verdict(scratch, judge::generation());
        emit::set_body_length::<Exit>(scratch);
        // SAFETY: taken by this program.
        let body = unsafe { &mut *emit::body::<Exit>(scratch) };
        body.wait_status = wait_status;
        body.group_exit = u32::from(group_exits);
        body.repeated_opens = seen::take_repeats(tgid, start);
        emit::submit(slot, Hook::ProcessExit as u32, 0, 0);
    }
    scratch::release(scratch);
}
