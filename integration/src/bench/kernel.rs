//! The cost of a system call, in instructions.
//!
//! ```text
//! cost = (processor time of the load + processor time of the agent until it
//!         has nothing left to do) / operations
//! ```
//!
//! On one processor whose clock is its instruction counter both are exact,
//! and it does not matter when the agent gets its turn.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::build::Binaries;
use crate::layout::Layout;
use crate::setup::Kernel;
use crate::vm::{Clock, Job, Machine, Outcome, Spec};

/// `-icount shift=1`: two nanoseconds for each instruction.
const NANOSECONDS_PER_INSTRUCTION: f64 = 2.0;

/// Each figure is the median of so many runs.
const RUNS: usize = 3;

const LOAD_TIMEOUT: Duration = Duration::from_secs(300);

/// A policy like one in use: exact files, directories, command names and an
/// exception, none of which the load meets.
const POLICY: &str = "\
apiVersion: shrike/v1
kind: Policy
metadata: {name: bench}
spec:
  mode: enforce
  rules:
    - name: shadow
      on: open
      paths: [/etc/shadow, /etc/gshadow, /etc/ssl/private/]
      access: [read, write]
      unless: {exe: [/usr/bin/passwd, /usr/sbin/sshd]}
      action: kill
    - {name: no-netcat, on: exec, comm: [nc, ncat], action: kill}
";

/// A load, and how often it is done in one run.
const LOADS: [(&str, &str, u64); 2] = [
    ("open_close", "opens", 20_000),
    ("fork_exec", "execs", 1_000),
];

/// What the agent does while the load runs.
const SETTINGS: [(&str, Option<&[&str]>); 3] = [
    ("none", None),
    (
        "policy",
        Some(&["watch", "--opens", "matched", "--policy", "/tmp/bench.yaml"]),
    ),
    (
        "recorded",
        Some(&["watch", "--opens", "all", "--policy", "/tmp/bench.yaml"]),
    ),
];

/// Measures on one kernel.
pub(super) fn run(layout: &Layout, binaries: &Binaries, kernel: Kernel) -> Result<Value> {
    println!("\nkernel {kernel}: instructions for each operation (-icount, one processor)");
    let mut spec = Spec::new("bench", kernel).program(&binaries.agent, "/usr/bin/shrike-agent");
    spec.clock = Clock::Instructions;
    let machine = Machine::boot(layout, &binaries.guest, spec)?;
    machine.write("/tmp/bench.yaml", 0o644, POLICY.as_bytes())?;

    let mut figures = serde_json::Map::new();
    for (load, words, count) in LOADS {
        let mut bare = 0.0;
        for (setting, arguments) in SETTINGS {
            let agent = arguments
                .map(|arguments| start(&machine, arguments))
                .transpose()?;
            let mut costs = Vec::new();
            measure(&machine, agent.as_ref(), words, count / 10)?;
            for _ in 0..RUNS {
                costs.push(measure(&machine, agent.as_ref(), words, count)?);
            }
            costs.sort_by(f64::total_cmp);
            let cost = costs[RUNS / 2];
            if let Some(agent) = agent {
                agent.signal(15)?;
                agent.wait(LOAD_TIMEOUT)?;
            } else {
                bare = cost;
            }
            let ratio = cost / bare;
            println!("  {load:<11} {setting:<9} {cost:>9.0}   {ratio:.2}");
            figures.insert(
                format!("{load}.{setting}"),
                json!({ "instructions": cost.round(), "ratio": (ratio * 1000.0).round() / 1000.0 }),
            );
        }
    }
    Ok(Value::Object(figures))
}

/// Starts the agent, its output read and thrown away by the kernel.
fn start(machine: &Machine, arguments: &[&str]) -> Result<Job> {
    let script = format!("exec shrike-agent {} >/dev/null", arguments.join(" "));
    let job = machine.command("sh").args(["-c", &script]).spawn()?;
    job.wait_for(LOAD_TIMEOUT, "prints ready", |_, stderr| {
        let stderr = String::from_utf8_lossy(stderr);
        stderr
            .lines()
            .any(|line| line.trim() == "ready")
            .then_some(())
    })?;
    rest(machine, &job)?;
    Ok(job)
}

/// Instructions for one operation.
fn measure(machine: &Machine, agent: Option<&Job>, load: &str, count: u64) -> Result<f64> {
    let spent = |agent: Option<&Job>| agent.map_or(Ok(0), |agent| spent(machine, agent));
    let before = spent(agent)?;
    let ran = machine
        .command("/usr/lib/shrike/guest")
        .args(["work", load, "--count", &count.to_string()])
        .timeout(LOAD_TIMEOUT)
        .run()?;
    ensure!(
        ran.outcome == Outcome::SUCCESS,
        "the load: {}",
        ran.stderr_text()
    );
    if let Some(agent) = agent {
        rest(machine, agent)?;
    }
    let after = spent(agent)?;
    let report: Value = serde_json::from_str(&ran.stdout_text()).context("the load's report")?;
    let load = report["cpu_nanoseconds"]
        .as_u64()
        .context("the load's time")?;
    let nanoseconds = (load + (after - before)) as f64;
    Ok(nanoseconds / NANOSECONDS_PER_INSTRUCTION / count as f64)
}

/// Processor time of all of the agent's threads, nanoseconds.
fn spent(machine: &Machine, agent: &Job) -> Result<u64> {
    let text = machine.shell(&format!("cat /proc/{}/task/*/schedstat", agent.pid()))?;
    text.lines()
        .map(|line| {
            let first = line.split(' ').next().unwrap_or_default();
            first
                .parse::<u64>()
                .with_context(|| format!("schedstat: {line}"))
        })
        .sum()
}

/// Waits until the agent has nothing left to do but to watch this very
/// question being asked, which is a shell and some dozen opens.
fn rest(machine: &Machine, agent: &Job) -> Result<()> {
    /// Nanoseconds: a percent or two of the time between two looks, and next
    /// to nothing beside thousands of operations.
    const LITTLE: u64 = 15_000_000;
    for _ in 0..100 {
        let before = spent(machine, agent)?;
        machine.shell("sleep 0.5")?;
        if spent(machine, agent)? - before < LITTLE {
            return Ok(());
        }
    }
    anyhow::bail!("the agent does not come to rest")
}
