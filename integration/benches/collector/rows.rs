//! What the collector's store is compared with: the same events in the same
//! database, a row each.
//!
//! It has it easier than the collector: no network, no TLS, no look at what an
//! event mentions. A batch is unpacked, each event becomes a row under its
//! time, node and number, the batch's rows are one commit, and the commit is
//! flushed and synced before the next one.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use anyhow::{Context, Result};
use prost::Message as _;
use shrike_integration::bench::collector::task::Rows;
use shrike_integration::progress::Step;
use shrike_proto::batch;
use shrike_proto::wire::event::Event;

use crate::flood::Encoded;

/// Stores the first events of one node of the flood.
pub fn run(folder: &Path, events: u64) -> Result<Rows> {
    let mut step = Step::start("rows", "encoding events");
    let node = Encoded::new(0, events, 1_795_000_000_000_000_000, &AtomicU64::new(0));
    let db = sled::Config::new()
        .path(folder)
        .mode(sled::Mode::HighThroughput)
        .flush_every_ms(None)
        .open()?;
    let file = File::open(folder.join("db")).context("sled's file")?;
    let started = Instant::now();
    let mut stored = 0;
    for sealed in &node.batches {
        let mut rows = sled::Batch::default();
        for event in batch::open(sealed)? {
            let mut key = event.time_unix_ns.to_be_bytes().to_vec();
            key.extend_from_slice(b"node-0000");
            key.extend_from_slice(&event.sequence.0.to_be_bytes());
            rows.insert(key, Event::from(event).encode_to_vec());
            stored += 1;
        }
        db.apply_batch(rows)?;
        db.flush()?;
        file.sync_data()?;
        step.update(&format!("a row each: {stored} of {events}"));
    }
    let seconds = started.elapsed().as_secs_f64();
    step.done(&format!("{stored} events in a row each"));
    Ok(Rows {
        events: stored,
        seconds,
    })
}
