//! Path resolution against the guest's own: random names in random trees.
//!
//! Every open for reading of the fuzz must be an event with the path that
//! `realpath` gives from the mount namespace's root, and the device and inode
//! that `fstat` gives; every failed one an event with its error. And whatever
//! a rule names by its path must have a verdict, however often the tree
//! changes: what an agent remembers about a path must not outlive the path.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::run::Watched;
use crate::vm::Machine;

/// Opens in one run: a few seconds emulated.
const OPENS: usize = 6000;

const POLICY: &str = "/root/fuzz.yaml";

/// Differences that are worth reading; the rest is counted.
const SHOWN: usize = 10;

/// Rules about places in the trees, directories with a trailing slash. They
/// only alert: the fuzz has to go on.
const RULES: [(&str, &str); 4] = [
    ("directory", "/srv/fuzz/a/"),
    ("file", "/srv/fuzz/b"),
    ("directory-below", "/srv/fuzz/c/dd/"),
    ("file-below", "/srv/fuzz/e e/a"),
];

fn policy() -> String {
    let mut text = String::from(
        "apiVersion: shrike/v1\nkind: Policy\nmetadata: {name: fuzz}\nspec:\n  mode: enforce\n  \
         rules:\n",
    );
    for (name, path) in RULES {
        text.push_str(&format!(
            "    - {{name: {name}, on: open, paths: ['{path}'], action: alert}}\n"
        ));
    }
    text
}

/// The rules that name a path.
fn rules_about(path: &str) -> Vec<&'static str> {
    RULES
        .into_iter()
        .filter(|(_, pattern)| match pattern.ends_with('/') {
            true => path.len() > pattern.len() && path.starts_with(pattern),
            false => path == *pattern,
        })
        .map(|(name, _)| name)
        .collect()
}

/// One open, as the process itself knows it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Opened {
    /// The process.
    pub pid: u32,
    /// The descriptor that the name is relative to, -100 for none.
    pub directory: i32,
    /// The name as asked.
    pub asked: String,
    /// Its error, 0 for none.
    pub error: i32,
    /// The real path from the mount namespace's root; empty when it failed.
    pub path: String,
    /// `MAJOR:MINOR`; empty when it failed.
    pub device: String,
    /// Inode number.
    pub inode: u64,
}

/// Runs the fuzz on a machine and returns how many opens there were, and how
/// many of them succeeded.
///
/// # Errors
/// When an event differs from what the process itself found.
pub fn run(machine: &Machine, seed: u64) -> Result<(usize, usize)> {
    machine.write(POLICY, 0o644, policy().as_bytes())?;
    let watched = Watched::start(machine, &["--opens", "all", "--policy", POLICY])?;
    let opened: Vec<Opened> = super::run::lines(
        machine,
        &[
            "fuzz",
            "--seed",
            &seed.to_string(),
            "--opens",
            &OPENS.to_string(),
        ],
    )?;
    let events = watched.finish()?;
    super::run::insist_on_health(machine)?;
    let differences = differences(&opened, &events);
    ensure!(
        differences.is_empty(),
        "{} of {} opens are not as the guest itself resolves them \
         (cargo xtask proof --seed {seed} repeats it):\n{}",
        differences.len(),
        opened.len(),
        differences[..differences.len().min(SHOWN)].join("\n")
    );
    let succeeded = opened.iter().filter(|opened| opened.error == 0).count();
    Ok((opened.len(), succeeded))
}

/// Compares, process by process and in order.
fn differences(opened: &[Opened], events: &[Value]) -> Vec<String> {
    let mut said: BTreeMap<u64, Vec<(Opened, Option<&str>)>> = BTreeMap::new();
    for event in events {
        if event["kind"] == "open"
            && event["open"]["access"] == "read"
            && let Some(pid) = event["process"]["pid"].as_u64()
        {
            let rule = event["verdict"]["rule"].as_str();
            said.entry(pid).or_default().push((as_opened(event), rule));
        }
    }
    let mut known: BTreeMap<u64, Vec<&Opened>> = BTreeMap::new();
    for opened in opened {
        known.entry(opened.pid.into()).or_default().push(opened);
    }
    let mut differences = Vec::new();
    for (pid, known) in known {
        let said = said.remove(&pid).unwrap_or_default();
        if said.len() != known.len() {
            differences.push(format!(
                "process {pid} opened {} names, and {} events say so",
                known.len(),
                said.len()
            ));
            continue;
        }
        for (known, (said, rule)) in known.iter().zip(&said) {
            if **known != *said {
                differences.push(format!("is:   {known:?}\n  said: {said:?}"));
            }
            let rules = rules_about(&known.path);
            if !rules.is_empty() && !rule.is_some_and(|rule| rules.contains(&rule)) {
                differences.push(format!("no verdict of {rules:?}: {known:?}"));
            }
        }
    }
    differences
}

/// What an event says, in the same words.
fn as_opened(event: &Value) -> Opened {
    let open = &event["open"];
    let file = &open["file"];
    let number = |value: &Value| value.as_i64().unwrap_or_default() as i32;
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let result = number(&open["result"]);
    Opened {
        pid: event["process"]["pid"].as_u64().unwrap_or_default() as u32,
        directory: number(&open["directory_fd"]),
        asked: word(&open["path_as_asked"]),
        error: result.min(0).abs(),
        path: word(&file["path"]),
        device: word(&file["device"]),
        inode: file["inode"].as_u64().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(path: &str) -> Value {
        json!({
            "kind": "open", "process": {"pid": 5},
            "open": {
                "access": "read", "directory_fd": -100, "path_as_asked": "./x", "result": 0,
                "file": {"path": path, "device": "8:1", "inode": 7},
            },
        })
    }

    fn opened() -> Opened {
        Opened {
            pid: 5,
            directory: -100,
            asked: "./x".to_owned(),
            error: 0,
            path: "/a/x".to_owned(),
            device: "8:1".to_owned(),
            inode: 7,
        }
    }

    #[test]
    fn the_same_words_are_no_difference() {
        assert_eq!(
            differences(&[opened()], &[event("/a/x")]),
            [] as [String; 0]
        );
    }

    #[test]
    fn another_path_and_a_missing_event_are_differences() {
        assert_eq!(differences(&[opened()], &[event("/b/x")]).len(), 1);
        assert_eq!(differences(&[opened()], &[]).len(), 1);
    }

    #[test]
    fn a_protected_path_without_its_verdict_is_a_difference() {
        let known = Opened {
            path: "/srv/fuzz/a/x".to_owned(),
            ..opened()
        };
        let mut said = event("/srv/fuzz/a/x");
        assert_eq!(
            differences(std::slice::from_ref(&known), &[said.clone()]).len(),
            1
        );
        said["verdict"] = json!({"rule": "directory"});
        assert_eq!(differences(&[known], &[said]), [] as [String; 0]);
        assert_eq!(rules_about("/srv/fuzz/a"), [] as [&str; 0]);
    }

    #[test]
    fn a_failed_open_is_compared_by_its_error() {
        let mut failed = event("");
        failed["open"]["result"] = (-2).into();
        failed["open"]["file"] = Value::Null;
        let mut known = Opened {
            path: String::new(),
            device: String::new(),
            inode: 0,
            error: 2,
            ..opened()
        };
        assert_eq!(
            differences(std::slice::from_ref(&known), &[failed.clone()]),
            [] as [String; 0]
        );
        known.error = 20;
        assert_eq!(differences(&[known], &[failed]).len(), 1);
    }
}
