//! `cargo xtask demo`: the main job from end to end, on real kernels.
//!
//! Two machines, one collector, live events, a policy pushed into both
//! kernels, a real program killed by it on both, the trace of the push, and
//! everything accounted for. It succeeds only if it saw all of that: each
//! step is a check, and what is printed is what was observed.

mod console;
mod script;
pub mod trace;

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::build::{Binaries, What};
use crate::fleet::Fleet;
use crate::layout::Layout;
use crate::setup::{self, Need};

/// The policy that the demo pushes.
pub const POLICY: &str = include_str!("protect-vault.yaml");

/// Whether the fleet goes on running when the demo is over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Afterwards {
    /// Stop everything.
    Stop,
    /// Leave it running and take commands.
    Keep,
}

/// Runs the demo; `Ok` only if everything it promises was observed.
///
/// # Errors
/// Says what was not observed.
pub fn run(layout: &Layout, afterwards: Afterwards) -> Result<()> {
    let started = Instant::now();
    setup::prepare(layout, Need::Machines)?;
    let binaries = Binaries::build(layout, What::Development)?;
    let prepared = started.elapsed();

    heading("a collector, two machines, two agents");
    let fleet = Fleet::start(layout, &binaries, &mut |line| println!("  {line}"))?;
    let mut seen = Vec::new();
    let shown = script::run(&fleet, &mut seen);
    heading("summary");
    for line in &seen {
        println!("  ok      {line}");
    }
    if let Err(error) = &shown {
        println!("  failed  {error:#}");
    }
    if afterwards == Afterwards::Keep {
        console::run(&fleet)?;
    }
    shown?;
    println!(
        "\ndemo: ok ({} s, of which {} s preparing and building)",
        whole_seconds(started.elapsed()),
        whole_seconds(prepared)
    );
    Ok(())
}

fn heading(text: &str) {
    println!("\n== {text}");
}

fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs_f64().round() as u64
}
