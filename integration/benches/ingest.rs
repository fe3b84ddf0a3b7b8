//! How many events a second a collector takes durably.
//!
//! Batches are encoded beforehand; what is timed is from the first one sent
//! to the acknowledgement that covers the last, over mutual TLS, on as many
//! sessions as there are node names. The collector runs beside it, started by
//! `cargo xtask bench`, which hands over address and certificates and reads
//! the one line of JSON on stdout.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use shrike_proto::batch;
use shrike_proto::event::{Ancestor, Event, Exec, Exit, Fact, Fork, Open, Process, ResolvedPath};
use shrike_proto::id::{Epoch, Generation, SequenceNumber};
use shrike_proto::identity::Role;
use shrike_proto::tls::{TlsFiles, client_config};
use shrike_proto::transport::{MESSAGE_BYTES_MAX, dial};
use shrike_proto::wire::ingest::{
    Batch, Hello, NodeInfo, StreamEventsRequest, ingest_service_client::IngestServiceClient,
    stream_events_request as request, stream_events_response as response,
};
use tokio::sync::{Barrier, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

/// Events in one batch: what an agent under load cuts.
const BATCH_EVENTS: u64 = 4096;

/// Batches handed to the transport ahead of the network; the collector's
/// credit is the real bound.
const AHEAD: usize = 4;

fn main() -> Result<()> {
    // `cargo test --benches` and `cargo bench` without xtask run nothing.
    let Some(plan) = Plan::from_environment()? else {
        eprintln!("ingest: run it with: cargo xtask bench");
        return Ok(());
    };
    let sessions: Vec<Prepared> = plan
        .nodes
        .iter()
        .zip(1_u8..)
        .map(|(node, number)| Prepared::encode(node, number, plan.events / plan.nodes.len() as u64))
        .collect();
    let events: u64 = sessions.iter().map(|session| session.last).sum();
    let bytes: usize = sessions
        .iter()
        .flat_map(|s| &s.batches)
        .map(|b| b.payload.len())
        .sum();

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let seconds = runtime.block_on(run(Arc::new(plan), sessions))?;
    println!(
        "{{\"events\":{events},\"payload_bytes\":{bytes},\"seconds\":{seconds:.6},\
         \"events_per_second\":{:.0}}}",
        events as f64 / seconds
    );
    Ok(())
}

/// What `cargo xtask bench` asks for.
struct Plan {
    address: String,
    pki: PathBuf,
    nodes: Vec<String>,
    events: u64,
}

impl Plan {
    fn from_environment() -> Result<Option<Self>> {
        let Ok(address) = std::env::var("SHRIKE_BENCH_COLLECTOR") else {
            return Ok(None);
        };
        let variable =
            |name: &str| std::env::var(name).with_context(|| format!("{name} is not set"));
        Ok(Some(Self {
            address,
            pki: variable("SHRIKE_BENCH_PKI")?.into(),
            nodes: variable("SHRIKE_BENCH_NODES")?
                .split(',')
                .map(str::to_owned)
                .collect(),
            events: variable("SHRIKE_BENCH_EVENTS")?
                .parse()
                .context("SHRIKE_BENCH_EVENTS is no number")?,
        }))
    }
}

/// One node's epoch, encoded.
struct Prepared {
    node: String,
    epoch: Epoch,
    batches: Vec<Batch>,
    last: u64,
}

impl Prepared {
    fn encode(node: &str, number: u8, events: u64) -> Self {
        let epoch = Epoch([number; 16]);
        let mut random = Random(u64::from(number) | 0x9e37_79b9_7f4a_7c15);
        let mut batches = Vec::new();
        let mut next = 1;
        while next <= events {
            let end = (next + BATCH_EVENTS).min(events + 1);
            let list = (next..end)
                .map(|sequence| event(sequence, &mut random))
                .collect();
            batches.push(batch::seal(epoch, SequenceNumber(next), list));
            next = end;
        }
        Self {
            node: node.to_owned(),
            epoch,
            batches,
            last: events,
        }
    }
}

async fn run(plan: Arc<Plan>, sessions: Vec<Prepared>) -> Result<f64> {
    // Everybody is welcome first, then the clock starts.
    let start = Arc::new(Barrier::new(sessions.len() + 1));
    let tasks: Vec<_> = sessions
        .into_iter()
        .map(|session| tokio::spawn(stream(Arc::clone(&plan), session, Arc::clone(&start))))
        .collect();
    start.wait().await;
    let started = Instant::now();
    for task in tasks {
        task.await??;
    }
    Ok(started.elapsed().as_secs_f64())
}

async fn stream(plan: Arc<Plan>, session: Prepared, start: Arc<Barrier>) -> Result<()> {
    let tls = tls(&plan.pki, &session.node)?;
    let channel = dial(&plan.address, tls).await?;
    let mut client = IngestServiceClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let (sender, receiver) = mpsc::channel(AHEAD);
    let hello = Hello {
        node: session.node.clone(),
        boot_id: "0b3a4a43-4f6a-4d84-9f0a-9d0e2f6c1f00".to_owned(),
        epoch: session.epoch.0.to_vec(),
        first_sequence: 1,
        next_sequence: session.last + 1,
        info: Some(NodeInfo {
            agent_version: "bench".to_owned(),
            kernel_release: "bench".to_owned(),
            hostname: session.node.clone(),
            ..NodeInfo::default()
        }),
        ended: false,
    };
    sender.send(message(request::Message::Hello(hello))).await?;
    let mut answers = client
        .stream_events(ReceiverStream::new(receiver))
        .await?
        .into_inner();
    let Some(response::Message::Welcome(welcome)) =
        answers.message().await?.and_then(|answer| answer.message)
    else {
        bail!("{} is not welcome", session.node);
    };
    ensure!(welcome.durable_sequence == 0, "the store is not fresh");
    let credit = welcome.credit.max(1) as usize;
    start.wait().await;

    let ends: Vec<u64> = session
        .batches
        .iter()
        .map(|batch| batch.first_sequence + u64::from(batch.count) - 1)
        .collect();
    let (durable_sender, mut durable) = watch::channel(0_u64);
    let sending = tokio::spawn({
        let ends = ends.clone();
        async move {
            for (index, batch) in session.batches.into_iter().enumerate() {
                // At most `credit` batches are unacknowledged.
                if index >= credit {
                    let oldest = ends[index - credit];
                    durable.wait_for(|durable| *durable >= oldest).await?;
                }
                sender.send(message(request::Message::Batch(batch))).await?;
            }
            // Held open until the last acknowledgement.
            durable.wait_for(|durable| *durable >= session.last).await?;
            anyhow::Ok(())
        }
    });
    while *durable_sender.borrow() < session.last {
        let answer = answers.message().await?.and_then(|answer| answer.message);
        match answer {
            Some(response::Message::Ack(ack)) => {
                durable_sender.send_replace(ack.durable_sequence);
            }
            Some(other) => bail!("{}: {other:?}", session.node),
            None => bail!("{}: the collector ended the session", session.node),
        }
    }
    sending.await?
}

fn message(message: request::Message) -> StreamEventsRequest {
    StreamEventsRequest {
        message: Some(message),
    }
}

fn tls(pki: &Path, node: &str) -> Result<Arc<rustls::ClientConfig>> {
    let files = TlsFiles {
        ca: pki.join("ca.pem"),
        certificate: pki.join(format!("agent-{node}.pem")),
        key: pki.join(format!("agent-{node}.key")),
    };
    let (config, _) = client_config(&files, &[Role::Agent])?;
    Ok(Arc::new(config))
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
