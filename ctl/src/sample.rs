//! Made-up events for tests.

use shrike_proto::{
    event::{
        Action, Ancestor, Event, Exec, Exit, Fact, Fork, Open, Outcome, Process, ResolvedPath,
        StoredEvent, Verdict,
    },
    id::{Epoch, Generation, NodeId, PolicyName, RuleName, SequenceNumber},
};

/// 2025-01-01T00:00:00Z, when the machine booted.
pub(crate) const BOOT_UNIX_NS: i64 = 1_735_689_600_000_000_000;

/// An event of a process by its number and start; it happens a second after
/// that.
pub(crate) fn event(node: &str, pid: u32, start: u64, fact: Fact) -> StoredEvent {
    let boot_time_ns = start + 1_000_000_000;
    StoredEvent {
        node: NodeId::parse(node).unwrap(),
        epoch: Epoch([7; 16]),
        event: Event {
            sequence: SequenceNumber(boot_time_ns),
            time_unix_ns: BOOT_UNIX_NS + boot_time_ns.cast_signed(),
            boot_time_ns,
            cpu: 0,
            cpu_sequence: 0,
            generation: Generation::NONE,
            process: Process {
                tgid: pid,
                tid: pid,
                start_boot_ns: start,
                parent_tgid: 1,
                parent_start_boot_ns: 1,
                comm: b"sh".as_slice().into(),
                exe: b"/bin/sh".as_slice().into(),
                user: "root".into(),
                ancestors: vec![Ancestor {
                    tgid: 1,
                    start_boot_ns: 1,
                    comm: b"init".as_slice().into(),
                    exe: b"/sbin/init".as_slice().into(),
                }],
                ..Process::default()
            },
            verdict: None,
            fact,
        },
    }
}

pub(crate) fn exec(node: &str, pid: u32, start: u64, parent: u32, argv: &[&str]) -> StoredEvent {
    let mut stored = event(
        node,
        pid,
        start,
        Fact::Exec(Exec {
            path_as_asked: b"/bin/sh".to_vec(),
            argv: argv.iter().map(|it| it.as_bytes().to_vec()).collect(),
            ..Exec::default()
        }),
    );
    stored.event.process.parent_tgid = parent;
    stored
}

pub(crate) fn fork(node: &str, pid: u32, start: u64, child: u32, child_start: u64) -> StoredEvent {
    event(
        node,
        pid,
        start,
        Fact::Fork(Fork {
            child_tgid: child,
            child_tid: child,
            child_start_boot_ns: child_start,
            child_comm: b"sh".as_slice().into(),
        }),
    )
}

pub(crate) fn exit(node: &str, pid: u32, start: u64, code: u32) -> StoredEvent {
    event(
        node,
        pid,
        start,
        Fact::Exit(Exit {
            code,
            ..Exit::default()
        }),
    )
}

pub(crate) fn killed_open(node: &str, pid: u32, start: u64, path: &str) -> StoredEvent {
    let mut stored = event(
        node,
        pid,
        start,
        Fact::Open(Open {
            file: Some(ResolvedPath {
                path: path.as_bytes().to_vec(),
                ..ResolvedPath::default()
            }),
            ..Open::default()
        }),
    );
    stored.event.verdict = Some(Verdict {
        action: Action::Kill,
        policy: PolicyName::parse("p").unwrap(),
        rule: RuleName::parse("r").unwrap(),
        outcome: Outcome::SignalSent,
        denied: true,
    });
    stored
}
