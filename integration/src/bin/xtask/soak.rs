//! `cargo xtask soak`: faults at random moments, for as long as one likes.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use shrike_integration::build::{Binaries, What};
use shrike_integration::fleet::Fleet;
use shrike_integration::layout::Layout;
use shrike_integration::setup::{self, Need};
use shrike_integration::soak;

/// What is typed behind `soak`.
#[derive(Debug, clap::Args)]
pub struct Soak {
    /// How long new rounds begin
    #[arg(long, value_name = "MINUTES", default_value_t = 30)]
    minutes: u64,
    /// The same faults as in an earlier run; left out: others each time
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
}

impl Soak {
    /// Boots a fleet and plays rounds on it.
    pub fn run(&self, layout: &Layout) -> Result<ExitCode> {
        setup::prepare(layout, Need::Machines)?;
        let binaries = Binaries::build(layout, What::Development)?;
        let seed = self.seed.unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            now.map_or(0, |now| now.as_secs())
        });
        println!("seed {seed}");
        let mut fleet = Fleet::start(layout, &binaries, &mut |line| println!("{line}"))?;
        let duration = Duration::from_secs(60 * self.minutes);
        let rounds = soak::run(&mut fleet, seed, duration, &mut |line| println!("{line}"))?;
        println!("soak: ok, {rounds} rounds (seed {seed})");
        Ok(ExitCode::SUCCESS)
    }
}
