//! Full speed: everything that happened is stored or counted as lost.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use shrike_integration::fleet::NodeRow;
use shrike_integration::vm::Outcome;

use super::Claim;
use super::fixture::{Fixture, RECONNECT_TIMEOUT};

pub const CLAIMS: &[Claim] = &[
    Claim(
        "two_hundred_thousand_opens_at_full_speed_are_all_accounted_for",
        burst,
    ),
    Claim(
        "a_ring_that_is_far_too_small_loses_events_and_counts_every_one",
        tiny_ring,
    ),
];

/// What becomes of what a hook has seen.
const ACCOUNTED: [&str; 7] = [
    "submitted",
    "filtered_own",
    "filtered_repeated",
    "lost_ring_full",
    "lost_pending_full",
    "lost_oversize",
    "lost_unreadable",
];

const OPENS: u64 = 200_000;

/// Each process opens so many files once, so that every open is an event of
/// its own also where only the first of a process and file is one.
const FILES: u64 = 10_000;

/// Where `shrike-guest plant` makes them.
const TREE: &str = "/srv/tree/";

/// An emulated kernel opens some ten thousand files a second with a probe on
/// each, and the agent shares its two processors.
const BURST_TIMEOUT: Duration = Duration::from_secs(300);

fn burst(fixture: &mut Fixture) -> Result<()> {
    for name in ["node-a", "node-b"] {
        open_and_account(fixture, name, OPENS)?;
    }
    Ok(())
}

fn tiny_ring(fixture: &mut Fixture) -> Result<()> {
    for node in &mut fixture.fleet.nodes {
        node.stop_agent()?;
        node.start_agent_with(&[("SHRIKE_AGENT_RING_BYTES", "65536")])?;
    }
    fixture.fleet.wait_until_connected(RECONNECT_TIMEOUT)?;
    let mut lost = 0;
    for name in ["node-a", "node-b"] {
        lost += open_and_account(fixture, name, OPENS / 10)?;
        insist_on_agreement(fixture, name)?;
    }
    ensure!(
        lost > 0,
        "the ring was not too small after all: the claim proves nothing"
    );
    for node in &mut fixture.fleet.nodes {
        node.stop_agent()?;
        node.start_agent()?;
    }
    fixture.fleet.wait_until_connected(RECONNECT_TIMEOUT)
}

/// Insists that each hook's counts add up, and that the numbers of the records
/// that arrived agree with them: the agent compares both each second, and says
/// so when they have disagreed for three.
fn insist_on_agreement(fixture: &Fixture, name: &str) -> Result<()> {
    fixture.fleet.node(name).machine.shell("sleep 5")?;
    let ctl = &fixture.fleet.ctl;
    let shown = ctl.insist(&["nodes", "show", name, "-o", "json"])?;
    let shown: Value = serde_json::from_str(&shown.stdout)?;
    let hooks = shown["ledger"]["hooks"].as_object();
    let hooks = hooks.with_context(|| format!("no counts by hook in {shown}"))?;
    let mut ring_full = 0;
    for (hook, counts) in hooks {
        let count = |name: &str| counts[name].as_u64().unwrap_or(0);
        let accounted = ACCOUNTED.map(count);
        ensure!(
            count("seen") == accounted.iter().sum::<u64>(),
            "on {name} the counts of {hook} do not add up: {counts}"
        );
        ring_full += count("lost_ring_full");
    }
    ensure!(
        hooks.len() >= 7 && Some(ring_full) == shown["ledger"]["lost"]["kernel-ring-full"].as_u64(),
        "{}",
        shown["ledger"]
    );
    insist_on_every_cpu(fixture, name)?;
    let alerts = ctl.events(&["--node", name, "--kind", "alert"])?;
    let miscount = alerts
        .iter()
        .find(|alert| alert["alert"]["cause"] == "miscount");
    ensure!(miscount.is_none(), "{miscount:?}");
    Ok(())
}

/// The node itself says what each CPU counted, and that adds up too.
fn insist_on_every_cpu(fixture: &Fixture, name: &str) -> Result<()> {
    let machine = &fixture.fleet.node(name).machine;
    let ran = machine
        .command("shrike-agent")
        .args(["counters", "--json"])
        .run()?;
    ensure!(ran.outcome == Outcome::SUCCESS, "{}", ran.stderr_text());
    let mut cpus = BTreeSet::new();
    for line in ran.stdout_text().lines() {
        let line: Value = serde_json::from_str(line)?;
        let accounted: u64 = ACCOUNTED
            .iter()
            .filter_map(|name| line[name].as_u64())
            .sum();
        ensure!(
            line["seen"].as_u64() == Some(accounted),
            "on {name} a CPU's counts do not add up: {line}"
        );
        if line["hook"] == "file-open" {
            cpus.insert(line["cpu"].as_u64());
        }
    }
    ensure!(cpus.len() == 2, "CPUs of {name}: {cpus:?}");
    let table = machine.command("shrike-agent").arg("counters").run()?;
    ensure!(
        table.stdout_text().starts_with("HOOK") && table.stdout_text().contains("LOST RING FULL"),
        "{}",
        table.stdout_text()
    );
    Ok(())
}

/// Opens many files at full speed and insists that each time is either stored
/// or counted as lost; returns how many were lost.
fn open_and_account(fixture: &Fixture, name: &str, opens: u64) -> Result<u64> {
    let row = || -> Result<NodeRow> {
        let rows = fixture.fleet.ctl.nodes()?;
        let row = rows.into_iter().find(|row| row.name == name);
        row.context("the node is in the list")
    };
    let machine = &fixture.fleet.node(name).machine;
    let files = FILES.to_string();
    let guest = |arguments: &[&str]| {
        let command = machine.command("/usr/lib/shrike/guest");
        let ran = command.args(arguments.iter().copied());
        ran.timeout(BURST_TIMEOUT).run()
    };
    guest(&["plant", "--count", &files])?;
    fixture.fleet.settle(BURST_TIMEOUT)?;
    let filters = ["--node", name, "--kind", "open", "--path", TREE];
    let (before, counted_before) = (row()?, fixture.fleet.ctl.count_events(&filters)?);
    let opens_text = opens.to_string();
    let ran = guest(&["work", "burst", "--count", &opens_text, "--files", &files])?;
    ensure!(
        ran.outcome == Outcome::SUCCESS,
        "the load: {}",
        ran.stderr_text()
    );
    fixture.fleet.settle(BURST_TIMEOUT)?;
    let after = row()?;

    let seen = after.seen - before.seen;
    let lost = after.lost + after.lost_by_agent - before.lost - before.lost_by_agent;
    let stored = after.stored - before.stored;
    let filtered = after.filtered - before.filtered;
    eprintln!(
        "{name}: {}; seen {seen} = stored {stored} + lost {lost} + filtered {filtered}",
        ran.stdout_text().trim()
    );
    ensure!(seen >= opens, "{name} saw only {seen} of {opens} opens");
    ensure!(
        seen == stored + lost + filtered,
        "{name}: seen {seen}, stored {stored}, lost {lost}, filtered {filtered}"
    );
    let counted = fixture.fleet.ctl.count_events(&filters)? - counted_before;
    ensure!(
        counted + lost >= opens,
        "{name}: {counted} opens in the store and {lost} lost are less than {opens}"
    );
    Ok(lost)
}
