//! The exec system calls: what was asked, and what failed. An exec that
//! succeeds is reported by `process_exec`.
//!
//! What was asked is in the task's registers until the new image gets them.
//! The decision reads it there; kprobes note it at the entry.

use aya_ebpf::{
    helpers::generated::bpf_get_current_task,
    macros::{fexit, kprobe},
    programs::{FExitContext, ProbeContext},
};
use shrike_agent_ebpf::{
    counter::Hook,
    matching::Action,
    record::{
        ARGV_BYTES_MAX, ARGV_COUNT_MAX, Call, Exec, FLAG_ARGV_TRUNCATED, FLAG_COMPAT,
        FLAG_FROM_USER_MEMORY, FLAG_HAS_DIRECTORY, FLAG_HAS_FILE, FLAG_PATH_UNRESOLVED, Kind,
        Outcome,
    },
};

use crate::{
    carry_out::is_agent,
    emit::{self, ARGUMENT_BYTES_MAX, Count, count, kind_and_call},
    judge,
    memory::{Unreadable, read_user},
    offsets::{RECORD_PROCESSES, setting},
    open_call::Arguments,
    progress::{
        Capabilities, ExecInProgress, NO_DIRECTORY, enter_exec, exec_of, forget_exec,
        take_judged_path,
    },
    scratch::{self, Scratch},
    typed::{Pointer, current_task, field},
};

#[inline(always)]
fn try_enter(call: Call, arguments: &Arguments) -> Result<(), Unreadable> {
    let mut exec = ExecInProgress::BY_KERNEL;
    exec.call = call as u32;
    exec.flags = u32::from(arguments.flags());
    exec.directory_fd = NO_DIRECTORY;
    exec.before = Capabilities::of(current_task());
    // execveat puts the directory in front and the flags behind.
    let first = if matches!(call, Call::Execveat) {
        exec.directory_fd = arguments.number(0)? as i32;
        exec.flags |= u32::from(FLAG_HAS_DIRECTORY);
        exec.exec_flags = arguments.number(4)?;
        1
    } else {
        0
    };
    exec.user_path = arguments.address(first)?;
    exec.user_argv = arguments.address(first + 1)?;
    // SAFETY: no precondition.
    let task = unsafe { bpf_get_current_task() };
    forget_exec(task);
    if enter_exec(task, &exec).is_none() {
        count(Hook::ExecCall, Count::LostPendingFull);
        count(Hook::ExecCall, Count::Seen);
    }
    Ok(())
}

#[inline(always)]
fn leave(result: i64) {
    if result >= 0 {
        // `process_exec` had it.
        return;
    }
    let task = current_task();
    if let Some(exec) = exec_of(task as u64) {
        if exec.is_told() {
            report_failure(exec, task, result as i32);
        }
        forget_exec(task as u64);
    } else if setting!(RECORD_PROCESSES) != 0 {
        // It failed before any file was looked at.
        report_failure(&ExecInProgress::of(task), task, result as i32);
    }
}

#[inline(always)]
fn report_failure(exec: &ExecInProgress, task: Pointer, result: i32) {
    let tgid: u32 = field!(task, task_tgid);
    let Some((slot, scratch)) = scratch::acquire_for_return() else {
        count(Hook::ExecCall, Count::Missed);
        return;
    };
    count(Hook::ExecCall, Count::Seen);
    if is_agent(tgid) && exec.judged.outcome != Outcome::SparedAgent as u32 {
        count(Hook::ExecCall, Count::Filtered);
    } else {
        report(slot, scratch, exec, task, result);
    }
    scratch::release(scratch);
}

#[inline(always)]
fn report(slot: u32, scratch: *mut Scratch, exec: &ExecInProgress, task: Pointer, result: i32) {
    emit::begin_record(scratch, kind_and_call(Kind::Exec as u32, exec.call), result);
    if exec.judged.judged != 0 {
        emit::set_verdict(scratch, &exec.judged);
    } else {
        emit::set_no_verdict(scratch, judge::generation());
    }
    emit::set_body_length::<Exec>(scratch);
    // SAFETY: taken by this program.
    let body = unsafe { &mut *emit::body::<Exec>(scratch) };
    body.flags = exec.exec_flags;
    body.directory_fd = exec.directory_fd;
    body.inode = exec.inode;
    body.device = exec.device;
    body.path_length = 0;
    body.interpreter_length = 0;
    body.padding = 0;
    body.asked_length = emit::append_user_string(slot, exec.user_path) as u16;
    let mut flags = exec.flags | exec.judged.flags | u32::from(FLAG_FROM_USER_MEMORY);
    if exec.inode != 0 {
        // It got as far as the decision. The file itself is gone by now; its
        // path was kept if a rule matched.
        flags |= u32::from(FLAG_HAS_FILE);
        // SAFETY: taken by this program.
        if exec.kept_path != 0 && take_judged_path(task as u64, unsafe { &mut *scratch }) {
            body.path_length = emit::append_text(slot) as u16;
        } else {
            flags |= u32::from(FLAG_PATH_UNRESOLVED);
        }
    }
    let (argv_length, whole) = append_argv(slot, exec);
    body.argv_length = argv_length as u16;
    if !whole {
        flags |= u32::from(FLAG_ARGV_TRUNCATED);
    }
    emit::submit(
        slot,
        Hook::ExecCall as u32,
        flags,
        u32::from(exec.judged.action == Action::Kill as u32),
    );
}

/// Appends the arguments, and says whether that was all of them.
#[inline(always)]
fn append_argv(slot: u32, exec: &ExecInProgress) -> (u32, bool) {
    let compat = exec.flags & u32::from(FLAG_COMPAT);
    let size = if compat != 0 { 4 } else { 8 };
    let mut place = exec.user_argv;
    let mut length = 0;
    let mut index = 0;
    while index < ARGV_COUNT_MAX as u64 {
        if length > (ARGV_BYTES_MAX - ARGUMENT_BYTES_MAX) as u32 {
            return (length, false);
        }
        match append_argument_at(slot, place, compat) {
            END => return (length, true),
            added if added > 0 => length += added as u32,
            _ => return (length, false),
        }
        place = place.wrapping_add(size);
        index += 1;
    }
    (length, false)
}

/// The list of arguments ends here.
const END: i32 = 0;

/// Appends the argument that the user pointer at `place` points to. Returns
/// the bytes added, [`END`] for a null pointer, -1 when it cannot be read.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn append_argument_at(slot: u32, place: u64, compat: u32) -> i32 {
    let argument = if compat != 0 {
        read_user::<u32>(place).map(u64::from)
    } else {
        read_user::<u64>(place)
    };
    match argument {
        Ok(0) => END,
        Ok(argument) => match emit::append_user_argument(slot, argument) {
            0 => -1,
            added => added as i32,
        },
        Err(Unreadable) => -1,
    }
}

macro_rules! exec_call {
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

exec_call!(enter_execve, leave_execve, Execve, native);
exec_call!(enter_execveat, leave_execveat, Execveat, native);
exec_call!(enter_execve32, leave_execve32, Execve, compat);
exec_call!(enter_execveat32, leave_execveat32, Execveat, compat);
