//! Making every attempt in a machine.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::attempt::OPENED;
use super::case::{Action, Setting};
use super::finding::Run;
use crate::build::Binaries;
use crate::layout::Layout;
use crate::setup::Kernel;
use crate::vm::{Finished, Job, Machine, Outcome, Spec};

const AGENT: &str = "/usr/bin/shrike-agent";
const GUEST: &str = "/usr/lib/shrike/guest";
const POLICY: &str = "/root/proof.yaml";
/// Appears when the policy is in force.
const IN_FORCE: &str = "/root/proof.in-force";

/// Programs are loaded and verified first, which an emulated processor takes
/// its time for.
const READY_TIMEOUT: Duration = Duration::from_secs(120);

/// All attempts take some ten seconds emulated; a busy host takes longer.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(180);

/// How a kernel's complaints begin.
const COMPLAINTS: [&str; 5] = [
    "BUG:",
    "Oops:",
    "WARNING:",
    "general protection fault",
    "rcu: INFO:",
];

/// Lines of a complaint, registers and call trace included.
const COMPLAINT_LINES: usize = 60;

/// SIGTERM.
const TERMINATE: i32 = 15;

/// Boots a machine to make attempts in.
///
/// # Errors
/// When it does not come up.
pub fn boot(layout: &Layout, binaries: &Binaries, kernel: Kernel) -> Result<Machine> {
    let name = format!("proof-{kernel}").replace('.', "-");
    let spec = Spec::new(&name, kernel).program(&binaries.agent, AGENT);
    Machine::boot(layout, &binaries.guest, spec)
}

/// Makes every attempt under one setting.
///
/// # Errors
/// When a part cannot be carried out; that an attempt ends otherwise than it
/// must is no error here. A kernel that complains is one, whatever else there
/// was: hooks that hurt it prove nothing.
pub fn run(machine: &Machine, setting: Setting) -> Result<Run> {
    let run = make_attempts(machine, setting);
    insist_on_health(machine)?;
    run
}

/// Looks for complaints of the kernel on the machine's console.
///
/// # Errors
/// When there is one; the error shows it.
pub fn insist_on_health(machine: &Machine) -> Result<()> {
    let console = machine.console();
    let lines: Vec<&str> = console.lines().collect();
    let first = lines
        .iter()
        .position(|line| COMPLAINTS.iter().any(|complaint| line.contains(complaint)));
    if let Some(first) = first {
        let end = lines.len().min(first + COMPLAINT_LINES);
        bail!(
            "the kernel of {} complains:\n{}",
            machine.name(),
            lines[first..end].join("\n")
        );
    }
    Ok(())
}

fn make_attempts(machine: &Machine, setting: Setting) -> Result<Run> {
    let before = lines(machine, &["prepare"])?;
    put_policy(machine, setting.action())?;
    machine.shell(&format!("rm -f {IN_FORCE}"))?;
    let attempts = machine
        .command(GUEST)
        .args(["proof", "attempt", "--after", IN_FORCE])
        .spawn()?;
    attempts.wait_for(READY_TIMEOUT, "opens files", |_, stderr| {
        let stderr = String::from_utf8_lossy(stderr);
        stderr.lines().any(|line| line == OPENED).then_some(())
    })?;
    let arguments = ["--attach", setting.attach(), "--opens", "all"];
    let watched = Watched::start(machine, &[&arguments[..], &["--policy", POLICY]].concat())?;
    machine.write(IN_FORCE, 0o644, &[])?;
    let attempts = said(machine, "attempt", &attempts.wait(ATTEMPT_TIMEOUT)?)?;
    Ok(Run {
        before,
        attempts: parse(&attempts)?,
        events: watched.finish()?,
        after: lines(machine, &["inspect"])?,
    })
}

/// What an agent says whose hooks cannot do what the rules ask for.
///
/// # Errors
/// When it starts all the same.
pub fn refusal(machine: &Machine, attach: &str, action: Action) -> Result<String> {
    put_policy(machine, action)?;
    let agent = watch(machine, &["--attach", attach, "--policy", POLICY])?;
    let finished = agent.wait(READY_TIMEOUT).context("it should refuse")?;
    match finished.outcome {
        Outcome::Code(code) if code != 0 => Ok(finished.stderr_text()),
        outcome => bail!("it ended with {outcome:?}:\n{}", finished.stderr_text()),
    }
}

/// An agent that watches a machine.
pub struct Watched(Job);

impl Watched {
    /// Starts it and waits until every hook is attached.
    ///
    /// # Errors
    /// When it ends before that.
    pub fn start(machine: &Machine, arguments: &[&str]) -> Result<Self> {
        let job = watch(machine, arguments)?;
        job.wait_for(READY_TIMEOUT, "prints ready", |_, stderr| {
            let stderr = String::from_utf8_lossy(stderr);
            stderr.lines().any(|line| line == "ready").then_some(())
        })?;
        Ok(Self(job))
    }

    /// Stops it and returns every event.
    ///
    /// # Errors
    /// When one was lost: what is missing proves nothing.
    pub fn finish(self) -> Result<Vec<Value>> {
        self.0.signal(TERMINATE)?;
        let finished = self.0.wait(READY_TIMEOUT)?;
        let said = finished.stderr_text();
        ensure!(
            finished.outcome == Outcome::SUCCESS,
            "the agent ended with {:?}:\n{said}",
            finished.outcome,
        );
        ensure!(
            said.contains("lost 0"),
            "events were lost, so nothing is proven:\n{said}"
        );
        parse(&finished.stdout_text())
    }
}

fn watch(machine: &Machine, arguments: &[&str]) -> Result<Job> {
    machine
        .command(AGENT)
        .args(["watch", "-o", "json"])
        .args(arguments.iter().copied())
        .spawn()
}

fn put_policy(machine: &Machine, action: Action) -> Result<()> {
    let policy = guest(machine, &["policy", "--action", action.word()])?;
    machine.write(POLICY, 0o644, policy.as_bytes())
}

fn guest(machine: &Machine, arguments: &[&str]) -> Result<String> {
    let finished = machine
        .command(GUEST)
        .arg("proof")
        .args(arguments.iter().copied())
        .timeout(ATTEMPT_TIMEOUT)
        .run()?;
    said(machine, &arguments.join(" "), &finished)
}

fn said(machine: &Machine, part: &str, finished: &Finished) -> Result<String> {
    ensure!(
        finished.outcome == Outcome::SUCCESS,
        "on {}: proof {part} ended with {:?}:\n{}",
        machine.name(),
        finished.outcome,
        finished.stderr_text()
    );
    Ok(finished.stdout_text())
}

/// Runs a part of the proof in a machine and reads what it prints.
///
/// # Errors
/// When it fails, or prints something else.
pub fn lines<T: DeserializeOwned>(machine: &Machine, arguments: &[&str]) -> Result<Vec<T>> {
    parse(&guest(machine, arguments)?)
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<Vec<T>> {
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("not as agreed: {line}")))
        .collect()
}
