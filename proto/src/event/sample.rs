//! Events for the tests of this folder.

use std::sync::Arc;

use super::{
    Action, Alert, Ancestor, Capabilities, Cause, Change, ChangedName, Environment, Event, Exec,
    Exit, Fact, Image, Namespaces, Obstacle, Open, Operation, Outcome, Process, Receipt,
    ResolvedPath, StoredEvent, Verdict,
};
use crate::id::{Epoch, Generation, NodeId, PolicyName, RuleName, SequenceNumber};

/// 2026-11-22T15:00:00.000000001Z
pub(crate) const TIME_UNIX_NS: i64 = 1_795_359_600_000_000_001;

pub(crate) fn stored(fact: Fact) -> StoredEvent {
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

pub(crate) fn verdict(action: Action, outcome: Outcome) -> Verdict {
    Verdict {
        action,
        policy: PolicyName::parse("protect-credentials").unwrap(),
        rule: RuleName::parse("shadow").unwrap(),
        outcome,
        denied: false,
    }
}

pub(crate) fn killed_open() -> StoredEvent {
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

pub(crate) fn refused_rename() -> StoredEvent {
    let mut stored = stored(Fact::Change(Change {
        operation: Operation::Rename,
        result: -1,
        file: file(b"/etc/shadow"),
        name: ChangedName::New,
        other_path: b"/tmp/mine".to_vec(),
        other_unresolved: false,
        mode: 0,
    }));
    stored.event.verdict = Some(verdict(Action::Deny, Outcome::Denied));
    stored
}

pub(crate) fn killed_exit() -> StoredEvent {
    stored(Fact::Exit(Exit {
        code: 0,
        signal: 9,
        core_dumped: false,
        duration_ns: 1_250_000,
        receipt: Some(receipt(true)),
        repeated_opens: 0,
        group_exit: true,
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

pub(crate) fn survivor() -> StoredEvent {
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

pub(crate) fn exec(path: &[u8], argv: &[&[u8]]) -> StoredEvent {
    stored(Fact::Exec(Exec {
        syscall: "execve".into(),
        path_as_asked: path.to_vec(),
        file: Some(file(path)),
        argv: argv.iter().map(|argument| argument.to_vec()).collect(),
        directory_fd: -100,
        ..Exec::default()
    }))
}

pub(crate) fn setuid_script() -> StoredEvent {
    let mut stored = exec(b"/usr/bin/dash", &[b"sh"]);
    let Fact::Exec(exec) = &mut stored.event.fact else {
        unreachable!("an exec")
    };
    exec.image = Some(Box::new(Image {
        script: Some(ResolvedPath {
            path: b"/opt/run.sh".to_vec(),
            device: (8 << 20) | 1,
            inode: 77,
            ..ResolvedPath::default()
        }),
        working_directory: b"/home/mallory".to_vec(),
        tty: b"pts/0".to_vec(),
        session_id: 4300,
        login_uid: Some(1000),
        saved_uid: 0,
        saved_gid: 2,
        fs_uid: 3,
        fs_gid: 4,
        capabilities: Capabilities {
            permitted: 0x20_3000,
            effective: 0x20_0000,
        },
        capabilities_before: Some(Capabilities {
            permitted: 0x1000,
            effective: 0,
        }),
        namespaces: Namespaces {
            mount: 1,
            pid: 2,
            network: 3,
            user: 4,
            uts: 5,
            ipc: 6,
            cgroup: 7,
        },
        environment: Some(Environment {
            names: vec![b"PATH".to_vec(), b"A\nB".to_vec()],
            truncated: true,
        }),
    }));
    stored
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
