//! Made-up events for tests.

use shrike_proto::{
    event::{
        Action, Change, ChangedName, Event, Exec, Exit, Fact, Fork, Open, Operation, Outcome,
        Process, ResolvedPath, Verdict,
    },
    id::{Epoch, Generation, NodeId, PolicyName, RuleName, SequenceNumber},
};

use crate::store::{
    block::{Block, BlockKey},
    piece::{self},
    stream::StreamKey,
};

/// 2025-01-01T00:00:00Z.
pub const START_UNIX_NS: i64 = 1_735_689_600_000_000_000;

/// Consecutive events of all kinds, a millisecond apart.
pub fn events(first: u64, count: u64) -> Vec<Event> {
    (first..first + count).map(event).collect()
}

fn event(sequence: u64) -> Event {
    let exe = [&b"/usr/bin/cat"[..], b"/usr/bin/ls", b"/usr/sbin/sshd"][sequence as usize % 3];
    let path = [&b"/etc/shadow"[..], b"/etc/passwd", b"/usr/lib/libc.so.6"][sequence as usize % 3];
    let file = ResolvedPath {
        path: path.to_vec(),
        device: 0x80_0001,
        inode: 1000 + sequence % 7,
        ..ResolvedPath::default()
    };
    let fact = match sequence % 5 {
        0 => Fact::Exec(Exec {
            syscall: "execve".into(),
            path_as_asked: path.to_vec(),
            file: Some(file),
            argv: vec![b"cat".to_vec(), path.to_vec()],
            ..Exec::default()
        }),
        1 => Fact::Open(Open {
            syscall: "openat".into(),
            path_as_asked: path.to_vec(),
            file: Some(file),
            directory_fd: -100,
            ..Open::default()
        }),
        2 => Fact::Fork(Fork {
            child_tgid: 5000,
            child_tid: 5000,
            ..Fork::default()
        }),
        3 => Fact::Exit(Exit::default()),
        _ => Fact::Change(Change {
            operation: Operation::Rename,
            result: 0,
            file,
            name: ChangedName::New,
            other_path: b"/tmp/other".to_vec(),
            other_unresolved: false,
            mode: 0,
        }),
    };
    Event {
        sequence: SequenceNumber(sequence),
        time_unix_ns: START_UNIX_NS + sequence.cast_signed() * 1_000_000,
        boot_time_ns: sequence * 1_000_000,
        cpu: (sequence % 2) as u32,
        cpu_sequence: sequence / 2,
        generation: Generation(1),
        process: Process {
            tgid: (sequence % 30) as u32,
            tid: (sequence % 30) as u32,
            uid: (sequence % 2) as u32,
            comm: b"cat".as_slice().into(),
            exe: exe.into(),
            ..Process::default()
        },
        verdict: (sequence.is_multiple_of(10)).then(|| Verdict {
            action: Action::Kill,
            policy: PolicyName::parse("p").expect("a valid name"),
            rule: RuleName::parse("r").expect("a valid name"),
            outcome: Outcome::SignalSent,
            denied: true,
        }),
        fact,
    }
}

/// The stream that made-up events belong to.
pub fn stream() -> StreamKey {
    StreamKey {
        node: NodeId::parse("node-a").expect("a valid name"),
        epoch: Epoch([1; 16]),
    }
}

/// The key of a block of these events.
pub fn block_key(events: &[Event]) -> BlockKey {
    blocks(events)[0].key.clone()
}

/// Blocks of these events.
pub fn blocks(events: &[Event]) -> Vec<Block> {
    blocks_of(&stream(), events)
}

/// Blocks of these events in another stream.
pub fn blocks_of(stream: &StreamKey, events: &[Event]) -> Vec<Block> {
    let pieces = piece::cut(events, 0).expect("made-up events are small");
    piece::join(stream, pieces)
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}
