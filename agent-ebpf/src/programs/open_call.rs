//! The open system calls: what was asked, and failures that never reached
//! the file system (a bad pointer, no descriptor left, flags that clash).

use aya_ebpf::{
    bindings::pt_regs,
    helpers::generated::bpf_get_current_task,
    macros::{fexit, kprobe},
    programs::{FExitContext, ProbeContext},
};
use shrike_agent_ebpf::{
    counter::Hook,
    record::{
        Call, FLAG_ASKED_TRUNCATED, FLAG_COMPAT, FLAG_FROM_USER_MEMORY, FLAG_HAS_DIRECTORY, Kind,
        Open, PATH_BYTES_MAX,
    },
};

use crate::{
    carry_out::is_agent,
    emit::{self, Count, count, kind_and_call},
    file_open::clear_file,
    judge,
    memory::{Unreadable, read, read_user},
    progress::{self, ENTERED, IDLE},
    scratch,
};

/// `AT_FDCWD`
const NO_DIRECTORY: i32 = -100;

/// What creat(2) stands for: `O_CREAT | O_WRONLY | O_TRUNC`.
const CREAT_FLAGS: u32 = 0o1101;

/// The registers that hold a system call's arguments.
pub struct Arguments {
    regs: u64,
    places: [u32; 5],
    compat: bool,
}

macro_rules! place {
    ($register:ident) => {
        core::mem::offset_of!(pt_regs, $register) as u32
    };
}

impl Arguments {
    /// Of a 64-bit call.
    #[inline(always)]
    pub fn native(regs: u64) -> Self {
        Self {
            regs,
            places: [
                place!(rdi),
                place!(rsi),
                place!(rdx),
                place!(r10),
                place!(r8),
            ],
            compat: false,
        }
    }

    /// Of a 32-bit call.
    #[inline(always)]
    pub fn compat(regs: u64) -> Self {
        Self {
            regs,
            places: [
                place!(rbx),
                place!(rcx),
                place!(rdx),
                place!(rsi),
                place!(rdi),
            ],
            compat: true,
        }
    }

    /// Returns the flags of a record about such a call.
    #[inline(always)]
    pub fn flags(&self) -> u16 {
        if self.compat { FLAG_COMPAT } else { 0 }
    }

    /// Returns a number.
    #[inline(always)]
    pub fn number(&self, index: usize) -> Result<u32, Unreadable> {
        read::<u64>(self.regs, self.places[index]).map(|value| value as u32)
    }

    /// Returns a user address.
    #[inline(always)]
    pub fn address(&self, index: usize) -> Result<u64, Unreadable> {
        let value = read::<u64>(self.regs, self.places[index])?;
        Ok(if self.compat {
            value & 0xffff_ffff
        } else {
            value
        })
    }
}

/// What an open asks for.
struct Asked {
    directory_fd: Option<i32>,
    user_path: u64,
    flags: u32,
    mode: u32,
}

#[inline(always)]
fn asked(call: Call, arguments: &Arguments) -> Result<Asked, Unreadable> {
    Ok(match call {
        Call::Open => Asked {
            directory_fd: None,
            user_path: arguments.address(0)?,
            flags: arguments.number(1)?,
            mode: arguments.number(2)?,
        },
        Call::Creat => Asked {
            directory_fd: None,
            user_path: arguments.address(0)?,
            flags: CREAT_FLAGS,
            mode: arguments.number(1)?,
        },
        Call::Openat => Asked {
            directory_fd: Some(arguments.number(0)? as i32),
            user_path: arguments.address(1)?,
            flags: arguments.number(2)?,
            mode: arguments.number(3)?,
        },
        _ => {
            // openat2: struct open_how { u64 flags, mode, resolve }.
            let how = arguments.address(2)?;
            Asked {
                directory_fd: Some(arguments.number(0)? as i32),
                user_path: arguments.address(1)?,
                flags: read_user::<u64>(how).unwrap_or(0) as u32,
                mode: read_user::<u64>(how.wrapping_add(8)).unwrap_or(0) as u32,
            }
        }
    })
}

#[inline(always)]
fn try_enter(call: Call, arguments: &Arguments) -> Result<(), Unreadable> {
    let asked = asked(call, arguments)?;
    // SAFETY: no precondition.
    let task = unsafe { bpf_get_current_task() };
    let Some(open) = progress::open_of(task) else {
        // The event goes out without what only this hook knows.
        return Ok(());
    };
    open.state = ENTERED;
    open.call = call as u32;
    open.flags = u32::from(arguments.flags());
    open.open_flags = asked.flags;
    open.mode = asked.mode;
    open.directory_fd = NO_DIRECTORY;
    if let Some(directory_fd) = asked.directory_fd {
        open.directory_fd = directory_fd;
        open.flags |= u32::from(FLAG_HAS_DIRECTORY);
    }
    open.user_path = asked.user_path;
    open.judged.reset();
    Ok(())
}

#[inline(always)]
fn leave(result: i64) {
    // SAFETY: no precondition.
    let task = unsafe { bpf_get_current_task() };
    let Some(open) = progress::existing_open_of(task) else {
        return;
    };
    let state = open.state;
    open.state = IDLE;
    if state == ENTERED && result < 0 {
        report_failure(open, result as i32);
    }
}

/// The call failed before `do_filp_open`: all that is known of the path is in
/// user memory.
#[inline(always)]
fn report_failure(open: &progress::OpenInProgress, result: i32) {
    // SAFETY: no precondition.
    let tgid = unsafe { aya_ebpf::helpers::generated::bpf_get_current_pid_tgid() } >> 32;
    let Some((slot, scratch)) = scratch::acquire_for_return() else {
        count(Hook::OpenCall, Count::Missed);
        return;
    };
    count(Hook::OpenCall, Count::Seen);
    if is_agent(tgid as u32) {
        count(Hook::OpenCall, Count::Filtered);
    } else {
        emit::begin_record(scratch, kind_and_call(Kind::Open as u32, open.call), result);
        emit::set_no_verdict(scratch, judge::generation());
        emit::set_body_length::<Open>(scratch);
        let body = emit::body::<Open>(scratch);
        let asked_length = emit::append_user_string(slot, open.user_path);
        // SAFETY: the scratch buffer is taken by this program.
        let body = unsafe { &mut *body };
        body.flags = open.open_flags;
        body.mode = open.mode;
        body.directory_fd = open.directory_fd;
        body.asked_length = asked_length as u16;
        clear_file(body);
        let mut flags = open.flags | u32::from(FLAG_FROM_USER_MEMORY);
        // Of a path that the kernel refused as too long, the record holds as
        // much as of the longest that it takes.
        if asked_length == PATH_BYTES_MAX as u32 {
            flags |= u32::from(FLAG_ASKED_TRUNCATED);
        }
        emit::submit(slot, Hook::OpenCall as u32, flags, 0);
    }
    scratch::release(scratch);
}

macro_rules! open_call {
    ($enter:ident, $leave:ident, $call:ident, $abi:ident) => {
        #[kprobe]
        pub fn $enter(ctx: ProbeContext) -> u32 {
            if let Some(regs) = ctx.arg::<u64>(0) {
                // What cannot be read here is missing from the event.
                let _ = try_enter(Call::$call, &Arguments::$abi(regs));
            }
            0
        }

        #[fexit]
        pub fn $leave(ctx: FExitContext) -> i32 {
            leave(ctx.arg::<i64>(1));
            0
        }
    };
}

open_call!(enter_open, leave_open, Open, native);
open_call!(enter_creat, leave_creat, Creat, native);
open_call!(enter_openat, leave_openat, Openat, native);
open_call!(enter_openat2, leave_openat2, Openat2, native);
open_call!(enter_open32, leave_open32, Open, compat);
open_call!(enter_creat32, leave_creat32, Creat, compat);
open_call!(enter_openat32, leave_openat32, Openat, compat);
open_call!(enter_openat232, leave_openat232, Openat2, compat);
