//! Full speed: everything that happened is stored or counted as lost.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Claim;
use super::fixture::Fixture;

pub const CLAIMS: &[Claim] = &[Claim(
    "two_hundred_thousand_opens_at_full_speed_are_all_accounted_for",
    burst,
)];

const OPENS: u64 = 200_000;

/// An emulated kernel opens some ten thousand files a second with a probe on
/// each, and the agent shares its two processors.
const BURST_TIMEOUT: Duration = Duration::from_secs(300);

fn burst(fixture: &mut Fixture) -> Result<()> {
    for name in ["node-a", "node-b"] {
        let path = "/tmp/claim-burst";
        let row = |fixture: &Fixture| {
            let rows = fixture.fleet.ctl.nodes()?;
            let row = rows.into_iter().find(|row| row.name == name);
            row.context("the node is in the list")
        };
        fixture.fleet.settle(BURST_TIMEOUT)?;
        let before = row(fixture)?;
        let machine = &fixture.fleet.node(name).machine;
        machine.shell(&format!("touch {path}"))?;
        let count = OPENS.to_string();
        let ran = machine
            .command("/usr/lib/shrike/guest")
            .args(["work", "opens", "--count", &count, "--threads", "2", "--path", path])
            .timeout(BURST_TIMEOUT)
            .run()?;
        eprintln!("burst on {name}: {}", ran.stdout_text().trim());
        fixture.fleet.settle(BURST_TIMEOUT)?;
        let after = row(fixture)?;

        let seen = after.seen - before.seen;
        let lost = after.lost - before.lost + after.lost_by_agent - before.lost_by_agent;
        let stored = after.stored - before.stored;
        let filtered = after.filtered - before.filtered;
        eprintln!("burst on {name}: seen {seen} = stored {stored} + lost {lost} + filtered {filtered}");
        ensure!(seen >= OPENS, "{name} saw only {seen} of {OPENS} opens");
        ensure!(
            seen == stored + lost + filtered,
            "{name}: seen {seen}, stored {stored}, lost {lost}, filtered {filtered}"
        );
        let counted = fixture
            .fleet
            .ctl
            .count_events(&["--node", name, "--kind", "open", "--path", path])?;
        ensure!(
            counted + lost >= OPENS,
            "{name}: {counted} opens in the store and {lost} lost are less than {OPENS}"
        );
    }
    Ok(())
}
