//! What a new image starts with: what an exec that succeeded tells beyond the
//! call itself.

use super::ResolvedPath;

/// What a new image starts with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Image {
    /// The script, where the executed file is its interpreter. Path, device
    /// and inode only.
    pub script: Option<ResolvedPath>,
    /// From the root of the mount namespace; empty when unresolved.
    pub working_directory: Vec<u8>,
    /// Controlling terminal below /dev; empty for none.
    pub tty: Vec<u8>,
    /// Session, as the first PID namespace numbers it.
    pub session_id: u32,
    /// Who logged in, as audit knows it; `None` for nobody.
    pub login_uid: Option<u32>,
    /// Saved user.
    pub saved_uid: u32,
    /// Saved group.
    pub saved_gid: u32,
    /// User for access to files.
    pub fs_uid: u32,
    /// Group for access to files.
    pub fs_gid: u32,
    /// Capabilities of the new image.
    pub capabilities: Capabilities,
    /// Capabilities before the exec; `None` where its begin was not seen.
    pub capabilities_before: Option<Capabilities>,
    /// Where it runs.
    pub namespaces: Namespaces,
    /// Names of its variables; `None` unless the agent is asked for them.
    pub environment: Option<Environment>,
}

impl Image {
    /// Returns the capabilities that the exec itself gave, a bit each.
    pub fn gained(&self) -> u64 {
        self.capabilities_before
            .map_or(0, |before| self.capabilities.permitted & !before.permitted)
    }
}

/// Capabilities, a bit each (capabilities(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// Those that can be made effective.
    pub permitted: u64,
    /// Those in force.
    pub effective: u64,
}

/// Inode numbers of namespaces, as in /proc/PID/ns; 0 where unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Namespaces {
    /// Mounts.
    pub mount: u32,
    /// Process IDs.
    pub pid: u32,
    /// Networks.
    pub network: u32,
    /// Users.
    pub user: u32,
    /// Host and domain name.
    pub uts: u32,
    /// System V IPC and message queues.
    pub ipc: u32,
    /// Cgroups.
    pub cgroup: u32,
}

/// The names of environment variables; their values are never read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Environment {
    /// In the order of the environment.
    pub names: Vec<Vec<u8>>,
    /// There were more than the record holds (128 names, 4 KiB), or longer
    /// ones than 255 bytes.
    pub truncated: bool,
}
