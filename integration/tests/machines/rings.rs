//! Two rings: what is worth most has one of its own.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shrike_integration::setup::Kernel;
use shrike_integration::vm::{Machine, Outcome, Spec};

use super::Claim;
use super::fixture::{Fixture, wait_until_ready};

pub const CLAIMS: &[Claim] = &[Claim(
    "a_flood_of_opens_costs_neither_an_exec_nor_a_verdict",
    flood,
)];

const TIMEOUT: Duration = Duration::from_secs(180);

/// SIGTERM.
const TERMINATE: i32 = 15;

/// SIGKILL.
const KILL: i32 = 9;

/// Execs of `true`, and opens of the file that a rule names.
const ROUNDS: usize = 50;

fn flood(fixture: &mut Fixture) -> Result<()> {
    for kernel in Kernel::ALL {
        let spec =
            Spec::new("flood", kernel).program(&fixture.binaries.agent, "/usr/bin/shrike-agent");
        let machine = Machine::boot(&fixture.layout, &fixture.binaries.guest, spec)?;
        machine.shell("mkdir -p /srv/claim && echo secret > /srv/claim/key")?;
        machine.write(
            "/tmp/policy.yaml",
            0o644,
            b"apiVersion: shrike/v1\nkind: Policy\nmetadata: {name: flood}\nspec:\n  mode: \
              enforce\n  rules:\n    - {name: key, on: open, paths: [/srv/claim/key], action: \
              alert}\n",
        )?;
        let guest = "/usr/lib/shrike/guest";
        let planted = machine.command(guest).args(["plant", "--count", "10000"]);
        planted.timeout(TIMEOUT).run()?;
        let watch = machine
            .command("shrike-agent")
            .args(["watch", "--policy", "/tmp/policy.yaml", "-o", "json"])
            // The smallest ring that there is, for opens alone.
            .args(["--opens", "all", "--ring-bytes", "65536"])
            .spawn()?;
        wait_until_ready(&watch)?;
        let opens = machine
            .command(guest)
            // More than it will get to.
            .args(["work", "burst", "--count", "100000000", "--files", "10000"])
            .spawn()?;
        machine.shell(&format!(
            "for i in $(seq {ROUNDS}); do /usr/bin/true; cat /srv/claim/key; done"
        ))?;
        ensure!(
            !opens.has_ended(),
            "{kernel}: the flood was over: the claim proves nothing"
        );
        opens.signal(KILL)?;
        opens.wait(TIMEOUT)?;
        watch.signal(TERMINATE)?;
        let finished = watch.wait(TIMEOUT)?;
        ensure!(
            finished.outcome == Outcome::SUCCESS,
            "watch: {:?}",
            finished.outcome
        );
        let summary = finished.stderr_text();
        ensure!(
            summary.contains("\nlost kernel-ring-full: ") && !summary.contains("unaccounted"),
            "{kernel}: the opens' ring was not too small, or a loss is not counted:\n{summary}"
        );
        judge(&finished.stdout_text()).with_context(|| format!("{kernel}:\n{summary}"))?;
    }
    Ok(())
}

fn judge(printed: &str) -> Result<()> {
    let (mut execs, mut verdicts) = (0, 0);
    let mut exited = HashSet::new();
    for line in printed.lines() {
        let event: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        execs += usize::from(event["exec"]["file"]["path"] == "/usr/bin/true");
        verdicts += usize::from(event["verdict"]["rule"] == "key");
        let process = (
            event["process"]["pid"].as_u64().context("a process")?,
            event["process"]["start_boot_ns"].as_u64(),
        );
        // Its opens came out of the other ring.
        ensure!(
            !exited.contains(&process),
            "a process did something after its exit: {line}"
        );
        if event["kind"] == "exit" && event["process"]["tid"] == process.0 {
            exited.insert(process);
        }
    }
    ensure!(
        execs == ROUNDS && verdicts == ROUNDS,
        "{execs} execs and {verdicts} verdicts of {ROUNDS} each"
    );
    ensure!(!exited.is_empty(), "no process has exited");
    Ok(())
}
