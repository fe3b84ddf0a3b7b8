//! What came of each kill, on real kernels: a death, and a survival.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use shrike_integration::vm::Outcome;

use super::Claim;
use super::fixture::{Fixture, insist};

pub const CLAIMS: &[Claim] = &[Claim(
    "a_kill_that_is_survived_is_an_alert_that_says_why",
    survivor,
)];

const READY_TIMEOUT: Duration = Duration::from_secs(60);

const POLICY: &str = "\
apiVersion: shrike/v1
kind: Policy
metadata: {name: held}
spec:
  mode: enforce
  rules:
    - {name: key, on: open, paths: [/srv/held/key], action: kill}
";

/// A file system of its own: the agent's spool must not be on the frozen one.
const MAKE: &str = "\
mkdir -p /srv/held && truncate -s 16M /srv/held.img && mkfs.ext4 -q /srv/held.img && \
mount -o loop /srv/held.img /srv/held && echo secret > /srv/held/key && sync";

/// The first thread writes to a frozen file system, where it waits in a way
/// that no signal ends. Then another one does what the process dies for.
const HELD: &str = "\
import os, threading, time
held = open('/srv/held/held', 'w')
assert os.system('fsfreeze -f /srv/held') == 0
def touch():
    time.sleep(1)
    open('/srv/held/key')
threading.Thread(target=touch).start()
print(os.getpid(), flush=True)
os.write(held.fileno(), b'x')
";

fn survivor(fixture: &mut Fixture) -> Result<()> {
    for node in &fixture.fleet.nodes {
        node.machine.shell(MAKE)?;
    }
    fixture.push(POLICY)?;
    for node in &fixture.fleet.nodes {
        // One that dies as it should has a receipt and is no alert.
        insist(&node.machine, &["cat", "/srv/held/key"], Outcome::Signal(9))?;

        let job = node.machine.command("python3").args(["-c", HELD]).spawn()?;
        let seen = watch(fixture, node.name(), || {
            job.wait_for(READY_TIMEOUT, "says its number", |stdout, _| {
                String::from_utf8_lossy(stdout).trim().parse().ok()
            })
        });
        // Whatever was seen: nothing else may find the file system frozen.
        node.machine.shell("fsfreeze -u /srv/held")?;
        let (pid, alert) = seen?;
        let receipt = &alert["alert"]["receipt"];
        ensure!(
            alert["alert"]["cause"] == "kill-survived"
                && alert["alert"]["obstacle"] == "uninterruptible"
                && alert["process"]["pid"] == pid
                && alert["verdict"]["rule"] == "key"
                && alert["verdict"]["outcome"] == "signal-sent"
                && receipt["died_by_it"] == false
                && receipt["after_ns"].as_u64() >= Some(5_000_000_000),
            "{alert}"
        );
        let finished = job.wait(READY_TIMEOUT)?;
        ensure!(
            finished.outcome == Outcome::Signal(9),
            "{:?}",
            finished.outcome
        );
        let pid = pid.to_string();
        let filters = ["--node", node.name(), "--verdict", "kill", "--pid", &pid];
        let exit = fixture.wait_for_events(&filters, |events| {
            events.iter().find(|event| event["kind"] == "exit").cloned()
        })?;
        ensure!(
            exit["exit"]["receipt"]["died_by_it"] == true
                && exit["exit"]["receipt"]["verdict_sequence"] == receipt["verdict_sequence"]
                && exit["exit"]["receipt"]["after_ns"].as_u64() > receipt["after_ns"].as_u64(),
            "{exit}"
        );
        // Of all kills on this node only this one was survived.
        let shown =
            fixture
                .fleet
                .ctl
                .insist(&["events", "--node", node.name(), "--kind", "alert"])?;
        ensure!(
            shown.stdout.matches("ALERT kill-survived").count() == 1
                && shown.stdout.lines().count() == 1,
            "{}",
            shown.stdout
        );
        node.machine
            .shell("umount /srv/held && rm /srv/held.img && rmdir /srv/held")?;
    }
    Ok(())
}

fn watch(
    fixture: &Fixture,
    node: &str,
    number: impl FnOnce() -> Result<u32>,
) -> Result<(u32, Value)> {
    let pid = number()?;
    let text = pid.to_string();
    let filters = ["--node", node, "--kind", "alert", "--pid", &text];
    let alert = fixture.wait_for_events(&filters, |events| events.first().cloned())?;
    Ok((pid, alert))
}
