//! Operations under way: what one hook learns and a later one needs.
//!
//! Keyed by the task's address, which stays when an exec from a thread other
//! than the leader changes its ID. An open's entry is made once for a thread
//! and reused until the thread exits, because making and removing one costs
//! more than the rest of the hook; an exec's entry goes when the exec is over.

use aya_ebpf::{
    helpers::generated::bpf_probe_read_kernel,
    macros::map,
    maps::{HashMap, LruHashMap},
};
use shrike_agent_ebpf::record::RULE_NONE;

use crate::{
    scratch::{PathText, Scratch},
    typed::{Pointer, current_task, field},
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
    const NOT: Self = Self {
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
    /// The file of an overlay's layer that stands behind it, a `struct file`;
    /// 0 for none.
    pub layer: u64,
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
        layer: 0,
        before: Capabilities {
            permitted: 0,
            effective: 0,
        },
        judged: Judged::NOT,
    };
}

/// Threads that open files. As many as a busy machine has threads; one that
/// finds no room loses its path as asked, and is counted.
#[map]
pub static OPENS: HashMap<u64, OpenInProgress> = HashMap::with_max_entries(65_536, 0);

/// Execs under way: there are as many as CPUs, or a few more that wait.
#[map]
pub static EXECS: HashMap<u64, ExecInProgress> = HashMap::with_max_entries(8_192, 0);

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
    existing_open_of(task)
}

/// Returns the task's entry, if it has one.
#[inline(always)]
pub fn existing_open_of(task: u64) -> Option<&'static mut OpenInProgress> {
    // SAFETY: only the task itself touches its entry.
    OPENS.get_ptr_mut(task).map(|open| unsafe { &mut *open })
}

/// Begins an exec of the current task that no system call announced: the
/// kernel itself executes. A function of its own, for room on the stack.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn begin_by_kernel() -> i32 {
    let task = current_task();
    let mut exec = ExecInProgress::BY_KERNEL;
    exec.before = Capabilities::of(task);
    let _ = EXECS.insert(task as u64, exec, 0);
    0
}

/// Notes for the decision about an exec that an overlay opens the file of a
/// layer for it: rules may know that one. Of overlays on overlays the lowest
/// one is kept. The overlay's own file keeps it open.
#[inline(always)]
pub fn note_layer(task: u64, file: u64) {
    if exec_of(task).is_none() {
        begin_by_kernel();
    }
    if let Some(exec) = exec_of(task) {
        exec.layer = file;
    }
}

/// Returns the exec that the task has under way.
#[inline(always)]
pub fn exec_of(task: u64) -> Option<&'static mut ExecInProgress> {
    // SAFETY: only the task itself touches its entry.
    EXECS.get_ptr_mut(task).map(|exec| unsafe { &mut *exec })
}
