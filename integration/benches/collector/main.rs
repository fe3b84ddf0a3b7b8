//! The load of `cargo xtask bench collector`: nodes that speak to a collector
//! as agents do, and the plain store that it is compared with.
//!
//! `cargo xtask bench` hands over a task in a variable and reads what was
//! found from the one line of JSON on stdout.

mod flood;
mod model;
mod quiet;
mod rows;
mod session;

use std::time::Duration;

use anyhow::Result;
use shrike_integration::bench::collector::task::Task;

fn main() -> Result<()> {
    // `cargo test --benches` and `cargo bench` without xtask run nothing.
    let Some(task) = Task::from_environment()? else {
        eprintln!("collector: run it with: cargo xtask bench collector");
        return Ok(());
    };
    let found = match task {
        Task::Flood { site, events } => serde_json::to_string(&flood::run(site, events)?)?,
        Task::Quiet {
            site,
            warm_up_seconds,
            seconds,
        } => {
            let (warm_up, measured) = (
                Duration::from_secs(warm_up_seconds),
                Duration::from_secs(seconds),
            );
            serde_json::to_string(&quiet::run(site, warm_up, measured)?)?
        }
        Task::Rows { folder, events } => serde_json::to_string(&rows::run(&folder, events)?)?,
    };
    println!("{found}");
    Ok(())
}
