//! The cost of a system call, in instructions, beside the peers' in the same
//! machine.
//!
//! ```text
//! cost = (processor time of the load + processor time of what watches it,
//!         until that has nothing left to do, less what it takes for a run of
//!         no operations) / operations
//! ```
//!
//! On one processor whose clock is its instruction counter both are exact,
//! and it does not matter when the watcher gets its turn. A peer that loses
//! events gets cheaper by it; what peers lose is not counted here.

mod contender;
mod load;
mod policy;

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::build::Binaries;
use crate::layout::Layout;
use crate::progress::Step;
use crate::setup::{Kernel, Userland};
use crate::vm::{Clock, Machine, Spec};
use contender::{CONTENDERS, Contender, Memory, Running};
use load::LOADS;

/// Each figure is the median of so many runs.
const RUNS: usize = 3;

/// bcc and bpftrace carry a compiler, which wants memory.
const MEMORY_MIB: u32 = 2048;

/// How long a contender is left alone to see what it costs at rest, in the
/// machine's seconds.
const REST_SECONDS: u32 = 60;

/// What one contender costs.
struct Costs {
    /// Instructions for an operation of each load.
    instructions: Vec<f64>,
    rest: Option<Rest>,
    /// Events that it says it lost.
    lost: Option<u64>,
}

/// What a contender takes when nothing happens.
struct Rest {
    cpu_percent: f64,
    memory: Memory,
}

/// Measures on one kernel.
pub(super) fn run(layout: &Layout, binaries: &Binaries, kernel: Kernel) -> Result<Value> {
    println!(
        "\nkernel {kernel}: instructions for one operation (-icount, one processor), and how \
         many times bare that is"
    );
    let mut spec = Spec::new("bench", kernel).program(&binaries.agent, "/usr/bin/shrike-agent");
    spec.clock = Clock::Instructions;
    spec.userland = Userland::Peers;
    spec.memory_mib = MEMORY_MIB;
    let machine = Machine::boot(layout, &binaries.guest, spec)?;
    machine.write(policy::PATH, 0o644, policy::document().as_bytes())?;
    load::plant(&machine)?;

    print!("  {:<34}", "");
    for load in &LOADS {
        print!("{:>22}", load.title);
    }
    println!("{:>12}{:>12}", "at rest", "resident");
    let mut bare = Vec::new();
    let mut figures = Map::new();
    for contender in &CONTENDERS {
        let figure = match measure(&machine, contender) {
            Ok(costs) => {
                if bare.is_empty() {
                    bare.clone_from(&costs.instructions);
                }
                show(contender, &costs, &bare);
                to_json(&costs, &bare)
            }
            // A peer that does not run on this kernel is a finding; that
            // Shrike does not is a failure.
            Err(error) if contender.is_peer() => {
                println!("  {:<34}does not run: {error:#}", contender.title);
                json!({ "error": format!("{error:#}") })
            }
            Err(error) => return Err(error.context(contender.title)),
        };
        figures.insert(contender.name.to_owned(), figure);
    }
    Ok(Value::Object(figures))
}

fn measure(machine: &Machine, contender: &Contender) -> Result<Costs> {
    let mut step = Step::start("bench", &format!("{}: starting", contender.title));
    let running = Running::start(machine, contender)?;
    let mut instructions = Vec::new();
    for load in &LOADS {
        step.update(&format!("{}: {}", contender.title, load.title));
        load.run(machine, &running, load.count / 10, 0)?;
        let unloaded = median((0..RUNS).map(|_| load.unloaded(machine, &running)))?;
        let runs = (0..RUNS).map(|_| load.run(machine, &running, load.count, unloaded));
        instructions.push(median(runs)?);
    }
    let rest = if contender.is_nothing() {
        None
    } else {
        step.update(&format!("{}: at rest", contender.title));
        let before = running.spent()?;
        machine.shell(&format!("sleep {REST_SECONDS}"))?;
        let spent = running.spent()? - before;
        Some(Rest {
            cpu_percent: spent as f64 / 1e9 / f64::from(REST_SECONDS) * 100.0,
            memory: running.memory()?,
        })
    };
    let lost = running.stop()?;
    step.done(contender.title);
    Ok(Costs {
        instructions,
        rest,
        lost,
    })
}

fn median<T: PartialOrd>(runs: impl Iterator<Item = Result<T>>) -> Result<T> {
    let mut runs = runs.collect::<Result<Vec<T>>>()?;
    runs.sort_by(|one, other| one.partial_cmp(other).expect("costs are numbers"));
    Ok(runs.swap_remove(runs.len() / 2))
}

fn show(contender: &Contender, costs: &Costs, bare: &[f64]) {
    print!("  {:<34}", contender.title);
    for (cost, bare) in costs.instructions.iter().zip(bare) {
        print!("{cost:>14.0} {:>7.2}", cost / bare);
    }
    if let Some(rest) = &costs.rest {
        print!(
            "{:>10.2} %{:>9.1} MB",
            rest.cpu_percent,
            megabytes(rest.memory.resident_kib)
        );
    }
    match costs.lost {
        None | Some(0) => println!(),
        Some(lost) => println!("   lost {lost}"),
    }
}

fn megabytes(kib: u64) -> f64 {
    kib as f64 * 1024.0 / 1e6
}

fn to_json(costs: &Costs, bare: &[f64]) -> Value {
    let mut object = Map::new();
    for ((load, cost), bare) in LOADS.iter().zip(&costs.instructions).zip(bare) {
        let ratio = (cost / bare * 1000.0).round() / 1000.0;
        object.insert(
            load.name.to_owned(),
            json!({ "instructions": cost.round(), "ratio": ratio }),
        );
    }
    if let Some(rest) = &costs.rest {
        object.insert(
            "rest".to_owned(),
            json!({
                "cpu_percent": (rest.cpu_percent * 1000.0).round() / 1000.0,
                "resident_kib": rest.memory.resident_kib,
                "anonymous_kib": rest.memory.anonymous_kib,
            }),
        );
    }
    if let Some(lost) = costs.lost {
        object.insert("lost".to_owned(), lost.into());
    }
    Value::Object(object)
}
