//! What is done again and again while somebody watches.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::contender::Running;
use crate::vm::{Machine, Outcome};

/// `-icount shift=1`: two nanoseconds for each instruction.
const NANOSECONDS_PER_INSTRUCTION: f64 = 2.0;

/// The slowest peer takes some twenty times bare, on a busy host.
const TIMEOUT: Duration = Duration::from_secs(900);

const GUEST: &str = "/usr/lib/shrike/guest";

/// A load.
pub(super) struct Load {
    /// In the JSON.
    pub name: &'static str,
    /// In the table.
    pub title: &'static str,
    /// As the runner knows it.
    word: &'static str,
    /// Operations in one run.
    pub count: u64,
}

/// The loads, in the order they run.
pub(super) const LOADS: [Load; 3] = [
    Load {
        name: "open_close",
        title: "open+close, one file",
        word: "opens",
        count: 20_000,
    },
    Load {
        name: "open_close_different",
        title: "open+close, all new",
        word: "files",
        count: FILES,
    },
    Load {
        name: "fork_exec",
        title: "fork+exec",
        word: "execs",
        count: 600,
    },
];

/// Different files, each opened once in a run. They are never evicted
/// between runs: what is measured is the open, not the disk.
const FILES: u64 = 20_000;

/// Makes the files, and lays every process out alike: where its memory lies
/// decides how many page tables a fork copies, which is 2 % of one and changes
/// from run to run.
pub(super) fn plant(machine: &Machine) -> Result<()> {
    machine.shell("echo 0 > /proc/sys/kernel/randomize_va_space")?;
    let count = FILES.to_string();
    let planted = machine
        .command(GUEST)
        .args(["plant", "--count", &count])
        .timeout(TIMEOUT)
        .run()?;
    ensure!(
        planted.outcome == Outcome::SUCCESS,
        "the files: {}",
        planted.stderr_text()
    );
    // Once over all of them, so that the first run finds what the others do.
    work(machine, "files", FILES)?;
    Ok(())
}

impl Load {
    /// Runs it and returns instructions for one operation, the watcher's own
    /// included, but for what it spends anyway, `unloaded` nanoseconds.
    pub fn run(
        &self,
        machine: &Machine,
        running: &Running<'_>,
        count: u64,
        unloaded: u64,
    ) -> Result<f64> {
        let (load, watcher) = self.spent(machine, running, count)?;
        let all = load + watcher.saturating_sub(unloaded);
        Ok(all as f64 / NANOSECONDS_PER_INSTRUCTION / count as f64)
    }

    /// Returns what a run of no operations costs the watcher in nanoseconds:
    /// it sees the runner start, and the questions whether it has come to
    /// rest.
    pub fn unloaded(&self, machine: &Machine, running: &Running<'_>) -> Result<u64> {
        Ok(self.spent(machine, running, 0)?.1)
    }

    fn spent(&self, machine: &Machine, running: &Running<'_>, count: u64) -> Result<(u64, u64)> {
        let before = running.spent()?;
        let load = work(machine, self.word, count)?;
        running.come_to_rest()?;
        Ok((load, running.spent()? - before))
    }
}

/// Runs a load and returns the processor time that it took, in nanoseconds.
pub(super) fn work(machine: &Machine, word: &str, count: u64) -> Result<u64> {
    let ran = machine
        .command(GUEST)
        .args(["work", word, "--count", &count.to_string()])
        .timeout(TIMEOUT)
        .run()?;
    ensure!(
        ran.outcome == Outcome::SUCCESS,
        "the load: {}",
        ran.stderr_text()
    );
    let report: Value = serde_json::from_str(&ran.stdout_text()).context("the load's report")?;
    report["cpu_nanoseconds"]
        .as_u64()
        .context("the load's time")
}
