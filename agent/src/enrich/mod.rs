//! What the kernel's record leaves out: lineage, executable, container, user
//! and wall-clock time.
//!
//! Everything comes from memory: the process table that forks, execs and
//! exits feed, the cgroup tree and the password file. It never asks a name
//! service, never waits for a network, and never holds an event back: what is
//! unknown stays empty.

mod cgroup;
mod container;
mod process_table;
mod procfs;
mod users;

pub use cgroup::CgroupTable;
pub use process_table::{ProcessKey, ProcessTable};
pub use procfs::Procfs;
pub use users::Users;

use std::{sync::Arc, time::Instant};

use shrike_proto::event::{Event, Fact};

use crate::{clock::WallClock, kernel::Processes};

/// Adds to events what the kernel's record leaves out.
#[derive(Debug)]
pub struct Enricher {
    clock: WallClock,
    procfs: Procfs,
    processes: ProcessTable,
    cgroups: CgroupTable,
    users: Users,
}

impl Enricher {
    /// Starts with the processes and cgroups that exist. Called after the
    /// hooks are attached: what starts in between is seen twice, never missed.
    pub fn from_running_system(told: Processes, now: Instant) -> Self {
        Self::new(
            told,
            WallClock::estimate(),
            Procfs::default(),
            CgroupTable::from_mounts(now),
            Users::default(),
        )
    }

    /// Builds an enricher over its sources, for events that tell these
    /// processes.
    pub fn new(
        told: Processes,
        clock: WallClock,
        procfs: Procfs,
        cgroups: CgroupTable,
        users: Users,
    ) -> Self {
        let processes = match told {
            Processes::All => {
                let mut processes = ProcessTable::default();
                processes.adopt(procfs.scan());
                processes
            }
            Processes::Matched => ProcessTable::without_history(),
        };
        Self {
            clock,
            procfs,
            processes,
            cgroups,
            users,
        }
    }

    /// Returns what is known of processes outside of events.
    pub fn procfs(&self) -> &Procfs {
        &self.procfs
    }

    /// Returns the Unix time of an instant on the boot clock.
    pub fn unix_ns(&mut self, boot_time_ns: u64) -> i64 {
        self.clock.unix_ns(boot_time_ns)
    }

    /// Fills in one event. Events must come in the ring's order, because each
    /// one teaches the process table something.
    pub fn enrich(&mut self, event: &mut Event, now: Instant) {
        event.time_unix_ns = self.clock.unix_ns(event.boot_time_ns);
        let procfs = &self.procfs;
        self.processes.observe(event, procfs);
        if let Fact::Exit(exit) = &mut event.fact
            && exit.duration_ns == 0
            && event.process.start_boot_ns != 0
        {
            exit.duration_ns = event
                .boot_time_ns
                .saturating_sub(event.process.start_boot_ns);
        }
        let process = &mut event.process;
        if let Some(name) = self.users.name(process.uid, now) {
            process.user = Arc::clone(name);
        }
        if process.cgroup_id != 0
            && let Some(cgroup) = self
                .cgroups
                .find(process.cgroup_id, process.tgid, procfs, now)
        {
            process.cgroup_path.clone_from(&cgroup.path);
            process.container_id.clone_from(&cgroup.container_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use shrike_proto::{
        event::{Exec, Exit, Process, ResolvedPath},
        id::{Generation, SequenceNumber},
    };

    use super::*;

    fn event(boot_time_ns: u64, process: Process, fact: Fact) -> Event {
        Event {
            sequence: SequenceNumber(0),
            time_unix_ns: 0,
            boot_time_ns,
            cpu: 0,
            cpu_sequence: 1,
            generation: Generation::NONE,
            process,
            verdict: None,
            fact,
        }
    }

    #[test]
    fn event_gets_time_user_and_duration() {
        let folder = tempfile::tempdir().unwrap();
        let passwd = folder.path().join("passwd");
        std::fs::write(&passwd, "alice:x:1000:1000::/home/alice:/bin/sh\n").unwrap();
        let now = Instant::now();
        let mut enricher = Enricher::new(
            Processes::All,
            WallClock::at(1_000_000),
            Procfs::at(folder.path()),
            CgroupTable::at(None, now),
            Users::at(&passwd),
        );
        let process = Process {
            tgid: 7,
            tid: 7,
            start_boot_ns: 100,
            uid: 1000,
            ..Process::default()
        };
        let mut exec = event(
            150,
            process.clone(),
            Fact::Exec(Exec {
                file: Some(ResolvedPath {
                    path: b"/bin/true".to_vec(),
                    ..ResolvedPath::default()
                }),
                ..Exec::default()
            }),
        );
        enricher.enrich(&mut exec, now);
        assert_eq!(exec.time_unix_ns, 1_000_150);
        assert_eq!(&*exec.process.user, "alice");
        assert_eq!(*exec.process.exe, *b"/bin/true");

        let mut exit = event(400, process, Fact::Exit(Exit::default()));
        enricher.enrich(&mut exit, now);
        assert_eq!(*exit.process.exe, *b"/bin/true");
        let Fact::Exit(exit) = exit.fact else {
            panic!("an exit stays one");
        };
        assert_eq!(exit.duration_ns, 300);
    }
}
