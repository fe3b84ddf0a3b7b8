//! A large fleet with little to say: an event a second from each node, one
//! batch each, with the ledger as an agent sends it, and a second connection
//! for policies.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use shrike_integration::bench::collector::task::{Quiet, Site};
use shrike_integration::bench::collector::watched::Watched;
use shrike_integration::progress::Step;
use shrike_proto::batch::{Fit, Packer};
use shrike_proto::id::SequenceNumber;
use shrike_proto::ledger::{HookCounts, Ledger};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, sleep};
use tokio_util::sync::CancellationToken;

use crate::flood::epoch;
use crate::model::Node;
use crate::session::{Control, Session};

/// Handshakes at once: agents do not all start in one moment.
const HANDSHAKES: usize = 32;

/// Looks at the collector on the way.
const LOOKS: u32 = 10;

/// Hooks that an agent's ledger tells of.
const HOOKS: [&str; 6] = [
    "sched_process_exec",
    "sched_process_exit",
    "sched_process_fork",
    "do_filp_open",
    "dentry_open",
    "security_file_open",
];

/// What the nodes share.
struct Fleet {
    site: Site,
    handshakes: Semaphore,
    connected: AtomicU64,
    acknowledged: AtomicU64,
    waits: mpsc::UnboundedSender<Duration>,
    stop: CancellationToken,
}

/// Runs the fleet for so long.
pub fn run(site: Site, warm_up: Duration, measured: Duration) -> Result<Quiet> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(watch(site, warm_up, measured))
}

async fn watch(site: Site, warm_up: Duration, measured: Duration) -> Result<Quiet> {
    let nodes = site.nodes.len();
    let collector = Watched(site.collector);
    let mut step = Step::start("fleet", "connecting");
    // One wait for each event, read at the end: the run bounds them.
    let (waits, mut waited) = mpsc::unbounded_channel();
    let fleet = Arc::new(Fleet {
        site,
        handshakes: Semaphore::new(HANDSHAKES),
        connected: AtomicU64::new(0),
        acknowledged: AtomicU64::new(0),
        waits,
        stop: CancellationToken::new(),
    });
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..nodes {
        let fleet = Arc::clone(&fleet);
        tasks.spawn(async move {
            let name = fleet.site.nodes[number].clone();
            node(&fleet, number).await.context(name)
        });
    }
    let mut tick = interval(Duration::from_millis(200));
    while fleet.connected.load(Ordering::Relaxed) < nodes as u64 {
        tick.tick().await;
        fail_early(&mut tasks).await?;
        let connected = fleet.connected.load(Ordering::Relaxed);
        step.update(&format!("connecting: {connected} of {nodes}"));
    }
    step.update(&format!("{nodes} nodes are connected, warming up"));
    sleep(warm_up).await;
    while waited.try_recv().is_ok() {}

    let (before, started) = (fleet.acknowledged.load(Ordering::Relaxed), Instant::now());
    let cpu_before = collector.cpu_seconds()?;
    let mut resident_bytes = vec![collector.resident_bytes()?];
    for look in 1..=LOOKS {
        sleep(measured / LOOKS).await;
        fail_early(&mut tasks).await?;
        resident_bytes.push(collector.resident_bytes()?);
        step.update(&format!("measuring: {look} of {LOOKS}"));
    }
    let seconds = started.elapsed().as_secs_f64();
    let collector_cpu_seconds = collector.cpu_seconds()? - cpu_before;
    let events = fleet.acknowledged.load(Ordering::Relaxed) - before;
    let mut waits = Vec::new();
    while let Ok(wait) = waited.try_recv() {
        waits.push(wait.as_secs_f64() * 1e3);
    }
    waits.sort_by(f64::total_cmp);
    fleet.stop.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize];
    anyhow::ensure!(!waits.is_empty(), "nothing was acknowledged");
    step.done(&format!("{nodes} nodes watched"));
    Ok(Quiet {
        events,
        events_with_warm_up: fleet.acknowledged.load(Ordering::Relaxed),
        seconds,
        collector_cpu_seconds,
        resident_bytes,
        acknowledged_ms: [at(0.5), at(0.99), at(1.0)],
    })
}

/// A node that ended before it was told to has something to say.
async fn fail_early(tasks: &mut tokio::task::JoinSet<Result<()>>) -> Result<()> {
    match tasks.try_join_next() {
        Some(ended) => ended?.and_then(|()| anyhow::bail!("a node left early")),
        None => Ok(()),
    }
}

async fn node(fleet: &Fleet, number: usize) -> Result<()> {
    let name = &fleet.site.nodes[number];
    let (session, _control) = {
        let _turn = fleet.handshakes.acquire().await?;
        let session = Session::open(&fleet.site, name, epoch(number as u64)).await?;
        (session, Control::open(&fleet.site, name).await?)
    };
    fleet.connected.fetch_add(1, Ordering::Relaxed);
    let (sender, mut answers) = session.split();
    let mut node = Node::new(number as u64 + 1, now_unix_ns() - 3_600_000_000_000, 1);
    let mut packer = Packer::default();
    let mut ledger = Ledger::default();
    // Each node has its own moment of the second.
    let phase = Duration::from_secs(1) * (number as u32) / (fleet.site.nodes.len() as u32);
    let mut second = interval_at(Instant::now() + phase, Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for sequence in 1.. {
        tokio::select! {
            _ = second.tick() => {}
            () = fleet.stop.cancelled() => return Ok(()),
        }
        node.set_time(now_unix_ns());
        assert_eq!(packer.push(&node.event()), Fit::Taken, "one event has room");
        let mut batch = packer.seal(epoch(number as u64), SequenceNumber(sequence));
        count(&mut ledger, sequence);
        batch.ledger = Some(ledger.clone().into());
        let sent = Instant::now();
        sender.send(batch).await?;
        while answers.ack().await? < sequence {}
        let _ = fleet.waits.send(sent.elapsed());
        fleet.acknowledged.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Every hook has seen more, as on a node where most opens are repeats.
fn count(ledger: &mut Ledger, sequence: u64) {
    for hook in HOOKS {
        let counts = ledger.hooks.entry(hook.to_owned()).or_default();
        *counts = HookCounts {
            seen: counts.seen + 12,
            submitted: counts.submitted + 1,
            filtered_own: counts.filtered_own + 1,
            filtered_repeated: counts.filtered_repeated + 10,
            ..HookCounts::default()
        };
    }
    ledger.filtered += 11;
    ledger.seen += 12;
    ledger.sequenced = sequence;
}

fn now_unix_ns() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_nanos() as i64)
}
