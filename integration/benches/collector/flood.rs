//! Everything at once: batches that were encoded beforehand, sent as fast as
//! they are acknowledged.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use shrike_integration::bench::collector::task::{Flood, Site};
use shrike_integration::bench::collector::watched::Watched;
use shrike_integration::progress::Step;
use shrike_proto::batch::{Fit, Packer};
use shrike_proto::id::{Epoch, SequenceNumber};
use shrike_proto::wire::ingest::Batch;
use tokio::sync::{Barrier, watch};

use crate::model::{Node, RARE_PROGRAM};
use crate::session::Session;

/// Events in one batch: what an agent under load cuts.
pub const BATCH_EVENTS: u64 = 4096;

/// One batch of so many runs the rare program.
const RARE_EACH: u64 = 1000;

/// A busy node: 4,000 events a second.
const PACE_NS: u64 = 250_000;

/// One node's events, encoded.
pub struct Encoded {
    pub batches: Vec<Batch>,
    pub raw_bytes: u64,
    pub last: u64,
}

impl Encoded {
    /// Encodes the first `events` events of the node with this number.
    pub fn new(number: u64, events: u64, since_unix_ns: i64, done: &AtomicU64) -> Self {
        let epoch = epoch(number);
        // An hour after its boot.
        let mut node = Node::new(number + 1, since_unix_ns - 3_600_000_000_000, PACE_NS);
        let mut packer = Packer::default();
        let (mut batches, mut raw_bytes, mut next) = (Vec::new(), 0, 1);
        while next <= events {
            let count = BATCH_EVENTS.min(events + 1 - next);
            // Another batch of each node, so that nodes differ; never none.
            if (batches.len() as u64 + number * 7).is_multiple_of(RARE_EACH) {
                node.run_rare();
            }
            for _ in 0..count {
                assert_eq!(packer.push(&node.event()), Fit::Taken, "a batch has room");
            }
            raw_bytes += packer.bytes() as u64;
            batches.push(packer.seal(epoch, SequenceNumber(next)));
            next += count;
            done.fetch_add(count, Ordering::Relaxed);
        }
        Self {
            batches,
            raw_bytes,
            last: events,
        }
    }
}

/// The epoch of the node with this number.
pub fn epoch(number: u64) -> Epoch {
    let mut bytes = [0x5e; 16];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    Epoch(bytes)
}

/// Encodes, then sends everything on as many sessions as there are nodes.
pub fn run(site: Site, events: u64) -> Result<Flood> {
    let each = events.div_ceil(site.nodes.len() as u64);
    let since_unix_ns = now_unix_ns() - (each * PACE_NS).cast_signed() - 60_000_000_000;
    let nodes = encode(site.nodes.len() as u64, each, since_unix_ns);
    let events: u64 = nodes.iter().map(|node| node.last).sum();
    let batches: u64 = nodes.iter().map(|node| node.batches.len() as u64).sum();
    let raw_bytes = nodes.iter().map(|node| node.raw_bytes).sum();
    let payload_bytes = nodes
        .iter()
        .flat_map(|node| &node.batches)
        .map(|batch| batch.payload.len() as u64)
        .sum();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let sent = runtime.block_on(send(Arc::new(site), nodes, events))?;
    Ok(Flood {
        events,
        batches,
        payload_bytes,
        raw_bytes,
        seconds: sent.seconds,
        collector_cpu_seconds: sent.collector_cpu_seconds,
        resident_bytes: sent.resident_bytes,
        since_unix_ns,
        rare_program: RARE_PROGRAM.to_owned(),
    })
}

fn now_unix_ns() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_nanos() as i64)
}

fn encode(nodes: u64, each: u64, since_unix_ns: i64) -> Vec<Encoded> {
    let mut step = Step::start("load", "encoding events");
    let (done, next) = (AtomicU64::new(0), AtomicU64::new(0));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut encoded: Vec<(u64, Encoded)> = thread::scope(|scope| {
        let (done, next) = (&done, &next);
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(move || {
                    let mut encoded = Vec::new();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= nodes {
                            return encoded;
                        }
                        encoded.push((number, Encoded::new(number, each, since_unix_ns, done)));
                    }
                })
            })
            .collect();
        while !workers.iter().all(|worker| worker.is_finished()) {
            thread::sleep(Duration::from_millis(200));
            step.update(&format!(
                "encoding events: {} of {}",
                done.load(Ordering::Relaxed),
                nodes * each
            ));
        }
        workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("encoding does not fail"))
            .collect()
    });
    encoded.sort_by_key(|(number, _)| *number);
    step.done(&format!("{} events encoded", nodes * each));
    encoded.into_iter().map(|(_, encoded)| encoded).collect()
}

struct Sent {
    seconds: f64,
    collector_cpu_seconds: f64,
    resident_bytes: Vec<u64>,
}

async fn send(site: Arc<Site>, nodes: Vec<Encoded>, events: u64) -> Result<Sent> {
    let mut step = Step::start("load", "connecting");
    // Everybody is welcome first, then the clock starts.
    let start = Arc::new(Barrier::new(nodes.len() + 1));
    let acknowledged = Arc::new(AtomicU64::new(0));
    let mut tasks = VecDeque::new();
    for (number, node) in nodes.into_iter().enumerate() {
        let (site, start) = (Arc::clone(&site), Arc::clone(&start));
        let acknowledged = Arc::clone(&acknowledged);
        tasks.push_back(tokio::spawn(async move {
            let epoch = epoch(number as u64);
            let session = Session::open(&site, &site.nodes[number], epoch).await;
            start.wait().await;
            stream(session?, node, &acknowledged).await
        }));
    }
    start.wait().await;
    let collector = Watched(site.collector);
    let cpu_before = collector.cpu_seconds()?;
    let started = Instant::now();
    let mut resident_bytes = Vec::new();
    while let Some(task) = tasks.front_mut() {
        match tokio::time::timeout(Duration::from_millis(50), task).await {
            Ok(ended) => {
                ended??;
                tasks.pop_front();
            }
            Err(_) => {
                let acknowledged = acknowledged.load(Ordering::Relaxed);
                step.update(&format!("{acknowledged} of {events} acknowledged"));
            }
        }
        let quarters = acknowledged.load(Ordering::Relaxed) * 4 / events;
        while (resident_bytes.len() as u64) < quarters {
            resident_bytes.push(collector.resident_bytes()?);
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    step.done(&format!("{events} events acknowledged"));
    Ok(Sent {
        seconds,
        collector_cpu_seconds: collector.cpu_seconds()? - cpu_before,
        resident_bytes,
    })
}

async fn stream(session: Session, node: Encoded, acknowledged: &AtomicU64) -> Result<()> {
    let credit = session.credit;
    let (sender, mut answers) = session.split();
    let (durable_sender, mut durable) = watch::channel(0_u64);
    let last = node.last;
    let sending = tokio::spawn(async move {
        let ends: Vec<u64> = node
            .batches
            .iter()
            .map(|batch| batch.first_sequence + u64::from(batch.count) - 1)
            .collect();
        for (index, batch) in node.batches.into_iter().enumerate() {
            // At most `credit` batches are unacknowledged.
            if index >= credit {
                let oldest = ends[index - credit];
                durable.wait_for(|durable| *durable >= oldest).await?;
            }
            sender.send(batch).await?;
        }
        // Held open until the last acknowledgement.
        durable.wait_for(|durable| *durable >= last).await?;
        anyhow::Ok(())
    });
    let mut before = 0;
    while before < last {
        let durable = answers.ack().await?;
        acknowledged.fetch_add(durable - before, Ordering::Relaxed);
        before = durable;
        durable_sender.send_replace(durable);
    }
    sending.await?
}
