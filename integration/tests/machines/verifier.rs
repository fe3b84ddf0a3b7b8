//! The verifier's budget, on both kernels.

use std::fs;

use anyhow::{Context, Result, ensure};
use shrike_integration::setup::Kernel;
use shrike_integration::verifier;

use super::Claim;
use super::fixture::Fixture;

pub const CLAIMS: &[Claim] = &[Claim(
    "every_program_stays_within_its_verifier_budget",
    budget,
)];

fn budget(fixture: &mut Fixture) -> Result<()> {
    let measured = verifier::measure(&fixture.layout, &fixture.binaries, &Kernel::ALL)?;
    let file = fixture.layout.workspace().join(verifier::FILE);
    let text = fs::read_to_string(&file).with_context(|| verifier::FILE)?;
    let complaints = verifier::complaints(&verifier::parse(&text)?, &measured);
    ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    Ok(())
}
