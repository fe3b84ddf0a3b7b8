//! How long a person who follows the events waits: from the hook in a node's
//! kernel to the line of `shrikectl events --follow` on this machine.
//!
//! The two have different clocks, and an emulated one may fall behind. So the
//! node says its boot time after each open, and the shortest way of such a word near
//! an event stands for the difference of the clocks: what is printed is longer
//! than the truth by nothing, and shorter by the fastest of these words, a
//! millisecond or two.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use crate::build::Binaries;
use crate::fleet::{Fleet, Node};
use crate::layout::Layout;
use crate::offspring;

/// Opens on each node, five a second.
const OPENS: usize = 100;

/// Clocks are compared over so many opens before and after one.
const NEIGHBOURS: usize = 8;

const PREFIX: &str = "/tmp/latency-";

const SCRIPT: &str = "\
import time
time.sleep(2)
for n in range(100):
    open('/tmp/latency-%d' % n, 'w').close()
    print(n, time.clock_gettime_ns(time.CLOCK_BOOTTIME), flush=True)
    time.sleep(0.2)
";

const TIMEOUT: Duration = Duration::from_secs(120);

pub(super) fn run(layout: &Layout, binaries: &Binaries) -> Result<Value> {
    println!("\nlatency: from the hook to a line of `shrikectl events --follow`");
    let fleet = Fleet::start(layout, binaries, &mut |line| eprintln!("  {line}"))?;
    let mut figures = Map::new();
    for node in &fleet.nodes {
        let mut waits = measure(&fleet, node)?;
        waits.sort_by(f64::total_cmp);
        let at = |share: f64| waits[((waits.len() - 1) as f64 * share).round() as usize];
        let (median, most, worst) = (at(0.5), at(0.9), at(1.0));
        println!(
            "  {} ({}): median {median:.0} ms, 9 of 10 within {most:.0} ms, the slowest {worst:.0} ms; {} opens",
            node.name(),
            node.machine.kernel(),
            waits.len()
        );
        figures.insert(
            node.machine.kernel().to_string(),
            json!({"opens": waits.len(), "median_ms": median, "p90_ms": most, "max_ms": worst}),
        );
    }
    Ok(Value::Object(figures))
}

/// Returns how long each open took, in milliseconds.
fn measure(fleet: &Fleet, node: &Node) -> Result<Vec<f64>> {
    let filters = [
        "events",
        "--follow",
        "-o",
        "json",
        "--node",
        node.name(),
        "--path",
        PREFIX,
    ];
    let mut command = fleet.ctl.command(&filters);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut follower = offspring::spawn(command)?;
    let lines = BufReader::new(follower.stdout.take().context("its output is a pipe")?);
    let (sender, arrived) = mpsc::channel();
    let reader = thread::spawn(move || {
        for line in lines.lines().map_while(Result::ok) {
            if sender.send((now_ns(), line)).is_err() {
                return;
            }
        }
    });
    let job = node
        .machine
        .command("python3")
        .args(["-c", SCRIPT])
        .spawn()?;
    // Number, the node's boot time, and when that was heard here.
    let mut words: Vec<(usize, f64, f64)> = Vec::new();
    while !job.has_ended() || words.len() < OPENS {
        let text = String::from_utf8_lossy(&job.stdout()).into_owned();
        let heard = now_ns();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        for line in whole.lines().skip(words.len()) {
            let (number, time) = line.split_once(' ').context("a number and a time")?;
            words.push((number.parse()?, time.parse()?, heard));
        }
        if job.has_ended() && words.len() < OPENS {
            job.wait(TIMEOUT)?;
            ensure!(!whole.is_empty(), "the node's clock said nothing");
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_secs(2));
    // It follows until it is ended.
    follower.kill()?;
    follower.wait()?;
    reader.join().expect("a reader only reads");
    let mut waits = Vec::new();
    for (at, line) in arrived.try_iter() {
        let event: Value = serde_json::from_str(&line)?;
        let path = event["open"]["file"]["path"].as_str().unwrap_or_default();
        let Some(number) = path
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.parse::<usize>().ok())
        else {
            continue;
        };
        let happened = event["boot_time_ns"].as_f64();
        let happened = happened.context("an event has its time in nanoseconds")?;
        let near = words
            .iter()
            .filter(|(other, _, _)| other.abs_diff(number) <= NEIGHBOURS)
            .map(|(_, said, heard)| heard - said)
            .fold(f64::INFINITY, f64::min);
        waits.push((at - happened - near) / 1e6);
    }
    ensure!(
        waits.len() > OPENS / 2,
        "only {} opens arrived",
        waits.len()
    );
    Ok(waits)
}

/// The time of this machine in nanoseconds.
fn now_ns() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_nanos() as f64)
}
