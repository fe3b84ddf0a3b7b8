//! `sched_process_exit`: the last thread of a process exits.

use aya_ebpf::{
    helpers::generated::{bpf_get_current_pid_tgid, bpf_get_current_task},
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
    emit::{self, Count, count, kind_and_call},
    judge,
    memory::{Unreadable, read},
    offsets::offset,
    progress::{EXECS, OPENS},
    scratch, seen, verdicts,
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
    let _ = try_exit();
    0
}

fn try_exit() -> Result<(), Unreadable> {
    // SAFETY: no precondition.
    let task = unsafe { bpf_get_current_task() };
    let _ = OPENS.remove(task);
    let _ = EXECS.remove(task);
    verdicts::forget(task);
    if read::<u32>(task, offset!(task_flags))? & PF_KTHREAD != 0 {
        return Ok(());
    }
    let signal = read::<u64>(task, offset!(task_signal))?;
    if read::<u32>(signal, offset!(signal_live))? != 0 {
        return Ok(());
    }
    let leader = read::<u64>(task, offset!(task_group_leader))?;
    let start = read::<u64>(leader, offset!(task_start))?;
    if read::<u32>(signal, offset!(signal_nr_threads))? > 1 {
        if EXITED.insert([signal, start], 0, BPF_NOEXIST).is_err() {
            return Ok(());
        }
    }
    let group_exits = read::<u32>(signal, offset!(signal_flags))? & SIGNAL_GROUP_EXIT != 0;
    let wait_status = if group_exits {
        read::<u32>(signal, offset!(signal_group_exit_code))?
    } else {
        read::<u32>(leader, offset!(task_exit_code))?
    };

    let slot = scratch::TRACEPOINT;
    let Some(scratch) = scratch::acquire(slot) else {
        count(Hook::ProcessExit, Count::Missed);
        return Ok(());
    };
    count(Hook::ProcessExit, Count::Seen);
    // SAFETY: no precondition.
    let tgid = (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32;
    if is_agent(tgid) {
        count(Hook::ProcessExit, Count::Filtered);
    } else {
        emit::begin_record(slot, kind_and_call(Kind::Exit as u32, 0), 0);
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
    Ok(())
}
