//! What an operator tells the agent: TOML, then the environment on top.
//!
//! A configuration is read once, checked whole, and immutable afterwards. It
//! names key files and holds no secret itself. An unknown field is an error:
//! a misspelt setting that is silently ignored would be a hole in a security
//! tool.

mod environment;
mod error;

pub use error::ConfigError;

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use shrike_proto::{
    batch::BATCH_EVENTS_MAX,
    id::NodeId,
    identity::Role,
    policy::PathPattern,
    tls::{self, TlsFiles},
    transport,
};

use crate::{
    kernel::{
        Attachment, ExecEnvironment, KILLS_PER_MINUTE_DEFAULT, Opens, PINS,
        PRIORITY_RING_BYTES_DEFAULT, Processes, RING_BYTES_DEFAULT, never_kill_default,
    },
    receipts::PATIENCE_DEFAULT,
    spool::SYNC_INTERVAL_DEFAULT,
};

/// Where `shrike-agent run` looks for its configuration.
pub const CONFIG_PATH: &str = "/etc/shrike/agent.toml";

/// Everything that an operator can set, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentConfig {
    /// The node's name: the ID in its certificate.
    pub node: NodeId,
    /// Collectors as `HOST:PORT`, tried in this order; at least one.
    pub collectors: Vec<String>,
    /// Key files.
    pub tls: TlsFiles,
    /// What policies select nodes by.
    pub labels: BTreeMap<String, String>,
    /// Where spans go; `None` exports nothing.
    pub otlp_endpoint: Option<String>,
    /// Size of the kernel's ring buffer of opens that no rule matched: a power
    /// of two.
    pub ring_bytes: u32,
    /// Size of the kernel's ring buffer of everything else, likewise.
    pub priority_ring_bytes: u32,
    /// Which opens are events.
    pub opens: Opens,
    /// Which execs, forks and exits are events.
    pub processes: Processes,
    /// What is read of a new image's environment.
    pub exec_environment: ExecEnvironment,
    /// How the decisions are attached; `None`: the best way there is.
    pub attach: Option<Attachment>,
    /// Where programs and maps are pinned, so that enforcement outlives the
    /// agent; `None`: nowhere.
    pub pin: Option<PathBuf>,
    /// Where the agent keeps its policies and its spool.
    pub state: PathBuf,
    /// What keeps a policy from doing harm.
    pub guard: GuardRails,
    /// Bounds of the spool, and when it is synced.
    pub spool: SpoolLimits,
    /// Most events in one batch.
    pub batch_events_max: usize,
}

/// What keeps a policy from doing harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardRails {
    /// Kills of one rule within a minute before it is only observed; 0: no
    /// limit.
    pub kills_per_minute: u32,
    /// Programs that are never killed.
    pub never_kill: Vec<PathPattern>,
    /// A killed process that is alive after this is an alert.
    pub kill_patience: Duration,
}

/// Bounds of the spool, and when it is synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpoolLimits {
    /// Most bytes on the disk.
    pub bytes_max: u64,
    /// When what was written is brought onto the disk.
    pub sync: Sync,
}

impl SpoolLimits {
    /// Returns how long a file of the spool is, in bytes: it leaves whole, so
    /// it is a small part of all.
    pub fn segment_bytes(&self) -> u64 {
        (self.bytes_max / 64).clamp(64 << 10, 4 << 20)
    }
}

/// When the spool is brought onto the disk. An agent that dies loses nothing
/// in any case: what was written is the kernel's then. This is about the power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Before a batch is sent, and before the rings give up its events.
    Always,
    /// This often: a power cut loses no more than was written since.
    Interval(Duration),
    /// When the kernel comes to it.
    Never,
}

impl Default for SpoolLimits {
    fn default() -> Self {
        Self {
            // A busy node's hours, and a quiet one's weeks.
            bytes_max: 512 << 20,
            sync: Sync::Interval(SYNC_INTERVAL_DEFAULT),
        }
    }
}

/// Most events in a batch where nothing else was asked for: large enough that
/// compression pays, small enough that a resend costs little.
pub const BATCH_EVENTS_DEFAULT: usize = 1024;

impl AgentConfig {
    /// Reads `path`, lets the environment override it, and checks the result.
    /// Key files are not opened: see [`identity`](Self::identity).
    ///
    /// A missing file is an error unless it is [`CONFIG_PATH`] itself: a
    /// container may be configured by its environment alone.
    ///
    /// # Errors
    /// [`ConfigError`] says what is wrong, where, and how to mend it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && path == Path::new(CONFIG_PATH) =>
            {
                String::new()
            }
            Err(source) => {
                return Err(ConfigError::Read {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        Self::parse(path, &text, std::env::vars())
    }

    /// Parses the text of a configuration file; `path` is for messages only.
    ///
    /// # Errors
    /// [`ConfigError`], as in [`load`](Self::load).
    pub fn parse(
        path: &Path,
        text: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut file: File =
            toml::from_str(text).map_err(|error| parse_error(path, text, &error))?;
        environment::apply(&mut file, environment)?;
        file.check(path)
    }

    /// Opens the key files and checks that they speak for this node.
    ///
    /// # Errors
    /// [`ConfigError::Tls`] names the file, [`ConfigError::OtherNode`] both
    /// names.
    pub fn identity(&self) -> Result<Arc<rustls::ClientConfig>, ConfigError> {
        let (tls, identity) = tls::client_config(&self.tls, &[Role::Agent])?;
        if identity.id() != self.node.as_str() {
            return Err(ConfigError::OtherNode {
                node: self.node.to_string(),
                certified: identity.id().to_owned(),
                path: self.tls.certificate.clone(),
            });
        }
        Ok(Arc::new(tls))
    }
}

/// Prints the effective configuration as TOML that [`AgentConfig::load`]
/// takes.
impl fmt::Display for AgentConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = toml::to_string(&File::from(self)).map_err(|_| fmt::Error)?;
        f.write_str(&text)
    }
}

/// The file as it is written: everything may be left out.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    collectors: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    otlp_endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ring_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority_ring_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    opens: Option<Opens>,
    #[serde(skip_serializing_if = "Option::is_none")]
    processes: Option<Processes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exec_environment: Option<ExecEnvironment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attach: Option<Attachment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pin: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<PathBuf>,
    #[serde(default)]
    tls: TlsSection,
    #[serde(default)]
    guard: GuardSection,
    #[serde(default)]
    spool: SpoolSection,
    #[serde(default)]
    batch: BatchSection,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct TlsSection {
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct GuardSection {
    kills_per_minute: Option<u32>,
    never_kill: Option<Vec<String>>,
    kill_patience_ms: Option<u64>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct SpoolSection {
    bytes_max: Option<u64>,
    sync: Option<SyncWord>,
    sync_interval_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum SyncWord {
    Always,
    Interval,
    Never,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct BatchSection {
    events_max: Option<u64>,
}

impl File {
    fn check(self, path: &Path) -> Result<AgentConfig, ConfigError> {
        let missing = |field, variable| ConfigError::Missing {
            field,
            variable,
            path: path.to_owned(),
        };
        let node = match &self.node {
            Some(node) => node.clone(),
            None => crate::node::hostname().to_lowercase(),
        };
        let node = NodeId::parse(&node).map_err(|source| ConfigError::Node { source })?;
        let collectors = self.collectors.unwrap_or_default();
        if collectors.is_empty() {
            return Err(missing("collectors", "SHRIKE_AGENT_COLLECTORS"));
        }
        for address in &collectors {
            transport::check_address(address)
                .map_err(|source| ConfigError::Collector { source })?;
        }
        let tls = TlsFiles {
            ca: self
                .tls
                .ca
                .ok_or_else(|| missing("tls.ca", "SHRIKE_AGENT_TLS_CA"))?,
            certificate: self
                .tls
                .certificate
                .ok_or_else(|| missing("tls.certificate", "SHRIKE_AGENT_TLS_CERTIFICATE"))?,
            key: self
                .tls
                .key
                .ok_or_else(|| missing("tls.key", "SHRIKE_AGENT_TLS_KEY"))?,
        };
        check_labels(&self.labels)?;
        let otlp_endpoint = self.otlp_endpoint.filter(|endpoint| !endpoint.is_empty());
        if let Some(endpoint) = &otlp_endpoint {
            check_endpoint(endpoint)?;
        }
        Ok(AgentConfig {
            node,
            collectors,
            tls,
            labels: self.labels,
            otlp_endpoint,
            ring_bytes: check_ring("ring_bytes", self.ring_bytes, RING_BYTES_DEFAULT)?,
            priority_ring_bytes: check_ring(
                "priority_ring_bytes",
                self.priority_ring_bytes,
                PRIORITY_RING_BYTES_DEFAULT,
            )?,
            opens: self.opens.unwrap_or(Opens::First),
            processes: self.processes.unwrap_or_default(),
            exec_environment: self.exec_environment.unwrap_or_default(),
            attach: self.attach,
            pin: check_pin(self.pin)?,
            state: self.state.unwrap_or_else(|| STATE.into()),
            guard: self.guard.check()?,
            spool: self.spool.check()?,
            batch_events_max: self.batch.check()?,
        })
    }
}

impl From<&AgentConfig> for File {
    fn from(config: &AgentConfig) -> Self {
        Self {
            node: Some(config.node.to_string()),
            collectors: Some(config.collectors.clone()),
            otlp_endpoint: config.otlp_endpoint.clone(),
            ring_bytes: Some(config.ring_bytes.into()),
            priority_ring_bytes: Some(config.priority_ring_bytes.into()),
            opens: Some(config.opens),
            processes: Some(config.processes),
            exec_environment: Some(config.exec_environment),
            attach: config.attach,
            pin: Some(config.pin.clone().unwrap_or_default()),
            state: Some(config.state.clone()),
            tls: TlsSection {
                ca: Some(config.tls.ca.clone()),
                certificate: Some(config.tls.certificate.clone()),
                key: Some(config.tls.key.clone()),
            },
            guard: GuardSection {
                kills_per_minute: Some(config.guard.kills_per_minute),
                never_kill: Some(
                    config
                        .guard
                        .never_kill
                        .iter()
                        .map(ToString::to_string)
                        .collect(),
                ),
                kill_patience_ms: Some(config.guard.kill_patience.as_millis() as u64),
            },
            spool: SpoolSection {
                bytes_max: Some(config.spool.bytes_max),
                sync: Some(match config.spool.sync {
                    Sync::Always => SyncWord::Always,
                    Sync::Interval(_) => SyncWord::Interval,
                    Sync::Never => SyncWord::Never,
                }),
                sync_interval_ms: match config.spool.sync {
                    Sync::Interval(interval) => Some(interval.as_millis() as u64),
                    Sync::Always | Sync::Never => None,
                },
            },
            batch: BatchSection {
                events_max: Some(config.batch_events_max as u64),
            },
            labels: config.labels.clone(),
        }
    }
}

impl GuardSection {
    fn check(&self) -> Result<GuardRails, ConfigError> {
        let never_kill = match &self.never_kill {
            Some(paths) => paths
                .iter()
                .map(|path| {
                    PathPattern::parse(path).map_err(|source| ConfigError::NeverKill { source })
                })
                .collect::<Result<_, _>>()?,
            None => never_kill_default(),
        };
        let kill_patience_ms = within(
            "guard.kill_patience_ms",
            self.kill_patience_ms,
            PATIENCE_DEFAULT.as_millis() as usize,
            (100, 600_000),
            "100 to 600000",
        )?;
        Ok(GuardRails {
            kills_per_minute: self.kills_per_minute.unwrap_or(KILLS_PER_MINUTE_DEFAULT),
            never_kill,
            kill_patience: Duration::from_millis(kill_patience_ms as u64),
        })
    }
}

impl SpoolSection {
    fn check(&self) -> Result<SpoolLimits, ConfigError> {
        let interval_ms = within(
            "spool.sync_interval_ms",
            self.sync_interval_ms,
            SYNC_INTERVAL_DEFAULT.as_millis() as usize,
            (10, 600_000),
            "10 to 600000",
        )?;
        let sync = match self.sync {
            Some(SyncWord::Always) => Sync::Always,
            Some(SyncWord::Never) => Sync::Never,
            Some(SyncWord::Interval) | None => {
                Sync::Interval(Duration::from_millis(interval_ms as u64))
            }
        };
        Ok(SpoolLimits {
            bytes_max: within(
                "spool.bytes_max",
                self.bytes_max,
                SpoolLimits::default().bytes_max as usize,
                // Two of the largest batches, so that one can be under way
                // while the next is filled.
                (8 << 20, 1 << 40),
                "8388608 (8 MiB) to 1099511627776 (1 TiB)",
            )? as u64,
            sync,
        })
    }
}

impl BatchSection {
    fn check(&self) -> Result<usize, ConfigError> {
        within(
            "batch.events_max",
            self.events_max,
            BATCH_EVENTS_DEFAULT,
            (1, BATCH_EVENTS_MAX as u64),
            "1 to 16384",
        )
    }
}

fn within(
    field: &'static str,
    value: Option<u64>,
    default: usize,
    (least, most): (u64, u64),
    range: &'static str,
) -> Result<usize, ConfigError> {
    let Some(value) = value else {
        return Ok(default);
    };
    if (least..=most).contains(&value) {
        Ok(value as usize)
    } else {
        Err(ConfigError::Range {
            field,
            value,
            range,
        })
    }
}

/// Where the agent keeps its policies and its spool.
pub const STATE: &str = "/var/lib/shrike-agent";

/// An empty path pins nothing.
fn check_pin(path: Option<PathBuf>) -> Result<Option<PathBuf>, ConfigError> {
    let path = path.unwrap_or_else(|| PINS.into());
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    if !path.is_absolute() || path.parent().is_none() {
        return Err(ConfigError::Value {
            field: "pin",
            value: path.display().to_string(),
            message: "write it as a folder in a BPF file system, for example /sys/fs/bpf/shrike, or leave it empty to pin nothing",
        });
    }
    Ok(Some(path))
}

/// Checks the size of a ring: a power of two and whole pages, as
/// `BPF_MAP_TYPE_RINGBUF` wants it (kernel/bpf/ringbuf.c).
fn check_ring(field: &'static str, bytes: Option<u64>, default: u32) -> Result<u32, ConfigError> {
    let bytes = bytes.unwrap_or(default.into());
    if bytes.is_power_of_two() && (64 << 10..=1 << 30).contains(&bytes) {
        Ok(bytes as u32)
    } else {
        Err(ConfigError::Range {
            field,
            value: bytes,
            range: "a power of two from 65536 (64 KiB) to 1073741824 (1 GiB)",
        })
    }
}

/// Most labels, and longest key and value: they travel with every hello.
const LABELS_MAX: usize = 64;
const LABEL_BYTES_MAX: usize = 253;

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    if labels.len() > LABELS_MAX {
        return Err(ConfigError::Range {
            field: "labels",
            value: labels.len() as u64,
            range: "at most 64 labels",
        });
    }
    for (key, value) in labels {
        if key.is_empty() || key.len() > LABEL_BYTES_MAX || key.chars().any(char::is_control) {
            return Err(ConfigError::Value {
                field: "labels",
                value: key.clone(),
                message: "a label's key has 1 to 253 bytes and no control characters",
            });
        }
        if value.len() > LABEL_BYTES_MAX || value.chars().any(char::is_control) {
            return Err(ConfigError::Value {
                field: "labels",
                value: value.clone(),
                message: "a label's value has at most 253 bytes and no control characters",
            });
        }
    }
    Ok(())
}

fn check_endpoint(endpoint: &str) -> Result<(), ConfigError> {
    let error = |message| {
        Err(ConfigError::Value {
            field: "otlp_endpoint",
            value: endpoint.to_owned(),
            message,
        })
    };
    let Some(rest) = endpoint
        .strip_prefix("http://")
        .or_else(|| endpoint.strip_prefix("https://"))
    else {
        return error("write it as http://HOST:PORT");
    };
    if rest.is_empty() || rest.contains(char::is_whitespace) {
        return error("write it as http://HOST:PORT");
    }
    if rest.contains('@') {
        // The configuration is printed and logged.
        return Err(ConfigError::Value {
            field: "otlp_endpoint",
            value: "…".to_owned(),
            message: "credentials do not belong into an endpoint",
        });
    }
    Ok(())
}

fn parse_error(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let offset = error.span().map_or(0, |span| span.start.min(text.len()));
    let before = text.get(..offset).unwrap_or_default();
    ConfigError::Parse {
        path: path.to_owned(),
        line: before.matches('\n').count() + 1,
        column: before.chars().rev().take_while(|c| *c != '\n').count() + 1,
        message: error.message().trim().replace('\n', ", "),
    }
}

#[cfg(test)]
mod tests;
