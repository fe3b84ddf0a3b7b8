//! What the store takes on disk for an event, before and after merging, and
//! how fast a query goes through it.
//!
//! Two loads: a thousand quiet nodes with an event a second each, and four
//! busy ones. `cargo bench -p shrike-collector --bench store`; the figures are
//! lines of JSON.

use std::{
    ops::ControlFlow,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use shrike_collector::{
    query::{self, Filter, Search},
    store::{
        Commit, Order, Store,
        disk::Disk,
        merge::{Merger, loose::Minute},
        piece,
        sled::{Existing, SledStore},
        stream::{StreamKey, Watermark},
        writer::Writer,
    },
    tail::Tail,
};
use shrike_proto::{
    event::{Ancestor, Event, Exec, Exit, Fact, Fork, Open, Process, ResolvedPath},
    id::{Epoch, Generation, NodeId, SequenceNumber},
    ledger::{HookCounts, Ledger},
};
use tokio_util::sync::CancellationToken;

/// A minute's begin.
const START_UNIX_NS: i64 = 1_795_000_020_000_000_000;

const MINUTE_NS: i64 = 60_000_000_000;

fn main() {
    // `cargo test --benches` runs it for nothing.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let minutes = |name: &str, otherwise: i64| {
        std::env::var(name).map_or(otherwise, |value| value.parse().expect("a number"))
    };
    run(&Load {
        name: "quiet",
        nodes: 1000,
        events_each_minute: 60,
        events_in_block: 1,
        blocks_in_commit: 50,
        minutes: minutes("QUIET_MINUTES", 20),
    });
    run(&Load {
        name: "busy",
        nodes: 4,
        events_each_minute: 200_000,
        events_in_block: 4096,
        blocks_in_commit: 4,
        minutes: minutes("BUSY_MINUTES", 5),
    });
}

struct Load {
    name: &'static str,
    nodes: u64,
    events_each_minute: u64,
    events_in_block: usize,
    blocks_in_commit: usize,
    minutes: i64,
}

fn run(load: &Load) {
    let folder = tempfile::tempdir().expect("a folder");
    let sled = SledStore::open(folder.path(), Existing::OrNew).expect("a new store");
    let store: Arc<dyn Store> = Arc::new(sled);
    let disk = Disk::measured_by(Box::new(|| Ok(u64::MAX / 2)), 0);
    let (writer, thread) =
        Writer::start(Arc::clone(&store), disk, Tail::default(), 0).expect("a writer");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let mut merger = Merger::new(Arc::clone(&store), writer.clone(), CancellationToken::new());
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut filling, mut merging) = (Duration::ZERO, Duration::ZERO);
    let mut peak = 0;
    for minute in 0..load.minutes {
        let began = Instant::now();
        let from = START_UNIX_NS + minute * MINUTE_NS;
        let some_block = fill(load, minute, from, &*store, &mut random);
        filling += began.elapsed();
        peak = peak.max(on_disk(folder.path()));
        let began = Instant::now();
        writer.loose().found(some_block);
        runtime.block_on(async { while merger.merge_minute().await {} });
        merging += began.elapsed();
        if std::env::var_os("SHRIKE_BENCH_MINUTES").is_some() {
            let disk_bytes = on_disk(folder.path());
            eprintln!("{} minute {minute}: {disk_bytes} bytes on disk", load.name);
        }
    }
    let events = load.nodes * load.events_each_minute * load.minutes.unsigned_abs();
    let each = |bytes: u64| bytes as f64 / events as f64;
    let (mut blocks, mut payload_bytes) = (0, 0);
    for entry in store.footers(i64::MIN, i64::MAX, Order::OldestFirst) {
        let (_, footer) = entry.expect("a footer");
        blocks += 1;
        payload_bytes += u64::from(footer.payload_bytes);
    }
    let began = Instant::now();
    let mut found = 0_u64;
    let filter = Filter::default();
    let search = Search {
        filter: &filter,
        window: None,
        order: Order::OldestFirst,
        limit: 0,
        after: None,
        is_abandoned: &|| false,
    };
    query::run(&*store, &search, |stored| {
        found += u64::from(stored.event.sequence.0 > 0);
        ControlFlow::Continue(())
    })
    .expect("a query");
    assert_eq!(found, events);
    let scanned = began.elapsed();
    runtime.block_on(writer.stop());
    drop((writer, merger));
    thread.join().expect("the writer");
    drop(store);
    println!(
        "{{\"load\":\"{}\",\"events\":{events},\"blocks\":{blocks},\
         \"payload_bytes_each\":{:.1},\"disk_bytes_each\":{:.1},\"peak_disk_bytes\":{peak},\
         \"fill_seconds\":{:.1},\"merge_seconds\":{:.1},\"scan_events_per_second\":{:.0}}}",
        load.name,
        each(payload_bytes),
        each(on_disk(folder.path())),
        filling.as_secs_f64(),
        merging.as_secs_f64(),
        events as f64 / scanned.as_secs_f64(),
    );
}

fn fill(load: &Load, minute: i64, from: i64, store: &dyn Store, random: &mut Random) -> Minute {
    let mut some_block = None;
    let mut commit = Commit::default();
    let each = load.events_in_block as u64;
    let mut in_minute = 0;
    while in_minute < load.events_each_minute {
        let count = each.min(load.events_each_minute - in_minute);
        for node in 0..load.nodes {
            let stream = StreamKey {
                node: NodeId::parse(&format!("node-{node:04}")).expect("a name"),
                epoch: Epoch([node as u8 ^ 0x5a; 16]),
            };
            let first = minute.unsigned_abs() * load.events_each_minute + in_minute + 1;
            let step = MINUTE_NS.unsigned_abs() / load.events_each_minute;
            let mut events: Vec<Event> = (0..count)
                .map(|index| {
                    let at = (in_minute + index) * step + random.next() % step;
                    let mut event = event(first + index, random);
                    event.boot_time_ns =
                        86_400_000_000_000 + minute.unsigned_abs() * 60_000_000_000 + at;
                    event.time_unix_ns = from + at.cast_signed();
                    event
                })
                .collect();
            events.sort_by_key(|event| event.time_unix_ns);
            for (event, sequence) in events.iter_mut().zip(first..) {
                event.sequence = SequenceNumber(sequence);
                event.cpu_sequence = sequence;
            }
            let pieces = piece::cut(&events, 0).expect("small events");
            commit.blocks.extend(piece::join(&stream, pieces));
            let last = first + count - 1;
            commit.watermarks.push((stream, mark(last)));
            if commit.blocks.len() >= load.blocks_in_commit {
                some_block = commit.blocks.first().map(|block| Minute::of(&block.key));
                store
                    .commit(&std::mem::take(&mut commit))
                    .expect("a commit");
            }
        }
        in_minute += count;
    }
    store.commit(&commit).expect("a commit");
    some_block.expect("some blocks")
}

/// A watermark as agents make them: its ledger tells of each hook.
fn mark(last: u64) -> Watermark {
    let hooks = [
        "file_open",
        "bprm_check",
        "exec",
        "fork",
        "exit",
        "do_filp_open",
    ];
    Watermark {
        durable: SequenceNumber(last),
        stored: last,
        ledger: Some(Ledger {
            seen: last + 77,
            filtered: 77,
            sequenced: last,
            hooks: hooks
                .into_iter()
                .map(|hook| {
                    let counts = HookCounts {
                        seen: last * 3,
                        submitted: last,
                        filtered_repeated: last * 2,
                        ..HookCounts::default()
                    };
                    (hook.to_owned(), counts)
                })
                .collect(),
            ..Ledger::default()
        }),
        opened_unix_ns: START_UNIX_NS,
        committed_unix_ns: START_UNIX_NS,
        ..Watermark::default()
    }
}

/// Bytes that the folder's files take, as `du` counts them.
fn on_disk(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if let Ok(metadata) = entry.metadata() {
            bytes += match metadata.is_dir() {
                true => on_disk(&entry.path()),
                false => metadata.blocks() * 512,
            };
        }
    }
    bytes
}

/// Events as a busy machine makes them: mostly opens of a few hundred files
/// by some dozens of programs.
fn event(sequence: u64, random: &mut Random) -> Event {
    const PROGRAMS: [&str; 8] = [
        "/usr/bin/python3.11",
        "/usr/bin/bash",
        "/usr/bin/cat",
        "/usr/sbin/nginx",
        "/usr/lib/postgresql/15/bin/postgres",
        "/usr/bin/grep",
        "/usr/sbin/cron",
        "/usr/bin/git",
    ];
    let exe = PROGRAMS[random.below(8)];
    let comm = exe.rsplit('/').next().unwrap_or_default();
    let pid = 1000 + random.below(400) as u32;
    let path = format!(
        "/var/lib/app/{:02}/file-{:04}.dat",
        random.below(40),
        random.below(900)
    );
    let fact = match random.below(20) {
        0 => Fact::Exec(Exec {
            syscall: "execve".into(),
            path_as_asked: exe.as_bytes().to_vec(),
            file: Some(file(exe, random)),
            argv: vec![
                comm.as_bytes().to_vec(),
                b"--config".to_vec(),
                path.into_bytes(),
            ],
            directory_fd: -100,
            ..Exec::default()
        }),
        1 => Fact::Fork(Fork {
            child_tgid: pid + 1,
            child_tid: pid + 1,
            child_start_boot_ns: sequence * 1_000_003,
            child_comm: comm.as_bytes().into(),
        }),
        2 => Fact::Exit(Exit {
            duration_ns: random.next() >> 34,
            ..Exit::default()
        }),
        _ => Fact::Open(Open {
            syscall: "openat".into(),
            result: random.below(64) as i32,
            file: Some(file(&path, random)),
            path_as_asked: path.into_bytes(),
            flags: 0o2_000_000,
            directory_fd: -100,
            ..Open::default()
        }),
    };
    let boot_time_ns = sequence * 20_011 + (random.next() >> 52);
    Event {
        sequence: SequenceNumber(sequence),
        time_unix_ns: 1_795_000_000_000_000_000 + boot_time_ns as i64,
        boot_time_ns,
        cpu: random.below(8) as u32,
        cpu_sequence: sequence,
        generation: Generation(1),
        process: Process {
            tgid: pid,
            tid: pid,
            start_boot_ns: u64::from(pid) * 7_919_000_000,
            parent_tgid: 1,
            parent_start_boot_ns: 12_000_000,
            uid: 1000 + pid % 7,
            gid: 1000,
            euid: 1000 + pid % 7,
            egid: 1000,
            comm: comm.as_bytes().into(),
            cgroup_id: 4000 + u64::from(pid % 31),
            exe: exe.as_bytes().into(),
            user: format!("app{}", pid % 7).into(),
            cgroup_path: format!("/system.slice/app-{}.service", pid % 31)
                .into_bytes()
                .into(),
            container_id: Arc::default(),
            ancestors: vec![Ancestor {
                tgid: 1,
                start_boot_ns: 12_000_000,
                comm: b"systemd".as_slice().into(),
                exe: b"/usr/lib/systemd/systemd".as_slice().into(),
            }],
            from_proc: false,
        },
        verdict: None,
        fact,
    }
}

fn file(path: &str, random: &mut Random) -> ResolvedPath {
    ResolvedPath {
        path: path.as_bytes().to_vec(),
        device: (8 << 20) | 1,
        inode: 100_000 + random.below(900) as u64,
        mode: 0o100_644,
        links: 1,
        ..ResolvedPath::default()
    }
}

/// xorshift64*: repeatable, and good enough to defeat run lengths.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> usize {
        (self.next() % bound) as usize
    }
}
