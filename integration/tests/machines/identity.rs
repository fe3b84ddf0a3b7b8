//! Who may speak: certificates, names and roles.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shrike_integration::vm::Outcome;

use super::Claim;
use super::fixture::{Fixture, insist};

pub const CLAIMS: &[Claim] = &[
    Claim(
        "an_agents_certificate_is_no_administrators",
        agent_is_no_admin,
    ),
    Claim("a_certificate_of_another_ca_is_refused", another_ca),
    Claim("an_agent_under_another_nodes_name_is_refused", another_name),
    Claim("garbage_on_the_port_disturbs_nobody", garbage),
];

fn agent_is_no_admin(fixture: &mut Fixture) -> Result<()> {
    let ctl = fixture.fleet.ctl.with_identity("agent-node-a");
    let ran = ctl.run(&["nodes"])?;
    ensure!(
        ran.code != Some(0),
        "an agent lists the nodes:\n{}",
        ran.stdout
    );
    ensure!(
        ran.stderr.contains("admin") || ran.stderr.contains("agent"),
        "the refusal names no role:\n{}",
        ran.stderr
    );
    Ok(())
}

fn another_ca(fixture: &mut Fixture) -> Result<()> {
    let foreign = fixture.fleet.folder().join("foreign-pki");
    let foreign = foreign.display().to_string();
    let ctl = &fixture.fleet.ctl;
    ctl.insist(&["pki", "init", "--dir", &foreign, "--domain", "demo.shrike"])?;
    ctl.insist(&["pki", "issue", "--dir", &foreign, "admin", "ada"])?;
    // The right CA to trust, a certificate that another one issued.
    let ran = shrike_integration::fleet::Ran::to_end(
        ctl.command(&["nodes"])
            .env("SHRIKECTL_CERT", format!("{foreign}/admin-ada.pem"))
            .env("SHRIKECTL_KEY", format!("{foreign}/admin-ada.key")),
        Duration::from_secs(60),
    )?;
    ensure!(
        ran.code != Some(0),
        "a foreign certificate is taken:\n{}",
        ran.stdout
    );
    // And the other way round: a collector that our CA did not issue.
    let ran = shrike_integration::fleet::Ran::to_end(
        ctl.command(&["nodes"])
            .env("SHRIKECTL_CA", format!("{foreign}/ca.pem")),
        Duration::from_secs(60),
    )?;
    ensure!(
        ran.code != Some(0),
        "a foreign collector is trusted:\n{}",
        ran.stdout
    );
    Ok(())
}

fn another_name(fixture: &mut Fixture) -> Result<()> {
    let node = fixture.fleet.node("node-a");
    node.machine.shell(
        "sed 's/^node = .*/node = \"node-b\"/' /etc/shrike/agent.toml > /tmp/claim-agent.toml",
    )?;
    let ran = node
        .machine
        .command("shrike-agent")
        .args(["run", "--config", "/tmp/claim-agent.toml"])
        .timeout(Duration::from_secs(60))
        .run()?;
    ensure!(
        ran.outcome == Outcome::Code(2) && ran.stderr_text().contains("node-a"),
        "an agent with node-a's certificate calls itself node-b: {:?}\n{}",
        ran.outcome,
        ran.stderr_text()
    );
    insist(&node.machine, &["true"], Outcome::SUCCESS)
}

fn garbage(fixture: &mut Fixture) -> Result<()> {
    let address = ("127.0.0.1", fixture.fleet.collector.port());
    let mut idle = Vec::new();
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 4096],
        &[0x16, 0x03, 0x01, 0xff, 0xff],
    ] {
        let mut stream = TcpStream::connect(address).context("the collector listens")?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        // It may hang up in the middle.
        let _ = stream.write_all(garbage);
        idle.push(stream);
    }
    // The handshake time-out ends even the one that never says more.
    for mut stream in idle {
        let mut answer = Vec::new();
        let end = stream.read_to_end(&mut answer);
        let timed_out = end.is_err_and(|error| {
            matches!(
                error.kind(),
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
            )
        });
        ensure!(
            !timed_out,
            "the collector keeps a connection that speaks no TLS"
        );
    }
    for row in fixture.fleet.ctl.nodes()? {
        ensure!(
            row.events_connected && row.control_connected,
            "{} was disturbed",
            row.name
        );
    }
    Ok(())
}
