//! `cargo xtask`: set-up, demo, tests and benchmarks on a fresh machine.

mod proof;
mod soak;
mod test;
mod verifier;
mod vm;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use shrike_integration::bench::{self, Load, Part};
use shrike_integration::demo::{self, Afterwards};
use shrike_integration::layout::Layout;
use shrike_integration::setup::{self, Kernel, Need};

/// Everything there is to do in this workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Prepares toolchain, kernels and root file system under target/shrike.
    Setup {
        /// Only what building takes: no kernels, no QEMU.
        #[arg(long)]
        build_only: bool,
        /// Also the tools that `bench kernel` compares with.
        #[arg(long, conflicts_with = "build_only")]
        peers: bool,
    },
    /// The main job on two real kernels, from nothing to a proven kill.
    Demo {
        /// Leave everything running at the end and say what to try.
        #[arg(long)]
        keep: bool,
    },
    /// What Shrike costs and what it can take; prints ratios.
    Bench {
        /// Write every figure here too.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Only on these kernels (the part `kernel`).
        #[arg(long = "kernel", value_name = "KERNEL", value_enum)]
        kernels: Vec<Kernel>,
        /// So many events in the store (the part `collector`).
        #[arg(long, value_name = "N", default_value_t = Load::default().events)]
        events: u64,
        /// So many nodes with an event a second (the part `collector`).
        #[arg(long, value_name = "N", default_value_t = Load::default().nodes)]
        nodes: u64,
        /// Only these parts.
        #[arg(value_enum)]
        parts: Vec<Part>,
    },
    /// Attempts everything that a policy forbids; writes PROOF.md.
    Proof(proof::Proof),
    /// Faults at random moments on a working fleet, round after round.
    Soak(soak::Soak),
    /// Every test, real kernels included.
    Test(test::Test),
    /// What the verifier looks at, beside its budget.
    Verifier(verifier::Verifier),
    /// Boots a machine and runs a command in it.
    Vm(vm::Vm),
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("\nxtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    let layout = Layout::here();
    match command {
        Command::Setup { build_only, peers } => {
            let need = if build_only {
                Need::Build
            } else {
                Need::Machines
            };
            setup::prepare(&layout, need)?;
            if peers {
                setup::prepare_peers(&layout)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Demo { keep } => {
            let afterwards = if keep {
                Afterwards::Keep
            } else {
                Afterwards::Stop
            };
            demo::run(&layout, afterwards)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Bench {
            json,
            kernels,
            events,
            nodes,
            parts,
        } => {
            let parts = if parts.is_empty() {
                &Part::ALL
            } else {
                &parts[..]
            };
            let kernels = if kernels.is_empty() {
                &Kernel::ALL
            } else {
                &kernels[..]
            };
            let load = Load { events, nodes };
            bench::run(&layout, parts, kernels, load, json.as_deref())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Proof(proof) => proof.run(&layout),
        Command::Soak(soak) => soak.run(&layout),
        Command::Test(test) => test.run(&layout),
        Command::Verifier(verifier) => verifier.run(&layout),
        Command::Vm(vm) => vm.run(&layout),
    }
}
