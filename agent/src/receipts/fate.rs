//! What became of a process that was sent SIGKILL, as far as /proc tells.
//!
//! Only files are read that answer for a process that is stuck: its states,
//! the kernel function that it waits in, and its cgroup. Never its memory,
//! for which a reader would have to wait as well.

use std::{fs, path::Path};

use shrike_proto::event::Obstacle;

use crate::enrich::{ProcessKey, Procfs};

/// Threads that are looked at, to find one that cannot be interrupted: all
/// there are in nearly every process.
const THREADS_MAX: usize = 1024;

/// Where version 1 of the freezer may be mounted (cgroups(7)).
const FREEZER: &str = "/sys/fs/cgroup/freezer";

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// There is no such process, or only its exit status.
    Gone,
    /// It is still there.
    Alive {
        /// What keeps it alive.
        obstacle: Obstacle,
        /// The same for a person.
        detail: String,
    },
}

impl Fate {
    /// Looks a process up.
    pub fn of(key: ProcessKey, procfs: &Procfs) -> Self {
        let folder = procfs.folder(key.tgid());
        let Some(leader) = procfs.read(key.tgid()).filter(|entry| entry.key() == key) else {
            return Self::Gone;
        };
        drop(leader);
        let threads = threads(&folder);
        // A process whose threads are all dead has exited; its parent has not
        // asked for its status.
        if threads
            .iter()
            .all(|thread| matches!(thread.state, 'Z' | 'X'))
        {
            return Self::Gone;
        }
        let status = fs::read_to_string(folder.join("status")).unwrap_or_default();
        let (obstacle, detail) = obstacle(key.tgid(), &folder, &threads, &status);
        Self::Alive { obstacle, detail }
    }
}

/// A thread, and what it does.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Thread {
    tid: u32,
    /// As in proc_pid_stat(5).
    state: char,
    /// The kernel function that it waits in; empty where that is not told.
    waits_in: String,
}

fn threads(folder: &Path) -> Vec<Thread> {
    let Ok(tasks) = fs::read_dir(folder.join("task")) else {
        return Vec::new();
    };
    tasks
        .flatten()
        .take(THREADS_MAX)
        .filter_map(|task| {
            let tid = task.file_name().to_str()?.parse().ok()?;
            let stat = fs::read(task.path().join("stat")).ok()?;
            let wchan = fs::read_to_string(task.path().join("wchan")).unwrap_or_default();
            Some(Thread {
                tid,
                state: state(&stat)?,
                waits_in: match wchan.trim() {
                    "0" => String::new(),
                    name => name.to_owned(),
                },
            })
        })
        .collect()
}

/// Returns a thread's state: the letter behind the last parenthesis.
fn state(stat: &[u8]) -> Option<char> {
    let close = stat.iter().rposition(|byte| *byte == b')')?;
    stat.get(close + 2).map(|byte| char::from(*byte))
}

/// Finds what keeps the process alive, the most telling reason first.
fn obstacle(tgid: u32, folder: &Path, threads: &[Thread], status: &str) -> (Obstacle, String) {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim_start_matches(':').trim().to_owned())
    };
    let in_state = |state: char| threads.iter().find(|thread| thread.state == state);
    let refrigerated = threads
        .iter()
        .find(|thread| thread.waits_in.ends_with("__refrigerator"));
    if let Some(thread) = refrigerated {
        return (
            Obstacle::Frozen,
            format!("thread {} is frozen{}", thread.tid, frozen_cgroup(folder)),
        );
    }
    if let Some(thread) = in_state('D') {
        return (
            Obstacle::Uninterruptible,
            format!(
                "thread {} waits in the kernel{} and takes no signal (state D)",
                thread.tid,
                place(thread)
            ),
        );
    }
    if let Some(thread) = in_state('t') {
        let tracer = field("TracerPid").unwrap_or_default();
        return (
            Obstacle::Traced,
            format!(
                "thread {} is held by its tracer, process {tracer}",
                thread.tid
            ),
        );
    }
    if field("CoreDumping").as_deref() == Some("1") {
        return (Obstacle::CoreDump, "it writes a core dump".to_owned());
    }
    if let Some(thread) = in_state('T') {
        return (
            Obstacle::Stopped,
            format!("thread {} is stopped", thread.tid),
        );
    }
    let inside = field("NSpid").unwrap_or_default();
    if inside.split_whitespace().count() > 1 && inside.split_whitespace().last() == Some("1") {
        return (
            Obstacle::NamespaceInit,
            "it is PID 1 of a PID namespace, and waits for the processes in it".to_owned(),
        );
    }
    let leader = threads.iter().find(|thread| thread.tid == tgid);
    if leader.is_none_or(|leader| matches!(leader.state, 'Z' | 'X')) && !threads.is_empty() {
        let alive = threads
            .iter()
            .filter(|thread| !matches!(thread.state, 'Z' | 'X'))
            .count();
        return (
            Obstacle::LeaderGone,
            format!("its first thread is gone, and {alive} others are not"),
        );
    }
    if let Some(thread) = in_state('R') {
        return (
            Obstacle::Running,
            format!(
                "thread {} runs in the kernel, or waits for a CPU",
                thread.tid
            ),
        );
    }
    if let Some(thread) = in_state('S') {
        return (
            Obstacle::Sleeping,
            format!(
                "thread {} sleeps{} as if it had got no signal",
                thread.tid,
                place(thread)
            ),
        );
    }
    (Obstacle::Unknown, "/proc does not tell why".to_owned())
}

fn place(thread: &Thread) -> String {
    match &*thread.waits_in {
        "" => String::new(),
        name => format!(" in {name}"),
    }
}

/// Names the cgroup of version 1's freezer that the process is in.
fn frozen_cgroup(folder: &Path) -> String {
    let cgroups = fs::read_to_string(folder.join("cgroup")).unwrap_or_default();
    cgroups
        .lines()
        .find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let controllers = parts.next()?;
            let path = parts.next()?;
            controllers
                .split(',')
                .any(|name| name == "freezer")
                .then(|| format!(" by its cgroup {FREEZER}{path}"))
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TGID: u32 = 42;

    /// A process of these threads.
    fn process(threads: &[(u32, char, &str)], status: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join(TGID.to_string());
        for (tid, state, wchan) in threads {
            let task = folder.join("task").join(tid.to_string());
            fs::create_dir_all(&task).unwrap();
            let stat = format!(
                "{tid} (a) b) {state} 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1000 \
                 2000 18446744073709551615 0 0"
            );
            fs::write(task.join("stat"), &stat).unwrap();
            fs::write(task.join("wchan"), wchan).unwrap();
            if *tid == TGID {
                fs::write(folder.join("stat"), &stat).unwrap();
            }
        }
        fs::write(folder.join("status"), status).unwrap();
        fs::write(folder.join("cgroup"), "7:freezer:/jail\n0::/x\n").unwrap();
        root
    }

    fn key() -> ProcessKey {
        ProcessKey::new(TGID, 98765 * 10_000_000)
    }

    #[track_caller]
    fn check(threads: &[(u32, char, &str)], status: &str, expect: Obstacle, detail: &str) {
        let root = process(threads, status);
        assert_eq!(
            Fate::of(key(), &Procfs::at(root.path())),
            Fate::Alive {
                obstacle: expect,
                detail: detail.to_owned()
            }
        );
    }

    #[test]
    fn obstacles_are_told_apart() {
        check(
            &[(42, 'S', "futex_wait"), (43, 'D', "percpu_rwsem_wait")],
            "",
            Obstacle::Uninterruptible,
            "thread 43 waits in the kernel in percpu_rwsem_wait and takes no signal (state D)",
        );
        check(
            &[(42, 't', "ptrace_stop")],
            "TracerPid:\t99\n",
            Obstacle::Traced,
            "thread 42 is held by its tracer, process 99",
        );
        check(
            &[(42, 'D', "__refrigerator")],
            "",
            Obstacle::Frozen,
            "thread 42 is frozen by its cgroup /sys/fs/cgroup/freezer/jail",
        );
        check(
            &[(42, 'S', "0")],
            "NSpid:\t42\t1\n",
            Obstacle::NamespaceInit,
            "it is PID 1 of a PID namespace, and waits for the processes in it",
        );
        check(
            &[(42, 'Z', "0"), (43, 'R', "0")],
            "",
            Obstacle::LeaderGone,
            "its first thread is gone, and 1 others are not",
        );
        check(
            &[(42, 'S', "do_wait")],
            "NSpid:\t42\n",
            Obstacle::Sleeping,
            "thread 42 sleeps in do_wait as if it had got no signal",
        );
        check(
            &[(42, 'S', "0")],
            "CoreDumping:\t1\n",
            Obstacle::CoreDump,
            "it writes a core dump",
        );
    }

    #[test]
    fn exited_process_is_gone() {
        let gone = |root: &tempfile::TempDir, key| {
            assert_eq!(Fate::of(key, &Procfs::at(root.path())), Fate::Gone);
        };
        gone(&process(&[(42, 'Z', "0")], ""), key());
        gone(&process(&[(43, 'S', "0")], ""), key());
        // The number was given to another process.
        gone(&process(&[(42, 'S', "0")], ""), ProcessKey::new(42, 0));
    }

    #[test]
    fn own_process_is_alive() {
        let own = Procfs::default().read(std::process::id()).unwrap();
        assert!(matches!(
            Fate::of(own.key(), &Procfs::default()),
            Fate::Alive { .. }
        ));
    }
}
