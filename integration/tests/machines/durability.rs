//! Acknowledged means durable: collectors and agents that stop and crash.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shrike_integration::random::Random;
use shrike_integration::soak;

use super::Claim;
use super::fixture::{ARRIVAL_TIMEOUT, Fixture, RECONNECT_TIMEOUT, wait_until_said};

pub const CLAIMS: &[Claim] = &[
    Claim("a_stopped_and_restarted_collector_loses_nothing", stopped),
    Claim("a_crashed_collector_loses_and_doubles_nothing", crashed),
    Claim(
        "a_policy_stays_in_force_while_the_collector_is_away",
        enforcement_goes_on,
    ),
    Claim("a_restarted_agent_goes_on_where_it_was", restarted_agent),
    Claim(
        "a_killed_agent_in_the_middle_of_a_burst_loses_and_doubles_nothing",
        killed_in_a_burst,
    ),
    Claim(
        "a_killed_agent_keeps_what_no_collector_has_taken_yet",
        killed_without_a_collector,
    ),
    Claim(
        "each_hour_of_the_ledger_adds_up_also_when_the_clock_is_set",
        hours_add_up,
    ),
    Claim(
        "rounds_of_random_faults_lose_and_double_nothing",
        random_faults,
    ),
    Claim(
        "a_spool_on_a_frozen_file_system_holds_up_nothing_and_loses_nothing",
        frozen,
    ),
];

/// `cargo xtask soak` plays more of them.
const ROUNDS: usize = 3;

/// From one seed the same faults.
const SEED: u64 = 4;

const FILES: usize = 300;

/// Touches numbered files on every node.
fn touch(fixture: &Fixture, mark: &str, numbers: std::ops::Range<usize>) -> Result<()> {
    for node in &fixture.fleet.nodes {
        node.machine.shell(&format!(
            "for n in $(seq {} {}); do : > /tmp/{mark}-$n; done",
            numbers.start,
            numbers.end - 1
        ))?;
    }
    Ok(())
}

/// Insists that each of the numbered files was opened exactly once.
fn each_once(fixture: &Fixture, mark: &str) -> Result<()> {
    let prefix = format!("/tmp/{mark}-");
    let expected: BTreeSet<String> = (0..FILES).map(|n| format!("{prefix}{n}")).collect();
    for node in &fixture.fleet.nodes {
        let filters = ["--node", node.name(), "--kind", "open", "--path", &prefix];
        let paths = fixture.wait_for_events(&filters, |events| {
            let paths: Vec<String> = events
                .iter()
                .filter_map(|event: &Value| event["open"]["file"]["path"].as_str())
                .map(str::to_owned)
                .collect();
            (paths.len() >= FILES).then_some(paths)
        })?;
        ensure!(
            paths.len() == FILES,
            "{} has {} opens",
            node.name(),
            paths.len()
        );
        let found: BTreeSet<String> = paths.into_iter().collect();
        ensure!(
            found == expected,
            "{} has other opens than were made",
            node.name()
        );
    }
    Ok(())
}

fn stopped(fixture: &mut Fixture) -> Result<()> {
    touch(fixture, "claim-stop", 0..100)?;
    fixture.fleet.collector.stop()?;
    touch(fixture, "claim-stop", 100..200)?;
    fixture.fleet.collector.resume()?;
    fixture.fleet.wait_until_connected(RECONNECT_TIMEOUT)?;
    touch(fixture, "claim-stop", 200..FILES)?;
    each_once(fixture, "claim-stop")
}

fn crashed(fixture: &mut Fixture) -> Result<()> {
    touch(fixture, "claim-crash", 0..100)?;
    fixture.fleet.collector.kill()?;
    touch(fixture, "claim-crash", 100..200)?;
    fixture.fleet.collector.resume()?;
    touch(fixture, "claim-crash", 200..250)?;
    fixture.fleet.collector.kill()?;
    fixture.fleet.collector.resume()?;
    fixture.fleet.wait_until_connected(RECONNECT_TIMEOUT)?;
    touch(fixture, "claim-crash", 250..FILES)?;
    each_once(fixture, "claim-crash")
}

fn enforcement_goes_on(fixture: &mut Fixture) -> Result<()> {
    use shrike_integration::vm::Outcome;
    fixture.push(
        "apiVersion: shrike/v1\nkind: Policy\nmetadata: {name: lasting}\nspec:\n  mode: enforce\n  \
         rules:\n    - {name: netcat, on: exec, comm: [nc], action: kill}\n",
    )?;
    fixture.fleet.collector.stop()?;
    for node in &fixture.fleet.nodes {
        super::fixture::insist(&node.machine, &["nc", "-h"], Outcome::Signal(9))?;
    }
    fixture.fleet.collector.resume()?;
    fixture.fleet.wait_until_connected(RECONNECT_TIMEOUT)?;
    // The book came back with the collector: the same generation is in force.
    fixture.wait_until_applied()?;
    for node in &fixture.fleet.nodes {
        super::fixture::insist(&node.machine, &["nc", "-h"], Outcome::Signal(9))?;
        let filters = ["--node", node.name(), "--verdict", "kill"];
        fixture.wait_for_events(&filters, |events| {
            let ours = events
                .iter()
                .filter(|event| event["verdict"]["policy"] == "lasting");
            (ours.count() >= 2).then_some(())
        })?;
    }
    Ok(())
}

fn restarted_agent(fixture: &mut Fixture) -> Result<()> {
    touch(fixture, "claim-agent", 0..200)?;
    for node in &mut fixture.fleet.nodes {
        let finished = node.stop_agent()?;
        let said = finished.stderr_text();
        ensure!(!said.contains("panicked"), "the agent panicked:\n{said}");
        node.start_agent()?;
    }
    fixture.fleet.wait_until_connected(RECONNECT_TIMEOUT)?;
    touch(fixture, "claim-agent", 200..FILES)?;
    each_once(fixture, "claim-agent")?;
    fixture
        .fleet
        .settle(ARRIVAL_TIMEOUT)
        .context("after the agents' restart")
}

fn killed_in_a_burst(fixture: &mut Fixture) -> Result<()> {
    fixture.fleet.settle(ARRIVAL_TIMEOUT)?;
    let balance = fixture.fleet.ctl.nodes()?;
    let script = format!(
        "for n in $(seq 0 {}); do : > /tmp/claim-burst-$n; done",
        FILES - 1
    );
    let jobs = fixture
        .fleet
        .nodes
        .iter()
        .map(|node| node.machine.command("sh").args(["-c", &script]).spawn())
        .collect::<Result<Vec<_>>>()?;
    for _ in 0..3 {
        for node in &mut fixture.fleet.nodes {
            wait_until_said(node, "ready")?;
            node.kill_agent()?;
            node.start_agent()?;
        }
    }
    for job in jobs {
        job.wait(ARRIVAL_TIMEOUT)?;
    }
    fixture.fleet.wait_until_connected(RECONNECT_TIMEOUT)?;
    each_once(fixture, "claim-burst")?;
    fixture.fleet.settle(ARRIVAL_TIMEOUT)?;
    for row in fixture.fleet.ctl.nodes()? {
        row.lost_nothing_since(&balance)?;
    }
    Ok(())
}

fn killed_without_a_collector(fixture: &mut Fixture) -> Result<()> {
    fixture.fleet.collector.stop()?;
    touch(fixture, "claim-alone", 0..200)?;
    for node in &mut fixture.fleet.nodes {
        // Until the rings are empty.
        std::thread::sleep(std::time::Duration::from_secs(2));
        node.kill_agent()?;
        let inspected = node.machine.shell("shrike-agent spool inspect --events")?;
        ensure!(
            inspected.contains("/tmp/claim-alone-0") && inspected.contains("/tmp/claim-alone-199"),
            "{}: the spool lacks what was opened:\n{inspected}",
            node.name()
        );
        node.start_agent()?;
        wait_until_said(node, "the spool's epoch goes on")?;
    }
    touch(fixture, "claim-alone", 200..FILES)?;
    fixture.fleet.collector.resume()?;
    fixture.fleet.wait_until_connected(RECONNECT_TIMEOUT)?;
    each_once(fixture, "claim-alone")?;
    fixture.fleet.settle(ARRIVAL_TIMEOUT)
}

fn hours_add_up(fixture: &mut Fixture) -> Result<()> {
    /// Long enough for a ledger to be told.
    const TOLD: std::time::Duration = std::time::Duration::from_secs(3);
    touch(fixture, "claim-hours", 0..100)?;
    std::thread::sleep(TOLD);
    for (set, numbers) in [("+2 hours", 100..200), ("-2 hours", 200..FILES)] {
        for node in &fixture.fleet.nodes {
            node.machine.shell(&format!("date --set '{set}'"))?;
        }
        touch(fixture, "claim-hours", numbers)?;
        std::thread::sleep(TOLD);
    }
    each_once(fixture, "claim-hours")?;
    fixture.fleet.settle(ARRIVAL_TIMEOUT)?;
    soak::hours_add_up(&fixture.fleet)?;
    let ctl = &fixture.fleet.ctl;
    for node in &fixture.fleet.nodes {
        let hours = ctl.insist(&["ledger", "--node", node.name(), "-o", "json"])?;
        let mut with_events = BTreeSet::new();
        for line in hours.stdout.lines() {
            let hour: Value = serde_json::from_str(line)?;
            if hour["stored"].as_u64() >= Some(100) {
                with_events.insert(hour["hour"].to_string());
            }
        }
        ensure!(with_events.len() >= 2, "{}", hours.stdout);
    }
    let said = ctl.insist(&["ledger", "--since", "1h"])?;
    ensure!(
        said.stdout.starts_with("HOUR (UTC)") && said.stderr.contains("hour"),
        "{}{}",
        said.stdout,
        said.stderr
    );
    Ok(())
}

fn random_faults(fixture: &mut Fixture) -> Result<()> {
    let mut random = Random::new(SEED);
    for number in 1..=ROUNDS {
        soak::round(
            &mut fixture.fleet,
            &mut random,
            &format!("claim-round-{number}"),
            &mut |fault| eprintln!("round {number} of seed {SEED}: {fault}"),
        )
        .with_context(|| format!("round {number} of seed {SEED}"))?;
    }
    Ok(())
}

/// Puts a file system of its own where the spool is.
const MOUNT_SPOOL: &str = "\
truncate -s 64M /srv/spool.img && mkfs.ext4 -q /srv/spool.img && \
mkdir -p /var/lib/shrike-agent/spool && mount -o loop /srv/spool.img /var/lib/shrike-agent/spool";

const UNMOUNT_SPOOL: &str = "umount /var/lib/shrike-agent/spool && rm /srv/spool.img";

fn frozen(fixture: &mut Fixture) -> Result<()> {
    for node in &mut fixture.fleet.nodes {
        node.stop_agent()?;
        node.machine.shell(MOUNT_SPOOL)?;
        node.start_agent()?;
    }
    fixture.fleet.wait_until_connected(RECONNECT_TIMEOUT)?;
    touch(fixture, "claim-frozen", 0..100)?;
    fixture.fleet.settle(ARRIVAL_TIMEOUT)?;
    let balance = fixture.fleet.ctl.nodes()?;
    for node in &fixture.fleet.nodes {
        node.machine
            .shell("fsfreeze -f /var/lib/shrike-agent/spool")?;
    }
    let seen = while_frozen(fixture);
    // Whatever was seen: nothing else may find the file system frozen.
    for node in &fixture.fleet.nodes {
        node.machine
            .shell("fsfreeze -u /var/lib/shrike-agent/spool")?;
    }
    seen?;
    for node in &fixture.fleet.nodes {
        wait_until_said(node, "the spool is written again")?;
    }
    touch(fixture, "claim-frozen", 200..FILES)?;
    each_once(fixture, "claim-frozen")?;
    fixture.fleet.settle(ARRIVAL_TIMEOUT)?;
    for row in fixture.fleet.ctl.nodes()? {
        row.lost_nothing_since(&balance)?;
    }
    for node in &mut fixture.fleet.nodes {
        let said = node.agent_said();
        let times = said
            .matches("the disk with the spool does not answer")
            .count();
        ensure!(times == 1, "{} says it {times} times:\n{said}", node.name());
        node.stop_agent()?;
        node.machine.shell(UNMOUNT_SPOOL)?;
        node.start_agent()?;
    }
    Ok(())
}

/// Opens, a push, an exec and a kill, all of which arrive.
fn while_frozen(fixture: &Fixture) -> Result<()> {
    use shrike_integration::vm::Outcome;
    touch(fixture, "claim-frozen", 100..200)?;
    for node in &fixture.fleet.nodes {
        let filters = ["--node", node.name(), "--path", "/tmp/claim-frozen-"];
        fixture.wait_for_events(&filters, |events| (events.len() >= 200).then_some(()))?;
    }
    fixture.push(
        "apiVersion: shrike/v1\nkind: Policy\nmetadata: {name: unfrozen}\nspec:\n  mode: enforce\n  \
         rules:\n    - {name: netcat, on: exec, comm: [nc], action: kill}\n",
    )?;
    for node in &fixture.fleet.nodes {
        super::fixture::insist(&node.machine, &["nc", "-h"], Outcome::Signal(9))?;
        let filters = ["--node", node.name(), "--verdict", "kill"];
        fixture.wait_for_events(&filters, |events| {
            events
                .iter()
                .any(|event| event["verdict"]["policy"] == "unfrozen")
                .then_some(())
        })?;
    }
    Ok(())
}
