//! Events for the tests of this folder.

use std::sync::Arc;

use super::{
    Action, Alert, Ancestor, Cause, Event, Exec, Exit, Fact, Obstacle, Open, Outcome, Process,
    Receipt, ResolvedPath, StoredEvent, Verdict,
};
use crate::id::{Epoch, Generation, NodeId, PolicyName, RuleName, SequenceNumber};

/// 2026-11-22T15:00:00.000000001Z
pub(super) const TIME_UNIX_NS: i64 = 1_795_359_600_000_000_001;

pub(super) fn stored(fact: Fact) -> StoredEvent {
    StoredEvent {
        node: NodeId::parse("web-1").unwrap(),
        epoch: Epoch([7; 16]),
        event: Event {
            sequence: SequenceNumber(41),
            time_unix_ns: TIME_UNIX_NS,
            boot_time_ns: 5_000_000_000,
            cpu: 1,
            cpu_sequence: 12,
            generation: Generation(3),
            process: Process {
                tgid: 4312,
                tid: 4312,
                start_boot_ns: 4_900_000_000,
                parent_tgid: 1200,
                parent_start_boot_ns: 100,
                uid: 1000,
                gid: 1000,
                euid: 0,
                egid: 0,
                comm: b"cat".as_slice().into(),
                cgroup_id: 77,
                exe: b"/usr/bin/cat".as_slice().into(),
                user: "mallory".into(),
                cgroup_path: b"/user.slice".as_slice().into(),
                container_id: Arc::default(),
                ancestors: vec![Ancestor {
                    tgid: 1200,
                    start_boot_ns: 100,
                    comm: b"bash".as_slice().into(),
                    exe: Arc::default(),
                }],
                from_proc: false,
            },
            verdict: None,
            fact,
        },
    }
}

pub(super) fn verdict(action: Action, outcome: Outcome) -> Verdict {
    Verdict {
        action,
        policy: PolicyName::parse("protect-credentials").unwrap(),
        rule: RuleName::parse("shadow").unwrap(),
        outcome,
        denied: false,
    }
}

pub(super) fn killed_open() -> StoredEvent {
    let mut stored = stored(Fact::Open(Open {
        syscall: "openat".into(),
        path_as_asked: b"/etc/shadow".to_vec(),
        file: Some(file(b"/etc/shadow")),
        directory_fd: -100,
        ..Open::default()
    }));
    stored.event.verdict = Some(verdict(Action::Kill, Outcome::SignalSent));
    stored
}

pub(super) fn killed_exit() -> StoredEvent {
    stored(Fact::Exit(Exit {
        code: 0,
        signal: 9,
        core_dumped: false,
        duration_ns: 1_250_000,
        receipt: Some(receipt(true)),
        repeated_opens: 0,
    }))
}

fn receipt(died_by_it: bool) -> Receipt {
    Receipt {
        generation: Generation(3),
        policy: PolicyName::parse("protect-credentials").unwrap(),
        rule: RuleName::parse("shadow").unwrap(),
        signal_result: 0,
        died_by_it,
        verdict_sequence: SequenceNumber(41),
        after_ns: 1_000_000,
    }
}

pub(super) fn survivor() -> StoredEvent {
    let mut stored = stored(Fact::Alert(Alert::new(
        Cause::KillSurvived {
            receipt: Receipt {
                after_ns: 5_200_000_000,
                ..receipt(false)
            },
            obstacle: Obstacle::Uninterruptible,
        },
        "thread 4313 waits in percpu_rwsem_wait".to_owned(),
    )));
    stored.event.verdict = Some(verdict(Action::Kill, Outcome::SignalSent));
    stored
}

pub(super) fn exec(path: &[u8], argv: &[&[u8]]) -> StoredEvent {
    stored(Fact::Exec(Exec {
        syscall: "execve".into(),
        path_as_asked: path.to_vec(),
        file: Some(file(path)),
        argv: argv.iter().map(|argument| argument.to_vec()).collect(),
        directory_fd: -100,
        ..Exec::default()
    }))
}

fn file(path: &[u8]) -> ResolvedPath {
    ResolvedPath {
        path: path.to_vec(),
        device: (8 << 20) | 1,
        inode: 1234,
        mode: 0o100_600,
        links: 1,
        ..ResolvedPath::default()
    }
}
