//! The power goes: what was promised is on the disk, at whatever moment.
//!
//! Collector and agent run in one machine, on one disk whose every write is
//! logged. The log is carried out again up to many moments: every other time up
//! to wherever that is between two flushes, else without what was not flushed by
//! then. Each of the disks is looked at by another machine. Killing the machine
//! would prove little: what it had not flushed is in this host's cache.
//!
//! The spool is not synced here: its syncs would bring the store's files onto the
//! disk with it.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use shrike_integration::fleet::poll;
use shrike_integration::setup::Kernel;
use shrike_integration::vm::{Job, Machine, Outcome, Spec, WriteLog};

use super::Claim;
use super::fixture::Fixture;

pub const CLAIMS: &[Claim] = &[Claim(
    "a_power_cut_at_any_moment_takes_nothing_that_was_acknowledged",
    power_cut,
)];

const DISK_BYTES: u64 = 384 << 20;

/// Where the disk is mounted.
const DISK: &str = "/srv/disk";

/// Moments that are looked at, besides the last one.
const CUTS: usize = 11;

/// From one seed the same moments of the same log.
const SEED: u64 = 0x5eed_0fca_b1e5;

const READY_TIMEOUT: Duration = Duration::from_secs(240);

/// What `shrikectl` was told, and how long the log was when it had been.
struct Promise {
    durable: u64,
    entries: u64,
}

fn power_cut(fixture: &mut Fixture) -> Result<()> {
    let (log, first, promises) = record(fixture)?;
    ensure!(
        log.flushes() > 20 && promises.last().is_some_and(|last| last.durable > 300),
        "{} flushes, {} promises: too little happened",
        log.flushes(),
        promises.len()
    );
    let folder = tempfile::tempdir()?;
    let cuts = replay(&log, first, folder.path())?;
    look_at(fixture, &log, &cuts, &promises)
}

fn spec(fixture: &Fixture, name: &str) -> Spec {
    let mut spec = Spec::new(name, Kernel::V6_12)
        .program(&fixture.binaries.agent, "/usr/bin/shrike-agent")
        .program(&fixture.binaries.collector, "/usr/bin/shrike-collector")
        .program(&fixture.binaries.ctl, "/usr/bin/shrikectl");
    spec.memory_mib = 2048;
    spec
}

/// Lets a collector and an agent work on the logged disk, and cuts the power.
/// Returns the log, the entry from which on they worked, and what was promised.
fn record(fixture: &Fixture) -> Result<(WriteLog, u64, Vec<Promise>)> {
    let mut spec = spec(fixture, "power");
    spec.logged_disk_bytes = Some(DISK_BYTES);
    let machine = Machine::boot(&fixture.layout, &fixture.binaries.guest, spec)?;
    machine.shell(&format!(
        "mkfs.ext4 -q /dev/vdc && mkdir -p {DISK} && mount /dev/vdc {DISK} && sync"
    ))?;
    let first = machine.write_log_bytes()?;
    enrol(fixture, &machine)?;
    let collector = machine
        .command("shrike-collector")
        .args(["run", "--config", "/etc/shrike/collector.toml"])
        .spawn()?;
    let agent = machine
        .command("shrike-agent")
        .args(["run", "--config", "/etc/shrike/agent.toml"])
        .spawn()?;
    let mut promises = Vec::new();
    poll(READY_TIMEOUT, || Ok((durable(&machine)? > 0).then_some(())))
        .with_context(|| said(&[&collector, &agent]))?;
    let work = machine
        .command("sh")
        .args([
            "-c",
            "for n in $(seq 1 400); do : > /tmp/power-$n; sleep 0.05; done",
        ])
        .spawn()?;
    // What was told is on the disk: its flush is in the log by then.
    while !work.has_ended() {
        let durable = durable(&machine)?;
        promises.push(Promise {
            durable,
            entries: machine.write_log_bytes()?,
        });
    }
    ensure!(
        !collector.has_ended() && !agent.has_ended(),
        "{}",
        said(&[&collector, &agent])
    );
    Ok((machine.cut_power()?, first, promises))
}

fn said(jobs: &[&Job]) -> String {
    let said = jobs
        .iter()
        .map(|job| String::from_utf8_lossy(&job.stderr()).into_owned());
    said.collect::<Vec<_>>().join("\n")
}

fn enrol(fixture: &Fixture, machine: &Machine) -> Result<()> {
    let pki = fixture.fleet.pki();
    for (from, to) in [
        ("ca.pem", "ca.pem"),
        ("collector-main.pem", "collector.pem"),
        ("collector-main.key", "collector.key"),
        ("agent-node-a.pem", "agent.pem"),
        ("agent-node-a.key", "agent.key"),
        ("admin-ada.pem", "admin.pem"),
        ("admin-ada.key", "admin.key"),
    ] {
        let contents = std::fs::read(pki.join(from)).with_context(|| format!("no {from}"))?;
        machine.write(&format!("/etc/shrike/{to}"), 0o600, &contents)?;
    }
    let tls = |name: &str| {
        format!(
            "\n[tls]\nca = \"/etc/shrike/ca.pem\"\ncertificate = \"/etc/shrike/{name}.pem\"\nkey = \
             \"/etc/shrike/{name}.key\"\n"
        )
    };
    let collector = format!(
        "listen = \"127.0.0.1:7433\"\ndata_dir = \"{DISK}/store\"\nlow_disk_bytes = 1000000\n{}",
        tls("collector")
    );
    let agent = format!(
        "node = \"node-a\"\ncollectors = [\"127.0.0.1:7433\"]\nstate = \"{DISK}/agent\"\nopens = \
         \"all\"\n{}\n[spool]\nsync = \"never\"\n",
        tls("agent")
    );
    machine.write("/etc/shrike/collector.toml", 0o600, collector.as_bytes())?;
    machine.write("/etc/shrike/agent.toml", 0o600, agent.as_bytes())
}

/// Asks the collector how far it has everything; 0 while it does not answer.
fn durable(machine: &Machine) -> Result<u64> {
    let ran = machine
        .command("shrikectl")
        .args([
            "--collector",
            "127.0.0.1:7433",
            "--ca",
            "/etc/shrike/ca.pem",
        ])
        .args(["--cert", "/etc/shrike/admin.pem"])
        .args(["--key", "/etc/shrike/admin.key"])
        .args(["nodes", "-o", "json"])
        .run()?;
    if ran.outcome != Outcome::SUCCESS {
        return Ok(0);
    }
    let said: Value = serde_json::from_str(&ran.stdout_text())?;
    Ok(said["nodes"][0]["durable_sequence"].as_u64().unwrap_or(0))
}

/// A disk that lost its power.
struct Cut {
    /// Entries of the log that it had been told.
    entries: usize,
    image: PathBuf,
}

/// Makes the disk of each moment.
fn replay(log: &WriteLog, first_bytes: u64, folder: &std::path::Path) -> Result<Vec<Cut>> {
    let first = log.entries_before(first_bytes);
    let last = log.entries();
    ensure!(last - first > 10 * CUTS, "only {} writes", last - first);
    let mut state = SEED;
    let mut moments: Vec<usize> = (0..CUTS)
        .map(|cut| {
            // xorshift64: somewhere in each of as many equal parts.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let part = (last - first) / CUTS;
            first + cut * part + (state as usize) % part
        })
        .collect();
    moments.push(last);
    let present = folder.join("present");
    let disk = File::create(&present)?;
    disk.set_len(DISK_BYTES)?;
    let mut done = 0;
    let mut cuts = Vec::new();
    for (number, entries) in moments.into_iter().enumerate() {
        let kept = match number % 2 {
            0 => entries,
            _ => log.flushed_of(entries).max(done),
        };
        log.replay(done..kept, &disk)?;
        done = kept;
        let image = folder.join(format!("cut-{entries}"));
        let status = std::process::Command::new("cp")
            .arg("--sparse=always")
            .args([&present, &image])
            .status()?;
        ensure!(status.success(), "cp: {status}");
        cuts.push(Cut { entries, image });
    }
    Ok(cuts)
}

/// Mounts each disk and compares it with what had been promised by then.
fn look_at(fixture: &Fixture, log: &WriteLog, cuts: &[Cut], promises: &[Promise]) -> Result<()> {
    let mut spec = spec(fixture, "power-after");
    spec.images = cuts.iter().map(|cut| cut.image.clone()).collect();
    let machine = Machine::boot(&fixture.layout, &fixture.binaries.guest, spec)?;
    for (cut, letter) in cuts.iter().zip('c'..='z') {
        let promised = promises
            .iter()
            .filter(|promise| log.entries_before(promise.entries) <= cut.entries)
            .map(|promise| promise.durable)
            .max()
            .unwrap_or(0);
        let moment = format!(
            "after {} of {} entries (seed {SEED:#x})",
            cut.entries,
            log.entries()
        );
        machine.shell(&format!(
            "mkdir -p {DISK} && mount /dev/vd{letter} {DISK} && ls {DISK}"
        ))?;
        look_at_one(&machine, promised).context(moment)?;
        machine.shell(&format!("umount {DISK}"))?;
    }
    Ok(())
}

fn look_at_one(machine: &Machine, promised: u64) -> Result<()> {
    let store = format!("{DISK}/store");
    let is_there = machine.shell(&format!("test -e {store}/db && echo yes || true"))?;
    let durable = if is_there.contains("yes") {
        let verified = machine
            .command("shrike-collector")
            .args(["store", "verify", "--data-dir", &store])
            .run()?;
        ensure!(
            verified.outcome == Outcome::SUCCESS,
            "{:?}: {}{}",
            verified.outcome,
            verified.stdout_text(),
            verified.stderr_text()
        );
        stored(machine, &store)?
    } else {
        0
    };
    ensure!(
        durable >= promised,
        "the collector had said that it has everything up to {promised}, and has {durable}"
    );
    // Whatever the spool let go of is in the store.
    let spool = machine.shell(&format!("shrike-agent spool inspect --state {DISK}/agent"))?;
    let acknowledged = spool
        .lines()
        .filter_map(|line| line.trim().strip_prefix("numbers"))
        .filter_map(|line| line.trim().strip_prefix("acknowledged up to "))
        .filter_map(|line| line.split(',').next()?.parse::<u64>().ok())
        .max()
        .unwrap_or(0);
    ensure!(
        durable >= acknowledged,
        "the agent has let go of everything up to {acknowledged}, the store has {durable}:\n{spool}"
    );
    Ok(())
}

/// Insists that every number up to the last one is stored once, and returns it.
fn stored(machine: &Machine, store: &str) -> Result<u64> {
    let exported = machine
        .command("shrike-collector")
        .args(["store", "export", "--data-dir", store])
        .run()?;
    if exported.outcome != Outcome::SUCCESS {
        bail!("{:?}: {}", exported.outcome, exported.stderr_text());
    }
    let mut numbers = BTreeSet::new();
    for line in exported.stdout_text().lines() {
        let event: Value = serde_json::from_str(line)?;
        let number = event["sequence"].as_u64().context("no number")?;
        ensure!(numbers.insert(number), "{number} is stored twice");
    }
    let last = numbers.last().copied().unwrap_or(0);
    ensure!(
        numbers.len() as u64 == last,
        "{} events, and the last one is {last}",
        numbers.len()
    );
    Ok(last)
}
