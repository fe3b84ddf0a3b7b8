//! The collector's configuration: a TOML file, then the environment.
//!
//! Every field has a name in the environment: `SHRIKE_COLLECTOR_` and its
//! path in capitals, `retention.days` being
//! `SHRIKE_COLLECTOR_RETENTION_DAYS`. The environment wins.

mod environment;

use std::{
    fmt, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use shrike_proto::{tls::TlsFiles, transport::WINDOW_BYTES};

use crate::ingest;

/// Where the configuration lies when nobody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/shrike/collector.toml";

/// Where collectors listen when nobody says otherwise.
pub const DEFAULT_LISTEN: &str = "0.0.0.0:7433";

/// The configuration, complete and checked.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CollectorConfig {
    /// Address and port to listen on.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// Folder of the store.
    pub data_dir: PathBuf,
    /// Own identity, and whom to trust.
    pub tls: Tls,
    /// What is kept.
    #[serde(default)]
    pub retention: Retention,
    /// What is put up with.
    #[serde(default)]
    pub limits: Limits,
    /// Where traces go, for example `http://127.0.0.1:4317`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<String>,
    /// Below this many free bytes on the store's disk nothing is stored or
    /// acknowledged.
    #[serde(default = "default_low_disk_bytes")]
    pub low_disk_bytes: u64,
}

/// The three PEM files of an identity.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// CA certificates that clients must chain to.
    pub ca: PathBuf,
    /// Own certificate, named `spiffe://DOMAIN/collector/ID`.
    pub certificate: PathBuf,
    /// Own private key.
    pub key: PathBuf,
}

impl From<&Tls> for TlsFiles {
    fn from(tls: &Tls) -> Self {
        Self {
            ca: tls.ca.clone(),
            certificate: tls.certificate.clone(),
            key: tls.key.clone(),
        }
    }
}

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Events younger than this many days; 0 keeps all.
    pub days: u32,
    /// At most this many bytes of compressed events; 0 keeps all.
    pub bytes_max: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            days: 30,
            bytes_max: 0,
        }
    }
}

/// What is put up with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections at once; an agent has two.
    pub connections_max: usize,
    /// Longest TLS handshake.
    pub handshake_timeout_ms: u64,
    /// Memory for batches on their way into the store, whatever is connected:
    /// one half for those that are being taken, the other for what connections
    /// may send before they are read.
    pub ingest_memory_bytes_max: usize,
}

/// Least that HTTP/2 lets a connection send unread (RFC 9113, 6.9.2).
const WINDOW_BYTES_MIN: usize = 64 << 10;

impl Limits {
    /// Returns the bytes for batches that are being taken.
    pub fn batch_memory_bytes(&self) -> usize {
        self.ingest_memory_bytes_max / 2
    }

    /// Returns the bytes that a connection may send before they are read.
    pub fn window_bytes(&self) -> u32 {
        let each = self.ingest_memory_bytes_max / 2 / self.connections_max.max(1);
        u32::try_from(each).map_or(WINDOW_BYTES, |each| each.min(WINDOW_BYTES))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Two thousand agents and some people.
            connections_max: 4096,
            handshake_timeout_ms: 10_000,
            // 64 KiB for each connection, and some thousand batches.
            ingest_memory_bytes_max: 512 << 20,
        }
    }
}

fn default_listen() -> SocketAddr {
    DEFAULT_LISTEN.parse().expect("a valid address")
}

/// More than one commit and what sled writes beside it.
fn default_low_disk_bytes() -> u64 {
    256 << 20
}

/// A configuration that cannot be used: what, where, and how to mend it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: check the path and its permissions", path.display())]
    Read {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not as it should be.
    #[error("{place}: {message}")]
    Parse {
        /// File, line and column.
        place: Place,
        /// What is wrong.
        message: String,
    },
    /// An override is not as it should be.
    #[error("environment variable {variable}: {message}")]
    Environment {
        /// Which.
        variable: String,
        /// What is wrong.
        message: String,
    },
    /// A value makes no sense.
    #[error("{field}: {message}")]
    Value {
        /// Which.
        field: &'static str,
        /// What is wrong, and what to write instead.
        message: &'static str,
    },
}

/// Where in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    path: PathBuf,
    line_and_column: Option<(usize, usize)>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        match self.line_and_column {
            Some((line, column)) => write!(f, ":{line}:{column}"),
            None => Ok(()),
        }
    }
}

impl CollectorConfig {
    /// Reads the file and the process's environment.
    ///
    /// # Errors
    /// [`ConfigError`] says what, where and how to mend it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            name.starts_with(environment::PREFIX)
                .then_some((name, value))
        });
        Self::parse(&text, path, variables)
    }

    /// Parses a file's text, overridden by environment variables.
    ///
    /// # Errors
    /// [`ConfigError`] says what, where and how to mend it.
    pub fn parse(
        text: &str,
        path: &Path,
        variables: impl IntoIterator<Item = (String, std::ffi::OsString)>,
    ) -> Result<Self, ConfigError> {
        let parse_error = |error: &toml::de::Error| ConfigError::Parse {
            place: Place {
                path: path.to_owned(),
                line_and_column: error.span().map(|span| line_and_column(text, span.start)),
            },
            message: error.message().to_owned(),
        };
        let overrides = environment::overrides(variables)?;
        if overrides.is_empty() {
            // Straight from the text: errors keep their place.
            let config: Self = toml::from_str(text).map_err(|error| parse_error(&error))?;
            return config.check();
        }
        let mut table: toml::Table = toml::from_str(text).map_err(|error| parse_error(&error))?;
        for (path, value) in overrides {
            environment::set(&mut table, path, value)?;
        }
        // What is wrong in the text is reported with its place first, unless
        // the environment mends it.
        let config = match Self::deserialize(toml::Value::Table(table)) {
            Ok(config) => config,
            Err(merged) => {
                return Err(match toml::from_str::<Self>(text) {
                    Err(error) if error.message() == merged.message() => parse_error(&error),
                    Ok(_) | Err(_) => parse_error(&merged),
                });
            }
        };
        config.check()
    }

    fn check(self) -> Result<Self, ConfigError> {
        let value = |field, message| Err(ConfigError::Value { field, message });
        if self.data_dir.as_os_str().is_empty() {
            return value(
                "data_dir",
                "is empty: name a folder, for example /var/lib/shrike",
            );
        }
        if self.limits.connections_max == 0 {
            return value("limits.connections_max", "is 0: nobody could connect");
        }
        if self.limits.handshake_timeout_ms == 0 {
            return value(
                "limits.handshake_timeout_ms",
                "is 0: no handshake is that fast; 10000 is usual",
            );
        }
        if self.limits.batch_memory_bytes() < ingest::COST_MAX {
            return value(
                "limits.ingest_memory_bytes_max",
                "is too small for one large batch: at least 67108864 (64 MiB)",
            );
        }
        if (self.limits.window_bytes() as usize) < WINDOW_BYTES_MIN {
            return value(
                "limits.ingest_memory_bytes_max",
                "is too small for limits.connections_max: at least 131072 (128 KiB) for each connection",
            );
        }
        let endpoint_fits = self.otlp_endpoint.as_ref().is_none_or(|endpoint| {
            endpoint.starts_with("http://") || endpoint.starts_with("https://")
        });
        if !endpoint_fits {
            return value(
                "otlp_endpoint",
                "is not http://HOST:PORT, for example http://127.0.0.1:4317",
            );
        }
        Ok(self)
    }

    /// Writes the configuration as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a configuration has only what TOML has")
    }
}

fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..at.min(text.len())];
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .map_or(0, |last| last.chars().count());
    (line, column + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = r#"
data_dir = "/var/lib/shrike"

[tls]
ca = "ca.pem"
certificate = "collector.pem"
key = "collector.key"
"#;

    fn parse(text: &str, variables: &[(&str, &str)]) -> Result<CollectorConfig, ConfigError> {
        CollectorConfig::parse(
            text,
            Path::new("c.toml"),
            variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).into())),
        )
    }

    #[test]
    fn minimal_configuration_has_sensible_defaults() {
        let config = parse(MINIMAL, &[]).unwrap();
        assert_eq!(config.listen, default_listen());
        assert_eq!(config.retention.days, 30);
        assert_eq!(config.limits, Limits::default());
    }

    #[test]
    fn configuration_survives_being_printed() {
        let config = parse(MINIMAL, &[]).unwrap();
        assert_eq!(parse(&config.to_toml(), &[]).unwrap(), config);
    }

    #[test]
    fn environment_wins() {
        let config = parse(
            MINIMAL,
            &[
                ("SHRIKE_COLLECTOR_LISTEN", "127.0.0.1:1"),
                ("SHRIKE_COLLECTOR_RETENTION_DAYS", "7"),
                ("SHRIKE_COLLECTOR_TLS_KEY", "other.key"),
                ("SHRIKE_COLLECTOR_LOW_DISK_BYTES", "5"),
            ],
        )
        .unwrap();
        assert_eq!(config.listen, "127.0.0.1:1".parse().unwrap());
        assert_eq!(config.retention.days, 7);
        assert_eq!(config.tls.key, Path::new("other.key"));
        assert_eq!(config.low_disk_bytes, 5);
    }

    #[test]
    fn environment_may_give_what_the_file_leaves_out() {
        let text = MINIMAL.replace("data_dir = \"/var/lib/shrike\"", "");
        assert!(parse(&text, &[]).is_err());
        let config = parse(&text, &[("SHRIKE_COLLECTOR_DATA_DIR", "/data")]).unwrap();
        assert_eq!(config.data_dir, Path::new("/data"));
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let check = |text: &str, expect: &str| {
            let error = parse(text, &[]).unwrap_err().to_string();
            assert!(error.contains(expect), "{error:?} has no {expect:?}");
        };
        check(
            &format!("listne = \"x\"\n{MINIMAL}"),
            "c.toml:1:1: unknown field `listne`",
        );
        check(
            &format!("listen = \"x\"\n{MINIMAL}"),
            "c.toml:1:10: invalid socket address",
        );
        check(
            &format!("{MINIMAL}\n[retention]\ndays = -1\n"),
            "c.toml:10:8",
        );
        check("listen = ", "c.toml:1:");
        check("data_dir = \"/x\"", "missing field `tls`");
        check(
            &format!("{MINIMAL}\n[limits]\nconnections_max = 0\n"),
            "limits.connections_max: is 0",
        );
        check(
            &format!("{MINIMAL}\n[limits]\ningest_memory_bytes_max = 1000000\n"),
            "limits.ingest_memory_bytes_max: is too small for one large batch",
        );
        check(
            &format!("{MINIMAL}\n[limits]\nconnections_max = 100000\n"),
            "limits.ingest_memory_bytes_max: is too small for limits.connections_max",
        );
        check(
            &format!("otlp_endpoint = \"localhost:4317\"\n{MINIMAL}"),
            "otlp_endpoint: is not http",
        );
    }

    #[test]
    fn mistakes_in_the_environment_are_named() {
        let check = |name: &str, value: &str, expect: &str| {
            let error = parse(MINIMAL, &[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(expect), "{error:?} has no {expect:?}");
        };
        check(
            "SHRIKE_COLLECTOR_LISTNE",
            "x",
            "SHRIKE_COLLECTOR_LISTNE: is no field",
        );
        check(
            "SHRIKE_COLLECTOR_RETENTION_DAYS",
            "many",
            "SHRIKE_COLLECTOR_RETENTION_DAYS: \"many\" is not a whole number",
        );
        check("SHRIKE_COLLECTOR_LISTEN", "x", "invalid socket address");
    }
}
