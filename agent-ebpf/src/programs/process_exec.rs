//! `sched_process_exec`: a new image runs. Arguments come from where the
//! kernel put them, which nothing can change before this returns.

use aya_ebpf::{
    helpers::generated::{bpf_get_current_pid_tgid, bpf_get_current_task},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
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
    emit::{self, Count, count, kind_and_call},
    file_open::identity,
    image, judge,
    memory::{Unreadable, read},
    offsets::offset,
    progress::{EXECS, ExecInProgress, exec_of},
    scratch::{self, Scratch},
    typed::current_task,
    walk,
};

/// `(struct task_struct *, pid_t old_pid, struct linux_binprm *)`
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn process_exec(ctx: RawTracePointContext) -> i32 {
    let bprm = ctx.arg::<u64>(2);
    // SAFETY: no precondition.
    let task = unsafe { bpf_get_current_task() };
    let Some(scratch) = scratch::acquire(scratch::TRACEPOINT) else {
        count(Hook::ProcessExec, Count::Missed);
        return 0;
    };
    count(Hook::ProcessExec, Count::Seen);
    let nothing = ExecInProgress::BY_KERNEL;
    let mut exec = exec_of(task);
    if let Some(exec) = &mut exec {
        signal_again(&mut exec.judged);
    }
    let announced = exec.is_some();
    let known: &ExecInProgress = exec.as_deref().unwrap_or(&nothing);
    // SAFETY: no precondition.
    let tgid = (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32;
    if is_agent(tgid) && known.judged.outcome != Outcome::SparedAgent as u32 {
        count(Hook::ProcessExec, Count::Filtered);
    } else {
        report(scratch, known, announced, task, bprm);
    }
    let _ = EXECS.remove(task);
    scratch::release(scratch);
    0
}

#[inline(always)]
fn report(scratch: *mut Scratch, exec: &ExecInProgress, announced: bool, task: u64, bprm: u64) {
    let slot = scratch::TRACEPOINT;
    emit::begin_record(slot, kind_and_call(Kind::Exec as u32, exec.call), 0);
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
    let file = read::<u64>(bprm, offset!(bprm_file)).unwrap_or(0);
    (body.device, body.inode) = identity(file);
    walk::aim(scratch, file);
    walk::walk_text(slot, walk::UP_TO_NAMESPACE);
    body.path_length = emit::append_text(slot) as u16;
    // SAFETY: taken by this program.
    flags |= unsafe { (*scratch).flags } as u32 | u32::from(FLAG_HAS_FILE | FLAG_HAS_IMAGE);
    flags |= image::describe(image, current_task(), announced.then_some(exec));

    let interpreter = read::<u64>(bprm, offset!(bprm_interp)).unwrap_or(filename);
    body.interpreter_length = if interpreter == filename {
        0
    } else {
        emit::append_interpreter(slot, interpreter) as u16
    };

    let (argv_length, whole) = append_argv(slot, task).unwrap_or((0, false));
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
fn append_argv(slot: u32, task: u64) -> Result<(u32, bool), Unreadable> {
    let mm = read::<u64>(task, offset!(task_mm))?;
    let start = read::<u64>(mm, offset!(mm_arg_start))?;
    let end = read::<u64>(mm, offset!(mm_arg_end))?;
    let length = end.saturating_sub(start);
    let taken = if length > ARGV_BYTES_MAX as u64 {
        ARGV_BYTES_MAX as u64
    } else {
        length
    };
    let added = emit::append_user_bytes(slot, start, taken);
    Ok((added, u64::from(added) == length))
}
