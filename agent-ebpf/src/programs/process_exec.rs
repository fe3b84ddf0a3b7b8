//! `sched_process_exec`: a new image runs. Arguments come from where the
//! kernel put them, which nothing can change before this returns.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use shrike_agent_ebpf::{
    counter::Hook,
    matching::Action,
    record::{
        ARGV_BYTES_MAX, ExecWithImage, FLAG_ARGV_TRUNCATED, FLAG_HAS_FILE, FLAG_HAS_IMAGE, Kind,
        Outcome,
    },
};

use crate::{
    carry_out::{is_agent, signal_again},
    device::device_of_typed,
    emit::{self, Count, count, kind_and_call},
    image, judge,
    memory::read,
    offsets::offset,
    progress::{ExecInProgress, exec_of, forget_exec},
    scratch::{self, Scratch},
    typed::{Pointer, current_task, field, plain},
    walk,
};

/// `(struct task_struct *, pid_t old_pid, struct linux_binprm *)`
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn process_exec(ctx: RawTracePointContext) -> i32 {
    let task = current_task();
    let mut exec = exec_of(task as u64);
    if let Some(exec) = &mut exec {
        signal_again(&mut exec.judged);
    }
    let announced = exec.is_some();
    let nothing = ExecInProgress::BY_KERNEL;
    let known: &ExecInProgress = exec.as_deref().unwrap_or(&nothing);
    if known.is_told() {
        tell(known, announced, task, ctx.arg(2));
    }
    if announced {
        forget_exec(task as u64);
    }
    0
}

#[inline(always)]
fn tell(exec: &ExecInProgress, announced: bool, task: Pointer, bprm: u64) {
    let Some(scratch) = scratch::acquire(scratch::TRACEPOINT) else {
        count(Hook::ProcessExec, Count::Missed);
        return;
    };
    count(Hook::ProcessExec, Count::Seen);
    if is_agent(field!(task, task_tgid)) && exec.judged.outcome != Outcome::SparedAgent as u32 {
        count(Hook::ProcessExec, Count::Filtered);
    } else {
        report(scratch, exec, announced, task, bprm);
    }
    scratch::release(scratch);
}

#[inline(always)]
fn report(scratch: *mut Scratch, exec: &ExecInProgress, announced: bool, task: Pointer, bprm: u64) {
    let slot = scratch::TRACEPOINT;
    emit::begin_record(scratch, kind_and_call(Kind::Exec as u32, exec.call), 0);
    if exec.judged.judged != 0 {
        emit::set_verdict(scratch, &exec.judged);
    } else {
        emit::set_no_verdict(scratch, judge::generation());
    }
    emit::set_body_length::<ExecWithImage>(scratch);
    // SAFETY: taken by this program.
    let ExecWithImage { exec: body, image } = unsafe { &mut *emit::body::<ExecWithImage>(scratch) };
    body.flags = exec.exec_flags;
    body.directory_fd = exec.directory_fd;
    body.padding = 0;
    let filename = read::<u64>(bprm, offset!(bprm_filename)).unwrap_or(0);
    body.asked_length = emit::append_kernel_string(slot, filename) as u16;
    // SAFETY: taken by this program.
    unsafe { (*scratch).flags = 0 };
    let mut flags = exec.flags | exec.judged.flags;
    // The file that is executed, as in `bprm`.
    let mm: Pointer = field!(task, task_mm);
    let file: Pointer = field!(mm, mm_exe_file);
    let inode: Pointer = field!(file, file_inode);
    body.device = device_of_typed(inode, || plain(inode as u64));
    body.inode = field!(inode, inode_number);
    let dentry: Pointer = field!(file, file_dentry);
    let mount: Pointer = field!(file, file_mnt);
    body.path_length = walk::append_path(slot, scratch, dentry, mount, task) as u16;
    // SAFETY: taken by this program.
    flags |= unsafe { (*scratch).flags } as u32 | u32::from(FLAG_HAS_FILE | FLAG_HAS_IMAGE);
    flags |= image::describe(image, task, announced.then_some(exec));

    let interpreter = read::<u64>(bprm, offset!(bprm_interp)).unwrap_or(filename);
    body.interpreter_length = if interpreter == filename {
        0
    } else {
        emit::append_interpreter(slot, interpreter) as u16
    };

    let (argv_length, whole) = append_argv(slot, mm);
    body.argv_length = argv_length as u16;
    if !whole {
        flags |= u32::from(FLAG_ARGV_TRUNCATED);
    }
    image::append(slot, scratch, image, exec, task, file);
    emit::submit(
        slot,
        Hook::ProcessExec as u32,
        flags,
        u32::from(exec.judged.action == Action::Kill as u32),
    );
}

/// Appends the argument area of the new image, and says whether that was all
/// of it.
#[inline(always)]
fn append_argv(slot: u32, mm: Pointer) -> (u32, bool) {
    let start: u64 = field!(mm, mm_arg_start);
    let end: u64 = field!(mm, mm_arg_end);
    let length = end.saturating_sub(start);
    let taken = if length > ARGV_BYTES_MAX as u64 {
        ARGV_BYTES_MAX as u64
    } else {
        length
    };
    let added = emit::append_user_bytes(slot, start, taken);
    (added, u64::from(added) == length)
}
