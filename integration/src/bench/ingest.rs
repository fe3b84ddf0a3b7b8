//! The collector's durable ingest.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::build::Binaries;
use crate::fleet::{Collector, Ctl, free_port};
use crate::layout::Layout;
use crate::outside;

const EVENTS: u64 = 2_000_000;

const NODES: [&str; 4] = ["bench-1", "bench-2", "bench-3", "bench-4"];

pub(super) fn run(layout: &Layout, binaries: &Binaries) -> Result<Value> {
    println!(
        "\ningest: {EVENTS} events in encoded batches, {} sessions",
        NODES.len()
    );
    let folder = tempfile::tempdir().context("cannot create the collector's folder")?;
    let pki = folder.path().join("pki");
    let port = free_port()?;
    let ctl = Ctl::new(&binaries.ctl, &pki, port);
    ctl.init_pki("bench.shrike")?;
    ctl.issue("collector", "main")?;
    ctl.issue("admin", "ada")?;
    for node in NODES {
        ctl.issue("agent", node)?;
    }
    let mut collector = Collector::start(&binaries.collector, folder.path(), &pki, port, None)?;

    let mut cargo = Command::new("cargo");
    cargo
        .args(["bench", "--workspace", "--quiet", "--bench", "ingest"])
        .current_dir(layout.workspace())
        .env("SHRIKE_BENCH_COLLECTOR", format!("127.0.0.1:{port}"))
        .env("SHRIKE_BENCH_PKI", &pki)
        .env("SHRIKE_BENCH_NODES", NODES.join(","))
        .env("SHRIKE_BENCH_EVENTS", EVENTS.to_string())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output = cargo.output().context("cannot start cargo")?;
    ensure!(
        output.status.success(),
        "{} failed; the collector said:\n{}",
        outside::shown(&cargo),
        collector.said()
    );
    let report = String::from_utf8_lossy(&output.stdout);
    let line = report.lines().rev().find(|line| line.starts_with('{'));
    let figures: Value = serde_json::from_str(line.context("no report")?)?;

    // What was acknowledged is there after a crash.
    collector.kill()?;
    collector.resume()?;
    let stored: u64 = ctl.nodes()?.iter().map(|node| node.stored).sum();
    ensure!(
        stored == EVENTS,
        "{stored} of {EVENTS} events are in the store"
    );
    println!(
        "  {:.0} events/s durable; all {EVENTS} there after the collector was killed",
        figures["events_per_second"].as_f64().unwrap_or(0.0)
    );
    Ok(figures)
}
