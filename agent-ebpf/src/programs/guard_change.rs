//! What a rule about opens says of a file that is changed without being
//! opened: cut, removed, renamed, linked, given other rights, or made under a
//! protected name. As LSM programs, which can refuse it, or as fentry programs
//! at the functions that ask the security modules: the process is signalled,
//! and the change happens.
//!
//! Only what a rule matches is an event.

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::bpf_get_current_pid_tgid,
    macros::{fentry, lsm},
    programs::{FEntryContext, LsmContext},
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

    /// The same on a `struct path`.
    #[inline(always)]
    fn at(call: Call, path: Pointer) -> Self {
        Self::of(call, field!(path, path_mnt), field!(path, path_dentry))
    }

    /// The same where no mount is known: the path is the one below the task's
    /// root mount.
    #[inline(always)]
    fn mountless(call: Call, dentry: Pointer) -> Self {
        let fs: Pointer = field!(current_task(), task_fs);
        Self::of(call, field!(fs, fs_root_mnt), dentry)
    }

    /// The same in a directory, a `struct path`.
    #[inline(always)]
    fn below(call: Call, directory: Pointer, dentry: Pointer) -> Self {
        Self::of(call, field!(directory, path_mnt), dentry)
    }
}

/// Decides; true: the change is refused.
#[inline(always)]
fn decide(change: &Asked, power: Power) -> bool {
    let in_force = judge::in_force();
    if !in_force.has(ASKS_ABOUT_OPENS) {
        return false;
    }
    let task = current_task();
    if matches!(change.call, Call::Truncate) && is_opened(change.dentry, task) {
        return false;
    }
    let directory = directory_of(in_force, change, task);
    if directory.is_some_and(clean::contains) {
        return false;
    }
    let Some((slot, scratch)) = scratch::acquire_for_return() else {
        count(Hook::OtherOpen, Count::Missed);
        return in_force.has(ENFORCES_OPENS) && refuse_unjudged(task, power);
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
        refused = carry_out(state, task as u64, tgid, power);
        let judged = Judged::of(state);
        let told = !is_agent(tgid) || judged.outcome == Outcome::SparedAgent as u32;
        if told && !judged.is_ignored() {
            record_change::changed(slot, scratch, change, &judged, refused);
        }
    }
    if !refused && !change.named.is_null() && !judge::is_clear(&state.path_hits) {
        judge::learn(state, change.named as u64);
    }
    scratch::release(scratch);
    refused
}

/// Says whether the task is about to open a name, by a path walk that has
/// found it: cutting it was judged with the open then.
#[inline(always)]
fn is_opened(dentry: Pointer, task: Pointer) -> bool {
    let nameidata: Pointer = field!(task, task_nameidata);
    let found: Pointer = field!(nameidata, nameidata_dentry);
    found == dentry
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

/// Makes both programs of a hook: the LSM program, and the fentry program for
/// the function `security_…` that has the same arguments. Of two names the one
/// that the file has is judged first: the other one may be learnt.
macro_rules! hook {
    ($hook:tt, $guard:ident, $watch:ident, |$ctx:ident| $($asked:expr),+) => {
        #[doc = concat!("`", $hook, "`, as an LSM program.")]
        #[lsm(hook = $hook)]
        pub fn $guard($ctx: LsmContext) -> i32 {
            $(if decide(&$asked, Power::Refuse) {
                return refusal();
            })+
            0
        }

        /// The same, where there is no BPF LSM.
        #[fentry]
        pub fn $watch($ctx: FEntryContext) -> i32 {
            $(decide(&$asked, Power::Signal);)+
            0
        }
    };
}

// `path_truncate(const struct path *)`
hook!("path_truncate", guard_truncate, watch_truncate, |ctx| {
    Asked::at(Call::Truncate, ctx.arg(0))
});

// `file_truncate(struct file *)`, from Linux 6.2 on: before, a descriptor's
// file is cut by its path.
hook!(
    "file_truncate",
    guard_file_truncate,
    watch_file_truncate,
    |ctx| {
        let file: Pointer = ctx.arg(0);
        Asked::of(
            Call::Truncate,
            field!(file, file_mnt),
            field!(file, file_dentry),
        )
    }
);

// `path_chmod(const struct path *, umode_t)`
hook!("path_chmod", guard_chmod, watch_chmod, |ctx| Asked {
    mode: mode(ctx.arg(1)),
    ..Asked::at(Call::Chmod, ctx.arg(0))
});

// `path_chown(const struct path *, kuid_t, kgid_t)`
hook!("path_chown", guard_chown, watch_chown, |ctx| {
    Asked::at(Call::Chown, ctx.arg(0))
});

// `path_unlink(const struct path *directory, struct dentry *)`
hook!("path_unlink", guard_unlink, watch_unlink, |ctx| {
    Asked::below(Call::Unlink, ctx.arg(0), ctx.arg(1))
});

// `path_rmdir(const struct path *directory, struct dentry *)`
hook!("path_rmdir", guard_rmdir, watch_rmdir, |ctx| {
    Asked::below(Call::Rmdir, ctx.arg(0), ctx.arg(1))
});

// `path_mknod(const struct path *directory, struct dentry *, umode_t,
// unsigned int device)`
hook!("path_mknod", guard_mknod, watch_mknod, |ctx| Asked {
    is_new_name: true,
    mode: mode(ctx.arg(2)),
    ..Asked::below(Call::Mknod, ctx.arg(0), ctx.arg(1))
});

// `path_mkdir(const struct path *directory, struct dentry *, umode_t)`
hook!("path_mkdir", guard_mkdir, watch_mkdir, |ctx| Asked {
    is_new_name: true,
    mode: mode(ctx.arg(2)),
    ..Asked::below(Call::Mkdir, ctx.arg(0), ctx.arg(1))
});

// `path_symlink(const struct path *directory, struct dentry *, const char *)`
hook!("path_symlink", guard_symlink, watch_symlink, |ctx| Asked {
    is_new_name: true,
    other: Other::Text(argument(ctx.as_ptr(), 2)),
    ..Asked::below(Call::Symlink, ctx.arg(0), ctx.arg(1))
});

// `path_rename(const struct path *old_dir, struct dentry *,
// const struct path *new_dir, struct dentry *, unsigned int flags)`: the name
// that the file has, then the one that it gets, and what is there already.
hook!(
    "path_rename",
    guard_rename,
    watch_rename,
    |ctx| Asked {
        other: Other::Name {
            dentry: ctx.arg(3),
            mount: ctx.arg(2),
        },
        ..Asked::below(Call::Rename, ctx.arg(0), ctx.arg(1))
    },
    Asked {
        named: ctx.arg(1),
        is_new_name: true,
        other: Other::Name {
            dentry: ctx.arg(1),
            mount: ctx.arg(0),
        },
        ..Asked::below(Call::Rename, ctx.arg(2), ctx.arg(3))
    }
);

// `path_link(struct dentry *, const struct path *new_dir, struct dentry *)`:
// another name for a file gives every access. Both are in one mount.
hook!(
    "path_link",
    guard_link,
    watch_link,
    |ctx| Asked {
        access: ACCESS_READ | ACCESS_WRITE,
        other: Other::Name {
            dentry: ctx.arg(2),
            mount: ctx.arg(1),
        },
        ..Asked::below(Call::Link, ctx.arg(1), ctx.arg(0))
    },
    Asked {
        named: ctx.arg(0),
        is_new_name: true,
        other: Other::Name {
            dentry: ctx.arg(0),
            mount: ctx.arg(1),
        },
        ..Asked::below(Call::Link, ctx.arg(1), ctx.arg(2))
    }
);

// `inode_setxattr(struct mnt_idmap *, struct dentry *, const char *, …)`
hook!("inode_setxattr", guard_setxattr, watch_setxattr, |ctx| {
    Asked::mountless(Call::Setxattr, ctx.arg(1))
});

// `inode_removexattr(struct mnt_idmap *, struct dentry *, const char *)`
hook!(
    "inode_removexattr",
    guard_removexattr,
    watch_removexattr,
    |ctx| Asked::mountless(Call::Removexattr, ctx.arg(1))
);

// `inode_set_acl(struct mnt_idmap *, struct dentry *, const char *,
// struct posix_acl *)`, from Linux 6.2 on: before, an access control list is
// set like any other attribute.
hook!("inode_set_acl", guard_set_acl, watch_set_acl, |ctx| {
    Asked::mountless(Call::Setxattr, ctx.arg(1))
});

// `inode_remove_acl(struct mnt_idmap *, struct dentry *, const char *)`, as
// above.
hook!(
    "inode_remove_acl",
    guard_remove_acl,
    watch_remove_acl,
    |ctx| Asked::mountless(Call::Removexattr, ctx.arg(1))
);

/// A `umode_t`: only the lowest 16 bits of an argument are its own.
#[inline(always)]
fn mode(argument: u64) -> u32 {
    argument as u32 & 0xffff
}
