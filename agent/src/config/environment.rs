//! `SHRIKE_AGENT_<FIELD>`: what the environment puts on top of the file.
//!
//! Every field of the file has one variable; a variable with the prefix that
//! belongs to no field is an error, as an unknown field in the file is.

use serde::{
    Deserialize,
    de::{
        IntoDeserializer as _,
        value::{self, StrDeserializer},
    },
};

use super::{ConfigError, File};

const PREFIX: &str = "SHRIKE_AGENT_";

/// A field's variable and how its text is put into the file's place.
type Setting = (&'static str, fn(&mut File, &str) -> Result<(), String>);

const SETTINGS: &[Setting] = &[
    ("SHRIKE_AGENT_NODE", |file, value| {
        file.node = Some(value.to_owned());
        Ok(())
    }),
    ("SHRIKE_AGENT_COLLECTORS", |file, value| {
        file.collectors = Some(list(value).map(str::to_owned).collect());
        Ok(())
    }),
    ("SHRIKE_AGENT_TLS_CA", |file, value| {
        file.tls.ca = Some(value.into());
        Ok(())
    }),
    ("SHRIKE_AGENT_TLS_CERTIFICATE", |file, value| {
        file.tls.certificate = Some(value.into());
        Ok(())
    }),
    ("SHRIKE_AGENT_TLS_KEY", |file, value| {
        file.tls.key = Some(value.into());
        Ok(())
    }),
    ("SHRIKE_AGENT_LABELS", |file, value| {
        file.labels = list(value)
            .map(|pair| {
                pair.split_once('=')
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .ok_or_else(|| format!("{pair:?} is not KEY=VALUE"))
            })
            .collect::<Result<_, _>>()?;
        Ok(())
    }),
    ("SHRIKE_AGENT_OTLP_ENDPOINT", |file, value| {
        file.otlp_endpoint = Some(value.to_owned());
        Ok(())
    }),
    ("SHRIKE_AGENT_RING_BYTES", |file, value| {
        file.ring_bytes = Some(number(value)?);
        Ok(())
    }),
    ("SHRIKE_AGENT_PRIORITY_RING_BYTES", |file, value| {
        file.priority_ring_bytes = Some(number(value)?);
        Ok(())
    }),
    ("SHRIKE_AGENT_OPENS", |file, value| {
        file.opens = Some(word(value)?);
        Ok(())
    }),
    ("SHRIKE_AGENT_PROCESSES", |file, value| {
        file.processes = Some(word(value)?);
        Ok(())
    }),
    ("SHRIKE_AGENT_EXEC_ENVIRONMENT", |file, value| {
        file.exec_environment = Some(word(value)?);
        Ok(())
    }),
    ("SHRIKE_AGENT_ATTACH", |file, value| {
        file.attach = Some(word(value)?);
        Ok(())
    }),
    ("SHRIKE_AGENT_PIN", |file, value| {
        file.pin = Some(value.into());
        Ok(())
    }),
    ("SHRIKE_AGENT_STATE", |file, value| {
        file.state = Some(value.into());
        Ok(())
    }),
    ("SHRIKE_AGENT_GUARD_KILLS_PER_MINUTE", |file, value| {
        let kills = value.parse().map_err(|_| "expected a whole number")?;
        file.guard.kills_per_minute = Some(kills);
        Ok(())
    }),
    ("SHRIKE_AGENT_GUARD_NEVER_KILL", |file, value| {
        file.guard.never_kill = Some(list(value).map(str::to_owned).collect());
        Ok(())
    }),
    ("SHRIKE_AGENT_GUARD_KILL_PATIENCE_MS", |file, value| {
        file.guard.kill_patience_ms = Some(number(value)?);
        Ok(())
    }),
    ("SHRIKE_AGENT_SPOOL_BYTES_MAX", |file, value| {
        file.spool.bytes_max = Some(number(value)?);
        Ok(())
    }),
    ("SHRIKE_AGENT_SPOOL_SYNC", |file, value| {
        file.spool.sync = Some(word(value)?);
        Ok(())
    }),
    ("SHRIKE_AGENT_SPOOL_SYNC_INTERVAL_MS", |file, value| {
        file.spool.sync_interval_ms = Some(number(value)?);
        Ok(())
    }),
    ("SHRIKE_AGENT_BATCH_EVENTS_MAX", |file, value| {
        file.batch.events_max = Some(number(value)?);
        Ok(())
    }),
];

/// Puts the environment's settings over the file's.
pub(super) fn apply(
    file: &mut File,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<(), ConfigError> {
    for (variable, value) in environment {
        if !variable.starts_with(PREFIX) {
            continue;
        }
        let Some((_, set)) = SETTINGS.iter().find(|(name, _)| *name == variable) else {
            return Err(ConfigError::UnknownVariable {
                closest: closest(&variable),
                variable,
            });
        };
        set(file, &value).map_err(|message| ConfigError::Environment {
            variable,
            value,
            message,
        })?;
    }
    Ok(())
}

fn list(value: &str) -> impl Iterator<Item = &str> {
    value
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

fn number(value: &str) -> Result<u64, String> {
    value
        .parse()
        .map_err(|_| "expected a whole number".to_owned())
}

/// Reads one of a field's words as the file does.
fn word<'a, T: Deserialize<'a>>(value: &'a str) -> Result<T, String> {
    let value: StrDeserializer<'a, value::Error> = value.into_deserializer();
    T::deserialize(value).map_err(|error| error.to_string())
}

fn closest(variable: &str) -> &'static str {
    SETTINGS
        .iter()
        .map(|(name, _)| *name)
        .min_by_key(|name| distance(name.as_bytes(), variable.as_bytes()))
        .expect("there are settings")
}

/// Levenshtein distance, one row at a time.
fn distance(one: &[u8], other: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let substituted = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}
