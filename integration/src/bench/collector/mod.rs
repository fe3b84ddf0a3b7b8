//! The collector: what it takes, what it costs, and how fast it finds.
//!
//! - **ingest**: 64 sessions send batches that were encoded beforehand, as fast
//!   as they are acknowledged: decoded, checked, indexed and synced to disk.
//!   Beside it the same events in the same database, a row each.
//! - **fleet**: many nodes with one event a second each, as most nodes are most
//!   of the time.
//! - **query**: what was ingested is searched with `shrikectl`, from the start
//!   of the program to the last line.
//!
//! The load runs on the same processors as the collector; what it takes of
//! them is not the collector's, so where the two together are the limit the
//! collector alone would take more.

mod query;
pub mod task;
pub mod watched;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use crate::build::Binaries;
use crate::fleet::{self, Ctl, free_port};
use crate::layout::Layout;
use crate::outside;
use crate::progress::Step;
use task::{Flood, Quiet, Rows, Site, Task};
use watched::Watched;

/// Sessions of the flood.
const SESSIONS: u64 = 64;

/// Events of the plain store: more would only take longer.
const ROWS_MAX: u64 = 400_000;

/// Until a fleet's memory and files have their shape.
const WARM_UP_SECONDS: u64 = 20;

const MEASURED_SECONDS: u64 = 60;

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Events in the store that is searched.
    pub events: u64,
    /// Nodes with an event a second.
    pub nodes: u64,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            events: 8_000_000,
            nodes: 1_000,
        }
    }
}

/// A collector of its own with certificates for some nodes.
struct Home {
    folder: tempfile::TempDir,
    ctl: Ctl,
    collector: fleet::Collector,
    nodes: Vec<String>,
}

impl Home {
    fn start(binaries: &Binaries, nodes: u64) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot create the collector's folder")?;
        let pki = folder.path().join("pki");
        let port = free_port()?;
        let ctl = Ctl::new(&binaries.ctl, &pki, port);
        ctl.init_pki("bench.shrike")?;
        ctl.issue("collector", "main")?;
        ctl.issue("admin", "ada")?;
        let mut step = Step::start("pki", "issuing certificates");
        let nodes: Vec<String> = (0..nodes).map(|node| format!("node-{node:04}")).collect();
        for (done, node) in nodes.iter().enumerate() {
            // Not through `issue`, which looks for the end four times a second.
            let pki = pki.display().to_string();
            outside::finish(&mut ctl.command(&["pki", "issue", "--dir", &pki, "agent", node]))?;
            step.update(&format!("issuing certificates: {done} of {}", nodes.len()));
        }
        step.done(&format!("{} certificates", nodes.len()));
        let collector =
            fleet::Collector::start(&binaries.collector, folder.path(), &pki, port, None)?;
        Ok(Self {
            folder,
            ctl,
            collector,
            nodes,
        })
    }

    fn site(&self) -> Result<Site> {
        Ok(Site {
            address: format!("127.0.0.1:{}", self.collector.port()),
            pki: self.folder.path().join("pki"),
            nodes: self.nodes.clone(),
            collector: self.watched()?.0,
        })
    }

    fn watched(&self) -> Result<Watched> {
        let pid = self.collector.pid().context("the collector has ended")?;
        Ok(Watched(pid))
    }

    /// Bytes that the store's files take on the disk.
    fn disk_bytes(&self) -> Result<u64> {
        disk_bytes(&self.folder.path().join("store"))
    }

    /// What was acknowledged must be there after a crash.
    fn crash(&mut self, events: u64) -> Result<()> {
        self.collector.kill()?;
        self.collector.resume()?;
        let stored: u64 = self.ctl.nodes()?.iter().map(|node| node.stored).sum();
        ensure!(
            stored == events,
            "{stored} of {events} acknowledged events are in the store"
        );
        Ok(())
    }
}

/// Measures all three.
pub(super) fn run(layout: &Layout, binaries: &Binaries, load: Load) -> Result<Value> {
    let mut figures = Map::new();
    let mut home = Home::start(binaries, SESSIONS)?;
    let (flood, ingest) = ingest(layout, &mut home, load.events)?;
    figures.insert("ingest".to_owned(), ingest);
    figures.insert("query".to_owned(), query::run(&home, &flood)?);
    home.collector.stop()?;
    drop(home);
    figures.insert("fleet".to_owned(), fleet(layout, binaries, load.nodes)?);
    Ok(Value::Object(figures))
}

fn ingest(layout: &Layout, home: &mut Home, events: u64) -> Result<(Flood, Value)> {
    println!(
        "\ncollector: {events} events from {SESSIONS} sessions, as fast as they are acknowledged"
    );
    let site = home.site()?;
    let flood: Flood = Task::Flood { site, events }.drive(layout)?;
    let (stored_bytes, peak_bytes) = (home.disk_bytes()?, home.watched()?.peak_bytes()?);

    let rows_folder = tempfile::tempdir().context("cannot create a folder")?;
    let rows: Rows = Task::Rows {
        folder: rows_folder.path().to_owned(),
        events: flood.events.min(ROWS_MAX),
    }
    .drive(layout)?;
    let rows_disk_bytes = disk_bytes(rows_folder.path())?;
    drop(rows_folder);

    home.crash(flood.events)?;
    let each = |bytes: u64, events: u64| bytes as f64 / events as f64;
    let rate = flood.events as f64 / flood.seconds;
    let rows_rate = rows.events as f64 / rows.seconds;
    let cpu = flood.collector_cpu_seconds / flood.events as f64 * 1e6;
    println!(
        "  {:<34}{:>14}{:>14}{:>9}",
        "", "collector", "row each", "ratio"
    );
    show("events/s, durable", rate, rows_rate, 0);
    let bytes_each = each(stored_bytes, flood.events);
    let rows_bytes_each = each(rows_disk_bytes, rows.events);
    show("bytes on disk for an event", bytes_each, rows_bytes_each, 1);
    println!(
        "  wanted: at least 1,500,000 events/s, at most 12 bytes; an event is {:.0} bytes encoded \
         and {:.1} in its batch",
        each(flood.raw_bytes, flood.events),
        each(flood.payload_bytes, flood.events)
    );
    println!(
        "  {cpu:.2} µs of the collector's processor time for an event; resident at each quarter \
         {}, at most {} MB",
        megabytes(&flood.resident_bytes),
        peak_bytes / 1_000_000
    );
    println!(
        "  all {} there after the collector was killed",
        flood.events
    );
    let figures = json!({
        "sessions": SESSIONS, "events": flood.events, "seconds": flood.seconds,
        "events_per_second": rate.round(), "collector_cpu_us_per_event": cpu,
        "bytes_per_event_on_disk": bytes_each,
        "bytes_per_event_in_batch": each(flood.payload_bytes, flood.events),
        "bytes_per_event_encoded": each(flood.raw_bytes, flood.events),
        "resident_bytes_by_quarter": flood.resident_bytes, "peak_resident_bytes": peak_bytes,
        "row_each": {
            "events": rows.events, "events_per_second": rows_rate.round(),
            "bytes_per_event_on_disk": rows_bytes_each,
        },
        "ratio": rate / rows_rate,
    });
    Ok((flood, figures))
}

fn fleet(layout: &Layout, binaries: &Binaries, nodes: u64) -> Result<Value> {
    println!("\ncollector: {nodes} nodes, an event a second from each, {MEASURED_SECONDS} s");
    let mut home = Home::start(binaries, nodes)?;
    let idle_bytes = home.watched()?.resident_bytes()?;
    let task = Task::Quiet {
        site: home.site()?,
        warm_up_seconds: WARM_UP_SECONDS,
        seconds: MEASURED_SECONDS,
    };
    let quiet: Quiet = task.drive(layout)?;
    let peak_bytes = home.watched()?.peak_bytes()?;
    home.collector.stop()?;
    let bytes_each = home.disk_bytes()? as f64 / quiet.events_with_warm_up as f64;
    home.collector.resume()?;
    home.crash(quiet.events_with_warm_up)?;

    let cpu_percent = quiet.collector_cpu_seconds / quiet.seconds * 100.0;
    let rate = quiet.events as f64 / quiet.seconds;
    let [half, most, slowest] = quiet.acknowledged_ms;
    println!(
        "  {rate:.0} events/s, each acknowledged in {half:.0} ms (median), {most:.0} ms (99 of 100), {slowest:.0} ms (slowest)"
    );
    println!("  processor {cpu_percent:.1} % of one (wanted under 10)");
    println!(
        "  resident {} MB, at most {} (wanted under 150, and flat); {} before the first node",
        megabytes(&quiet.resident_bytes),
        peak_bytes / 1_000_000,
        idle_bytes / 1_000_000
    );
    println!("  {bytes_each:.0} bytes on disk for an event (wanted at most 40 after merging)");
    Ok(json!({
        "nodes": nodes, "events": quiet.events, "seconds": quiet.seconds,
        "cpu_percent": cpu_percent, "resident_bytes": quiet.resident_bytes,
        "idle_resident_bytes": idle_bytes, "peak_resident_bytes": peak_bytes,
        "bytes_per_event_on_disk": bytes_each,
        "acknowledged_ms": {"median": half, "p99": most, "max": slowest},
    }))
}

fn show(what: &str, ours: f64, theirs: f64, decimals: usize) {
    let ratio = ours / theirs;
    println!("  {what:<34}{ours:>14.decimals$}{theirs:>14.decimals$}{ratio:>9.2}");
}

fn megabytes(bytes: &[u64]) -> String {
    let numbers: Vec<String> = bytes
        .iter()
        .map(|bytes| (bytes / 1_000_000).to_string())
        .collect();
    numbers.join(" ")
}

/// Bytes that a folder's files take on the disk, holes left out.
fn disk_bytes(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    let shown = folder.display();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {shown}"))? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() {
            disk_bytes(&entry.path())?
        } else {
            metadata.blocks() * 512
        };
    }
    Ok(bytes)
}
