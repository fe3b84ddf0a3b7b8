//! `shrikectl`: parse, run, say what went wrong, exit.

use std::process::ExitCode;

use clap::Parser as _;
use shrikectl::{args::Args, run};

fn main() -> ExitCode {
    // Clap prints usage errors and exits with 2, as documented.
    run(Args::parse()).into()
}
