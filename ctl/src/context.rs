//! Contexts: addresses and certificates of collectors under names, in a TOML
//! file.
//!
//! ```toml
//! current = "dev"
//!
//! [contexts.dev]
//! collector = "127.0.0.1:7433"
//! ca = "/home/alice/pki/ca.pem"
//! cert = "/home/alice/pki/admin-alice.pem"
//! key = "/home/alice/pki/admin-alice.key"
//! ```
//!
//! The file holds paths of keys, never keys.

use std::{
    collections::BTreeMap,
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow, bail};
use serde::{Deserialize, Serialize};
use shrike_proto::{tls::TlsFiles, transport::check_address};

use crate::{
    args::Global,
    failure::{Exit, Failure},
    output::Output,
    table::{Cell, table},
};

/// The whole file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ContextFile {
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, StoredContext>,
}

/// One context; what is missing has to come from options.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredContext {
    #[serde(skip_serializing_if = "Option::is_none")]
    collector: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cert: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<PathBuf>,
}

/// Where a collector is, and who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) address: String,
    pub(crate) files: TlsFiles,
}

/// Finds out which collector is meant: options and environment first, then
/// the context.
pub(crate) fn resolve(global: &Global) -> Result<Target, Failure> {
    let complete = global.collector.is_some()
        && global.ca.is_some()
        && global.cert.is_some()
        && global.key.is_some();
    // A damaged file must not stop somebody who needs nothing from it.
    let stored = if complete && global.context.is_none() {
        StoredContext::default()
    } else {
        chosen(global)?
    };
    target(global, stored).map_err(|error| {
        Failure::input(error).hint(
            "keep it in a context: `shrikectl context set NAME --collector HOST:PORT --ca FILE --cert FILE --key FILE`",
        )
    })
}

fn chosen(global: &Global) -> Result<StoredContext, Failure> {
    let path = config_path(global)?;
    let file = read(&path)?;
    let Some(name) = global.context.as_ref().or(file.current.as_ref()) else {
        return Ok(StoredContext::default());
    };
    file.contexts
        .get(name)
        .cloned()
        .ok_or_else(|| unknown(name, &path, &file))
}

fn target(global: &Global, stored: StoredContext) -> anyhow::Result<Target> {
    let missing = |what| anyhow!("{what} is not set, neither by option nor by context");
    let address = global
        .collector
        .clone()
        .or(stored.collector)
        .ok_or_else(|| missing("the collector's address (--collector)"))?;
    check_address(&address)?;
    let file = |option: &Option<PathBuf>, stored: Option<PathBuf>, what| {
        option.clone().or(stored).ok_or_else(|| missing(what))
    };
    Ok(Target {
        address,
        files: TlsFiles {
            ca: file(&global.ca, stored.ca, "the CA certificate (--ca)")?,
            certificate: file(&global.cert, stored.cert, "your certificate (--cert)")?,
            key: file(&global.key, stored.key, "your private key (--key)")?,
        },
    })
}

/// `context set`
pub(crate) fn set(global: &Global, name: &str, output: &Output) -> Result<Exit, Failure> {
    check_name(name)?;
    if let Some(address) = &global.collector {
        check_address(address).map_err(Failure::input)?;
    }
    let path = config_path(global)?;
    let mut file = read(&path)?;
    let stored = file.contexts.entry(name.to_owned()).or_default();
    let mut changed = false;
    if let Some(address) = &global.collector {
        stored.collector = Some(address.clone());
        changed = true;
    }
    for (field, option) in [
        (&mut stored.ca, &global.ca),
        (&mut stored.cert, &global.cert),
        (&mut stored.key, &global.key),
    ] {
        if let Some(option) = option {
            *field = Some(absolute(option)?);
            changed = true;
        }
    }
    if !changed {
        return Err(
            Failure::input(anyhow!("nothing to set for context `{name}`"))
                .hint("give --collector, --ca, --cert or --key"),
        );
    }
    // The first one is the one that is meant.
    if file.current.is_none() {
        file.current = Some(name.to_owned());
    }
    write(&path, &file)?;
    let current = file.current.as_deref() == Some(name);
    output.note(&format!(
        "context `{name}` is kept in {}{}",
        path.display(),
        if current {
            ", and is the current one"
        } else {
            ""
        }
    ));
    Ok(Exit::Ok)
}

/// `context use`
pub(crate) fn use_(global: &Global, name: &str, output: &Output) -> Result<Exit, Failure> {
    let path = config_path(global)?;
    let mut file = read(&path)?;
    if !file.contexts.contains_key(name) {
        return Err(unknown(name, &path, &file));
    }
    file.current = Some(name.to_owned());
    write(&path, &file)?;
    output.note(&format!("context `{name}` is the current one"));
    Ok(Exit::Ok)
}

/// `context list`
pub(crate) fn list(global: &Global, output: &Output) -> Result<Exit, Failure> {
    let path = config_path(global)?;
    let file = read(&path)?;
    if file.contexts.is_empty() {
        output.note(&format!("no contexts in {}", path.display()));
        return Ok(Exit::Ok);
    }
    let shown = |path: &Option<PathBuf>| {
        path.as_ref()
            .map_or_else(|| "-".to_owned(), |path| path.display().to_string())
    };
    let rows: Vec<Vec<Cell>> = file
        .contexts
        .iter()
        .map(|(name, context)| {
            let current = file.current.as_ref() == Some(name);
            vec![
                if current { "*" } else { "" }.into(),
                name.into(),
                context.collector.as_deref().unwrap_or("-").into(),
                shown(&context.cert).into(),
            ]
        })
        .collect();
    output.write(
        table(
            &["", "NAME", "COLLECTOR", "CERTIFICATE"],
            &rows,
            output.colour(),
        )
        .as_bytes(),
    )?;
    Ok(Exit::Ok)
}

/// `context delete`
pub(crate) fn delete(global: &Global, name: &str, output: &Output) -> Result<Exit, Failure> {
    let path = config_path(global)?;
    let mut file = read(&path)?;
    if file.contexts.remove(name).is_none() {
        return Err(unknown(name, &path, &file));
    }
    if file.current.as_deref() == Some(name) {
        file.current = None;
    }
    write(&path, &file)?;
    output.note(&format!("context `{name}` is forgotten"));
    Ok(Exit::Ok)
}

fn unknown(name: &str, path: &Path, file: &ContextFile) -> Failure {
    let known: Vec<&str> = file.contexts.keys().map(String::as_str).collect();
    let failure = Failure::input(anyhow!("no context `{name}` in {}", path.display()));
    if known.is_empty() {
        failure.hint("`shrikectl context set` makes one")
    } else {
        failure.hint(format!("there are: {}", known.join(", ")))
    }
}

fn check_name(name: &str) -> Result<(), Failure> {
    let fits = (1..=63).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if fits {
        return Ok(());
    }
    Err(Failure::input(anyhow!(
        "context name {name:?} is not valid: use 1 to 63 letters, digits, '-', '.' and '_'"
    )))
}

fn config_path(global: &Global) -> Result<PathBuf, Failure> {
    if let Some(path) = &global.config {
        return Ok(path.clone());
    }
    // XDG Base Directory Specification: relative paths are ignored.
    let base = env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| {
            env::var_os("HOME")
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
                .map(|home| home.join(".config"))
        });
    base.map(|base| base.join("shrike/ctl.toml"))
        .ok_or_else(|| {
            Failure::input(anyhow!("neither XDG_CONFIG_HOME nor HOME is set"))
                .hint("say where the configuration lies with --config")
        })
}

/// Reads the file; a missing one is empty.
fn read(path: &Path) -> Result<ContextFile, Failure> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(ContextFile::default());
        }
        Err(error) => {
            return Err(Failure::input(error).doing(format!("cannot read {}", path.display())));
        }
    };
    toml::from_str(&text).map_err(|error| {
        let (line, column) = error
            .span()
            .map_or((1, 1), |span| line_and_column(&text, span.start));
        Failure::input(anyhow!(
            "{}:{line}:{column}: {}",
            path.display(),
            error.message()
        ))
    })
}

fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let line_start = before
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1);
    (
        before.iter().filter(|byte| **byte == b'\n').count() + 1,
        String::from_utf8_lossy(&before[line_start..])
            .chars()
            .count()
            + 1,
    )
}

/// Replaces the file in one step, so that a crash leaves the old or the new.
fn write(path: &Path, file: &ContextFile) -> Result<(), Failure> {
    replace(path, file)
        .with_context(|| format!("cannot write {}", path.display()))
        .map_err(Failure::failed)
}

fn replace(path: &Path, file: &ContextFile) -> anyhow::Result<()> {
    let Some(folder) = path.parent() else {
        bail!("it is no file");
    };
    if !folder.as_os_str().is_empty() {
        fs::create_dir_all(folder)?;
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let written = fs::File::create(&temporary).and_then(|mut new| {
        new.write_all(
            toml::to_string(file)
                .map_err(std::io::Error::other)?
                .as_bytes(),
        )?;
        new.sync_all()
    });
    if let Err(error) = written.and_then(|()| fs::rename(&temporary, path)) {
        // The write's own error is the one to report.
        let _ = fs::remove_file(&temporary);
        return Err(error.into());
    }
    Ok(())
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|error| Failure::input(error).doing(format!("bad path {}", path.display())))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Args, ColorWhen};

    fn global(folder: &Path, options: &[&str]) -> Global {
        let config = folder.join("deep/ctl.toml");
        let line = [
            &["shrikectl", "nodes", "--config", config.to_str().unwrap()],
            options,
        ]
        .concat();
        Args::try_parse_from(line).unwrap().global
    }

    fn output() -> Output {
        Output::new(ColorWhen::Never)
    }

    const FULL: &[&str] = &[
        "--collector",
        "c.test:7433",
        "--ca",
        "/p/ca.pem",
        "--cert",
        "/p/me.pem",
        "--key",
        "/p/me.key",
    ];

    #[test]
    fn first_context_is_the_current_one() {
        let folder = tempfile::tempdir().unwrap();
        set(&global(folder.path(), FULL), "dev", &output()).unwrap();
        let target = resolve(&global(folder.path(), &[])).unwrap();
        assert_eq!(target.address, "c.test:7433");
        assert_eq!(target.files.key, Path::new("/p/me.key"));
    }

    #[test]
    fn options_override_the_context() {
        let folder = tempfile::tempdir().unwrap();
        set(&global(folder.path(), FULL), "dev", &output()).unwrap();
        let target = resolve(&global(folder.path(), &["--collector", "other:1"])).unwrap();
        assert_eq!(target.address, "other:1");
        assert_eq!(target.files.ca, Path::new("/p/ca.pem"));
    }

    #[test]
    fn other_context_is_used_on_request() {
        let folder = tempfile::tempdir().unwrap();
        set(&global(folder.path(), FULL), "dev", &output()).unwrap();
        let mut other = FULL.to_vec();
        other[1] = "prod:7433";
        set(&global(folder.path(), &other), "prod", &output()).unwrap();
        let address = |options: &[&str]| resolve(&global(folder.path(), options)).unwrap().address;
        assert_eq!(address(&[]), "c.test:7433");
        assert_eq!(address(&["--context", "prod"]), "prod:7433");
        use_(&global(folder.path(), &[]), "prod", &output()).unwrap();
        assert_eq!(address(&[]), "prod:7433");
        delete(&global(folder.path(), &[]), "prod", &output()).unwrap();
        assert!(resolve(&global(folder.path(), &[])).is_err());
    }

    #[test]
    fn setting_one_field_keeps_the_others() {
        let folder = tempfile::tempdir().unwrap();
        set(&global(folder.path(), FULL), "dev", &output()).unwrap();
        let options = ["--collector", "moved:7433"];
        set(&global(folder.path(), &options), "dev", &output()).unwrap();
        let target = resolve(&global(folder.path(), &[])).unwrap();
        assert_eq!(target.address, "moved:7433");
        assert_eq!(target.files.ca, Path::new("/p/ca.pem"));
    }

    #[test]
    fn bad_contexts_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |result: Result<Exit, Failure>| assert!(result.is_err());
        refused(set(&global(folder.path(), &[]), "dev", &output()));
        refused(set(&global(folder.path(), FULL), "a b", &output()));
        refused(set(
            &global(folder.path(), &["--collector", "http://x"]),
            "dev",
            &output(),
        ));
        refused(use_(&global(folder.path(), &[]), "nowhere", &output()));
        assert!(resolve(&global(folder.path(), &[])).is_err());
    }

    #[test]
    fn damaged_file_is_named_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("deep")).unwrap();
        fs::write(
            folder.path().join("deep/ctl.toml"),
            "[contexts.dev]\ncolector = 1\n",
        )
        .unwrap();
        let failure = resolve(&global(folder.path(), &[])).unwrap_err();
        assert!(
            format!("{failure:?}").contains("ctl.toml:2:1"),
            "{failure:?}"
        );
        // Whoever brings everything needs no file.
        assert!(resolve(&global(folder.path(), FULL)).is_ok());
    }
}
