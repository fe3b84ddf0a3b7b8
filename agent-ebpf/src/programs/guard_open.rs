//! The decision about opens where the verifier knows the kernel's objects:
//! as an LSM program, whose refusal keeps the file from being created,
//! truncated or read, or as an fentry program, which can only signal.
//!
//! Nearly every open is settled by a [`Shortcut`]: its path concerns no rule. The
//! others are judged, and what a verdict needs of the return of the open
//! waits in [`verdicts`].

use aya_ebpf::{
    helpers::generated::bpf_get_current_pid_tgid,
    macros::{fentry, lsm},
    programs::{FEntryContext, LsmContext},
};
use shrike_agent_ebpf::{
    counter::Hook,
    matching::Trigger,
    plan::{ASKS_ABOUT_OPENS, ENFORCES_OPENS},
    record::{Call, Outcome},
};

use crate::{
    carry_out::{Power, carry_out, is_agent, refusal, refuse_unjudged},
    emit::{Count, count},
    file_open::{FMODE_EXEC, own_comm},
    judge,
    memory::Unreadable,
    offsets::{OPENS_ALL, RECORD_OPENS, setting},
    progress::Judged,
    record_open,
    scratch::{self, Scratch},
    shortcut::{self, Opened, Shortcut},
    typed::{Pointer, current_task, field},
    verdicts,
};

/// `int security_file_open(struct file *)`, as an LSM program.
#[lsm(hook = "file_open")]
pub fn guard_open(ctx: LsmContext) -> i32 {
    if decide(ctx.arg(0), Power::Refuse, Call::None) {
        return refusal();
    }
    0
}

/// `file_receive(struct file *)`: a descriptor came over a socket. Whoever
/// opened it was judged as another process.
#[lsm(hook = "file_receive")]
pub fn guard_receive(ctx: LsmContext) -> i32 {
    if decide(ctx.arg(0), Power::Refuse, Call::Recvmsg) {
        return refusal();
    }
    0
}

/// `int security_file_open(struct file *)`, where there is no BPF LSM.
#[fentry]
pub fn watch_open(ctx: FEntryContext) -> i32 {
    decide(ctx.arg(0), Power::Signal, Call::None);
    0
}

/// `int security_file_receive(struct file *)`, where there is no BPF LSM.
#[fentry]
pub fn watch_receive(ctx: FEntryContext) -> i32 {
    decide(ctx.arg(0), Power::Signal, Call::Recvmsg);
    0
}

/// Decides; true: the open is refused.
#[inline(always)]
fn decide(file: Pointer, power: Power, call: Call) -> bool {
    let in_force = judge::in_force();
    if !in_force.has(ASKS_ABOUT_OPENS) {
        return false;
    }
    let task = current_task();
    let flags: u32 = field!(file, file_flags);
    if flags & FMODE_EXEC != 0 {
        return false;
    }
    let shortcut = Shortcut::of(in_force, &Opened::of(file), task);
    if shortcut.settles {
        return false;
    }
    let Some((slot, scratch)) = scratch::acquire_for_return() else {
        count(Hook::OtherOpen, Count::Missed);
        return in_force.has(ENFORCES_OPENS) && refuse_unjudged(task, power);
    };
    let refused = judge_open(slot, scratch, file, flags, task, &shortcut, power, call);
    scratch::release(scratch);
    refused.unwrap_or(false)
}

#[inline(always)]
fn judge_open(
    slot: u32,
    scratch: *mut Scratch,
    file: Pointer,
    flags: u32,
    task: Pointer,
    shortcut: &Shortcut,
    power: Power,
    call: Call,
) -> Result<bool, Unreadable> {
    // SAFETY: no precondition.
    let tgid = (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32;
    // SAFETY: taken by this program.
    let state = unsafe { &mut *scratch };
    let dentry: u64 = field!(file, file_dentry);
    let mount: u64 = field!(file, file_mnt);
    let inode: u64 = field!(file, file_inode);
    let mode: u32 = field!(file, file_mode);
    state.target_dentry = dentry;
    state.target_mount = mount;
    state.target_inode = inode;
    state.trigger = Trigger::Open as u64;
    state.flags = 0;
    state.access = u64::from(shortcut::access(mode, flags));
    own_comm(state);
    if judge::judge(slot) == 0 {
        shortcut.remember(state, task as u64);
        if !judge::is_clear(&state.path_hits) {
            judge::learn(state, dentry);
        }
        if state.flags != 0 && matches!(call, Call::None) {
            verdicts::leave(task as u64, &Judged::of(state));
        }
        return Ok(false);
    }
    let refused = carry_out(state, task as u64, tgid, power);
    if !refused && !judge::is_clear(&state.path_hits) {
        judge::learn(state, dentry);
    }
    let judged = Judged::of(state);
    if is_agent(tgid) && judged.outcome != Outcome::SparedAgent as u32 {
        return Ok(refused);
    }
    if !refused
        && matches!(call, Call::None)
        && setting!(RECORD_OPENS) >= OPENS_ALL
        && record_open::will_return(file, task)
    {
        // The return of the open writes the event, with its result.
        verdicts::leave(task as u64, &judged);
        return Ok(false);
    }
    if judged.is_ignored() {
        count(Hook::OtherOpen, Count::Seen);
        count(Hook::OtherOpen, Count::Filtered);
        return Ok(false);
    }
    record_open::judged(slot, scratch, call, file, task, &judged, refused);
    if refused && matches!(call, Call::None) {
        verdicts::leave(task as u64, &Judged::REPORTED);
    }
    Ok(refused)
}
