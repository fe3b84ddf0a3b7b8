//! A node: a virtual machine and the agent in it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Receiver;
use crate::build::Binaries;
use crate::layout::Layout;
use crate::setup::Kernel;
use crate::vm::{Finished, HOST, Job, Machine, Outcome, Spec};

/// Where the agent lies in a machine.
pub const AGENT: &str = "/usr/bin/shrike-agent";

const CONFIG: &str = "/etc/shrike/agent.toml";

/// The queue gets five seconds to empty, the rest is an emulated processor.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// SIGTERM.
const TERMINATE: i32 = 15;

/// SIGKILL.
const KILL: i32 = 9;

/// A machine that has, or had, an agent.
pub struct Node {
    /// The machine.
    pub machine: Machine,
    agent: Option<Job>,
}

impl Node {
    pub(super) fn boot(
        layout: &Layout,
        binaries: &Binaries,
        name: &str,
        kernel: Kernel,
    ) -> Result<Self> {
        let spec = Spec::new(name, kernel).program(&binaries.agent, AGENT);
        let machine = Machine::boot(layout, &binaries.guest, spec)?;
        Ok(Self {
            machine,
            agent: None,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.machine.name()
    }

    /// Gives the node its certificate and its configuration.
    pub(super) fn enrol(&self, pki: &Path, port: u16, receiver: &Receiver) -> Result<()> {
        let name = self.name();
        let files = [
            ("ca.pem", "ca.pem".to_owned(), 0o644),
            ("agent.pem", format!("agent-{name}.pem"), 0o644),
            ("agent.key", format!("agent-{name}.key"), 0o600),
        ];
        for (to, from, mode) in files {
            let contents = fs::read(pki.join(&from)).with_context(|| format!("no {from}"))?;
            self.machine
                .write(&format!("/etc/shrike/{to}"), mode, &contents)?;
        }
        let otlp = receiver.endpoint(HOST);
        let config = format!(
            "node = \"{name}\"\n\
             collectors = [\"{HOST}:{port}\"]\n\
             otlp_endpoint = \"{otlp}\"\n\
             opens = \"all\"\n\
             exec_environment = \"keys\"\n\
             \n\
             [labels]\n\
             kernel = \"{kernel}\"\n\
             role = \"web\"\n\
             \n\
             [tls]\n\
             ca = \"/etc/shrike/ca.pem\"\n\
             certificate = \"/etc/shrike/agent.pem\"\n\
             key = \"/etc/shrike/agent.key\"\n",
            kernel = self.machine.kernel(),
        );
        self.machine.write(CONFIG, 0o600, config.as_bytes())
    }

    /// Starts the agent.
    ///
    /// # Errors
    /// When it cannot be started; that it stays up is seen by its sessions.
    pub fn start_agent(&mut self) -> Result<()> {
        self.start_agent_with(&[])
    }

    /// Starts the agent with overrides (`SHRIKE_AGENT_…`).
    ///
    /// # Errors
    /// As [`start_agent`](Self::start_agent).
    pub fn start_agent_with(&mut self, environment: &[(&str, &str)]) -> Result<()> {
        let mut command = self
            .machine
            .command(AGENT)
            .args(["run", "--config", CONFIG]);
        for (name, value) in environment {
            command = command.env(name, value);
        }
        self.agent = Some(command.spawn()?);
        Ok(())
    }

    /// Stops the agent in order (SIGTERM).
    ///
    /// # Errors
    /// When it does not stop, or not with exit code 0.
    pub fn stop_agent(&mut self) -> Result<Finished> {
        let job = self.agent.take().context("no agent runs")?;
        job.signal(TERMINATE)?;
        let finished = job.wait(STOP_TIMEOUT)?;
        if finished.outcome != Outcome::SUCCESS {
            bail!(
                "the agent ended with {:?}; it said:\n{}",
                finished.outcome,
                finished.stderr_text()
            );
        }
        Ok(finished)
    }

    /// Kills the agent (SIGKILL): it does nothing any more, and tidies nothing
    /// up.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill_agent(&mut self) -> Result<Finished> {
        let job = self.agent.take().context("no agent runs")?;
        job.signal(KILL)?;
        job.wait(STOP_TIMEOUT)
    }

    /// Whether an agent runs.
    pub fn agent_runs(&self) -> bool {
        self.agent.as_ref().is_some_and(|job| !job.has_ended())
    }

    /// The agent's process id in the machine.
    pub fn agent_pid(&self) -> Option<u32> {
        self.agent.as_ref().map(Job::pid)
    }

    /// What the agent has logged.
    pub fn agent_said(&self) -> String {
        let said = self.agent.as_ref().map(Job::stderr).unwrap_or_default();
        String::from_utf8_lossy(&said).into_owned()
    }
}
