//! A flood from many sessions: memory stays within its bound, everything is
//! stored, and a quiet session is served in between.

use std::{
    fs,
    time::{Duration, Instant},
};

use shrike_proto::{batch, event::Event, id::SequenceNumber, wire::ingest::Batch};
use tokio::{sync::oneshot, task::JoinSet, time::timeout};

use crate::{
    certificates::Pki,
    client::{EPOCH, Session, events},
    process::Home,
};

/// The configured bound.
const MEMORY_BYTES: u64 = 64 << 20;

/// Half of the bound is for windows, 64 KiB for each connection.
const CONNECTIONS: &str = "256";

/// What sled makes of many large commits in a row, decoders at work, the
/// program itself: 0.7 to 1.1 GB when it was measured. Without the bound the flood
/// takes twice as much.
const BESIDE_BYTES: u64 = 1200 << 20;

const NOISY: usize = 40;

/// As many as may be unacknowledged.
const BATCHES: u64 = 8;

const EVENTS: u64 = 8;

/// Long fields that do not compress: a batch of 2 MiB on the wire.
fn large(first: u64, seed: u64) -> Batch {
    let events: Vec<Event> = events(first, EVENTS)
        .into_iter()
        .map(|mut event| {
            let mut state =
                (event.sequence.0 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (seed << 40);
            let noise = std::iter::repeat_with(|| {
                state ^= state >> 12;
                state ^= state << 25;
                state ^= state >> 27;
                (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
            });
            event.process.exe = noise.take(200 << 10).collect();
            event
        })
        .collect();
    batch::seal(EPOCH, SequenceNumber(first), events)
}

/// Floods with all that the credit allows; returns how long a batch waited on
/// average.
async fn flood(mut session: Session, batches: Vec<Batch>) -> Duration {
    let sent = Instant::now();
    for batch in batches {
        session.send_batch(batch).await;
    }
    let (mut acknowledged, mut waited) = (0, Duration::ZERO);
    while acknowledged < BATCHES * EVENTS {
        let durable = session.ack().await;
        waited += sent.elapsed() * u32::try_from((durable - acknowledged) / EVENTS).unwrap();
        acknowledged = durable;
    }
    waited / u32::try_from(BATCHES).unwrap()
}

fn peak_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.unwrap().trim().strip_suffix(" kB").unwrap();
    kib.parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_stays_within_its_memory_and_a_quiet_node_goes_before_it() {
    let pki = Pki::new();
    let home = Home::new(&pki);
    let bound = MEMORY_BYTES.to_string();
    let collector = home.start_with(&[
        ("SHRIKE_COLLECTOR_LIMITS_INGEST_MEMORY_BYTES_MAX", &bound),
        ("SHRIKE_COLLECTOR_LIMITS_CONNECTIONS_MAX", CONNECTIONS),
        // The events are old.
        ("SHRIKE_COLLECTOR_RETENTION_DAYS", "0"),
    ]);
    let quiet_files = pki.issue("agent/quiet");
    let (mut quiet, _) = Session::open(&collector.address, &quiet_files, "quiet")
        .await
        .unwrap();

    let mut sessions = Vec::new();
    for number in 0..NOISY {
        let node = format!("noisy-{number}");
        let files = pki.issue(&format!("agent/{node}"));
        let opened = Session::open(&collector.address, &files, &node).await;
        let batches: Vec<Batch> = (0..BATCHES)
            .map(|n| large(n * EVENTS + 1, number as u64))
            .collect();
        sessions.push((opened.unwrap().0, batches));
    }
    let mut noisy = JoinSet::new();
    for (session, batches) in sessions {
        noisy.spawn(flood(session, batches));
    }
    let (over, mut is_over) = oneshot::channel::<()>();
    let listening = tokio::spawn(async move {
        let (mut waits, mut next) = (Vec::new(), 1);
        while timeout(Duration::from_millis(50), &mut is_over)
            .await
            .is_err()
        {
            let sent = Instant::now();
            let sealed = batch::seal(EPOCH, SequenceNumber(next), events(next, 1));
            quiet.send_batch(sealed).await;
            assert_eq!(quiet.ack().await, next);
            waits.push(sent.elapsed());
            next += 1;
        }
        (waits, next - 1)
    });
    let floods = noisy.join_all().await;
    over.send(()).unwrap();
    let (mut waits, quiet_events) = listening.await.unwrap();

    let peak = peak_bytes(collector.pid());
    let limit = MEMORY_BYTES + BESIDE_BYTES;
    assert!(peak < limit, "{peak} bytes resident, at most {limit}");

    waits.sort();
    let quiet_wait = waits[waits.len() / 2];
    let noisy_wait = floods.iter().sum::<Duration>() / u32::try_from(NOISY).unwrap();
    assert!(
        quiet_wait < noisy_wait / 2,
        "quiet batches wait {quiet_wait:?}, noisy ones {noisy_wait:?}"
    );

    assert_eq!(collector.terminate(), Some(0));
    let output = home.command(&["store", "verify"]);
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let events = NOISY as u64 * BATCHES * EVENTS + quiet_events;
    assert!(text.contains(&format!("{events} events")), "{text}");
}
