//! What each hook counts, on each CPU: `seen = submitted + filtered + lost`.
//!
//! User space sums the CPUs. A count only ever grows.

/// The hooks that set out to write records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Hook {
    /// Return of `do_filp_open`: an open that reached the file system.
    FileOpen = 0,
    /// `security_file_open` outside of `do_filp_open`: other ways to open.
    OtherOpen = 1,
    /// Return of an open system call that never reached the file system.
    OpenCall = 2,
    /// Return of an exec system call that failed.
    ExecCall = 3,
    /// `sched_process_exec`.
    ProcessExec = 4,
    /// `sched_process_fork`.
    ProcessFork = 5,
    /// `sched_process_exit`.
    ProcessExit = 6,
}

impl Hook {
    /// Every hook, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::FileOpen,
        Self::OtherOpen,
        Self::OpenCall,
        Self::ExecCall,
        Self::ProcessExec,
        Self::ProcessFork,
        Self::ProcessExit,
    ];

    /// Returns the name that people see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FileOpen => "file-open",
            Self::OtherOpen => "other-open",
            Self::OpenCall => "open-call",
            Self::ExecCall => "exec-call",
            Self::ProcessExec => "process-exec",
            Self::ProcessFork => "process-fork",
            Self::ProcessExit => "process-exit",
        }
    }
}

/// Counts of one hook on one CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Counters {
    /// Records that the hook set out to write.
    pub seen: u64,
    /// Records that the ring took.
    pub submitted: u64,
    /// Left out on purpose: the agent's own, and what rules ignore.
    pub filtered: u64,
    /// Repeats of an event that went out before. Not part of `seen`.
    pub repeated: u64,
    /// The ring had no room.
    pub lost_ring_full: u64,
    /// The record is longer than the longest one.
    pub lost_oversize: u64,
    /// The map of operations under way had no room.
    pub lost_pending_full: u64,
    /// A kernel structure could not be read without which there is no event.
    pub lost_unreadable: u64,
    /// The hook did not do its work: every scratch buffer of the CPU was in
    /// use, or what it decides about could not be read. Not part of `seen`.
    pub missed: u64,
}

const _: () = assert!(size_of::<Counters>() == 72);
