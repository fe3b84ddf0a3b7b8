//! Faults at random moments while every node works, round after round; after
//! each, everything is stored once and the ledger's equation holds.
//!
//! A round is a workload whose every open is known, and some faults: agents and
//! collector are killed or stopped, clocks are set. The seed is printed, and
//! makes the same faults again; what they hit is the machines' business.

use std::collections::BTreeSet;
use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::fleet::{Fleet, NodeRow, poll};
use crate::random::Random;

/// Opens of one node in a round.
const OPENS: usize = 200;

/// An emulated machine on a busy host.
const WORK_TIMEOUT: Duration = Duration::from_secs(240);

const RECONNECT_TIMEOUT: Duration = Duration::from_secs(120);

/// What happens to a fleet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fault {
    /// Kills a node's agent (SIGKILL), and starts another.
    KillAgent(usize),
    /// Stops a node's agent in order, and starts another.
    RestartAgent(usize),
    /// Kills the collector (SIGKILL), and starts it again.
    KillCollector,
    /// Stops the collector for so many seconds.
    StopCollector(u64),
    /// Sets a node's clock by so many hours, and back.
    SetClock(usize, i64),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KillAgent(node) => write!(f, "agent {node} is killed"),
            Self::RestartAgent(node) => write!(f, "agent {node} is restarted"),
            Self::KillCollector => f.write_str("the collector is killed"),
            Self::StopCollector(seconds) => write!(f, "the collector is away for {seconds} s"),
            Self::SetClock(node, hours) => write!(f, "the clock of {node} is set by {hours} h"),
        }
    }
}

impl Fault {
    fn random(random: &mut Random, nodes: usize) -> Self {
        let node = random.below(nodes);
        match random.below(5) {
            0 => Self::KillAgent(node),
            1 => Self::RestartAgent(node),
            2 => Self::KillCollector,
            3 => Self::StopCollector(1 + random.below(5) as u64),
            _ => Self::SetClock(node, random.one_of(&[1, 2, 5])),
        }
    }

    fn happen(self, fleet: &mut Fleet) -> Result<()> {
        match self {
            Self::KillAgent(node) => {
                let node = &mut fleet.nodes[node];
                node.kill_agent()?;
                node.start_agent()
            }
            Self::RestartAgent(node) => {
                let node = &mut fleet.nodes[node];
                node.stop_agent()?;
                node.start_agent()
            }
            Self::KillCollector => {
                fleet.collector.kill()?;
                fleet.collector.resume()
            }
            Self::StopCollector(seconds) => {
                fleet.collector.stop()?;
                thread::sleep(Duration::from_secs(seconds));
                fleet.collector.resume()
            }
            Self::SetClock(node, hours) => {
                let machine = &fleet.nodes[node].machine;
                machine.shell(&format!("date --set '+{hours} hours'"))?;
                thread::sleep(Duration::from_secs(2));
                machine.shell(&format!("date --set '-{hours} hours'"))?;
                Ok(())
            }
        }
    }
}

/// Plays one round on a fleet that is connected. `say` is told each fault.
///
/// # Errors
/// When something that happened is not stored once, or a ledger does not add
/// up; or when a part of the fleet does not come back.
pub fn round(
    fleet: &mut Fleet,
    random: &mut Random,
    name: &str,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    fleet.settle(WORK_TIMEOUT)?;
    let before = fleet.ctl.nodes()?;
    let script = format!(
        "for n in $(seq 1 {OPENS}); do : > /tmp/{name}-$n; [ $((n % 10)) = 0 ] && sleep 0.2; done; true"
    );
    let jobs = fleet
        .nodes
        .iter()
        .map(|node| node.machine.command("sh").args(["-c", &script]).spawn())
        .collect::<Result<Vec<_>>>()?;
    for _ in 0..=random.below(3) {
        thread::sleep(Duration::from_millis(random.below(2000) as u64));
        let fault = Fault::random(random, fleet.nodes.len());
        say(&fault.to_string());
        fault.happen(fleet).with_context(|| fault.to_string())?;
    }
    for job in jobs {
        job.wait(WORK_TIMEOUT)?;
    }
    fleet.wait_until_connected(RECONNECT_TIMEOUT)?;
    let expected: BTreeSet<String> = (1..=OPENS).map(|n| format!("/tmp/{name}-{n}")).collect();
    for node in &fleet.nodes {
        each_once(fleet, node.name(), &format!("/tmp/{name}-"), &expected)?;
    }
    fleet.settle(WORK_TIMEOUT)?;
    for row in fleet.ctl.nodes()? {
        row.lost_nothing_since(&before)?;
    }
    hours_add_up(fleet)
}

fn each_once(fleet: &Fleet, node: &str, prefix: &str, expected: &BTreeSet<String>) -> Result<()> {
    let filters = ["--node", node, "--kind", "open", "--path", prefix];
    let mut paths = Vec::new();
    let arrived = poll(WORK_TIMEOUT, || {
        paths = fleet
            .ctl
            .events(&filters)?
            .iter()
            .filter_map(|event| event["open"]["file"]["path"].as_str())
            .map(str::to_owned)
            .collect();
        Ok((paths.len() >= expected.len()).then_some(()))
    });
    let found: BTreeSet<String> = paths.iter().cloned().collect();
    let missing: Vec<_> = expected.difference(&found).take(5).collect();
    arrived.with_context(|| format!("{node} lacks {missing:?} and maybe more"))?;
    ensure!(
        found == *expected && paths.len() == expected.len(),
        "{node} has {} opens of {} files; missing {missing:?}",
        paths.len(),
        found.len()
    );
    Ok(())
}

/// Insists that the hours of each node's epoch add up to its ledger, on a fleet
/// that rests.
///
/// # Errors
/// When they do not.
pub fn hours_add_up(fleet: &Fleet) -> Result<()> {
    for node in &fleet.nodes {
        let name = node.name();
        // The agent's own opens go on, so the sum is looked at on either side.
        let before = hours(fleet, name)?;
        let shown = fleet.ctl.insist(&["nodes", "show", name, "-o", "json"])?;
        let shown: Value = serde_json::from_str(&shown.stdout)?;
        let after = hours(fleet, name)?;
        let sum = |hours: &[Value], field: &str| -> u64 {
            hours
                .iter()
                .filter(|hour| hour["epoch"] == shown["epoch"])
                .filter_map(|hour| hour[field].as_u64())
                .sum()
        };
        for (field, total) in [
            ("seen", &shown["ledger"]["seen"]),
            ("filtered", &shown["ledger"]["filtered"]),
            ("sequenced", &shown["ledger"]["sequenced"]),
            ("stored", &shown["stored"]),
        ] {
            let total = total.as_u64().unwrap_or(0);
            let (least, most) = (sum(&before, field), sum(&after, field));
            ensure!(
                least <= total && total <= most && (field != "stored" || least == most),
                "{name}: {field} of its hours is {least} to {most}, and in all {total}: {after:?}"
            );
        }
        let is_sound =
            |hour: &Value| hour["in_flight"] == 0 && hour["unaccounted"].as_i64() >= Some(0);
        ensure!(after.iter().all(is_sound), "{name}: {after:?}");
    }
    Ok(())
}

fn hours(fleet: &Fleet, node: &str) -> Result<Vec<Value>> {
    let told = fleet
        .ctl
        .insist(&["ledger", "--node", node, "--since", "9d", "-o", "json"])?;
    let hours = told.stdout.lines().map(serde_json::from_str);
    Ok(hours.collect::<Result<_, _>>()?)
}

impl NodeRow {
    /// Insists that everything that the node's hooks saw since then is stored or
    /// was left out: its epoch goes on over its agents, and so do the counts.
    ///
    /// # Errors
    /// When something was lost, or the ledger does not add up.
    pub fn lost_nothing_since(&self, before: &[Self]) -> Result<()> {
        let before = before.iter().find(|row| row.name == self.name);
        let before = before.context("the node was in the list")?;
        let is_balanced = self.seen - before.seen
            == (self.filtered - before.filtered) + (self.stored - before.stored);
        ensure!(
            is_balanced && (self.lost, self.lost_by_agent) == (before.lost, before.lost_by_agent),
            "{}: the ledger does not add up: {self:?} after {before:?}",
            self.name
        );
        Ok(())
    }
}

/// Plays rounds on a fleet of its own until the time is over.
///
/// # Errors
/// As [`round`]; the seed and the round are in the message.
pub fn run(
    fleet: &mut Fleet,
    seed: u64,
    duration: Duration,
    say: &mut dyn FnMut(&str),
) -> Result<u32> {
    let until = Instant::now() + duration;
    let mut random = Random::new(seed);
    let mut rounds = 0;
    while Instant::now() < until {
        rounds += 1;
        round(
            fleet,
            &mut random,
            &format!("soak-{rounds}"),
            &mut |fault| {
                say(&format!("round {rounds}: {fault}"));
            },
        )
        .with_context(|| format!("round {rounds} of seed {seed}"))?;
        say(&format!("round {rounds}: everything is there once"));
    }
    Ok(rounds)
}
