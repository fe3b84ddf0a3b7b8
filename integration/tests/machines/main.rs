//! The end-to-end claims, on real kernels.
//!
//! One fleet (a collector on loopback, node-a on 6.1, node-b on 6.12, a real
//! OpenTelemetry receiver) is booted once and shared: booting is what costs.
//! The claims run one after the other, and each begins with the fleet as the
//! first one found it: connected, without a policy.
//!
//! `cargo xtask test` prepares and runs them. A plain `cargo test` lists them
//! as ignored: without the prepared kernels there is nothing to run them on.

mod alone;
mod durability;
mod events;
mod fixture;
mod identity;
mod images;
mod load;
mod pins;
mod policy;
mod power;
mod proof;
mod receipts;
mod rings;
mod telemetry;
mod verifier;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

/// A claim and the function that holds it to the facts.
pub(crate) struct Claim(
    pub &'static str,
    pub fn(&mut fixture::Fixture) -> anyhow::Result<()>,
);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They share the machines.
    arguments.test_threads = Some(1);
    let prepared = fixture::is_prepared();
    let claims = [
        events::CLAIMS,
        images::CLAIMS,
        policy::CLAIMS,
        receipts::CLAIMS,
        telemetry::CLAIMS,
        identity::CLAIMS,
        durability::CLAIMS,
        power::CLAIMS,
        load::CLAIMS,
        alone::CLAIMS,
        rings::CLAIMS,
        verifier::CLAIMS,
        pins::CLAIMS,
        proof::CLAIMS,
    ];
    let trials = claims
        .into_iter()
        .flatten()
        .map(|Claim(name, hold)| {
            Trial::test(*name, move || {
                fixture::with(*hold).map_err(|error| Failed::from(format!("{error:#}")))
            })
            .with_ignored_flag(!prepared)
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    fixture::stop();
    conclusion.exit_code()
}
