//! `cargo xtask test`: unit tests of every crate, then the end-to-end claims
//! on real kernels.

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};
use clap::Args;
use shrike_integration::build::{Binaries, What};
use shrike_integration::layout::Layout;
use shrike_integration::setup::{self, Need};

/// The end-to-end claims' test target.
const MACHINES: &str = "machines";

/// Runs every test, real kernels included.
#[derive(Args)]
pub struct Test {
    /// Only the end-to-end claims.
    #[arg(long)]
    machines_only: bool,
    /// Only tests whose name contains this.
    filter: Option<String>,
}

impl Test {
    /// Runs them; the last thing printed is the end-to-end tests' summary.
    pub fn run(self, layout: &Layout) -> Result<ExitCode> {
        setup::prepare(layout, Need::Machines)?;
        let binaries = Binaries::build(layout, What::Tests)?;
        let mut passed = true;
        if !self.machines_only {
            // Without the programs' places the end-to-end claims are listed
            // as ignored in this run.
            let mut units = cargo_test(layout);
            units.arg("--no-fail-fast");
            units.args(self.filter.iter());
            passed &= succeeds(&mut units)?;
        }
        let mut machines = cargo_test(layout);
        machines.args(["--test", MACHINES]).args(self.filter.iter());
        machines.envs(binaries.environment());
        let machines_passed = succeeds(&mut machines)?;
        if !passed {
            eprintln!("\nxtask: tests failed before the end-to-end ones; they are listed above");
        }
        passed &= machines_passed;
        Ok(if passed {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// The same selection of packages that the build had.
fn cargo_test(layout: &Layout) -> Command {
    let mut cargo = Command::new("cargo");
    cargo
        .args(["test", "--workspace"])
        .current_dir(layout.workspace())
        .stdin(Stdio::null());
    cargo
}

fn succeeds(command: &mut Command) -> Result<bool> {
    Ok(command.status().context("cannot start cargo")?.success())
}
