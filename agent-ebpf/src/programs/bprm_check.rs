//! The decision about execs, before the point of no return. For a script the
//! kernel comes here twice, for the script and for its interpreter: the
//! strongest verdict wins.

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{
        bpf_get_current_pid_tgid, bpf_get_current_task, bpf_probe_read_kernel,
        bpf_probe_read_kernel_str,
    },
    macros::{fentry, kprobe, lsm},
    programs::{FEntryContext, LsmContext, ProbeContext},
};
use shrike_agent_ebpf::{
    counter::Hook,
    digest::COMPONENT_WORDS_MAX,
    matching::Trigger,
    plan::{ASKS_ABOUT_EXECS, ENFORCES_EXECS, InForce},
    record::{
        Call, Exec, FLAG_ARGV_TRUNCATED, FLAG_HAS_FILE, Kind, Outcome, PATH_BYTES_MAX, RULE_NONE,
    },
    text::behind_last_slash,
};

use crate::{
    carry_out::{Power, carry_out, is_agent, refusal, refuse_unjudged},
    clean::{self, Place},
    device::device_of_typed,
    emit::{self, Count, count, kind_and_call},
    file_open::identity,
    judge,
    memory::{Unreadable, hide, read},
    offsets::{RECORD_PROCESSES, offset, setting},
    overlay,
    progress::{ExecInProgress, Judged, forget_exec, keep_judged_path, under_way},
    record_open,
    scratch::{self, Scratch},
    typed::{Pointer, argument, current_task, field, plain},
    walk,
};

/// Longest base name plus its slash: all that is searched for the slash.
const TAIL_BYTES: u64 = 256;

/// A command name without its NUL.
const COMM_BYTES_MAX: u64 = 15;

/// `int security_bprm_check(struct linux_binprm *)`, as a kprobe.
#[kprobe]
pub fn decide_exec(ctx: ProbeContext) -> u32 {
    let (Some(bprm), Some(scratch)) = (ctx.arg::<u64>(0), scratch::acquire(scratch::KPROBE)) else {
        count(Hook::ProcessExec, Count::Missed);
        return 0;
    };
    if let Ok(filename) = read::<u64>(bprm, offset!(bprm_filename)) {
        coming_comm(scratch::KPROBE, filename);
        let _ = decide(scratch::KPROBE, scratch, bprm, Power::Signal);
    }
    scratch::release(scratch);
    0
}

/// The same, as an LSM program.
#[lsm(hook = "bprm_check_security")]
pub fn guard_exec(ctx: LsmContext) -> i32 {
    if decide_preemptibly(ctx.arg(0), Power::Refuse) {
        return refusal();
    }
    0
}

/// The same, where there is no BPF LSM.
#[fentry]
pub fn watch_exec(ctx: FEntryContext) -> i32 {
    decide_preemptibly(ctx.arg(0), Power::Signal);
    0
}

/// `mmap_file(struct file *, unsigned long reqprot, unsigned long prot,
/// unsigned long flags)`: the dynamic loader, asked to run a program, executes
/// nothing but itself.
#[lsm(hook = "mmap_file")]
pub fn guard_mmap(ctx: LsmContext) -> i32 {
    let protection: u64 = ctx.arg(2);
    if protection & PROT_EXEC == 0 {
        return 0;
    }
    // Memory without a file has none to judge.
    if argument(ctx.as_ptr(), 0) != 0 && decide_mapping(ctx.arg(0), Power::Refuse) {
        return refusal();
    }
    0
}

/// `int security_mmap_file(struct file *, unsigned long prot,
/// unsigned long flags)`, where there is no BPF LSM.
#[fentry]
pub fn watch_mmap(ctx: FEntryContext) -> i32 {
    let protection: u64 = ctx.arg(1);
    let executes = protection & PROT_EXEC != 0
        || protection & PROT_READ != 0 && reading_is_executing(current_task());
    if executes && argument(ctx.as_ptr(), 0) != 0 {
        decide_mapping(ctx.arg(0), Power::Signal);
    }
    0
}

/// `PROT_READ`
const PROT_READ: u64 = 1;
/// `PROT_EXEC`
const PROT_EXEC: u64 = 4;

/// `READ_IMPLIES_EXEC`, include/uapi/linux/personality.h.
const READ_IMPLIES_EXEC: u32 = 0x0040_0000;

/// Says whether the kernel adds the right to execute to whatever a task maps
/// for reading (`mmap_prot`, security/security.c), which it does behind the
/// place of [`watch_mmap`].
#[inline(always)]
fn reading_is_executing(task: Pointer) -> bool {
    let personality: u32 = field!(task, task_personality);
    personality & READ_IMPLIES_EXEC != 0
}

#[inline(always)]
fn decide_mapping(file: Pointer, power: Power) -> bool {
    let in_force = judge::in_force();
    if !in_force.has(ASKS_ABOUT_EXECS) {
        return false;
    }
    let task = current_task();
    let mm: Pointer = field!(task, task_mm);
    let own: Pointer = field!(mm, mm_exe_file);
    let dentry: Pointer = field!(file, file_dentry);
    let own_dentry: Pointer = field!(own, file_dentry);
    if dentry == own_dentry {
        // Judged when it was executed.
        return false;
    }
    let key = key_of(in_force, task, file, &BY_ITS_OWN_NAME);
    if key != 0 && clean::contains(key) {
        return false;
    }
    let Some((slot, scratch)) = scratch::acquire_for_return() else {
        count(Hook::OtherOpen, Count::Missed);
        return in_force.has(ENFORCES_EXECS) && refuse_unjudged(task, power);
    };
    // SAFETY: no precondition.
    let tgid = (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32;
    let name: u64 = field!(dentry, dentry_name);
    coming_comm(slot, name);
    let mut judged = Judged::NOT;
    let mut refused = false;
    let mut part = plain(file as u64);
    let mut judged_parts = 0;
    while judged_parts < overlay::FILES_MAX {
        walk::aim(scratch, part);
        // SAFETY: taken by this program.
        let state = unsafe { &mut *scratch };
        state.trigger = Trigger::Exec as u64;
        state.access = 0;
        state.flags = 0;
        if judge::judge(slot) != 0 && u64::from(judged.action) < state.action {
            refused |= carry_out(state, task as u64, tgid, power);
        }
        judged.take(state);
        part = overlay::behind(part);
        if part == 0 {
            break;
        }
        judged_parts += 1;
    }
    if judged.rule != u32::from(RULE_NONE) {
        if !is_agent(tgid) || judged.outcome == Outcome::SparedAgent as u32 {
            record_open::judged(slot, scratch, Call::Mmap, file, task, &judged, refused);
        }
    } else {
        // SAFETY: taken by this program.
        remember(key, unsafe { &*scratch }, task);
    }
    scratch::release(scratch);
    refused
}

/// Stands for the command name of a file that is mapped: its own name, which
/// is part of its place. No command name begins with a NUL.
const BY_ITS_OWN_NAME: [u64; 2] = [0, 1];

/// Returns the key of a file that is executed under a command name; 0 when a
/// rule may know it by its inode, or what stands behind it.
#[inline(always)]
fn key_of(in_force: InForce, task: Pointer, file: Pointer, comm: &[u64; 2]) -> u64 {
    if overlay::is_merged(file) {
        return 0;
    }
    let Some(plan) = judge::plan(in_force) else {
        return 0;
    };
    let inode: Pointer = field!(file, file_inode);
    if plan.identities.may_contain(field!(inode, inode_number)) {
        return 0;
    }
    let dentry: Pointer = field!(file, file_dentry);
    let mount: Pointer = field!(file, file_mnt);
    Place::directory(plan.seed[1], task, mount, dentry).map_or(0, |directory| {
        directory.file(dentry, inode).executed_as(comm).key()
    })
}

/// Remembers that nothing but the command name and the path had to be looked
/// at to know that no rule matches.
#[inline(always)]
fn remember(key: u64, state: &Scratch, task: Pointer) {
    if key != 0
        && state.settled != 0
        && clean::may_remember(state.target_mount, state.target_dentry, task as u64)
    {
        clean::insert(key);
    }
}

#[inline(always)]
fn decide_preemptibly(bprm: Pointer, power: Power) -> bool {
    let in_force = judge::in_force();
    let task = current_task();
    let file: Pointer = field!(bprm, bprm_file);
    if !in_force.has(ASKS_ABOUT_EXECS) {
        note_unmatched(file, task);
        return false;
    }
    let Some((slot, scratch)) = scratch::acquire_for_return() else {
        count(Hook::ProcessExec, Count::Missed);
        return in_force.has(ENFORCES_EXECS) && refuse_unjudged(task, power);
    };
    coming_comm(slot, field!(bprm, bprm_filename));
    // SAFETY: taken by this program.
    let comm = unsafe { (*scratch).comm };
    let key = key_of(in_force, task, file, &comm);
    let refused = if key != 0 && clean::contains(key) {
        note_unmatched(file, task);
        false
    } else {
        match decide(slot, scratch, bprm as u64, power) {
            Ok(refused) => {
                // SAFETY: taken by this program.
                let state = unsafe { &*scratch };
                if state.rule == u64::from(RULE_NONE) {
                    remember(key, state, task);
                }
                refused
            }
            // More execs are under way than can be entered.
            Err(_) => {
                count(Hook::ProcessExec, Count::Missed);
                in_force.has(ENFORCES_EXECS) && refuse_unjudged(task, power)
            }
        }
    };
    scratch::release(scratch);
    refused
}

/// Notes for the exec's event that no rule matched this file.
#[inline(always)]
fn note_unmatched(file: Pointer, task: Pointer) {
    if setting!(RECORD_PROCESSES) == 0 {
        return;
    }
    let Some(exec) = under_way(task as u64) else {
        return;
    };
    if exec.first_file == 0 {
        exec.first_file = file as u64;
    }
    if exec.judged.judged == 0 {
        exec.judged.judged = 1;
        exec.judged.generation = judge::generation();
    }
    if exec.judged.rule == u32::from(RULE_NONE) {
        let inode: Pointer = field!(file, file_inode);
        exec.inode = field!(inode, inode_number);
        exec.device = device_of_typed(inode, || plain(inode as u64));
    }
}

/// Decides about the file of an exec and the command name in the scratch
/// buffer; true: the exec is refused.
#[inline(always)]
fn decide(slot: u32, scratch: *mut Scratch, bprm: u64, power: Power) -> Result<bool, Unreadable> {
    // SAFETY: taken by this program.
    let state = unsafe { &mut *scratch };
    state.trigger = Trigger::Exec as u64;
    state.access = 0;
    state.flags = 0;
    state.rule = 0;
    let file = read::<u64>(bprm, offset!(bprm_file))?;
    // SAFETY: no precondition.
    let task = unsafe { bpf_get_current_task() };
    let exec = under_way(task).ok_or(Unreadable)?;
    if exec.first_file == 0 {
        exec.first_file = file;
    }
    let mut refused = false;
    let mut part = file;
    let mut judged_parts = 0;
    while judged_parts < overlay::FILES_MAX {
        walk::aim(scratch, part);
        refused |= decide_file(slot, scratch, exec, file, task, power);
        part = overlay::behind(part);
        if part == 0 {
            break;
        }
        judged_parts += 1;
    }
    if refused && exec.call == Call::None as u32 {
        // No system call returns that could tell.
        let filename = read::<u64>(bprm, offset!(bprm_filename)).unwrap_or(0);
        report_refusal(slot, scratch, exec, filename);
        forget_exec(task);
    }
    Ok(refused)
}

/// Decides about the target in the scratch buffer, which is a file of an exec,
/// or what stands behind it; true: the exec is refused.
#[inline(always)]
fn decide_file(
    slot: u32,
    scratch: *mut Scratch,
    exec: &mut ExecInProgress,
    file: u64,
    task: u64,
    power: Power,
) -> bool {
    let matched = judge::judge(slot) != 0;
    // SAFETY: no precondition.
    let tgid = (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32;
    // SAFETY: taken by this program.
    let state = unsafe { &mut *scratch };
    let mut refused = false;
    if matched && u64::from(exec.judged.action) < state.action {
        refused = carry_out(state, task, tgid, power);
    }
    let stronger = matched
        && (exec.judged.rule == u32::from(RULE_NONE)
            || u64::from(exec.judged.action) < state.action);
    exec.judged.take(state);
    // The file that the verdict is about, or else the last one.
    if stronger || exec.judged.rule == u32::from(RULE_NONE) {
        (exec.device, exec.inode) = identity(file);
    }
    if stronger {
        walk::aim(scratch, file);
        walk::walk_text(slot, walk::UP_TO_NAMESPACE);
        // SAFETY: taken by this program.
        keep_judged_path(task, unsafe { &*scratch });
        exec.kept_path = 1;
    }
    refused
}

/// Writes the event of an exec by the kernel itself that was refused. The path
/// is in the scratch buffer's text.
#[inline(always)]
fn report_refusal(slot: u32, scratch: *mut Scratch, exec: &ExecInProgress, filename: u64) {
    count(Hook::ProcessExec, Count::Seen);
    emit::begin_record(
        scratch,
        kind_and_call(Kind::Exec as u32, exec.call),
        REFUSED,
    );
    emit::set_verdict(scratch, &exec.judged);
    emit::set_body_length::<Exec>(scratch);
    // SAFETY: taken by this program.
    let body = unsafe { &mut *emit::body::<Exec>(scratch) };
    body.flags = 0;
    body.directory_fd = 0;
    body.inode = exec.inode;
    body.device = exec.device;
    body.interpreter_length = 0;
    body.argv_length = 0;
    body.padding = 0;
    body.asked_length = emit::append_kernel_string(slot, filename) as u16;
    body.path_length = emit::append_text(slot) as u16;
    let flags = exec.judged.flags | u32::from(FLAG_HAS_FILE | FLAG_ARGV_TRUNCATED);
    emit::submit(slot, Hook::ProcessExec as u32, flags, 1);
}

/// `EPERM`
const REFUSED: i32 = -1;

/// Puts the command name that the new image will get into the scratch buffer:
/// the base name of the path as asked, cut at 15 bytes.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn coming_comm(slot: u32, filename: u64) -> i32 {
    let Some(scratch) = scratch::get(slot) else {
        return 0;
    };
    // SAFETY: taken by the program that calls this.
    let state = unsafe { &mut *scratch };
    state.comm = [0; 2];
    state.comm_length = 0;
    // SAFETY: the text has room for the longest path.
    let written = unsafe {
        bpf_probe_read_kernel_str(
            state.path.bytes.as_mut_ptr().cast(),
            PATH_BYTES_MAX as u32 + 1,
            filename as *const _,
        )
    };
    if written <= 1 {
        return 0;
    }
    let length = written as u64 - 1;
    let skipped = length.saturating_sub(TAIL_BYTES);
    let tail_length = hide(length - skipped);
    if tail_length > TAIL_BYTES {
        return 0;
    }
    // SAFETY: the name has room for the tail.
    let result = unsafe {
        bpf_probe_read_kernel(
            state.name.as_mut_ptr().cast(),
            tail_length as u32,
            (filename + skipped) as *const _,
        )
    };
    if result != 0 {
        return 0;
    }
    // The steps find their input and leave their result in the buffer.
    state.spare = 0;
    state.comm_length = tail_length;
    let mut index = 0;
    while index < TAIL_BYTES as u32 / 8 {
        if u64::from(index) * 8 >= tail_length {
            break;
        }
        base_name_step(slot, index);
        index += 1;
    }
    let start = state.spare;
    state.comm_length = 0;
    let comm_length = hide(tail_length.saturating_sub(start));
    let comm_length = if comm_length > COMM_BYTES_MAX {
        COMM_BYTES_MAX
    } else {
        comm_length
    };
    // SAFETY: the command name has 16 bytes.
    unsafe {
        bpf_probe_read_kernel(
            state.comm.as_mut_ptr().cast(),
            comm_length as u32,
            (filename + skipped + start) as *const _,
        );
    }
    state.comm_length = comm_length;
    0
}

/// Looks for slashes in one word of the name.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn base_name_step(slot: u32, index: u32) -> i32 {
    let Some(scratch) = scratch::get(slot) else {
        return 0;
    };
    // SAFETY: taken by the program that calls this.
    let state = unsafe { &mut *scratch };
    let index = hide(u64::from(index));
    if index >= COMPONENT_WORDS_MAX as u64 {
        return 0;
    }
    let begin = index * 8;
    let left = state.comm_length.wrapping_sub(begin);
    // SAFETY: `index` was checked against the array's length.
    let word = unsafe { state.name.as_ptr().add(index as usize) };
    // SAFETY: as above.
    let word = unsafe { *word };
    let skip = behind_last_slash(word, left);
    if skip != 0 {
        state.spare = begin + skip;
    }
    0
}
