//! What a rule about opens says of a file that is changed without being
//! opened: cut, removed, renamed, linked, given other rights, or made under a
//! protected name. Only as LSM programs, which can refuse it.
//!
//! Only what a rule matches is an event.

use aya_ebpf::{
    EbpfContext as _, helpers::generated::bpf_get_current_pid_tgid, macros::lsm,
    programs::LsmContext,
};
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
    record_change, scratch,
    typed::{Pointer, argument, current_task, field, inode_of},
};

/// What is done to a name.
#[derive(Clone, Copy)]
pub struct Asked {
    /// What is done.
    pub call: Call,
    /// The name.
    pub dentry: Pointer,
    mount: Pointer,
    access: u32,
    /// Gets the name; null for nothing.
    named: Pointer,
    /// The name is one that a file gets.
    pub is_new_name: bool,
    /// Type and permissions as asked, 0 where none are.
    pub mode: u32,
    /// The operation's other name.
    pub other: Other,
}

/// The name that is not judged.
#[derive(Clone, Copy)]
pub enum Other {
    /// There is none.
    None,
    /// A name, and the `struct path` whose mount it is in.
    Name { dentry: Pointer, mount: Pointer },
    /// Text at a kernel address.
    Text(u64),
}

impl Asked {
    /// An operation on a name that a file has.
    #[inline(always)]
    fn of(call: Call, mount: Pointer, dentry: Pointer) -> Self {
        Self {
            call,
            dentry,
            mount,
            access: ACCESS_WRITE,
            named: core::ptr::null(),
            is_new_name: false,
            mode: 0,
            other: Other::None,
        }
    }

    /// The same in a directory, a `struct path`.
    #[inline(always)]
    fn below(call: Call, directory: Pointer, dentry: Pointer) -> Self {
        Self::of(call, field!(directory, path_mnt), dentry)
    }
}

/// Decides; true: the change is refused.
#[inline(always)]
fn decide(change: &Asked) -> bool {
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
            record_change::changed(slot, scratch, change, &judged, refused);
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
fn directory_of(in_force: InForce, change: &Asked, task: Pointer) -> Option<u64> {
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

/// Decides; returns what the hook does.
#[inline(always)]
fn answer(change: &Asked) -> i32 {
    if decide(change) { refusal() } else { 0 }
}

/// Decides about a path.
#[inline(always)]
fn decide_path(call: Call, path: Pointer, mode: u32) -> i32 {
    answer(&Asked {
        mode,
        ..Asked::of(call, field!(path, path_mnt), field!(path, path_dentry))
    })
}

/// `path_truncate(const struct path *)`
#[lsm(hook = "path_truncate")]
pub fn guard_truncate(ctx: LsmContext) -> i32 {
    decide_path(Call::Truncate, ctx.arg(0), 0)
}

/// `path_chmod(const struct path *, umode_t)`
#[lsm(hook = "path_chmod")]
pub fn guard_chmod(ctx: LsmContext) -> i32 {
    decide_path(Call::Chmod, ctx.arg(0), mode(ctx.arg(1)))
}

/// `path_chown(const struct path *, kuid_t, kgid_t)`
#[lsm(hook = "path_chown")]
pub fn guard_chown(ctx: LsmContext) -> i32 {
    decide_path(Call::Chown, ctx.arg(0), 0)
}

/// A `umode_t`: only the lowest 16 bits of an argument are its own.
#[inline(always)]
fn mode(argument: u64) -> u32 {
    argument as u32 & 0xffff
}

/// `path_unlink(const struct path *directory, struct dentry *)`
#[lsm(hook = "path_unlink")]
pub fn guard_unlink(ctx: LsmContext) -> i32 {
    answer(&Asked::below(Call::Unlink, ctx.arg(0), ctx.arg(1)))
}

/// `path_rmdir(const struct path *directory, struct dentry *)`
#[lsm(hook = "path_rmdir")]
pub fn guard_rmdir(ctx: LsmContext) -> i32 {
    answer(&Asked::below(Call::Rmdir, ctx.arg(0), ctx.arg(1)))
}

/// `path_mknod(const struct path *directory, struct dentry *, umode_t, unsigned int device)`
#[lsm(hook = "path_mknod")]
pub fn guard_mknod(ctx: LsmContext) -> i32 {
    answer(&Asked {
        is_new_name: true,
        mode: mode(ctx.arg(2)),
        ..Asked::below(Call::Mknod, ctx.arg(0), ctx.arg(1))
    })
}

/// `path_mkdir(const struct path *directory, struct dentry *, umode_t)`
#[lsm(hook = "path_mkdir")]
pub fn guard_mkdir(ctx: LsmContext) -> i32 {
    answer(&Asked {
        is_new_name: true,
        mode: mode(ctx.arg(2)),
        ..Asked::below(Call::Mkdir, ctx.arg(0), ctx.arg(1))
    })
}

/// `path_symlink(const struct path *directory, struct dentry *, const char *)`
#[lsm(hook = "path_symlink")]
pub fn guard_symlink(ctx: LsmContext) -> i32 {
    answer(&Asked {
        is_new_name: true,
        other: Other::Text(argument(ctx.as_ptr(), 2)),
        ..Asked::below(Call::Symlink, ctx.arg(0), ctx.arg(1))
    })
}

/// `path_rename(const struct path *old_dir, struct dentry *, const struct path *new_dir,
/// struct dentry *, unsigned int flags)`
#[lsm(hook = "path_rename")]
pub fn guard_rename(ctx: LsmContext) -> i32 {
    answer(&Asked {
        other: Other::Name {
            dentry: ctx.arg(3),
            mount: ctx.arg(2),
        },
        ..Asked::below(Call::Rename, ctx.arg(0), ctx.arg(1))
    })
}

/// The same, for the name that the file gets, and what is there already.
#[lsm(hook = "path_rename")]
pub fn guard_rename_over(ctx: LsmContext) -> i32 {
    answer(&Asked {
        named: ctx.arg(1),
        is_new_name: true,
        other: Other::Name {
            dentry: ctx.arg(1),
            mount: ctx.arg(0),
        },
        ..Asked::below(Call::Rename, ctx.arg(2), ctx.arg(3))
    })
}

/// `path_link(struct dentry *, const struct path *new_dir, struct dentry *)`:
/// another name for a file gives every access. Both are in one mount.
#[lsm(hook = "path_link")]
pub fn guard_link(ctx: LsmContext) -> i32 {
    answer(&Asked {
        access: ACCESS_READ | ACCESS_WRITE,
        other: Other::Name {
            dentry: ctx.arg(2),
            mount: ctx.arg(1),
        },
        ..Asked::below(Call::Link, ctx.arg(1), ctx.arg(0))
    })
}

/// The same, for the name that the file gets.
#[lsm(hook = "path_link")]
pub fn guard_link_into(ctx: LsmContext) -> i32 {
    answer(&Asked {
        named: ctx.arg(0),
        is_new_name: true,
        other: Other::Name {
            dentry: ctx.arg(0),
            mount: ctx.arg(1),
        },
        ..Asked::below(Call::Link, ctx.arg(1), ctx.arg(2))
    })
}

/// `inode_setxattr(struct mnt_idmap *, struct dentry *, const char *, …)`: no
/// mount is known here, so the path is the one below the task's root mount.
#[lsm(hook = "inode_setxattr")]
pub fn guard_setxattr(ctx: LsmContext) -> i32 {
    let fs: Pointer = field!(current_task(), task_fs);
    answer(&Asked::of(
        Call::Setxattr,
        field!(fs, fs_root_mnt),
        ctx.arg(1),
    ))
}
