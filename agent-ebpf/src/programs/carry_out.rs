//! Doing what a verdict asks for, and finding out whether it was done.

use aya_ebpf::helpers::generated::bpf_send_signal;
use shrike_agent_ebpf::{
    matching::Action,
    record::{FLAG_DENIED, Outcome},
};

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

/// What a hook can do about an operation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// End the process; the operation may be over by then.
    Signal,
    /// Refuse the operation.
    Refuse,
}

/// Returns `-EPERM` as a value that the compiler cannot do arithmetic with:
/// the verifier must see that an LSM program returns an errno or 0.
#[inline(always)]
pub fn refusal() -> i32 {
    let value: i32;
    // SAFETY: sets a register.
    unsafe {
        core::arch::asm!("{0} = -1", out(reg) value, options(nomem, nostack, preserves_flags))
    };
    value
}

/// Carries out the verdict in the scratch buffer against the current task,
/// and says whether the operation is to be refused.
#[inline(always)]
pub fn carry_out(scratch: &mut Scratch, task: u64, tgid: u32, power: Power) -> bool {
    if scratch.outcome == Outcome::Observed as u64 {
        return false;
    }
    if scratch.action < Action::Deny as u64 {
        scratch.outcome = Outcome::Noted as u64;
        return false;
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
        let refused = matches!(power, Power::Refuse);
        if refused {
            scratch.flags |= u64::from(FLAG_DENIED);
        }
        if scratch.action == Action::Kill as u64 {
            scratch.outcome = Outcome::Signalled as u64;
            // SAFETY: no precondition; the helper fails where it cannot signal.
            scratch.signal_result = unsafe { bpf_send_signal(SIGKILL) };
        } else {
            scratch.outcome = Outcome::Denied as u64;
        }
        return refused;
    }
    false
}
