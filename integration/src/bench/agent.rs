//! What one event costs the agent in user space.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::layout::Layout;
use crate::outside;

pub(super) fn run(layout: &Layout) -> Result<Value> {
    println!("\nagent: instructions for each event in user space, record to result (valgrind)");
    let mut cargo = Command::new("cargo");
    cargo
        .args(["bench", "--workspace", "--quiet", "--bench", "event_cost"])
        .current_dir(layout.workspace())
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
    let figures: Value = serde_json::from_str(line.context("no report")?)?;
    if let Value::Object(figures) = &figures {
        for (stage, figure) in figures {
            let instructions = figure["instructions"].as_f64().context("a figure")?;
            println!("  {stage:<13} {instructions:>7.0}");
        }
    }
    Ok(figures)
}
