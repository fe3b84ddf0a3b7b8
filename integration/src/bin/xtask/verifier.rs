//! `cargo xtask verifier`: what the verifier looks at, and the budget for it.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use shrike_integration::build::{Binaries, What};
use shrike_integration::layout::Layout;
use shrike_integration::setup::{self, Kernel, Need};
use shrike_integration::verifier;

/// Loads every program on every kernel in every way, and compares what the
/// verifier looked at with the budget.
#[derive(Args)]
pub struct Verifier {
    /// Make what was measured the budget.
    #[arg(long)]
    write: bool,
}

impl Verifier {
    /// Does it; fails when a program is outside of the budget.
    pub fn run(self, layout: &Layout) -> Result<ExitCode> {
        setup::prepare(layout, Need::Machines)?;
        let binaries = Binaries::build(layout, What::Development)?;
        let measured = verifier::measure(layout, &binaries, &Kernel::ALL)?;
        let file = layout.workspace().join(verifier::FILE);
        let shown = file.display();
        if self.write {
            fs::write(&file, verifier::render(&measured))
                .with_context(|| format!("cannot write {shown}"))?;
            eprintln!("verifier: {} counts written to {shown}", measured.len());
            return Ok(ExitCode::SUCCESS);
        }
        for (place, count) in &measured {
            println!("{place} {count}");
        }
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {shown}"))?;
        let complaints = verifier::complaints(&verifier::parse(&text)?, &measured);
        for line in &complaints {
            eprintln!("verifier: {line}");
        }
        Ok(if complaints.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}
