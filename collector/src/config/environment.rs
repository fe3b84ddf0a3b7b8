//! Overrides from the environment.

use std::ffi::OsString;

use super::ConfigError;

/// What every override's name begins with.
pub const PREFIX: &str = "SHRIKE_COLLECTOR_";

enum Form {
    Text,
    Number,
}

/// Every field that can be overridden, as its path in the file.
const FIELDS: &[(&str, &[&str], Form)] = &[
    ("LISTEN", &["listen"], Form::Text),
    ("DATA_DIR", &["data_dir"], Form::Text),
    ("TLS_CA", &["tls", "ca"], Form::Text),
    ("TLS_CERTIFICATE", &["tls", "certificate"], Form::Text),
    ("TLS_KEY", &["tls", "key"], Form::Text),
    ("RETENTION_DAYS", &["retention", "days"], Form::Number),
    (
        "RETENTION_BYTES_MAX",
        &["retention", "bytes_max"],
        Form::Number,
    ),
    (
        "LIMITS_CONNECTIONS_MAX",
        &["limits", "connections_max"],
        Form::Number,
    ),
    (
        "LIMITS_HANDSHAKE_TIMEOUT_MS",
        &["limits", "handshake_timeout_ms"],
        Form::Number,
    ),
    (
        "LIMITS_INGEST_MEMORY_BYTES_MAX",
        &["limits", "ingest_memory_bytes_max"],
        Form::Number,
    ),
    ("OTLP_ENDPOINT", &["otlp_endpoint"], Form::Text),
    ("LOW_DISK_BYTES", &["low_disk_bytes"], Form::Number),
];

/// A field's path in the file.
pub type FieldPath = &'static [&'static str];

/// Reads the overrides; an empty value overrides nothing.
///
/// # Errors
/// [`ConfigError::Environment`] for a name that is no field, or a value that
/// is not of its form.
pub fn overrides(
    variables: impl IntoIterator<Item = (String, OsString)>,
) -> Result<Vec<(FieldPath, toml::Value)>, ConfigError> {
    let mut found = Vec::new();
    for (variable, value) in variables {
        let error = |message: String| ConfigError::Environment {
            variable: variable.clone(),
            message,
        };
        let name = variable.strip_prefix(PREFIX).unwrap_or_default();
        let Some((_, path, form)) = FIELDS.iter().find(|(field, _, _)| *field == name) else {
            let names: Vec<_> = FIELDS.iter().map(|(field, _, _)| *field).collect();
            return Err(error(format!(
                "is no field: the names after {PREFIX} are {}",
                names.join(", ")
            )));
        };
        let text = value
            .into_string()
            .map_err(|_| error("is not UTF-8".to_owned()))?;
        if text.is_empty() {
            continue;
        }
        let value = match form {
            Form::Text => toml::Value::String(text),
            Form::Number => toml::Value::Integer(
                text.parse()
                    .map_err(|_| error(format!("{text:?} is not a whole number")))?,
            ),
        };
        found.push((*path, value));
    }
    Ok(found)
}

/// Sets a field in the parsed file.
///
/// # Errors
/// [`ConfigError::Value`] where the file has something else in a table's
/// place.
pub fn set(
    table: &mut toml::Table,
    path: FieldPath,
    value: toml::Value,
) -> Result<(), ConfigError> {
    let (field, tables) = path.split_last().expect("a field has a name");
    let mut table = table;
    for name in tables {
        table = table
            .entry(*name)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
            .ok_or(ConfigError::Value {
                field: name,
                message: "is not a table",
            })?;
    }
    table.insert((*field).to_owned(), value);
    Ok(())
}
