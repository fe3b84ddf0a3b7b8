//! `cargo xtask bench`: what Shrike costs and what it can take.
//!
//! - **kernel**: instructions for one open+close and one fork+exec, with
//!   nobody watching, with the agent and with its peers, in one machine that
//!   counts them (`-icount`). What a watcher itself does until everything is
//!   delivered is part of the cost.
//! - **agent**: instructions for one event in the agent, from the record to a
//!   printed line or a compressed batch; Valgrind counts them.
//! - **burst**: 200,000 opens at full speed, and what became of each.
//! - **latency**: from the hook to the line of somebody who follows.
//! - **collector**: what a collector takes durably over mutual TLS beside a
//!   plain store, what a large and quiet fleet costs it, and how fast it finds
//!   what is stored beside DuckDB.
//!
//! Instructions repeat within a few percent and leave out caches; wall times
//! of an emulated machine say nothing about a real one, ratios do.

mod agent;
mod burst;
pub mod collector;
mod kernel;
mod latency;

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

pub use collector::Load;

use crate::build::{Binaries, What};
use crate::layout::Layout;
use crate::setup::{self, Kernel, Need};

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Part {
    /// Instructions for each system call.
    Kernel,
    /// Instructions for each event in the agent.
    Agent,
    /// 200,000 opens at full speed.
    Burst,
    /// From the hook to a followed line.
    Latency,
    /// The collector's ingest, fleet and queries.
    Collector,
}

impl Part {
    /// All of them, in the order they run.
    pub const ALL: [Self; 5] = [
        Self::Kernel,
        Self::Agent,
        Self::Burst,
        Self::Latency,
        Self::Collector,
    ];
}

/// Runs parts of the benchmark, prints ratios and writes the figures.
///
/// # Errors
/// When a part cannot be measured, or the file not be written.
pub fn run(
    layout: &Layout,
    parts: &[Part],
    kernels: &[Kernel],
    load: Load,
    json: Option<&Path>,
) -> Result<()> {
    let in_machines = |part: &Part| match part {
        Part::Kernel | Part::Burst | Part::Latency => true,
        Part::Agent | Part::Collector => false,
    };
    let need = if parts.iter().any(in_machines) {
        Need::Machines
    } else {
        Need::Build
    };
    setup::prepare(layout, need)?;
    if parts.contains(&Part::Kernel) {
        setup::prepare_peers(layout)?;
    }
    let binaries = Binaries::build(layout, What::Release)?;
    let mut figures = Map::new();
    for part in parts {
        let (name, value) = match part {
            Part::Kernel => {
                let mut figures = Map::new();
                for kernel in kernels {
                    let figure = kernel::run(layout, &binaries, *kernel)?;
                    figures.insert(kernel.to_string(), figure);
                }
                ("kernel", Value::Object(figures))
            }
            Part::Agent => ("agent", agent::run(layout)?),
            Part::Burst => ("burst", burst::run(layout, &binaries)?),
            Part::Latency => ("latency", latency::run(layout, &binaries)?),
            Part::Collector => ("collector", collector::run(layout, &binaries, load)?),
        };
        figures.insert(name.to_owned(), value);
        if let Some(file) = json {
            // After each part: a later one that fails costs only itself.
            let text = serde_json::to_string_pretty(&figures)?;
            std::fs::write(file, text + "\n")
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    Ok(())
}
