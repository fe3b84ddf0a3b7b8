//! `cargo xtask proof`: makes every attempt and writes `PROOF.md`.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use shrike_integration::build::{Binaries, What};
use shrike_integration::layout::Layout;
use shrike_integration::proof::case::Setting;
use shrike_integration::proof::{self, fuzz, table};
use shrike_integration::setup::{self, Kernel, Need};

/// Attempts everything that a policy forbids, on every kernel and with every
/// kind of hook, and writes what came of it to PROOF.md.
#[derive(Args)]
pub struct Proof {
    /// Only on these kernels; PROOF.md is left as it is then.
    #[arg(long, value_enum)]
    kernel: Vec<Kernel>,
    /// Only under these settings; PROOF.md is left as it is then.
    #[arg(long, value_enum)]
    setting: Vec<Setting>,
    /// Only the fuzz of path resolution, with this seed.
    #[arg(long, conflicts_with = "setting")]
    seed: Option<u64>,
}

impl Proof {
    /// Does it; fails when something did not end as it must.
    pub fn run(self, layout: &Layout) -> Result<ExitCode> {
        setup::prepare(layout, Need::Machines)?;
        let binaries = Binaries::build(layout, What::Development)?;
        let kernels = or_all(&self.kernel, &Kernel::ALL);
        if let Some(seed) = self.seed {
            for &kernel in kernels {
                let machine = proof::run::boot(layout, &binaries, kernel)?;
                let (opens, succeeded) = fuzz::run(&machine, seed)?;
                eprintln!("proof: {kernel}: {opens} random names, {succeeded} of them of files");
            }
            return Ok(ExitCode::SUCCESS);
        }
        let whole = self.kernel.is_empty() && self.setting.is_empty();
        let proof = proof::prove(
            layout,
            &binaries,
            kernels,
            or_all(&self.setting, &Setting::ALL),
            &mut |line| eprintln!("proof: {line}"),
        )?;
        for line in &proof.differences {
            println!("{line}");
        }
        // A table with a column less would hide what went wrong.
        if whole && proof.columns == Kernel::ALL.len() * Setting::ALL.len() {
            let file = layout.workspace().join(table::FILE);
            fs::write(&file, &proof.table)
                .with_context(|| format!("cannot write {}", file.display()))?;
            eprintln!("proof: written to {}", table::FILE);
        }
        Ok(if proof.differences.is_empty() {
            eprintln!("proof: every attempt ended as it must");
            ExitCode::SUCCESS
        } else {
            eprintln!("proof: {} differences", proof.differences.len());
            ExitCode::FAILURE
        })
    }
}

fn or_all<'a, T>(some: &'a [T], all: &'a [T]) -> &'a [T] {
    if some.is_empty() { all } else { some }
}
