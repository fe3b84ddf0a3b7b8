//! What a rule about opens says of a file that is changed without being
//! opened: cut, removed, renamed, linked, given other rights, or made under a
//! protected name. Only as LSM programs, which can refuse it.
//!
//! Only what a rule matches is an event.

use aya_ebpf::{helpers::generated::bpf_get_current_pid_tgid, macros::lsm, programs::LsmContext};
use shrike_agent_ebpf::{
    counter::Hook,
    matching::{ACCESS_READ, ACCESS_WRITE, Trigger},
    plan::{ASKS_ABOUT_OPENS, ENFORCES_OPENS, InForce, READS_WITHOUT_PATH, WRITES_WITHOUT_PATH},
    record::{Call, Outcome},
};

use crate::{
    carry_out::{Power, carry_out, is_agent, refusal, refuse_unjudged},
    clean::{self, Place},
    emit::{Count, count},
    file_open::own_comm,
    judge::{self, NOTHING_IN_DIRECTORY},
    memory::read,
    offsets::offset,
    progress::Judged,
    record_open, scratch,
    typed::{Pointer, current_task, field, inode_of},
};

/// What is done to a name.
#[derive(Clone, Copy)]
struct Change {
    call: Call,
    dentry: Pointer,
    mount: Pointer,
    access: u32,
    /// Gets the name; null for nothing.
    named: Pointer,
}

/// Decides; true: the change is refused.
#[inline(always)]
fn decide(change: &Change) -> bool {
    let in_force = judge::in_force();
    if !in_force.has(ASKS_ABOUT_OPENS) {
        return false;
    }
    let task = current_task();
    let directory = directory_of(in_force, change, task);
    if directory.is_some_and(clean::contains) {
        return false;
    }
    let Some((slot, scratch)) = scratch::acquire_for_return() else {
        count(Hook::OtherOpen, Count::Missed);
        return in_force.has(ENFORCES_OPENS) && refuse_unjudged(task, Power::Refuse);
    };
    // SAFETY: no precondition.
    let tgid = (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32;
    // SAFETY: taken by this program.
    let state = unsafe { &mut *scratch };
    state.target_dentry = change.dentry as u64;
    state.target_mount = change.mount as u64;
    state.target_inode = 0;
    state.trigger = Trigger::Open as u64;
    state.flags = 0;
    state.access = u64::from(change.access);
    own_comm(state);
    let mut refused = false;
    if judge::judge(slot) == 0 {
        if let Some(directory) = directory
            && state.concerns == NOTHING_IN_DIRECTORY
            && clean::may_remember(state.target_mount, state.target_dentry, task as u64)
        {
            clean::insert(directory);
        }
    } else {
        refused = carry_out(state, task as u64, tgid, Power::Refuse);
        let judged = Judged::of(state);
        if !is_agent(tgid) || judged.outcome == Outcome::SparedAgent as u32 {
            record_open::changed(
                slot,
                scratch,
                change.call,
                change.dentry,
                task,
                &judged,
                refused,
            );
        }
    }
    if !refused && !change.named.is_null() && !judge::is_clear(&state.path_hits) {
        judge::learn(state, change.named as u64);
    }
    scratch::release(scratch);
    refused
}

/// Returns the key of the name's directory where that may settle the change:
/// every rule gives a path, and none knows the file by its inode.
#[inline(always)]
fn directory_of(in_force: InForce, change: &Change, task: Pointer) -> Option<u64> {
    if in_force.has(READS_WITHOUT_PATH | WRITES_WITHOUT_PATH) {
        return None;
    }
    let plan = judge::plan(in_force)?;
    let number = read::<u64>(inode_of(change.dentry), offset!(inode_number)).unwrap_or(0);
    if plan.identities.may_contain(number) {
        return None;
    }
    Place::directory(plan.seed[0], task, change.mount, change.dentry).map(Place::key)
}

/// Decides about a name in a directory.
#[inline(always)]
fn decide_name(
    call: Call,
    directory: Pointer,
    dentry: Pointer,
    access: u32,
    named: Pointer,
) -> bool {
    decide(&Change {
        call,
        dentry,
        mount: field!(directory, path_mnt),
        access,
        named,
    })
}

/// Decides about a path.
#[inline(always)]
fn decide_path(call: Call, path: Pointer) -> i32 {
    let refused = decide(&Change {
        call,
        dentry: field!(path, path_dentry),
        mount: field!(path, path_mnt),
        access: ACCESS_WRITE,
        named: core::ptr::null(),
    });
    if refused { refusal() } else { 0 }
}

macro_rules! guard_path {
    ($($name:ident $hook:literal $call:ident;)*) => {
        $(
            #[doc = concat!("`", $hook, "(const struct path *, …)`")]
            #[lsm(hook = $hook)]
            pub fn $name(ctx: LsmContext) -> i32 {
                decide_path(Call::$call, ctx.arg(0))
            }
        )*
    };
}

guard_path! {
    guard_truncate "path_truncate" Truncate;
    guard_chmod "path_chmod" Chmod;
    guard_chown "path_chown" Chown;
}

macro_rules! guard_name {
    ($($name:ident $hook:literal $call:ident;)*) => {
        $(
            #[doc = concat!("`", $hook, "(const struct path *directory, struct dentry *, …)`")]
            #[lsm(hook = $hook)]
            pub fn $name(ctx: LsmContext) -> i32 {
                if decide_name(Call::$call, ctx.arg(0), ctx.arg(1), ACCESS_WRITE, core::ptr::null()) {
                    return refusal();
                }
                0
            }
        )*
    };
}

guard_name! {
    guard_unlink "path_unlink" Unlink;
    guard_rmdir "path_rmdir" Rmdir;
    guard_mknod "path_mknod" Mknod;
    guard_mkdir "path_mkdir" Mkdir;
    guard_symlink "path_symlink" Symlink;
}

/// `path_rename(const struct path *old_dir, struct dentry *, const struct path *new_dir,
/// struct dentry *, unsigned int flags)`
#[lsm(hook = "path_rename")]
pub fn guard_rename(ctx: LsmContext) -> i32 {
    if decide_name(
        Call::Rename,
        ctx.arg(0),
        ctx.arg(1),
        ACCESS_WRITE,
        core::ptr::null(),
    ) {
        return refusal();
    }
    0
}

/// The same, for the name that the file gets, and what is there already.
#[lsm(hook = "path_rename")]
pub fn guard_rename_over(ctx: LsmContext) -> i32 {
    if decide_name(
        Call::Rename,
        ctx.arg(2),
        ctx.arg(3),
        ACCESS_WRITE,
        ctx.arg(1),
    ) {
        return refusal();
    }
    0
}

/// `path_link(struct dentry *, const struct path *new_dir, struct dentry *)`:
/// another name for a file gives every access.
#[lsm(hook = "path_link")]
pub fn guard_link(ctx: LsmContext) -> i32 {
    if decide_name(
        Call::Link,
        ctx.arg(1),
        ctx.arg(0),
        ACCESS_READ | ACCESS_WRITE,
        core::ptr::null(),
    ) {
        return refusal();
    }
    0
}

/// The same, for the name that the file gets.
#[lsm(hook = "path_link")]
pub fn guard_link_into(ctx: LsmContext) -> i32 {
    if decide_name(Call::Link, ctx.arg(1), ctx.arg(2), ACCESS_WRITE, ctx.arg(0)) {
        return refusal();
    }
    0
}

/// `inode_setxattr(struct mnt_idmap *, struct dentry *, const char *, …)`: no
/// mount is known here, so the path is the one below the task's root mount.
#[lsm(hook = "inode_setxattr")]
pub fn guard_setxattr(ctx: LsmContext) -> i32 {
    let fs: Pointer = field!(current_task(), task_fs);
    let refused = decide(&Change {
        call: Call::Setxattr,
        dentry: ctx.arg(1),
        mount: field!(fs, fs_root_mnt),
        access: ACCESS_WRITE,
        named: core::ptr::null(),
    });
    if refused { refusal() } else { 0 }
}
