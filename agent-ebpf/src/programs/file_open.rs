//! Opens, seen where the kernel's own objects are: `do_filp_open` around the
//! path walk, and `security_file_open`, which every way to open a file passes.
//!
//! The name as asked comes from the kernel's copy (`struct filename`), the
//! decision from the file that was found. An open on behalf of an exec is the
//! exec's business.

use aya_ebpf::{
    helpers::generated::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_task},
    macros::{fexit, kprobe},
    programs::{FExitContext, ProbeContext},
};
use shrike_agent_ebpf::{
    counter::Hook,
    matching::{ACCESS_READ, ACCESS_WRITE, Action, Trigger},
    plan::ASKS_ABOUT_OPENS,
    record::{Call, FLAG_HAS_FILE, Kind, Open, Outcome, RULE_NONE},
};

use crate::{
    carry_out::{Power, carry_out, is_agent},
    device::device_of,
    emit::{self, Count, count, count_unreadable, kind_and_call},
    judge,
    memory::{Unreadable, read},
    offsets::{OPENS_FIRST, RECORD_OPENS, offset, setting},
    progress::{self, ENTERED, INSIDE, Judged, OVER, OpenInProgress},
    scratch::{self, Scratch},
    seen,
    shortcut::{Opened, Shortcut},
    typed::{Pointer, current_task, plain},
    walk,
};

/// `__FMODE_EXEC`, include/linux/fs.h: the open is part of an exec.
pub const FMODE_EXEC: u32 = 0x20;
pub const FMODE_READ: u32 = 1;
pub const FMODE_WRITE: u32 = 2;
pub const O_ACCMODE: u32 = 3;
pub const O_CREAT: u32 = 0o100;
pub const O_TRUNC: u32 = 0o1000;
pub const O_PATH: u32 = 0o10_000_000;

/// Largest errno, include/linux/err.h.
const MAX_ERRNO: i64 = 4095;

/// `struct file *do_filp_open(int dfd, struct filename *, const struct open_flags *)`
#[kprobe]
pub fn enter_file_open(ctx: ProbeContext) -> u32 {
    let _ = try_enter(&ctx);
    0
}

fn try_enter(ctx: &ProbeContext) -> Result<(), Unreadable> {
    let operation = ctx.arg::<u64>(2).ok_or(Unreadable)?;
    if read::<u32>(operation, offset!(open_flag))? & FMODE_EXEC != 0 {
        return Ok(());
    }
    // SAFETY: no precondition.
    let task = unsafe { bpf_get_current_task() };
    // Without an entry the decision hook writes the event.
    let open = progress::open_of(task).ok_or(Unreadable)?;
    if open.state != ENTERED {
        open.call = Call::None as u32;
        open.flags = 0;
        open.directory_fd = ctx.arg::<i32>(0).unwrap_or(0);
        open.judged.reset();
    }
    open.state = INSIDE;
    Ok(())
}

/// `int security_file_open(struct file *)`
#[kprobe]
pub fn decide_open(ctx: ProbeContext) -> u32 {
    if let Some(file) = ctx.arg::<u64>(0) {
        if try_decide(file).is_err() {
            count(Hook::OtherOpen, Count::Missed);
        }
    }
    0
}

#[inline(always)]
fn try_decide(file: u64) -> Result<(), Unreadable> {
    let in_force = judge::in_force();
    let asked_about = in_force.has(ASKS_ABOUT_OPENS);
    let record_all = setting!(RECORD_OPENS) != 0;
    if !asked_about && !record_all {
        return Ok(());
    }
    let task = current_task();
    let flags = read::<u32>(file, offset!(file_flags))?;
    if flags & FMODE_EXEC != 0 {
        return Ok(());
    }
    // Without an event to write, most opens are settled here.
    let shortcut = if asked_about && let Some(opened) = Opened::by_walk(file, task) {
        Shortcut::of(in_force, &opened, task)
    } else {
        Shortcut::NONE
    };
    if shortcut.settles && !record_all {
        return Ok(());
    }
    let open = if record_all {
        progress::existing_open_of(task as u64).filter(|open| open.state == INSIDE)
    } else {
        // `do_filp_open` is not hooked: this hook writes the event.
        None
    };
    if (!asked_about || shortcut.settles)
        && let Some(open) = open
    {
        if open.judged.judged == 0 {
            open.judged.judged = 1;
            open.judged.generation = judge::generation();
        }
        return Ok(());
    }

    let Some(scratch) = scratch::acquire(scratch::KPROBE) else {
        count(Hook::OtherOpen, Count::Missed);
        return Ok(());
    };
    let decided = decide(scratch, file, flags, task, open, record_all, &shortcut);
    scratch::release(scratch);
    decided
}

#[inline(always)]
fn decide(
    scratch: *mut Scratch,
    file: u64,
    flags: u32,
    task: Pointer,
    open: Option<&'static mut OpenInProgress>,
    record_all: bool,
    shortcut: &Shortcut,
) -> Result<(), Unreadable> {
    // SAFETY: no precondition.
    let tgid = (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32;
    let mode = read::<u32>(file, offset!(file_mode))?;
    {
        walk::aim(scratch, file);
        // SAFETY: taken by this program.
        let state = unsafe { &mut *scratch };
        state.trigger = Trigger::Open as u64;
        state.flags = 0;
        state.access = 0;
        if mode & FMODE_READ != 0 {
            state.access |= u64::from(ACCESS_READ);
        }
        if mode & FMODE_WRITE != 0 || flags & O_TRUNC != 0 {
            state.access |= u64::from(ACCESS_WRITE);
        }
        own_comm(state);
    }
    let matched = judge::judge(scratch::KPROBE) != 0;
    // SAFETY: taken by this program.
    let state = unsafe { &mut *scratch };
    if matched {
        carry_out(state, task as u64, tgid, Power::Signal);
    } else {
        shortcut.remember(state, task as u64);
    }
    if let Some(open) = open {
        open.judged.take(state);
        return Ok(());
    }
    if !matched && !record_all {
        return Ok(());
    }

    // Opened by another way than a path, or the others are not recorded.
    count(Hook::OtherOpen, Count::Seen);
    if is_agent(tgid) && state.outcome != Outcome::SparedAgent as u64 {
        count(Hook::OtherOpen, Count::Filtered);
        return Ok(());
    }
    let judged = Judged::of(state);
    if judged.is_ignored() {
        count(Hook::OtherOpen, Count::Filtered);
        return Ok(());
    }
    let slot = scratch::KPROBE;
    emit::begin_record(scratch, kind_and_call(Kind::Open as u32, 0), 0);
    emit::set_verdict(scratch, &judged);
    emit::set_body_length::<Open>(scratch);
    // SAFETY: taken by this program.
    let body = unsafe { &mut *emit::body::<Open>(scratch) };
    body.flags = flags;
    body.mode = 0;
    body.directory_fd = 0;
    body.asked_length = 0;
    clear_file(body);
    append_file(slot, scratch, body, file);
    // SAFETY: taken by this program.
    let flags = unsafe { (*scratch).flags } as u32 | u32::from(FLAG_HAS_FILE);
    emit::submit(
        slot,
        Hook::OtherOpen as u32,
        flags,
        u32::from(judged.action == Action::Kill as u32),
    );
    Ok(())
}

/// Puts the current task's command name into the scratch buffer.
#[inline(always)]
pub fn own_comm(state: &mut Scratch) {
    // SAFETY: the helper fills the 16 bytes and pads them with zeroes.
    unsafe { bpf_get_current_comm(state.comm.as_mut_ptr().cast(), 16) };
    state.comm_length = comm_length(&state.comm);
}

/// Returns the length of a zero-padded name: its bytes up to the first zero.
#[inline(always)]
fn comm_length(comm: &[u64; 2]) -> u64 {
    zero_at(comm[0]) + ((zero_at(comm[0]) >> 3) * zero_at(comm[1]))
}

/// Returns the index of the first zero byte of a little-endian word, 8 for
/// none.
#[inline(always)]
pub fn zero_at(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const LOW_BITS: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let zeroes = !(((word & LOW_BITS) + LOW_BITS) | word | LOW_BITS);
    // All bits below the lowest set one, then one for each whole byte.
    let below = zeroes.wrapping_sub(1) & !zeroes;
    ((below >> 7) & ONES).wrapping_mul(ONES) >> 56
}

/// Sets everything that is said of a file to nothing.
#[inline(always)]
pub fn clear_file(body: &mut Open) {
    body.device = 0;
    body.inode = 0;
    body.path_length = 0;
    body.task_path_length = 0;
    body.file_mode = 0;
    body.links = 0;
    body.owner_uid = 0;
    body.owner_gid = 0;
    body.padding = 0;
}

/// Fills in device and inode, and appends the resolved path.
#[inline(always)]
fn append_file(slot: u32, scratch: *mut Scratch, body: &mut Open, file: u64) {
    walk::aim(scratch, file);
    let (device, inode) = identity(file);
    body.device = device;
    body.inode = inode;
    walk::walk_text(slot, walk::UP_TO_NAMESPACE);
    body.path_length = emit::append_text(slot) as u16;
}

/// Returns device and inode number of a file, zeroes where unreadable.
#[inline(always)]
pub fn identity(file: u64) -> (u32, u64) {
    let Ok(inode) = read::<u64>(file, offset!(file_inode)) else {
        return (0, 0);
    };
    let number = read::<u64>(inode, offset!(inode_number)).unwrap_or(0);
    (device_of(inode).unwrap_or(0), number)
}

/// Return of `do_filp_open`.
#[fexit]
pub fn leave_file_open(ctx: FExitContext) -> i32 {
    if try_leave(&ctx).is_err() {
        count_unreadable(Hook::FileOpen);
    }
    0
}

fn try_leave(ctx: &FExitContext) -> Result<(), Unreadable> {
    let operation = ctx.arg::<u64>(2);
    let kernel_flags = read::<u32>(operation, offset!(open_flag))?;
    if kernel_flags & FMODE_EXEC != 0 {
        return Ok(());
    }
    // SAFETY: no precondition.
    let task = unsafe { bpf_get_current_task() };
    let Some(open) = progress::existing_open_of(task) else {
        // No room for an entry: what was opened is the decision hook's to
        // report, what failed is lost.
        if is_errno(plain(ctx.arg::<u64>(3))) {
            count(Hook::FileOpen, Count::Seen);
            count(Hook::FileOpen, Count::LostPendingFull);
        }
        return Ok(());
    };
    if open.state != INSIDE {
        return Ok(());
    }
    open.state = OVER;
    if open.judged.is_ignored() {
        count(Hook::FileOpen, Count::Seen);
        count(Hook::FileOpen, Count::Filtered);
        return Ok(());
    }
    // SAFETY: no precondition.
    let tgid = (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32;
    if setting!(RECORD_OPENS) == OPENS_FIRST && open.judged.rule == u32::from(RULE_NONE) {
        let file = plain(ctx.arg::<u64>(3));
        if !is_errno(file) && is_repeat(task, file, kernel_flags).unwrap_or(false) {
            count(Hook::FileOpen, Count::Repeated);
            return Ok(());
        }
    }
    let Some((slot, scratch)) = scratch::acquire_for_return() else {
        count(Hook::FileOpen, Count::Missed);
        return Ok(());
    };
    count(Hook::FileOpen, Count::Seen);
    if is_agent(tgid) && open.judged.outcome != Outcome::SparedAgent as u32 {
        count(Hook::FileOpen, Count::Filtered);
    } else {
        let asked = Asked {
            name: ctx.arg::<u64>(1),
            operation,
            kernel_flags,
            result: ctx.arg::<u64>(3),
        };
        report(slot, scratch, open, &asked);
    }
    scratch::release(scratch);
    Ok(())
}

/// Says whether the process opened the file for this access before.
#[inline(always)]
fn is_repeat(task: u64, file: u64, open_flags: u32) -> Result<bool, Unreadable> {
    let leader = read::<u64>(task, offset!(task_group_leader))?;
    let inode = read::<u64>(file, offset!(file_inode))?;
    Ok(seen::is_repeat(&seen::Touch {
        start: read(leader, offset!(task_start))?,
        image: read(task, offset!(task_exec_id))?,
        tgid: read(task, offset!(task_tgid))?,
        inode: read(inode, offset!(inode_number))?,
        inode_generation: read(inode, offset!(inode_generation))?,
        device: device_of(inode)?,
        access: seen::access(open_flags),
    }))
}

/// Says whether a pointer is an error (`IS_ERR`).
#[inline(always)]
fn is_errno(returned: u64) -> bool {
    (-MAX_ERRNO..0).contains(&(returned as i64))
}

/// What `do_filp_open` was given and returned.
struct Asked {
    name: u64,
    operation: u64,
    kernel_flags: u32,
    result: u64,
}

#[inline(always)]
fn report(slot: u32, scratch: *mut Scratch, open: &OpenInProgress, asked: &Asked) {
    let returned = plain(asked.result);
    let failed = is_errno(returned);
    let result = if failed { returned as i32 } else { 0 };

    emit::begin_record(scratch, kind_and_call(Kind::Open as u32, open.call), result);
    if open.judged.judged != 0 {
        emit::set_verdict(scratch, &open.judged);
    } else {
        emit::set_no_verdict(scratch, judge::generation());
    }
    emit::set_body_length::<Open>(scratch);
    // SAFETY: taken by this program.
    let body = unsafe { &mut *emit::body::<Open>(scratch) };
    body.directory_fd = open.directory_fd;
    clear_file(body);
    if open.call == Call::None as u32 {
        body.flags = asked.kernel_flags;
        body.mode = u32::from(read::<u16>(asked.operation, offset!(open_mode)).unwrap_or(0));
    } else {
        body.flags = open.open_flags;
        body.mode = open.mode;
    }
    let name = read::<u64>(asked.name, offset!(filename_name)).unwrap_or(0);
    body.asked_length = emit::append_kernel_string(slot, name) as u16;
    let mut flags = open.flags | open.judged.flags;
    // SAFETY: taken by this program.
    unsafe { (*scratch).flags = 0 };
    if !failed {
        append_file(slot, scratch, body, returned);
        // SAFETY: taken by this program.
        flags |= unsafe { (*scratch).flags } as u32 | u32::from(FLAG_HAS_FILE);
    }
    emit::submit(
        slot,
        Hook::FileOpen as u32,
        flags,
        u32::from(open.judged.action == Action::Kill as u32),
    );
}
