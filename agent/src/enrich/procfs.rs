//! Reads processes from /proc: those that ran before the agent, and those
//! whose records were lost.

use std::{
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use super::process_table::{ProcessKey, TICK_NS};

/// A process as /proc describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcEntry {
    /// Thread group.
    pub tgid: u32,
    /// Thread group of the parent.
    pub parent_tgid: u32,
    /// Start after boot, in clock ticks.
    pub start_ticks: u64,
    /// Command name.
    pub comm: Vec<u8>,
    /// Executable; empty for kernel threads.
    pub exe: Vec<u8>,
}

impl ProcEntry {
    /// Returns the process's key.
    pub fn key(&self) -> ProcessKey {
        ProcessKey::new(self.tgid, self.start_ticks.saturating_mul(TICK_NS))
    }
}

/// The process file system.
#[derive(Debug)]
pub struct Procfs {
    root: PathBuf,
}

impl Default for Procfs {
    fn default() -> Self {
        Self::at("/proc")
    }
}

impl Procfs {
    /// Uses another folder than /proc.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Returns every process that exists; empty when /proc is not mounted.
    pub fn scan(&self) -> Vec<ProcEntry> {
        let Ok(folder) = fs::read_dir(&self.root) else {
            return Vec::new();
        };
        folder
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter_map(|tgid| self.read(tgid))
            .collect()
    }

    /// Returns one process; `None` when it is gone.
    pub fn read(&self, tgid: u32) -> Option<ProcEntry> {
        let folder = self.folder(tgid);
        let stat = fs::read(folder.join("stat")).ok()?;
        let (comm, parent_tgid, start_ticks) = parse_stat(&stat)?;
        Some(ProcEntry {
            tgid,
            parent_tgid,
            start_ticks,
            comm,
            exe: executable(&folder),
        })
    }

    /// Says whether a process with this number exists.
    pub fn exists(&self, tgid: u32) -> bool {
        self.folder(tgid).exists()
    }

    /// Returns the path of a process's cgroup in the unified hierarchy.
    pub fn cgroup(&self, tgid: u32) -> Option<Vec<u8>> {
        let text = fs::read(self.folder(tgid).join("cgroup")).ok()?;
        text.split(|byte| *byte == b'\n')
            .find_map(|line| line.strip_prefix(b"0::"))
            .map(<[u8]>::to_vec)
    }

    /// Returns the folder that tells of a process.
    pub(crate) fn folder(&self, tgid: u32) -> PathBuf {
        self.root.join(tgid.to_string())
    }
}

fn executable(folder: &Path) -> Vec<u8> {
    let Ok(target) = fs::read_link(folder.join("exe")) else {
        return Vec::new();
    };
    let path = target.as_os_str().as_bytes();
    // What the kernel appends when the file was removed or replaced (d_path).
    path.strip_suffix(b" (deleted)").unwrap_or(path).to_vec()
}

/// Parses `/proc/PID/stat` (proc_pid_stat(5)): the command name stands in
/// parentheses and may hold any byte, a parenthesis included, so the last one
/// ends it.
fn parse_stat(stat: &[u8]) -> Option<(Vec<u8>, u32, u64)> {
    let open = stat.iter().position(|byte| *byte == b'(')?;
    let close = stat.iter().rposition(|byte| *byte == b')')?;
    let comm = stat.get(open + 1..close)?.to_vec();
    let rest = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
    // Fields from the third, "state", on: the parent is 4, the start 22.
    let mut fields = rest.split_ascii_whitespace();
    let parent_tgid = fields.nth(1)?.parse().ok()?;
    let start_ticks = fields.nth(17)?.parse().ok()?;
    Some((comm, parent_tgid, start_ticks))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STAT: &str = "42 (a) b) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 \
                        1000 2000 18446744073709551615 0 0";

    #[test]
    fn command_name_may_hold_a_parenthesis() {
        assert_eq!(
            parse_stat(STAT.as_bytes()),
            Some((b"a) b".to_vec(), 7, 98765))
        );
    }

    #[test]
    fn own_process_is_found() {
        let own = Procfs::default().read(std::process::id()).unwrap();
        let exe = std::env::current_exe().unwrap();
        assert_eq!(own.exe, exe.as_os_str().as_bytes());
        assert!(own.parent_tgid > 0 && own.start_ticks > 0);
        assert!(
            Procfs::default()
                .scan()
                .iter()
                .any(|entry| entry.tgid == own.tgid)
        );
    }

    #[test]
    fn cgroup_of_the_unified_hierarchy_is_chosen() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("5")).unwrap();
        fs::write(
            folder.path().join("5/cgroup"),
            "12:pids:/old\n0::/system.slice/a.service\n",
        )
        .unwrap();
        assert_eq!(
            Procfs::at(folder.path()).cgroup(5),
            Some(b"/system.slice/a.service".to_vec())
        );
    }

    proptest! {
        #[test]
        fn garbage_never_panics(stat in prop::collection::vec(any::<u8>(), 0..200)) {
            parse_stat(&stat);
        }
    }
}
