//! Events of opens where the verifier knows the kernel's objects.
//!
//! The return of `do_filp_open` knows the name as asked, the file and the
//! error; a refused open is an event of the decision itself. Two other
//! returns stand for the files that are opened without a path walk.

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_get_func_ret, bpf_task_pt_regs},
    macros::fexit,
    programs::FExitContext,
};
use shrike_agent_ebpf::{
    counter::Hook,
    matching::Action,
    record::{
        Call, FLAG_COMPAT, FLAG_DELETED, FLAG_FROM_USER_MEMORY, FLAG_HAS_DIRECTORY, FLAG_HAS_FILE,
        Kind, Open,
    },
};

use crate::{
    carry_out::{PF_KTHREAD, is_agent},
    device::device_of_typed,
    emit::{self, Count, count, kind_and_call},
    file_open::{FMODE_EXEC, O_PATH, clear_file},
    judge,
    offsets::{OPENS_FIRST, RECORD_OPENS, setting},
    progress::Judged,
    root,
    scratch::{self, Scratch},
    seen::{self, Touch},
    typed::{Pointer, TS_COMPAT, current_task, field},
    verdicts, walk,
};

/// Largest errno, include/linux/err.h.
const MAX_ERRNO: i64 = 4095;

/// `EPERM`
pub const REFUSED: i32 = -1;

/// Set by the kernel for every 64-bit caller, whatever was asked.
const O_LARGEFILE: u32 = 0o100_000;
/// `S_IALLUGO`: the kernel adds the type of the file that it makes.
const PERMISSIONS: u32 = 0o7777;

/// What an open asked for, and what came of it.
struct Asked {
    call: u32,
    /// `FLAG_*`
    flags: u32,
    open_flags: u32,
    mode: u32,
    directory_fd: i32,
    /// Address of the name, 0 for none.
    name: u64,
    /// 0 or a negative errno.
    result: i32,
}

/// `struct file *do_filp_open(int dfd, struct filename *, const struct open_flags *)`
#[fexit]
pub fn opened(ctx: FExitContext) -> i32 {
    let operation: Pointer = ctx.arg(2);
    let open_flags: u32 = field!(operation, open_flag);
    if open_flags & FMODE_EXEC != 0 {
        return 0;
    }
    report(&ctx, open_flags, true, || {
        let filename: Pointer = ctx.arg(1);
        let mode: u16 = field!(operation, open_mode);
        Source {
            name: field!(filename, filename_name),
            directory_fd: ctx.arg(0),
            open_flags,
            mode: u32::from(mode) & PERMISSIONS,
            call: Call::None,
            by_path: true,
        }
    });
    0
}

/// `struct file *do_file_open_root(const struct path *, const char *, const struct open_flags *)`:
/// `open_by_handle_at` comes here.
#[fexit]
pub fn opened_below(ctx: FExitContext) -> i32 {
    let operation: Pointer = ctx.arg(2);
    let open_flags: u32 = field!(operation, open_flag);
    if open_flags & FMODE_EXEC == 0 {
        report(&ctx, open_flags, false, || Source::nameless(open_flags));
    }
    0
}

/// `struct file *dentry_open(const struct path *, int flags, const struct cred *)`:
/// message queues come here.
#[fexit]
pub fn opened_object(ctx: FExitContext) -> i32 {
    let open_flags: u32 = ctx.arg(1);
    if open_flags & (FMODE_EXEC | O_PATH) == 0 {
        report(&ctx, open_flags, false, || Source::nameless(open_flags));
    }
    0
}

/// Where an event comes from.
struct Source {
    name: u64,
    directory_fd: i32,
    open_flags: u32,
    mode: u32,
    /// The call, where it is no open.
    call: Call,
    by_path: bool,
}

impl Source {
    #[inline(always)]
    fn nameless(open_flags: u32) -> Self {
        Self {
            call: Call::None,
            name: 0,
            directory_fd: 0,
            open_flags,
            mode: 0,
            by_path: false,
        }
    }
}

/// Writes the event, unless there is none to write; `source` is asked for
/// when there is.
#[inline(always)]
fn report(ctx: &FExitContext, open_flags: u32, by_path: bool, source: impl Fn() -> Source) {
    let mut returned = 0_u64;
    // SAFETY: the helper fills the value.
    if unsafe { bpf_get_func_ret(ctx.as_ptr(), &mut returned) } != 0 {
        return;
    }
    let failed = (-MAX_ERRNO..0).contains(&(returned as i64));
    let task = current_task();
    let tgid: u32 = field!(task, task_tgid);
    let waiting = verdicts::take(task as u64);
    let said = waiting.as_ref().map_or(0, |judged| judged.judged);
    if said == Judged::REPORTED.judged {
        if by_path {
            verdicts::leave(task as u64, &Judged::FAILED);
        }
        return;
    }
    let judged = said == 1;
    if judged && waiting.as_ref().is_some_and(Judged::is_ignored) {
        count(Hook::FileOpen, Count::Seen);
        count(Hook::FileOpen, Count::Filtered);
        return;
    }
    if is_agent(tgid) && !judged {
        count(Hook::FileOpen, Count::Seen);
        count(Hook::FileOpen, Count::Filtered);
        return;
    }
    let file: Pointer = ctx.arg(3);
    if setting!(RECORD_OPENS) == OPENS_FIRST && !judged && !failed {
        let inode: Pointer = field!(file, file_inode);
        let access = seen::access(open_flags);
        if seen::is_repeat(&Touch::of(task, inode, access)) {
            count(Hook::FileOpen, Count::Repeated);
            return;
        }
    }
    let Some((slot, scratch)) = scratch::acquire_for_return() else {
        count(Hook::FileOpen, Count::Missed);
        return;
    };
    count(Hook::FileOpen, Count::Seen);
    let asked = Asked::of(&source(), task, if failed { returned as i32 } else { 0 });
    if failed && by_path && asked.call != Call::None as u32 {
        verdicts::leave(task as u64, &Judged::FAILED);
    }
    let mut flags = begin(slot, scratch, &asked);
    if !failed {
        flags |= append_file(slot, scratch, file, task);
    }
    match &waiting {
        Some(waiting) if judged => {
            emit::set_verdict(scratch, waiting);
            flags |= waiting.flags;
        }
        _ => emit::set_no_verdict(scratch, judge::generation()),
    }
    let urgent = judged && waiting.is_some_and(|waiting| waiting.action >= Action::Deny as u32);
    emit::submit(slot, Hook::FileOpen as u32, flags, u32::from(urgent));
    scratch::release(scratch);
}

/// Says whether the return of the open will be seen: the file is the one that
/// a path walk of the task has found.
#[inline(always)]
pub fn will_return(file: Pointer, task: Pointer) -> bool {
    let nameidata: Pointer = field!(task, task_nameidata);
    let found: Pointer = field!(nameidata, nameidata_dentry);
    let dentry: Pointer = field!(file, file_dentry);
    found == dentry
}

/// Writes the event of a verdict at the decision itself.
#[inline(always)]
pub fn judged(
    slot: u32,
    scratch: *mut Scratch,
    call: Call,
    file: Pointer,
    task: Pointer,
    judged: &Judged,
    refused: bool,
) {
    count(Hook::OtherOpen, Count::Seen);
    let open_flags: u32 = field!(file, file_flags);
    let mut source = Source::nameless(open_flags);
    source.call = call;
    if matches!(call, Call::None) && will_return(file, task) {
        let nameidata: Pointer = field!(task, task_nameidata);
        let filename: Pointer = field!(nameidata, nameidata_name);
        source.name = field!(filename, filename_name);
        source.directory_fd = field!(nameidata, nameidata_dfd);
        source.by_path = true;
    }
    let asked = Asked::of(&source, task, if refused { REFUSED } else { 0 });
    let mut flags = begin(slot, scratch, &asked) | judged.flags;
    flags |= append_file(slot, scratch, file, task);
    emit::set_verdict(scratch, judged);
    emit::submit(
        slot,
        Hook::OtherOpen as u32,
        flags,
        u32::from(judged.action >= Action::Deny as u32),
    );
}

impl Asked {
    #[inline(always)]
    fn of(source: &Source, task: Pointer, result: i32) -> Self {
        let mut asked = Self {
            call: source.call as u32,
            flags: 0,
            open_flags: source.open_flags & !O_LARGEFILE,
            mode: source.mode,
            directory_fd: source.directory_fd,
            name: source.name,
            result,
        };
        let task_flags: u32 = field!(task, task_flags);
        if source.by_path && task_flags & (PF_KTHREAD | PF_IO_WORKER) == 0 {
            // SAFETY: the task is the current one.
            let regs = unsafe { bpf_task_pt_regs(task.cast_mut().cast()) } as Pointer;
            let number: u32 = field!(regs, regs_number);
            let status: u32 = field!(task, task_status);
            let compat = status & TS_COMPAT != 0;
            if compat {
                asked.flags |= u32::from(FLAG_COMPAT);
            }
            asked.call = match (number, compat) {
                (257, false) | (295, true) => Call::Openat as u32,
                (437, _) => Call::Openat2 as u32,
                (2, false) | (5, true) => Call::Open as u32,
                (85, false) | (8, true) => Call::Creat as u32,
                _ => Call::None as u32,
            };
            if asked.call == Call::Openat as u32 || asked.call == Call::Openat2 as u32 {
                asked.flags |= u32::from(FLAG_HAS_DIRECTORY);
            }
        }
        asked
    }
}

/// `PF_IO_WORKER`, include/linux/sched.h: a thread of io_uring.
const PF_IO_WORKER: u32 = 0x10;

/// Writes all that does not depend on the file. Returns flags.
#[inline(always)]
fn begin(slot: u32, scratch: *mut Scratch, asked: &Asked) -> u32 {
    emit::begin_record(
        scratch,
        kind_and_call(Kind::Open as u32, asked.call),
        asked.result,
    );
    emit::set_body_length::<Open>(scratch);
    // SAFETY: taken by this program.
    let body = unsafe { &mut *emit::body::<Open>(scratch) };
    body.flags = asked.open_flags;
    body.mode = asked.mode;
    body.directory_fd = asked.directory_fd;
    clear_file(body);
    body.asked_length = if asked.name == 0 {
        0
    } else {
        emit::append_kernel_string(slot, asked.name) as u16
    };
    asked.flags
}

/// Writes what the inode of the target says of it.
#[inline(always)]
fn describe(scratch: *mut Scratch, inode: Pointer) {
    // SAFETY: taken by this program.
    let body = unsafe { &mut *emit::body::<Open>(scratch) };
    // SAFETY: taken by this program, which made the file the target.
    let target = || unsafe { core::ptr::read_volatile(&raw const (*scratch).target_inode) };
    body.device = device_of_typed(inode, target);
    body.inode = field!(inode, inode_number);
    body.file_mode = field!(inode, inode_mode);
    body.links = field!(inode, inode_links);
    body.owner_uid = field!(inode, inode_uid);
    body.owner_gid = field!(inode, inode_gid);
}

/// Writes what is to be said of a file, and its paths. Returns flags.
#[inline(always)]
fn append_file(slot: u32, scratch: *mut Scratch, file: Pointer, task: Pointer) -> u32 {
    walk::aim_typed(scratch, file, task);
    let inode: Pointer = field!(file, file_inode);
    describe(scratch, inode);
    // SAFETY: taken by this program.
    let body = unsafe { &mut *emit::body::<Open>(scratch) };
    let mut flags = u32::from(FLAG_HAS_FILE);
    let dentry: Pointer = field!(file, file_dentry);
    let parent: Pointer = field!(dentry, dentry_parent);
    let hash: u64 = field!(dentry, dentry_hash);
    if hash == 0 && parent != dentry {
        flags |= u32::from(FLAG_DELETED);
    }
    // SAFETY: taken by this program.
    unsafe { (*scratch).flags = 0 };
    if root::is_namespace_root(task) {
        walk::walk_typed(slot, scratch, dentry, field!(file, file_mnt), task);
        body.path_length = emit::append_text(slot) as u16;
    } else {
        walk::walk_text(slot, walk::UP_TO_NAMESPACE);
        body.path_length = emit::append_text(slot) as u16;
        walk::walk_text(slot, walk::UP_TO_TASK);
        body.task_path_length = emit::append_text(slot) as u16;
    }
    // SAFETY: taken by this program.
    flags | unsafe { (*scratch).flags } as u32
}

/// `long do_sys_openat2(int dfd, const char __user *, struct open_how *)`: an
/// open that failed before any file system was asked. All that is known of
/// the name is in user memory.
#[fexit]
pub fn open_failed(ctx: FExitContext) -> i32 {
    let result: i64 = ctx.arg(3);
    if result >= 0 {
        return 0;
    }
    let task = current_task();
    if verdicts::take(task as u64).is_some() {
        return 0;
    }
    let tgid: u32 = field!(task, task_tgid);
    let how: Pointer = ctx.arg(2);
    let open_flags: u64 = field!(how, how_flags);
    let mode: u64 = field!(how, how_mode);
    let Some((slot, scratch)) = scratch::acquire_for_return() else {
        count(Hook::OpenCall, Count::Missed);
        return 0;
    };
    count(Hook::OpenCall, Count::Seen);
    if is_agent(tgid) {
        count(Hook::OpenCall, Count::Filtered);
        scratch::release(scratch);
        return 0;
    }
    let source = Source {
        name: 0,
        directory_fd: ctx.arg(0),
        open_flags: open_flags as u32,
        mode: mode as u32,
        call: Call::None,
        by_path: true,
    };
    let asked = Asked::of(&source, task, result as i32);
    let flags = begin(slot, scratch, &asked) | u32::from(FLAG_FROM_USER_MEMORY);
    // SAFETY: taken by this program.
    let body = unsafe { &mut *emit::body::<Open>(scratch) };
    body.asked_length = emit::append_user_string(slot, ctx.arg(1)) as u16;
    emit::set_no_verdict(scratch, judge::generation());
    emit::submit(slot, Hook::OpenCall as u32, flags, 0);
    scratch::release(scratch);
    0
}
