//! 200,000 opens at full speed, through the whole system.
//!
//! Each is an event of its own also where the agent reports a process's first
//! open of a file only: twenty processes open ten thousand files once each,
//! two processes at a time.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use crate::build::Binaries;
use crate::fleet::Fleet;
use crate::layout::Layout;
use crate::vm::Outcome;

const OPENS: u64 = 200_000;

const FILES: u64 = 10_000;

const TIMEOUT: Duration = Duration::from_secs(300);

pub(super) fn run(layout: &Layout, binaries: &Binaries) -> Result<Value> {
    println!("\nburst: {OPENS} opens by two processes at a time, default ring");
    let fleet = Fleet::start(layout, binaries, &mut |line| eprintln!("  {line}"))?;
    let mut figures = Map::new();
    for node in &fleet.nodes {
        let row = || -> Result<_> {
            let rows = fleet.ctl.nodes()?;
            let row = rows.into_iter().find(|row| row.name == node.name());
            row.context("the node is in the list")
        };
        let guest = |arguments: &[&str]| {
            let command = node.machine.command("/usr/lib/shrike/guest");
            let ran = command.args(arguments.iter().copied()).timeout(TIMEOUT);
            ran.run()
        };
        let (opens, files) = (OPENS.to_string(), FILES.to_string());
        guest(&["plant", "--count", &files])?;
        fleet.settle(TIMEOUT)?;
        let before = row()?;
        let ran = guest(&["work", "burst", "--count", &opens, "--files", &files])?;
        ensure!(
            ran.outcome == Outcome::SUCCESS,
            "the load: {}",
            ran.stderr_text()
        );
        fleet.settle(TIMEOUT)?;
        let after = row()?;
        let report: Value = serde_json::from_str(&ran.stdout_text())?;
        let nanoseconds = report["nanoseconds"].as_f64().context("the load's time")?;
        let rate = OPENS as f64 / (nanoseconds / 1e9);

        let seen = after.seen - before.seen;
        let stored = after.stored - before.stored;
        let filtered = after.filtered - before.filtered;
        let lost = after.lost + after.lost_by_agent - before.lost - before.lost_by_agent;
        let accounted = stored + lost + filtered;
        let unaccounted = i128::from(seen) - i128::from(accounted);
        println!(
            "  {} ({}): {rate:.0} opens/s; seen {seen}, stored {stored}, lost {lost}, filtered \
             {filtered}, unaccounted {unaccounted}",
            node.name(),
            node.machine.kernel()
        );
        figures.insert(
            node.machine.kernel().to_string(),
            json!({
                "opens": OPENS, "opens_per_second": rate.round(), "seen": seen, "stored": stored,
                "lost": lost, "filtered": filtered, "unaccounted": unaccounted as i64,
            }),
        );
    }
    Ok(Value::Object(figures))
}
