//! The proof: every attempt ends as its case says, and `PROOF.md` says so.

use std::fs;

use anyhow::{Context, Result, ensure};
use shrike_integration::proof::case::{Action, Setting};
use shrike_integration::proof::{self, fuzz, table};
use shrike_integration::setup::Kernel;

use super::Claim;
use super::fixture::Fixture;

pub const CLAIMS: &[Claim] = &[
    Claim("every_class_ends_as_stated_on_both_kernels", every_class),
    Claim(
        "deny_is_refused_with_a_reason_where_no_hook_can_refuse",
        deny_is_refused,
    ),
    Claim(
        "random_names_resolve_to_what_the_guest_itself_finds",
        random_names,
    ),
];

fn every_class(fixture: &mut Fixture) -> Result<()> {
    let proof = proof::prove(
        &fixture.layout,
        &fixture.binaries,
        &Kernel::ALL,
        &Setting::ALL,
        &mut |line| eprintln!("proof: {line}"),
    )?;
    ensure!(
        proof.differences.is_empty(),
        "{} attempts did not end as they must:\n{}",
        proof.differences.len(),
        proof.differences.join("\n")
    );
    let file = fixture.layout.workspace().join(table::FILE);
    let written = fs::read_to_string(&file).context("there is no table")?;
    ensure!(
        written == proof.table,
        "{} does not say what was seen; write it anew: cargo xtask proof",
        table::FILE
    );
    Ok(())
}

fn deny_is_refused(fixture: &mut Fixture) -> Result<()> {
    for kernel in Kernel::ALL {
        let machine = proof::run::boot(&fixture.layout, &fixture.binaries, kernel)?;
        for setting in Setting::ALL {
            if setting.refuses() {
                continue;
            }
            let said = proof::run::refusal(&machine, setting.attach(), Action::Deny)
                .with_context(|| format!("{kernel}, {}", setting.attach()))?;
            ensure!(
                said.contains("deny") && said.contains("LSM"),
                "the refusal gives no reason:\n{said}"
            );
        }
    }
    Ok(())
}

/// The same trees and names in every run of the tests: one that fails here can
/// be looked into. `cargo xtask proof --seed N` takes others.
const SEED: u64 = 99;

fn random_names(fixture: &mut Fixture) -> Result<()> {
    let seed = SEED;
    for kernel in Kernel::ALL {
        let machine = proof::run::boot(&fixture.layout, &fixture.binaries, kernel)?;
        let (opens, succeeded) = fuzz::run(&machine, seed).with_context(|| kernel.to_string())?;
        eprintln!("fuzz: {kernel}, seed {seed}: {succeeded} of {opens} opens succeeded");
        // Trees in which nothing is found prove nothing.
        ensure!(succeeded > opens / 10, "only {succeeded} of {opens} opens");
    }
    Ok(())
}
