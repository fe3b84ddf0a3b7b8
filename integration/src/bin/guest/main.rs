//! What runs inside the virtual machines: as `init` the runner that carries
//! out the host's requests, as `work` the loads that tests and benchmarks
//! put on a kernel, as `proof` the attempts that a policy has to withstand.
//!
//! It is part of the test bench and never of a product.

mod init;
mod proof;
mod runner;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The machine's end of the test bench.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Brings the machine up and serves the host; only ever process 1.
    Init,
    /// Serves the host.
    Serve,
    /// Makes the files that `work files` opens.
    Plant {
        /// How many.
        #[arg(long)]
        count: u64,
        /// Where.
        #[arg(long, default_value = work::TREE)]
        root: PathBuf,
    },
    /// Puts a load on the kernel and prints how long it took, as JSON.
    #[command(subcommand)]
    Work(work::Work),
    /// Attempts what a policy forbids, and says what came of it.
    #[command(subcommand)]
    Proof(proof::Proof),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Init => init::run(),
        Command::Serve => runner::serve(),
        Command::Plant { count, root } => work::plant(&root, count),
        Command::Work(work) => work.run(),
        Command::Proof(proof) => proof.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shrike-guest: {error:#}");
            ExitCode::FAILURE
        }
    }
}
