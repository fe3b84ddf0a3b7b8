//! The fleet that the claims share.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use shrike_integration::build::Binaries;
use shrike_integration::fleet::{Fleet, Node, Ran, poll};
use shrike_integration::layout::Layout;
use shrike_integration::vm::{Job, Machine, Outcome};

/// An event reaches the store in well under a second; emulated kernels on a
/// busy machine get more.
pub const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(60);

/// A session comes back within its longest back-off.
pub const RECONNECT_TIMEOUT: Duration = Duration::from_secs(90);

/// For a word of an agent that starts.
const SAY_TIMEOUT: Duration = Duration::from_secs(240);

/// What a claim has at hand.
pub struct Fixture {
    /// Where things lie.
    pub layout: Layout,
    /// The programs under test.
    pub binaries: Binaries,
    /// The fleet, connected and without a policy.
    pub fleet: Fleet,
}

static SHARED: Mutex<Option<Result<Fixture, String>>> = Mutex::new(None);

/// Whether `cargo xtask test` runs this.
pub fn is_prepared() -> bool {
    Binaries::from_environment().is_some()
}

/// Runs a claim against the fleet, started by the first one that asks.
pub fn with(claim: fn(&mut Fixture) -> Result<()>) -> Result<()> {
    let mut shared = lock();
    let fixture = shared.get_or_insert_with(|| Fixture::start().map_err(|e| format!("{e:#}")));
    let fixture = match fixture {
        Ok(fixture) => fixture,
        Err(error) => return Err(anyhow!("the fleet did not start: {error}")),
    };
    fixture.calm_down().context("before the claim")?;
    claim(fixture).with_context(|| fixture.logs())
}

/// Stops the fleet.
pub fn stop() {
    lock().take();
}

fn lock() -> MutexGuard<'static, Option<Result<Fixture, String>>> {
    // A claim that panicked leaves the fleet as usable as one that failed.
    SHARED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fixture {
    fn start() -> Result<Self> {
        let layout = Layout::here();
        let binaries = Binaries::from_environment().context("run it with: cargo xtask test")?;
        let fleet = Fleet::start(&layout, &binaries, &mut |line| eprintln!("fleet: {line}"))?;
        Ok(Self {
            layout,
            binaries,
            fleet,
        })
    }

    /// Back to: the collector runs, both agents are connected, no policy.
    fn calm_down(&mut self) -> Result<()> {
        if self.fleet.collector.pid().is_none() {
            self.fleet.collector.resume()?;
        }
        for node in &mut self.fleet.nodes {
            if !node.agent_runs() {
                node.start_agent()?;
            }
        }
        self.fleet.wait_until_connected(RECONNECT_TIMEOUT)?;
        let listed = self.fleet.ctl.insist(&["policy", "list", "-o", "json"])?;
        let listed: Value = serde_json::from_str(&listed.stdout)?;
        let policies = listed["policies"].as_array().or(listed.as_array());
        for policy in policies.into_iter().flatten() {
            let name = policy["name"].as_str().context("a policy without a name")?;
            self.fleet.ctl.insist(&["policy", "delete", name])?;
        }
        self.wait_until_applied()
    }

    /// Waits until every node enforces what it shall.
    pub fn wait_until_applied(&self) -> Result<()> {
        poll(ARRIVAL_TIMEOUT, || {
            let nodes = self.fleet.ctl.nodes()?;
            let applied = nodes
                .iter()
                .all(|node| node.applied_generation == node.desired_generation);
            Ok(applied.then_some(()))
        })
        .context("the nodes do not all apply their generation")
    }

    /// Pushes a policy document and returns how that went.
    pub fn try_push(&self, document: &str) -> Result<Ran> {
        let file = self.fleet.folder().join("pushed.yaml");
        std::fs::write(&file, document)?;
        self.fleet
            .ctl
            .run(&["policy", "push", &file.display().to_string()])
    }

    /// Pushes a policy document and insists that every node applies it.
    pub fn push(&self, document: &str) -> Result<()> {
        let ran = self.try_push(document)?;
        ensure!(
            ran.code == Some(0),
            "the push ended with {:?}:\n{}{}",
            ran.code,
            ran.stdout,
            ran.stderr
        );
        Ok(())
    }

    /// Waits for stored events that a closure is content with.
    pub fn wait_for_events<T>(
        &self,
        filters: &[&str],
        mut content: impl FnMut(&[Value]) -> Option<T>,
    ) -> Result<T> {
        let mut last = Vec::new();
        poll(ARRIVAL_TIMEOUT, || {
            last = self.fleet.ctl.events(filters)?;
            Ok(content(&last))
        })
        .with_context(|| {
            let shown: Vec<String> = last.iter().rev().take(5).map(Value::to_string).collect();
            format!(
                "events {} are not as claimed; there are {}, the last:\n{}",
                filters.join(" "),
                last.len(),
                shown.join("\n")
            )
        })
    }

    /// The ends of every log, for a claim that failed.
    fn logs(&self) -> String {
        let mut text = String::from("the logs end with:");
        let tail = shrike_integration::outside::tail;
        for node in &self.fleet.nodes {
            let said = node.agent_said();
            text.push_str(&format!("\n--- {}\n{}", node.name(), tail(said.as_bytes())));
        }
        let said = self.fleet.collector.said();
        text.push_str(&format!("\n--- collector\n{}\n---", tail(said.as_bytes())));
        text
    }
}

/// Waits until `shrike-agent watch` says that it sees what happens.
pub fn wait_until_ready(watch: &Job) -> Result<()> {
    const TIMEOUT: Duration = Duration::from_secs(180);
    watch.wait_for(TIMEOUT, "prints ready", |_, stderr| {
        let stderr = String::from_utf8_lossy(stderr);
        let ready = stderr.lines().any(|line| line.trim() == "ready");
        ready.then_some(())
    })
}

/// Waits until a node's agent says something.
pub fn wait_until_said(node: &Node, what: &str) -> Result<()> {
    // Attaching beside other programs, and detaching those, takes a grace
    // period for each: half a minute on an emulated machine.
    poll(SAY_TIMEOUT, || {
        Ok(node.agent_said().contains(what).then_some(()))
    })
    .with_context(|| format!("{} does not say {what:?}", node.name()))
}

/// Runs a program on a machine and insists on how it ends.
pub fn insist(machine: &Machine, argv: &[&str], outcome: Outcome) -> Result<()> {
    let [program, arguments @ ..] = argv else {
        unreachable!("claims name a program");
    };
    let ran = machine
        .command(program)
        .args(arguments.iter().copied())
        .run()?;
    ensure!(
        ran.outcome == outcome,
        "on {} `{}` ended with {:?}, expected {outcome:?}; {}{}",
        machine.name(),
        argv.join(" "),
        ran.outcome,
        ran.stdout_text(),
        ran.stderr_text()
    );
    Ok(())
}
