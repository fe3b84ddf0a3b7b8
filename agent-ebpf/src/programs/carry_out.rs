//! Doing what a verdict asks for, and finding out whether it was done.

use aya_ebpf::helpers::generated::bpf_send_signal;
use shrike_agent_ebpf::{matching::Action, record::Outcome};

use crate::{
    memory::read,
    offsets::{AGENT_TGID, offset, setting},
    scratch::Scratch,
};

const SIGKILL: u32 = 9;

/// `PF_KTHREAD`, include/linux/sched.h.
pub const PF_KTHREAD: u32 = 0x0020_0000;

/// Says whether a thread group is the agent's own.
#[inline(always)]
pub fn is_agent(tgid: u32) -> bool {
    tgid == setting!(AGENT_TGID)
}

/// Carries out the verdict in the scratch buffer against the current task.
/// `signalled` is 1 when the task was already sent its signal.
#[inline(always)]
pub fn carry_out(scratch: &mut Scratch, task: u64, tgid: u32) {
    if scratch.outcome == Outcome::Observed as u64 {
        return;
    }
    if scratch.action != Action::Kill as u64 {
        scratch.outcome = Outcome::Noted as u64;
        return;
    }
    let kernel_thread =
        read::<u32>(task, offset!(task_flags)).map_or(0, |flags| flags & PF_KTHREAD);
    if tgid == 1 {
        scratch.outcome = Outcome::SparedInit as u64;
    } else if kernel_thread != 0 {
        scratch.outcome = Outcome::SparedKernelThread as u64;
    } else if is_agent(tgid) {
        scratch.outcome = Outcome::SparedAgent as u64;
    } else {
        scratch.outcome = Outcome::Signalled as u64;
        // SAFETY: no precondition; the helper fails where it cannot signal.
        scratch.signal_result = unsafe { bpf_send_signal(SIGKILL) };
    }
}
