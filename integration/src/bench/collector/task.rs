//! What the load does and what it found: the words between `cargo xtask bench
//! collector` and the program `benches/collector`, which speaks gRPC.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::layout::Layout;
use crate::outside;

/// The variable that hands over the task.
const VARIABLE: &str = "SHRIKE_BENCH_TASK";

/// What the load has to do.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub enum Task {
    /// As many events as there are, as fast as they are acknowledged.
    Flood {
        /// Where.
        site: Site,
        /// How many altogether.
        events: u64,
    },
    /// An event a second from each node.
    Quiet {
        /// Where.
        site: Site,
        /// Before anything is measured.
        warm_up_seconds: u64,
        /// Measured.
        seconds: u64,
    },
    /// The same events as [`Task::Flood`] begins with, a row each, in a sled of
    /// its own.
    Rows {
        /// The sled's folder.
        folder: PathBuf,
        /// How many.
        events: u64,
    },
}

/// A collector and the nodes that send to it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Site {
    /// The collector's HOST:PORT.
    pub address: String,
    /// Folder of the certificates.
    pub pki: PathBuf,
    /// The nodes' names: certificates are `agent-NAME.pem`.
    pub nodes: Vec<String>,
    /// The collector's process.
    pub collector: u32,
}

/// What came of [`Task::Flood`].
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Flood {
    /// Acknowledged.
    pub events: u64,
    /// Batches that they were sent in.
    pub batches: u64,
    /// Their payloads, compressed.
    pub payload_bytes: u64,
    /// Before compression.
    pub raw_bytes: u64,
    /// From the first batch sent to the last acknowledgement.
    pub seconds: f64,
    /// Processor time of the collector meanwhile.
    pub collector_cpu_seconds: f64,
    /// The collector's resident bytes when a quarter, a half, three quarters
    /// and all of the events were acknowledged.
    pub resident_bytes: Vec<u64>,
    /// Unix nanoseconds of the oldest event.
    pub since_unix_ns: i64,
    /// The executable that one batch in a thousand mentions.
    pub rare_program: String,
}

/// What came of [`Task::Quiet`].
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Quiet {
    /// Acknowledged while it was measured.
    pub events: u64,
    /// Acknowledged altogether.
    pub events_with_warm_up: u64,
    /// Measured.
    pub seconds: f64,
    /// Processor time of the collector meanwhile.
    pub collector_cpu_seconds: f64,
    /// The collector's resident bytes at the begin, ten times on the way and at
    /// the end.
    pub resident_bytes: Vec<u64>,
    /// From a batch to its acknowledgement, milliseconds: of half of them, of
    /// 99 in a hundred, and the slowest.
    pub acknowledged_ms: [f64; 3],
}

/// What came of [`Task::Rows`].
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Rows {
    /// Durable.
    pub events: u64,
    /// From the first batch unpacked to the last one durable.
    pub seconds: f64,
}

impl Task {
    /// Reads the task that [`Task::drive`] handed over; `None` where nobody
    /// did.
    ///
    /// # Errors
    /// When it is not one.
    pub fn from_environment() -> Result<Option<Self>> {
        let Ok(text) = std::env::var(VARIABLE) else {
            return Ok(None);
        };
        let task = serde_json::from_str(&text).with_context(|| format!("{VARIABLE} is no task"))?;
        Ok(Some(task))
    }

    /// Has the load do it and reads what it found from the last line of its
    /// stdout.
    ///
    /// # Errors
    /// When it fails; its words are on stderr then.
    pub fn drive<T: for<'de> Deserialize<'de>>(&self, layout: &Layout) -> Result<T> {
        let mut cargo = Command::new("cargo");
        cargo
            .args(["bench", "--workspace", "--quiet", "--bench", "collector"])
            .current_dir(layout.workspace())
            .env(VARIABLE, serde_json::to_string(self)?)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit());
        let output = cargo.output().context("cannot start cargo")?;
        ensure!(
            output.status.success(),
            "{} failed; its words are above",
            outside::shown(&cargo)
        );
        let report = String::from_utf8_lossy(&output.stdout);
        let line = report.lines().rev().find(|line| line.starts_with('{'));
        Ok(serde_json::from_str(line.context("no report")?)?)
    }
}
