//! Doing what a verdict asks for, and finding out whether it was done.

use aya_ebpf::{
    helpers::generated::{bpf_get_current_task, bpf_ktime_get_boot_ns, bpf_send_signal},
    macros::map,
    maps::{Array, HashMap},
};
use shrike_agent_ebpf::{
    guard_rail::{Agent, Kills, PROTECTED_MAX, Program, TICK_NS},
    matching::Action,
    plan::RULES_MAX,
    record::{FLAG_DENIED, Outcome},
};

use crate::{
    condemned,
    device::device_of,
    memory::{Unreadable, read},
    offsets::{KILLS_PER_MINUTE, offset, setting},
    progress::Judged,
    scratch::Scratch,
    typed::{Pointer, current_task, field},
};

const SIGKILL: u32 = 9;

/// Programs that are never killed.
#[map]
static PROTECTED: HashMap<Program, u8> = HashMap::with_max_entries(PROTECTED_MAX, 0);

/// Kills of each rule, of both plans.
#[map]
static KILLS: Array<Kills> = Array::with_max_entries(2 * RULES_MAX as u32, 0);

/// `PF_KTHREAD`, include/linux/sched.h.
pub const PF_KTHREAD: u32 = 0x0020_0000;

/// The agent that owns these programs. In a section of its own, so that the
/// agent can write it while they run.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.agent")]
static mut AGENT: Agent = Agent {
    tgid: 0,
    start_ticks: 0,
};

/// Says whether the current process, by its thread group, is the agent.
#[inline(always)]
pub fn is_agent(tgid: u32) -> bool {
    let agent = &raw const AGENT;
    // SAFETY: integers in a map that lives as long as the program.
    let known = unsafe { core::ptr::read_volatile(&raw const (*agent).tgid) };
    if u64::from(tgid) != known {
        return false;
    }
    // SAFETY: as above.
    let known = unsafe { core::ptr::read_volatile(&raw const (*agent).start_ticks) };
    // SAFETY: no precondition.
    let task = unsafe { bpf_get_current_task() };
    let start = read::<u64>(task, offset!(task_group_leader))
        .and_then(|leader| read::<u64>(leader, offset!(task_start)));
    start.is_ok_and(|start| start / TICK_NS == known)
}

/// What a hook can do about an operation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// End the process; the operation may be over by then.
    Signal,
    /// Refuse the operation.
    Refuse,
}

/// Says whether an operation is refused that nobody could judge, for want of a
/// buffer or of room in a map, while some rule might have refused it.
#[inline(always)]
pub fn refuse_unjudged(task: Pointer, power: Power) -> bool {
    let tgid: u32 = field!(task, task_tgid);
    let flags: u32 = field!(task, task_flags);
    power == Power::Refuse
        && tgid != 1
        && flags & PF_KTHREAD == 0
        && !is_agent(tgid)
        && !is_protected(task as u64).unwrap_or(false)
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
    } else if is_protected(task).unwrap_or(false) {
        scratch.outcome = Outcome::SparedProtected as u64;
    } else if scratch.action == Action::Kill as u64 && breaker_is_open(scratch) {
        scratch.outcome = Outcome::BreakerOpen as u64;
    } else {
        let refused = matches!(power, Power::Refuse);
        if refused {
            scratch.flags |= u64::from(FLAG_DENIED);
        }
        if scratch.action == Action::Kill as u64 {
            scratch.outcome = Outcome::Signalled as u64;
            condemned::enter(current_task());
            // SAFETY: no precondition; the helper fails where it cannot signal.
            scratch.signal_result = unsafe { bpf_send_signal(SIGKILL) };
        } else {
            scratch.outcome = Outcome::Denied as u64;
        }
        return refused;
    }
    false
}

/// Ends the current process where a verdict wanted that and no signal could be
/// sent: one that the kernel itself starts takes none before its image runs.
#[inline(always)]
pub fn signal_again(judged: &mut Judged) {
    if judged.outcome == Outcome::Signalled as u32 && judged.signal_result != 0 {
        // SAFETY: no precondition; the helper fails where it cannot signal.
        judged.signal_result = unsafe { bpf_send_signal(SIGKILL) } as i32;
    }
}

/// Says whether the process runs a program that is never killed.
#[inline(always)]
fn is_protected(task: u64) -> Result<bool, Unreadable> {
    let mm = read::<u64>(task, offset!(task_mm))?;
    let file = read::<u64>(mm, offset!(mm_exe_file))?;
    let inode = read::<u64>(file, offset!(file_inode))?;
    let program = Program {
        inode: read(inode, offset!(inode_number))?,
        device: u64::from(device_of(inode)?),
    };
    // SAFETY: looked at only.
    Ok(unsafe { PROTECTED.get(program) }.is_some())
}

/// Says whether the rule in the scratch buffer has killed too much, and counts
/// this kill.
#[inline(always)]
fn breaker_is_open(scratch: &Scratch) -> bool {
    let max = u64::from(setting!(KILLS_PER_MINUTE));
    if max == 0 {
        return false;
    }
    let place = scratch.plan_slot as u32 * RULES_MAX as u32 + scratch.rule as u32;
    let Some(kills) = KILLS.get_ptr_mut(place) else {
        return false;
    };
    // SAFETY: a live map value. Two CPUs that count at once may count one kill
    // for two.
    let kills = unsafe { &mut *kills };
    // SAFETY: no precondition.
    kills.count(unsafe { bpf_ktime_get_boot_ns() }, max)
}
