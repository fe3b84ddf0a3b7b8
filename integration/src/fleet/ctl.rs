//! `shrikectl`, as an administrator runs it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Ran;

/// A push waits for the nodes; everything else is quick.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The CLI with an administrator's certificate.
#[derive(Clone, Debug)]
pub struct Ctl {
    binary: PathBuf,
    pki: PathBuf,
    address: String,
    identity: String,
    otlp_endpoint: Option<String>,
}

/// What `nodes -o json` says of a node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeRow {
    /// Its name.
    pub name: String,
    /// Whether an events session is open.
    pub events_connected: bool,
    /// Whether a policy session is open.
    pub control_connected: bool,
    /// The generation that it shall enforce.
    pub desired_generation: u64,
    /// The generation that it enforces.
    pub applied_generation: u64,
    /// Events of its epoch in the store.
    pub stored: u64,
    /// Records that its hooks set out to write.
    pub seen: u64,
    /// Left out on purpose.
    pub filtered: u64,
    /// Lost in the kernel or while decoding, before a sequence number.
    pub lost: u64,
    /// Lost after they had a sequence number (a full queue, quarantine).
    pub lost_by_agent: u64,
    /// Events that got a sequence number.
    pub sequenced: u64,
}

impl Ctl {
    /// The CLI for a collector on this machine, with the certificates of a
    /// PKI folder that need not exist yet.
    pub fn new(binary: &Path, pki: &Path, port: u16) -> Self {
        Self {
            binary: binary.to_owned(),
            pki: pki.to_owned(),
            address: format!("127.0.0.1:{port}"),
            identity: "admin-ada".to_owned(),
            otlp_endpoint: None,
        }
    }

    pub(super) fn exporting_to(mut self, endpoint: &str) -> Self {
        self.otlp_endpoint = Some(endpoint.to_owned());
        self
    }

    /// The same CLI with another certificate of the same PKI folder.
    pub fn with_identity(&self, file_stem: &str) -> Self {
        Self {
            identity: file_stem.to_owned(),
            ..self.clone()
        }
    }

    /// Makes the CA.
    ///
    /// # Errors
    /// When the CLI refuses.
    pub fn init_pki(&self, domain: &str) -> Result<()> {
        let pki = self.pki.display().to_string();
        self.insist(&["pki", "init", "--dir", &pki, "--domain", domain])?;
        Ok(())
    }

    /// Issues a certificate; its files are `ROLE-ID.pem` and `.key`.
    ///
    /// # Errors
    /// When the CLI refuses.
    pub fn issue(&self, role: &str, id: &str) -> Result<()> {
        let pki = self.pki.display().to_string();
        self.insist(&["pki", "issue", "--dir", &pki, role, id])?;
        Ok(())
    }

    /// Every variable that the CLI takes its address and certificates from.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let file = |name: String| self.pki.join(name).display().to_string();
        let mut variables = vec![
            ("SHRIKECTL_COLLECTOR", self.address.clone()),
            ("SHRIKECTL_CA", file("ca.pem".to_owned())),
            ("SHRIKECTL_CERT", file(format!("{}.pem", self.identity))),
            ("SHRIKECTL_KEY", file(format!("{}.key", self.identity))),
        ];
        if let Some(endpoint) = &self.otlp_endpoint {
            variables.push(("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.clone()));
        }
        variables
    }

    /// The command, not yet started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(arguments)
            .env("SHRIKECTL_CONFIG", self.pki.join("no-contexts.toml"))
            .env("NO_COLOR", "1")
            .envs(self.environment());
        command
    }

    /// Runs it to its end, whatever that is.
    ///
    /// # Errors
    /// When it cannot be started or hangs.
    pub fn run(&self, arguments: &[&str]) -> Result<Ran> {
        Ran::to_end(&mut self.command(arguments), TIMEOUT)
    }

    /// Runs it and insists on exit code 0.
    ///
    /// # Errors
    /// With its own words when it ends otherwise.
    pub fn insist(&self, arguments: &[&str]) -> Result<Ran> {
        let ran = self.run(arguments)?;
        if ran.code != Some(0) {
            bail!(
                "shrikectl {} ended with {:?}:\n{}{}",
                arguments.join(" "),
                ran.code,
                ran.stdout,
                ran.stderr
            );
        }
        Ok(ran)
    }

    /// Stored events, oldest first, as JSON objects.
    ///
    /// # Errors
    /// When the query fails or prints something else.
    pub fn events(&self, filters: &[&str]) -> Result<Vec<Value>> {
        let arguments = [&["events", "-o", "json"], filters].concat();
        let ran = self.insist(&arguments)?;
        let lines = ran.stdout.lines();
        lines
            .map(|line| {
                serde_json::from_str(line).with_context(|| format!("not a JSON object: {line}"))
            })
            .collect()
    }

    /// How many stored events there are, without keeping them.
    ///
    /// # Errors
    /// When the query fails.
    pub fn count_events(&self, filters: &[&str]) -> Result<u64> {
        let arguments = [&["events", "-o", "compact"], filters].concat();
        let mut child = self
            .command(&arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start shrikectl")?;
        let stdout = child.stdout.take().expect("stdout is a pipe");
        let mut lines = 0;
        for line in BufReader::new(stdout).split(b'\n') {
            line?;
            lines += 1;
        }
        let status = child.wait()?;
        if !status.success() {
            bail!("shrikectl {} ended with {status}", arguments.join(" "));
        }
        Ok(lines)
    }

    /// The nodes as the collector knows them.
    ///
    /// # Errors
    /// When the query fails or prints something else.
    pub fn nodes(&self) -> Result<Vec<NodeRow>> {
        let ran = self.insist(&["nodes", "-o", "json"])?;
        let answer: Value = serde_json::from_str(&ran.stdout).context("`nodes -o json`")?;
        let nodes = answer["nodes"].as_array().or(answer.as_array());
        let nodes = nodes.with_context(|| format!("no list of nodes in {answer}"))?;
        nodes.iter().map(NodeRow::read).collect()
    }
}

impl NodeRow {
    fn read(node: &Value) -> Result<Self> {
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        let ledger = &node["ledger"];
        let counts = |list: &Value| -> u64 {
            match list {
                Value::Object(reasons) => reasons.values().map(number).sum(),
                Value::Array(entries) => entries.iter().map(|entry| number(&entry["count"])).sum(),
                other => number(other),
            }
        };
        Ok(Self {
            name: node["name"]
                .as_str()
                .context("a node without a name")?
                .to_owned(),
            events_connected: node["events_connected"] == true,
            control_connected: node["control_connected"] == true,
            desired_generation: number(&node["desired_generation"]),
            applied_generation: number(&node["applied_generation"]),
            stored: number(&node["stored"]),
            seen: number(&ledger["seen"]),
            filtered: number(&ledger["filtered"]),
            lost: counts(&ledger["lost"]),
            lost_by_agent: counts(&node["lost"]),
            sequenced: number(&ledger["sequenced"]),
        })
    }
}
