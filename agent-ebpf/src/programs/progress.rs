//! Operations under way: what one hook learns and a later one needs.
//!
//! Keyed by the task's address, which stays when an exec from a thread other
//! than the leader changes its ID. An open's entry is made once for a thread
//! and reused until the thread exits, because making and removing one costs
//! more than the rest of the hook; an exec's entry goes when the exec is over.

use aya_ebpf::{
    helpers::generated::{bpf_probe_read_kernel, bpf_task_pt_regs},
    macros::map,
    maps::{HashMap, LruHashMap},
};
use shrike_agent_ebpf::{
    counter::Hook,
    matching::Action,
    record::{Call, FLAG_COMPAT, FLAG_HAS_DIRECTORY, Outcome, RULE_NONE},
};

use crate::{
    emit::{Count, count},
    global::Global,
    memory::atomic_add,
    offsets::{RECORD_PROCESSES, setting},
    scratch::{PathText, Scratch},
    typed::{Pointer, TS_COMPAT, current_task, field},
};

/// No open is under way.
pub const IDLE: u32 = 0;
/// The system call began.
pub const ENTERED: u32 = 1;
/// `do_filp_open` runs.
pub const INSIDE: u32 = 2;
/// `do_filp_open` is over.
pub const OVER: u32 = 3;

/// What a rule said about an operation under way.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Judged {
    /// Generation that judged, 0 for none.
    pub generation: u64,
    /// Rule, or `RULE_NONE`.
    pub rule: u32,
    /// A `matching::Action`.
    pub action: u32,
    /// A `record::Outcome`.
    pub outcome: u32,
    /// Result of `bpf_send_signal`.
    pub signal_result: i32,
    /// `FLAG_*` that matching found out.
    pub flags: u32,
    /// 1 when anything was judged.
    pub judged: u32,
}

impl Judged {
    /// Nothing was said.
    pub const NOT: Self = Self {
        generation: 0,
        rule: RULE_NONE as u32,
        action: 0,
        outcome: 0,
        signal_result: 0,
        flags: 0,
        judged: 0,
    };

    /// The event was written; the return has nothing to add.
    pub const REPORTED: Self = Self {
        judged: 2,
        ..Self::NOT
    };

    /// The failure was written; the system call has nothing to add.
    pub const FAILED: Self = Self {
        judged: 3,
        ..Self::NOT
    };

    /// Takes a verdict out of a scratch buffer.
    #[inline(always)]
    pub fn of(scratch: &Scratch) -> Self {
        Self {
            generation: scratch.generation,
            rule: scratch.rule as u32,
            action: scratch.action as u32,
            outcome: scratch.outcome as u32,
            signal_result: scratch.signal_result as i32,
            flags: scratch.flags as u32,
            judged: 1,
        }
    }

    /// Says whether a rule wants no event of this.
    #[inline(always)]
    pub fn is_ignored(&self) -> bool {
        self.action == Action::Ignore as u32 && self.outcome != Outcome::Observed as u32
    }

    /// Forgets what an earlier operation was told.
    #[inline(always)]
    pub fn reset(&mut self) {
        self.rule = RULE_NONE as u32;
        self.action = 0;
        self.outcome = 0;
        self.signal_result = 0;
        self.flags = 0;
        self.judged = 0;
    }

    /// Takes a verdict over, unless a stronger one is there.
    #[inline(always)]
    pub fn take(&mut self, scratch: &Scratch) {
        self.flags |= scratch.flags as u32;
        if self.judged != 0 && u64::from(self.action) >= scratch.action {
            return;
        }
        self.judged = 1;
        self.generation = scratch.generation;
        self.rule = scratch.rule as u32;
        self.action = scratch.action as u32;
        self.outcome = scratch.outcome as u32;
        self.signal_result = scratch.signal_result as i32;
    }
}

/// An open under way.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct OpenInProgress {
    /// `IDLE`, `ENTERED`, `INSIDE` or `OVER`.
    pub state: u32,
    /// A `record::Call`.
    pub call: u32,
    /// `FLAG_*`
    pub flags: u32,
    /// open(2) flags as asked.
    pub open_flags: u32,
    /// Mode as asked.
    pub mode: u32,
    /// Directory descriptor as asked.
    pub directory_fd: i32,
    /// The path in user memory.
    pub user_path: u64,
    /// What the rules said.
    pub judged: Judged,
}

impl OpenInProgress {
    /// Nothing is under way.
    pub const IDLE: Self = Self {
        state: IDLE,
        call: 0,
        flags: 0,
        open_flags: 0,
        mode: 0,
        directory_fd: 0,
        user_path: 0,
        judged: Judged::NOT,
    };
}

/// Capabilities of a task.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Capabilities {
    /// Those that can be made effective.
    pub permitted: u64,
    /// Those in force.
    pub effective: u64,
}

impl Capabilities {
    /// Reads those of a task.
    #[inline(always)]
    pub fn of(task: Pointer) -> Self {
        let cred: Pointer = field!(task, task_cred);
        Self {
            permitted: field!(cred, cred_permitted),
            effective: field!(cred, cred_effective),
        }
    }
}

/// `AT_FDCWD`
pub const NO_DIRECTORY: i32 = -100;

/// An exec under way.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ExecInProgress {
    /// A `record::Call`.
    pub call: u32,
    /// `FLAG_*`
    pub flags: u32,
    /// execveat(2) flags as asked.
    pub exec_flags: u32,
    /// Directory descriptor as asked.
    pub directory_fd: i32,
    /// The path in user memory.
    pub user_path: u64,
    /// The arguments in user memory.
    pub user_argv: u64,
    /// Inode of the file that was judged.
    pub inode: u64,
    /// Its kernel device number.
    pub device: u32,
    /// 1 when the path of that file was kept.
    pub kept_path: u32,
    /// The first file that was looked at, a `struct file`: a script, or the
    /// program itself. 0 before.
    pub first_file: u64,
    /// Capabilities before.
    pub before: Capabilities,
    /// What the rules said.
    pub judged: Judged,
}

impl ExecInProgress {
    /// An exec that no system call announced.
    pub const BY_KERNEL: Self = Self {
        call: 0,
        flags: 0,
        exec_flags: 0,
        directory_fd: 0,
        user_path: 0,
        user_argv: 0,
        inode: 0,
        device: 0,
        kept_path: 0,
        first_file: 0,
        before: Capabilities {
            permitted: 0,
            effective: 0,
        },
        judged: Judged::NOT,
    };

    /// Reads what the task asks for, before the new image takes the place of
    /// its registers. What the kernel itself executes comes from no system
    /// call.
    #[inline(always)]
    pub fn of(task: Pointer) -> Self {
        let mut exec = Self::BY_KERNEL;
        exec.before = Capabilities::of(task);
        // SAFETY: the task is the current one.
        let regs = unsafe { bpf_task_pt_regs(task.cast_mut().cast()) } as Pointer;
        let number: u32 = field!(regs, regs_number);
        let status: u32 = field!(task, task_status);
        let compat = status & TS_COMPAT != 0;
        let call = match (number, compat) {
            (59, false) | (11, true) => Call::Execve,
            (322, false) | (358, true) => Call::Execveat,
            _ => return exec,
        };
        exec.call = call as u32;
        let (path, argv): (u64, u64);
        if matches!(call, Call::Execveat) {
            exec.flags |= u32::from(FLAG_HAS_DIRECTORY);
            argv = field!(regs, regs_dx);
            if compat {
                exec.directory_fd = field!(regs, regs_bx);
                path = field!(regs, regs_cx);
                exec.exec_flags = field!(regs, regs_di);
            } else {
                exec.directory_fd = field!(regs, regs_di);
                path = field!(regs, regs_si);
                exec.exec_flags = field!(regs, regs_r8);
            }
        } else {
            exec.directory_fd = NO_DIRECTORY;
            if compat {
                path = field!(regs, regs_bx);
                argv = field!(regs, regs_cx);
            } else {
                path = field!(regs, regs_di);
                argv = field!(regs, regs_si);
            }
        }
        let bits = if compat {
            exec.flags |= u32::from(FLAG_COMPAT);
            u64::from(u32::MAX)
        } else {
            u64::MAX
        };
        exec.user_path = path & bits;
        exec.user_argv = argv & bits;
        exec
    }

    /// Says whether the exec is an event.
    #[inline(always)]
    pub fn is_told(&self) -> bool {
        setting!(RECORD_PROCESSES) != 0 || self.judged.rule != u32::from(RULE_NONE)
    }
}

/// Threads that open files. As many as a busy machine has threads; one that
/// finds no room loses its path as asked, and is counted.
#[map]
static OPENS: HashMap<u64, OpenInProgress> = HashMap::with_max_entries(65_536, 0);

/// How many there are: none, unless opens are decided by kprobes.
static ENTERED_OPENS: Global<u64> = Global::new(0);

/// Execs under way: there are as many as CPUs, or a few more that wait.
#[map]
static EXECS: HashMap<u64, ExecInProgress> = HashMap::with_max_entries(8_192, 0);

/// How many there are, so that nobody looks for one in vain.
static UNDER_WAY: Global<u64> = Global::new(0);

/// Paths of the files that rules matched in execs under way. An exec that fails
/// takes its file with it before it is reported, and one that is killed may
/// fail. The oldest ones go first: more of them at once than this would be
/// execs that wait between the decision and their end.
#[map]
static JUDGED_PATHS: LruHashMap<u64, PathText> = LruHashMap::with_max_entries(256, 0);

/// Keeps the path that a walk left in the scratch buffer.
#[inline(always)]
pub fn keep_judged_path(task: u64, scratch: &Scratch) {
    // Without room the event lacks the path, and says so.
    let _ = JUDGED_PATHS.insert(task, &scratch.path, 0);
}

/// Takes the kept path into a scratch buffer; says whether there was one.
#[inline(always)]
pub fn take_judged_path(task: u64, scratch: &mut Scratch) -> bool {
    let Some(path) = JUDGED_PATHS.get_ptr(task) else {
        return false;
    };
    // SAFETY: both are live map values of this size.
    let result = unsafe {
        bpf_probe_read_kernel(
            (&raw mut scratch.path).cast(),
            size_of::<PathText>() as u32,
            path.cast(),
        )
    };
    let _ = JUDGED_PATHS.remove(task);
    result == 0
}

/// Returns the task's entry, made if need be.
#[inline(always)]
pub fn open_of(task: u64) -> Option<&'static mut OpenInProgress> {
    if let Some(open) = existing_open_of(task) {
        return Some(open);
    }
    OPENS.insert(task, OpenInProgress::IDLE, 0).ok()?;
    // SAFETY: a live static.
    unsafe { atomic_add(ENTERED_OPENS.place(), 1) };
    existing_open_of(task)
}

/// Removes the entry of a task that exits.
#[inline(always)]
pub fn forget_open(task: u64) {
    if ENTERED_OPENS.get() != 0 && OPENS.remove(task).is_ok() {
        // SAFETY: a live static.
        unsafe { atomic_add(ENTERED_OPENS.place(), u64::MAX) };
    }
}

/// Returns the task's entry, if it has one.
#[inline(always)]
pub fn existing_open_of(task: u64) -> Option<&'static mut OpenInProgress> {
    // SAFETY: only the task itself touches its entry.
    OPENS.get_ptr_mut(task).map(|open| unsafe { &mut *open })
}

/// Enters the exec that the current task has under way. A function of its own,
/// for room on the stack.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn begin_exec() -> i32 {
    let task = current_task();
    if enter_exec(task as u64, &ExecInProgress::of(task)).is_none() {
        count(Hook::ExecCall, Count::LostPendingFull);
        count(Hook::ExecCall, Count::Seen);
    }
    0
}

/// Returns the exec that the current task has under way, entered if nobody
/// did.
#[inline(always)]
pub fn under_way(task: u64) -> Option<&'static mut ExecInProgress> {
    if exec_of(task).is_none() {
        begin_exec();
    }
    exec_of(task)
}

/// Returns the exec that the task has under way.
#[inline(always)]
pub fn exec_of(task: u64) -> Option<&'static mut ExecInProgress> {
    if UNDER_WAY.get() == 0 {
        return None;
    }
    // SAFETY: only the task itself touches its entry.
    EXECS.get_ptr_mut(task).map(|exec| unsafe { &mut *exec })
}

/// Enters an exec of the task; `None`: there is no room.
#[inline(always)]
pub fn enter_exec(task: u64, exec: &ExecInProgress) -> Option<&'static mut ExecInProgress> {
    EXECS.insert(task, exec, BPF_NOEXIST).ok()?;
    // SAFETY: a live static.
    unsafe { atomic_add(UNDER_WAY.place(), 1) };
    exec_of(task)
}

const BPF_NOEXIST: u64 = 1;

/// Removes the task's exec: it is over, or the task exits in the middle.
#[inline(always)]
pub fn forget_exec(task: u64) {
    if UNDER_WAY.get() != 0 && EXECS.remove(task).is_ok() {
        // SAFETY: a live static.
        unsafe { atomic_add(UNDER_WAY.place(), u64::MAX) };
    }
}
