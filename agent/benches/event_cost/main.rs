//! What one event costs the agent in user space, in instructions.
//!
//! ```text
//! record → decode → enrich ─┬→ compact line
//!                           ├→ JSON line
//!                           └→ queue: encoded, compressed, acknowledged
//! ```
//!
//! The records are made by hand; everything behind them is the agent's own
//! code, on one thread and without a kernel. Valgrind counts the instructions
//! of the measured part alone, so the figures repeat exactly. They leave out
//! what only a running agent has: system calls, wake-ups and the network.
//!
//! `cargo xtask bench agent` runs it and reads the one line of JSON on
//! standard output. To see where the
//! instructions of one stage go, run it under callgrind by hand:
//!
//! ```text
//! valgrind --tool=callgrind --toggle-collect='*measured*' PROGRAM measure open batch
//! ```

mod records;
mod stage;

use std::{
    env,
    ffi::OsString,
    fmt,
    process::{Command, ExitCode},
};

use records::Load;
use stage::Stage;

/// Events of one measurement.
const EVENTS: usize = 20_000;

/// Events before it, so that tables and buffers have their size.
const WARM_UP_EVENTS: usize = 4_000;

/// Records in one drain of the ring.
const DRAIN: usize = 400;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().filter_map(|it| it.to_str()).collect();
    let result = match arguments[..] {
        ["measure", load, stage] => measure(load, stage),
        // `cargo test --benches` measures nothing.
        ["--bench"] => table(),
        _ => {
            eprintln!("event_cost: run it with: cargo xtask bench agent");
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(message)) => {
            eprintln!("event_cost: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Why there are no figures.
struct Failure(String);

impl<E: fmt::Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// Runs one stage, with everything before it, over one load.
fn measure(load: &str, stage: &str) -> Result<(), Failure> {
    let (Some(load), Some(stage)) = (Load::named(load), Stage::named(stage)) else {
        return Err(format!("no load {load} or no stage {stage}").into());
    };
    let records = records::make(load, WARM_UP_EVENTS + EVENTS);
    let (first, rest) = records.split_at(WARM_UP_EVENTS);
    let mut line = stage::Line::start(stage, records::ROOTS)?;
    line.take(first);
    measured(&mut line, rest);
    println!("{}", line.bytes());
    Ok(())
}

/// The part that valgrind counts.
#[inline(never)]
fn measured(line: &mut stage::Line, records: &[Vec<u8>]) {
    for drain in records.chunks(DRAIN) {
        line.take(drain);
    }
}

fn table() -> Result<(), Failure> {
    let mut figures = Vec::new();
    for load in Load::ALL {
        for stage in Stage::ALL {
            let cost = count(load, stage)? as f64 / EVENTS as f64;
            figures.push(format!(
                "\"{}.{}\":{{\"instructions\":{cost:.0}}}",
                load.name(),
                stage.name()
            ));
        }
    }
    println!("{{{}}}", figures.join(","));
    Ok(())
}

/// Returns the instructions of the measured part.
fn count(load: Load, stage: Stage) -> Result<u64, Failure> {
    let program = env::current_exe()?;
    let output = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            "--toggle-collect=event_cost::measured",
        ])
        .arg(program)
        .args(["measure", load.name(), stage.name()])
        .output()
        .map_err(|error| format!("cannot start valgrind (apt-get install valgrind): {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{} {}: {said}", load.name(), stage.name()).into());
    }
    said.lines()
        .find_map(|line| line.split_once("Collected :"))
        .and_then(|(_, count)| count.trim().parse().ok())
        .filter(|count| *count > 0)
        .ok_or_else(|| format!("valgrind counted nothing: {said}").into())
}
