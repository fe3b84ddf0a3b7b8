//! The demo's steps, in order; each says what it saw or fails.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{POLICY, heading, trace};
use crate::fleet::{Fleet, Local, Node, poll};
use crate::vm::Outcome;

/// An event reaches the store in well under a second; emulated kernels and a
/// busy machine get more.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(60);

/// Lines of live events that are shown for each node.
const LINES_SHOWN: usize = 6;

/// Runs all steps and collects what was observed.
pub(super) fn run(fleet: &Fleet, seen: &mut Vec<String>) -> Result<()> {
    watch_live(fleet, seen)?;
    before_the_push(fleet, seen)?;
    push(fleet, seen)?;
    break_the_policy(fleet, seen)?;
    show_receipts(fleet, seen)?;
    show_trace(fleet, seen)?;
    delete(fleet, seen)?;
    account(fleet, seen)
}

fn watch_live(fleet: &Fleet, seen: &mut Vec<String>) -> Result<()> {
    heading("live events:  shrikectl events --follow");
    let tail = fleet.ctl.command(&["events", "--follow", "-o", "compact"]);
    let tail = Local::start(&tail, &fleet.folder().join("tail.log"))?;
    let marks: Vec<String> = fleet
        .nodes
        .iter()
        .map(|node| format!("/tmp/hello-from-{}", node.name()))
        .collect();
    // A tail shows what arrives after it was opened; so the work is repeated
    // until it is seen.
    let shown = poll(ARRIVAL_TIMEOUT, || {
        for (node, mark) in fleet.nodes.iter().zip(&marks) {
            node.machine.shell(&format!(
                "echo hello > {mark}; cat {mark} /etc/debian_version; ls /usr/share >/dev/null"
            ))?;
        }
        let said = tail.said();
        Ok(marks.iter().all(|mark| said.contains(mark)).then_some(said))
    });
    let said = shown.with_context(|| {
        format!(
            "the tail shows no events of both nodes; it shows:\n{}",
            tail.said()
        )
    })?;
    drop(tail);
    for (node, mark) in fleet.nodes.iter().zip(&marks) {
        let lines = said.lines().filter(|line| line.contains(node.name()));
        // Not the script that was handed to the shell, nor its way along PATH.
        let interesting = |line: &&str| {
            (line.contains(&**mark) || line.contains("debian_version"))
                && !line.contains("sh -c")
                && !line.contains("ENOENT")
        };
        for line in lines.filter(interesting).take(LINES_SHOWN) {
            println!("  {line}");
        }
    }
    seen.push("live events from both nodes".to_owned());
    Ok(())
}

fn before_the_push(fleet: &Fleet, seen: &mut Vec<String>) -> Result<()> {
    heading("before the push: everything is allowed");
    for node in &fleet.nodes {
        node.machine
            .shell("mkdir -p /srv/vault && echo 'the key' > /srv/vault/key")?;
        expect(node, "cat /srv/vault/key", Outcome::SUCCESS)?;
        expect(node, "nc -h", Outcome::SUCCESS)?;
    }
    seen.push("before the push, cat reads the vault and netcat runs, on both nodes".to_owned());
    Ok(())
}

fn push(fleet: &Fleet, seen: &mut Vec<String>) -> Result<()> {
    heading("the push:  shrikectl policy push protect-vault.yaml");
    let file = fleet.folder().join("protect-vault.yaml");
    std::fs::write(&file, POLICY)?;
    for line in POLICY.lines().filter(|line| !line.starts_with('#')) {
        println!("  | {line}");
    }
    println!();
    let ran = fleet
        .ctl
        .run(&["policy", "push", &file.display().to_string()])?;
    for line in ran.stdout.lines().chain(ran.stderr.lines()) {
        println!("  {line}");
    }
    ensure!(ran.code == Some(0), "the push ended with {:?}", ran.code);
    let nodes = fleet.ctl.nodes()?;
    for node in &fleet.nodes {
        let row = nodes.iter().find(|row| row.name == node.name());
        let row = row.context("a node is missing from the list")?;
        ensure!(
            row.applied_generation > 0 && row.applied_generation == row.desired_generation,
            "{} enforces generation {}, not {}",
            row.name,
            row.applied_generation,
            row.desired_generation
        );
    }
    seen.push("the push reached both kernels' maps, and both nodes confirmed it".to_owned());
    Ok(())
}

fn break_the_policy(fleet: &Fleet, seen: &mut Vec<String>) -> Result<()> {
    heading("after the push: the policy is broken");
    for node in &fleet.nodes {
        expect(node, "cat /srv/vault/key", Outcome::Signal(9))?;
        expect(node, "nc -h", Outcome::Signal(9))?;
        expect(node, "sha256sum /srv/vault/key", Outcome::SUCCESS)?;
        expect(node, "cat /etc/debian_version", Outcome::SUCCESS)?;
    }
    seen.push("cat of the vault and netcat are dead by signal 9 on both kernels".to_owned());
    seen.push("the exception and everything else live".to_owned());
    Ok(())
}

fn show_receipts(fleet: &Fleet, seen: &mut Vec<String>) -> Result<()> {
    heading("the receipts:  shrikectl events --verdict kill, and the exits");
    for node in &fleet.nodes {
        for rule in ["vault", "no-netcat"] {
            let (verdict, exit) = poll(ARRIVAL_TIMEOUT, || receipt(fleet, node, rule))
                .with_context(|| format!("no receipt of {rule} from {}", node.name()))?;
            println!(
                "  {}: asked: kill by {}/{rule} (generation {}); signal result: {}; came of it: \
                 exit by signal {} of pid {}",
                node.name(),
                verdict["verdict"]["policy"].as_str().unwrap_or("?"),
                verdict["generation"],
                verdict["verdict"]["signal_result"],
                exit["exit"]["signal"],
                exit["process"]["pid"],
            );
        }
    }
    seen.push("each kill has its receipt: asked, signal result 0, exit by signal 9".to_owned());
    Ok(())
}

/// The event with a rule's kill verdict, and the exit that it led to.
fn receipt(fleet: &Fleet, node: &Node, rule: &str) -> Result<Option<(Value, Value)>> {
    let killed = fleet
        .ctl
        .events(&["--node", node.name(), "--verdict", "kill"])?;
    let verdict = killed.into_iter().rev().find(|event| {
        event["verdict"]["rule"] == rule && event["verdict"]["outcome"] == "signal-sent"
    });
    let Some(verdict) = verdict else {
        return Ok(None);
    };
    let exits = fleet
        .ctl
        .events(&["--node", node.name(), "--kind", "exit"])?;
    let exit = exits.into_iter().find(|exit| {
        exit["process"]["pid"] == verdict["process"]["pid"]
            && exit["process"]["start_boot_ns"] == verdict["process"]["start_boot_ns"]
    });
    let Some(exit) = exit else { return Ok(None) };
    ensure!(
        exit["exit"]["signal"] == 9 && exit["exit"]["receipt"]["died_by_it"] == true,
        "the exit after the kill is {exit}"
    );
    Ok(Some((verdict, exit)))
}

fn show_trace(fleet: &Fleet, seen: &mut Vec<String>) -> Result<()> {
    heading("the push as one OpenTelemetry trace, as rotel received it");
    let complete = poll(ARRIVAL_TIMEOUT, || {
        Ok(trace::of_the_push(&fleet.receiver.spans()))
    });
    let spans = complete.with_context(|| {
        let spans = fleet.receiver.spans();
        format!("the receiver has no whole trace of the push; it has {spans:#?}")
    })?;
    for line in trace::tree(&spans) {
        println!("  {line}");
    }
    seen.push(format!(
        "the push is one trace of {} spans: CLI, collector, both agents' map writes",
        spans.len()
    ));
    Ok(())
}

fn delete(fleet: &Fleet, seen: &mut Vec<String>) -> Result<()> {
    heading("the deletion:  shrikectl policy delete protect-vault");
    let ran = fleet.ctl.run(&["policy", "delete", "protect-vault"])?;
    for line in ran.stdout.lines().chain(ran.stderr.lines()) {
        println!("  {line}");
    }
    ensure!(
        ran.code == Some(0),
        "the deletion ended with {:?}",
        ran.code
    );
    poll(ARRIVAL_TIMEOUT, || {
        let nodes = fleet.ctl.nodes()?;
        let settled = nodes
            .iter()
            .all(|row| row.applied_generation == row.desired_generation);
        Ok(settled.then_some(()))
    })
    .context("the deletion does not reach both nodes")?;
    for node in &fleet.nodes {
        expect(node, "cat /srv/vault/key", Outcome::SUCCESS)?;
        expect(node, "nc -h", Outcome::SUCCESS)?;
    }
    seen.push("after the deletion the same programs live again, on both nodes".to_owned());
    Ok(())
}

fn account(fleet: &Fleet, seen: &mut Vec<String>) -> Result<()> {
    heading("the ledger:  shrikectl nodes");
    fleet.settle(ARRIVAL_TIMEOUT)?;
    for line in fleet.ctl.insist(&["nodes"])?.stdout.lines() {
        println!("  {line}");
    }
    for row in fleet.ctl.nodes()? {
        // The two reports are a moment apart on a live node: what is asked is
        // that nothing is missing, not that nothing happened meanwhile.
        ensure!(
            row.seen == row.filtered + row.lost + row.sequenced,
            "{}: seen {} is not filtered {} + lost {} + sequenced {}",
            row.name,
            row.seen,
            row.filtered,
            row.lost,
            row.sequenced
        );
        ensure!(row.stored > 0, "{} has stored nothing", row.name);
    }
    seen.push("every event is accounted for on both nodes".to_owned());
    Ok(())
}

/// Runs a command on a node and insists on how it ends.
fn expect(node: &Node, command: &str, outcome: Outcome) -> Result<()> {
    let words: Vec<&str> = command.split(' ').collect();
    let [program, arguments @ ..] = &words[..] else {
        bail!("an empty command");
    };
    let ran = node
        .machine
        .command(program)
        .args(arguments.iter().copied())
        .run()?;
    let fate = match ran.outcome {
        Outcome::Code(0) => "lives".to_owned(),
        Outcome::Code(code) => format!("exits with {code}"),
        Outcome::Signal(signal) => format!("is dead by signal {signal}"),
    };
    println!("  {}:  {command:<28} {fate}", node.name());
    ensure!(
        ran.outcome == outcome,
        "on {} `{command}` {fate}, expected {outcome:?}; {}{}",
        node.name(),
        ran.stdout_text(),
        ran.stderr_text()
    );
    Ok(())
}
