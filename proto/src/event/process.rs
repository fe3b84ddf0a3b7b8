//! Who acted: a process, by the identity that survives agent restarts.
//!
//! What stays the same from event to event of a process is shared between
//! them: an agent fills it in for each one.

use std::sync::Arc;

use smallvec::SmallVec;

/// A command name: 15 bytes as the kernel holds them, held in place. Those of
/// kernel threads can be longer in /proc.
pub type Comm = SmallVec<[u8; 16]>;

/// Identity and credentials of a process when it acted.
///
/// `(boot id, tgid, start_boot_ns)` is unique for the life of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Process {
    /// Thread group, what user space calls the process ID.
    pub tgid: u32,
    /// Thread that acted.
    pub tid: u32,
    /// Start of the thread group's leader, boot nanoseconds.
    pub start_boot_ns: u64,
    /// Thread group of the parent.
    pub parent_tgid: u32,
    /// Start of the parent, boot nanoseconds.
    pub parent_start_boot_ns: u64,
    /// Real user ID, in the initial user namespace.
    pub uid: u32,
    /// Real group ID.
    pub gid: u32,
    /// Effective user ID.
    pub euid: u32,
    /// Effective group ID.
    pub egid: u32,
    /// Command name: at most 15 bytes, as the kernel holds them.
    pub comm: Comm,
    /// ID of the cgroup in the unified hierarchy.
    pub cgroup_id: u64,
    /// Executable; empty where unknown. Set by enrichment, except on execs.
    pub exe: Arc<[u8]>,
    /// Name of `uid`; empty where unknown.
    pub user: Arc<str>,
    /// Path of the cgroup; empty where unknown.
    pub cgroup_path: Arc<[u8]>,
    /// Container, from the cgroup; empty outside of one.
    pub container_id: Arc<str>,
    /// Nearest first: parent, grandparent and so on; at most 16. Only on a
    /// process's first event and on those that are no open or have a verdict.
    pub ancestors: Vec<Ancestor>,
    /// It ran before the agent, which read it from /proc.
    pub from_proc: bool,
}

/// A process above another one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ancestor {
    /// Thread group.
    pub tgid: u32,
    /// Start, boot nanoseconds.
    pub start_boot_ns: u64,
    /// Command name.
    pub comm: Comm,
    /// Executable; empty where unknown.
    pub exe: Arc<[u8]>,
}
