//! Searching what the flood left in the store.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use super::Home;
use super::task::Flood;

/// Runs of each search: the first one finds its pages cold in sled's cache.
const RUNS: usize = 3;

/// What one run of a search was like, from the start of `shrikectl`.
struct Run {
    first_ms: Option<f64>,
    whole_ms: f64,
    lines: u64,
    summary: String,
    cpu_seconds: f64,
}

/// Searches in three ways: by what footers know, by what each event must be
/// looked at for, and by a condition that is evaluated for each event.
pub(super) fn run(home: &Home, flood: &Flood) -> Result<Value> {
    println!(
        "\ncollector: {} events searched with shrikectl",
        flood.events
    );
    let rare = format!("exe == \"{}\"", flood.rare_program);
    let searches = [
        ("one executable", vec!["--where", rare.as_str()]),
        // Its directory is in every block, so that no footer helps.
        (
            "scan by path",
            vec!["--path", "/usr/lib/x86_64-linux-gnu/libnone"],
        ),
        ("scan by CEL", vec!["--where", "comm.endsWith(\"none\")"]),
    ];
    println!(
        "  {:<16}{:>10}{:>12}{:>14}{:>10}  what shrikectl said",
        "", "first", "whole", "events/s", "CPU"
    );
    let mut figures = Map::new();
    for (name, filter) in searches {
        let mut runs = Vec::new();
        for _ in 0..RUNS {
            runs.push(search(home, &filter)?);
        }
        runs.sort_by(|one, other| one.whole_ms.total_cmp(&other.whole_ms));
        let median = &runs[RUNS / 2];
        let rate = flood.events as f64 / median.whole_ms * 1e3;
        let first = median
            .first_ms
            .map_or_else(|| "-".to_owned(), |first| format!("{first:.0} ms"));
        println!(
            "  {name:<16}{first:>10}{:>9.0} ms{rate:>14.0}{:>8.2} s  {}",
            median.whole_ms, median.cpu_seconds, median.summary
        );
        figures.insert(
            name.replace(' ', "_"),
            json!({
                "first_ms": median.first_ms, "whole_ms": median.whole_ms, "found": median.lines,
                "events_per_second": rate.round(), "collector_cpu_seconds": median.cpu_seconds,
                "summary": median.summary,
            }),
        );
    }
    let (resident, peak) = (
        home.watched()?.resident_bytes()?,
        home.watched()?.peak_bytes()?,
    );
    println!(
        "  wanted: the first of one executable within 100 ms and all within 1 s; a scan of at \
         least 5,000,000 events/s"
    );
    println!(
        "  resident afterwards {} MB, at most {}",
        resident / 1_000_000,
        peak / 1_000_000
    );
    figures.insert("resident_bytes".to_owned(), resident.into());
    figures.insert("peak_resident_bytes".to_owned(), peak.into());
    Ok(Value::Object(figures))
}

fn search(home: &Home, filter: &[&str]) -> Result<Run> {
    let collector = home.watched()?;
    let cpu_before = collector.cpu_seconds()?;
    let arguments = [&["events", "-o", "compact"], filter].concat();
    let started = Instant::now();
    let mut child = home
        .ctl
        .command(&arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start shrikectl")?;
    let mut stderr = child.stderr.take().expect("stderr is a pipe");
    let said = thread::spawn(move || {
        let mut text = String::new();
        // What was read before an error is still worth showing.
        let _ = stderr.read_to_string(&mut text);
        text
    });
    let stdout = child.stdout.take().expect("stdout is a pipe");
    let (mut first_ms, mut lines) = (None, 0);
    for line in BufReader::new(stdout).split(b'\n') {
        line?;
        first_ms.get_or_insert_with(|| started.elapsed().as_secs_f64() * 1e3);
        lines += 1;
    }
    let status = child.wait()?;
    let whole_ms = started.elapsed().as_secs_f64() * 1e3;
    let said = said.join().expect("a reader only reads");
    ensure!(
        status.success(),
        "shrikectl {} ended with {status}: {said}",
        arguments.join(" ")
    );
    Ok(Run {
        first_ms,
        whole_ms,
        lines,
        summary: said.lines().last().unwrap_or_default().to_owned(),
        cpu_seconds: collector.cpu_seconds()? - cpu_before,
    })
}
