//! `sched_process_fork`: a process was created. Threads and kernel threads
//! are not processes.

use aya_ebpf::{
    helpers::generated::bpf_get_current_pid_tgid, macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use shrike_agent_ebpf::{
    counter::Hook,
    record::{Fork, Kind},
};

use crate::{
    carry_out::{PF_KTHREAD, is_agent},
    emit::{self, Count, count, count_unreadable, kind_and_call},
    judge,
    memory::{Unreadable, read},
    offsets::offset,
    scratch,
};

/// `(struct task_struct *parent, struct task_struct *child)`
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn process_fork(ctx: RawTracePointContext) -> i32 {
    if try_fork(ctx.arg::<u64>(1)).is_err() {
        count_unreadable(Hook::ProcessFork);
    }
    0
}

fn try_fork(child: u64) -> Result<(), Unreadable> {
    let tgid = read::<u32>(child, offset!(task_tgid))?;
    let tid = read::<u32>(child, offset!(task_pid))?;
    if tgid != tid || read::<u32>(child, offset!(task_flags))? & PF_KTHREAD != 0 {
        return Ok(());
    }
    let start = read::<u64>(child, offset!(task_start))?;
    let slot = scratch::TRACEPOINT;
    let Some(scratch) = scratch::acquire(slot) else {
        count(Hook::ProcessFork, Count::Missed);
        return Ok(());
    };
    count(Hook::ProcessFork, Count::Seen);
    // SAFETY: no precondition.
    let parent = (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32;
    if is_agent(parent) {
        count(Hook::ProcessFork, Count::Filtered);
    } else {
        emit::begin_record(scratch, kind_and_call(Kind::Fork as u32, 0), 0);
        emit::set_no_verdict(scratch, judge::generation());
        emit::set_body_length::<Fork>(scratch);
        // SAFETY: taken by this program.
        let body = unsafe { &mut *emit::body::<Fork>(scratch) };
        body.child_start_boot_ns = start;
        body.child_tgid = tgid;
        body.child_tid = tid;
        emit::submit(slot, Hook::ProcessFork as u32, 0, 0);
    }
    scratch::release(scratch);
    Ok(())
}
