//! Events in the Open Cybersecurity Schema Framework, version 1.2.0
//! (<https://schema.ocsf.io/1.2.0>), one JSON object each.
//!
//! ```text
//! open, change        File System Activity  1001   category 1, System Activity
//! exec, fork, exit    Process Activity      1007   category 1
//! verdict, alert      Detection Finding     2004   category 2, with the process
//!                                                  and file as its evidence
//! ```
//!
//! What the schema has no place for stands in `unmapped`. Attributes that are
//! not known are left out. A finding says with the profile `security_control`
//! whether the operation was refused.

use serde_json::{Map, Value, json};

use super::{
    Action, Ancestor, Event, Exec, Fact, Fork, Kind, Operation, Outcome, Process, ResolvedPath,
    StoredEvent, Verdict,
    compact::{Colour, Compact},
    errno,
};
use crate::escape::lossless;

/// The schema's version, as `metadata.version` has it.
pub const OCSF_VERSION: &str = "1.2.0";

/// Returns the event as an OCSF object.
pub fn to_ocsf(stored: &StoredEvent) -> Value {
    let event = &stored.event;
    let is_finding = event.verdict.is_some() || event.fact.kind() == Kind::Alert;
    let (class, activity) = if is_finding {
        (2004, 1)
    } else {
        match &event.fact {
            Fact::Open(_) => (1001, 14),
            Fact::Change(change) => (1001, change_activity(change.operation)),
            Fact::Exec(_) | Fact::Fork(_) => (1007, 1),
            Fact::Exit(_) => (1007, 2),
            Fact::Alert(_) => (2004, 1),
        }
    };
    let mut object = base(stored, class, activity);
    let mut insert = |name: &str, value: Value| object.insert(name.to_owned(), value);
    if is_finding {
        insert("finding_info", finding(stored));
        insert("evidences", json!([activity_of(event)]));
        if let Some(verdict) = &event.verdict {
            insert("action_id", json!(if verdict.denied { 2 } else { 1 }));
            insert("disposition_id", json!(disposition(verdict)));
        }
    } else {
        match activity_of(event) {
            Value::Object(attributes) => object.extend(attributes),
            _ => unreachable!("an activity has names"),
        }
    }
    without_unknown(Value::Object(object))
}

fn base(stored: &StoredEvent, class: u32, activity: u32) -> Map<String, Value> {
    let event = &stored.event;
    let result = match &event.fact {
        Fact::Exec(exec) => Some(exec.result),
        Fact::Open(open) => Some(open.result),
        Fact::Change(change) => Some(change.result),
        Fact::Fork(_) | Fact::Exit(_) | Fact::Alert(_) => None,
    };
    let profiles: &[&str] = if class == 2004 {
        &["host", "security_control"]
    } else {
        &["host"]
    };
    let message = Compact {
        stored,
        colour: Colour::Plain,
    };
    let object = json!({
        "metadata": {
            "version": OCSF_VERSION,
            "product": {
                "name": "Shrike", "vendor_name": "Shrike", "version": env!("CARGO_PKG_VERSION"),
            },
            "profiles": profiles,
            "uid": format!("{}/{}/{}", stored.node, stored.epoch, event.sequence),
            "sequence": event.sequence.0,
            "log_name": event.fact.kind().as_str(),
        },
        "time": event.time_unix_ns.div_euclid(1_000_000),
        "class_uid": class,
        "category_uid": class / 1000,
        "activity_id": activity,
        "type_uid": class * 100 + activity,
        "severity_id": severity(event),
        // A finding's status is its triage, not the operation's result.
        "status_id": result.filter(|_| class != 2004).map(|it| if it < 0 { 2 } else { 1 }),
        "status_code": result.and_then(errno::name),
        "message": message.to_string(),
        "device": { "hostname": stored.node.as_str(), "type_id": 0 },
        "unmapped": {
            "epoch": stored.epoch.to_string(),
            "generation": event.generation.0,
            "boot_time_ns": event.boot_time_ns,
            "time_ns": event.time_unix_ns,
        },
    });
    match object {
        Value::Object(object) => object,
        _ => unreachable!("it is written as one"),
    }
}

/// Returns what was done, by whom, and on what: the attributes of an
/// activity, and the evidence of a finding.
fn activity_of(event: &Event) -> Value {
    let process = &event.process;
    let actor = |process: Value| json!({ "process": process, "user": user(&event.process) });
    match &event.fact {
        Fact::Open(open) => json!({
            "actor": actor(process_object(process, None)),
            "file": file(open.file.as_ref(), &open.path_as_asked),
        }),
        Fact::Change(change) => {
            let (_, second) = change.names();
            json!({
                "actor": actor(process_object(process, None)),
                "file": file(Some(&change.file), &change.file.path),
                "file_result": second.map(|name| file(None, name)),
            })
        }
        Fact::Exec(exec) => json!({
            "actor": actor(parent(process)),
            "process": process_object(process, Some(exec)),
        }),
        Fact::Fork(fork) => json!({
            "actor": actor(process_object(process, None)),
            "process": child(process, fork),
        }),
        Fact::Exit(exit) => json!({
            "actor": actor(process_object(process, None)),
            "process": process_object(process, None),
            "exit_code": if exit.signal == 0 { exit.code } else { 128 + exit.signal },
        }),
        Fact::Alert(_) => json!({
            "actor": actor(process_object(process, None)),
            "process": process_object(process, None),
        }),
    }
}

fn process_object(process: &Process, exec: Option<&Exec>) -> Value {
    json!({
        "pid": process.tgid,
        "tid": process.tid,
        "uid": identity(process.tgid, process.start_boot_ns),
        "name": lossless(&process.comm),
        "cmd_line": exec.map(|exec| command_line(&exec.argv)),
        "file": match exec {
            Some(exec) => file(exec.file.as_ref(), &exec.path_as_asked),
            None => file(None, &process.exe),
        },
        "user": user(process),
        "parent_process": parent(process),
        "lineage": process.ancestors.iter().rev().map(|it| lossless(executable(it)))
            .collect::<Vec<_>>(),
        "container": (!process.container_id.is_empty())
            .then(|| json!({ "uid": &*process.container_id })),
    })
}

fn parent(process: &Process) -> Value {
    let nearest = process.ancestors.first();
    json!({
        "pid": process.parent_tgid,
        "uid": identity(process.parent_tgid, process.parent_start_boot_ns),
        "name": nearest.map(|it| lossless(&it.comm)),
        "file": nearest.map(|it| file(None, &it.exe)),
    })
}

fn child(process: &Process, fork: &Fork) -> Value {
    json!({
        "pid": fork.child_tgid,
        "uid": identity(fork.child_tgid, fork.child_start_boot_ns),
        "name": lossless(&fork.child_comm),
        "file": file(None, &process.exe),
        "parent_process": process_object(process, None),
    })
}

fn executable(ancestor: &Ancestor) -> &[u8] {
    if ancestor.exe.is_empty() {
        &ancestor.comm
    } else {
        &ancestor.exe
    }
}

fn identity(pid: u32, start_boot_ns: u64) -> String {
    format!("{pid}-{start_boot_ns}")
}

fn command_line(argv: &[Vec<u8>]) -> String {
    let words: Vec<_> = argv.iter().map(|argument| lossless(argument)).collect();
    words.join(" ")
}

fn user(process: &Process) -> Value {
    json!({
        "uid": process.uid.to_string(),
        "name": &*process.user,
        "type_id": if process.uid == 0 { 2 } else { 1 },
    })
}

/// The object needs a name: without one there is none.
fn file(file: Option<&ResolvedPath>, asked: &[u8]) -> Value {
    let path = match file {
        Some(file) if !file.path.is_empty() => &file.path,
        Some(_) | None => asked,
    };
    if path.is_empty() {
        return Value::Null;
    }
    let name = path
        .split(|byte| *byte == b'/')
        .rfind(|name| !name.is_empty())
        .unwrap_or(path);
    json!({
        "name": lossless(name),
        "path": lossless(path),
        "type_id": file.map_or(0, |file| file_type(file.mode)),
        "uid": file.filter(|file| file.inode != 0).map(|file| {
            format!("{}:{}:{}", file.device >> 20, file.device & 0xf_ffff, file.inode)
        }),
        "owner": file.filter(|file| file.mode != 0)
            .map(|file| json!({ "uid": file.owner_uid.to_string() })),
    })
}

/// Source: stat(2), `S_IFMT`.
fn file_type(mode: u32) -> u32 {
    match mode & 0o170_000 {
        0o100_000 => 1,
        0o040_000 => 2,
        0o020_000 => 3,
        0o060_000 => 4,
        0o140_000 => 5,
        0o010_000 => 6,
        0o120_000 => 7,
        _ => 0,
    }
}

fn change_activity(operation: Operation) -> u32 {
    match operation {
        Operation::Link | Operation::Symlink | Operation::Mkdir | Operation::Mknod => 1,
        Operation::Truncate => 3,
        Operation::Unlink | Operation::Rmdir => 4,
        Operation::Rename => 5,
        Operation::Setxattr | Operation::Removexattr => 6,
        Operation::Chmod | Operation::Chown => 7,
    }
}

fn severity(event: &Event) -> u32 {
    const INFORMATIONAL: u32 = 1;
    const MEDIUM: u32 = 3;
    const HIGH: u32 = 4;
    match (&event.fact, event.verdict.as_ref().map(|it| it.action)) {
        (Fact::Alert(_), _) | (_, Some(Action::Kill | Action::Deny)) => HIGH,
        (_, Some(Action::Alert)) => MEDIUM,
        (_, Some(Action::Record | Action::Ignore) | None) => INFORMATIONAL,
    }
}

/// Blocked 2, Detected 15, No Action 16, Logged 17.
fn disposition(verdict: &Verdict) -> u32 {
    match verdict.outcome {
        _ if verdict.denied => 2,
        Outcome::Denied => 2,
        Outcome::SignalSent => 15,
        Outcome::Noted => 17,
        Outcome::Observed
        | Outcome::SignalFailed(_)
        | Outcome::SparedInit
        | Outcome::SparedKernelThread
        | Outcome::SparedAgent
        | Outcome::SparedProtected
        | Outcome::BreakerOpen => 16,
    }
}

fn finding(stored: &StoredEvent) -> Value {
    let event = &stored.event;
    let source = event
        .judged_by()
        .map(|(policy, rule)| format!("{policy}/{rule}"));
    let (title, about) = match (&event.fact, &event.verdict) {
        (Fact::Alert(alert), _) => (alert.cause.as_str().to_owned(), Some(alert.reason.clone())),
        (_, Some(verdict)) => (
            format!(
                "{} {}",
                verdict.action.as_str(),
                source.clone().unwrap_or_default()
            ),
            None,
        ),
        (_, None) => (event.fact.kind().as_str().to_owned(), None),
    };
    json!({
        "title": title,
        "desc": about,
        "uid": format!("{}/{}/{}", stored.node, stored.epoch, event.sequence),
        "created_time": event.time_unix_ns.div_euclid(1_000_000),
        "analytic": source.map(|source| json!({ "name": source, "type_id": 1 })),
        "types": [event.fact.kind().as_str()],
    })
}

/// Leaves out what is null or empty, at any depth.
pub(super) fn without_unknown(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .map(|(name, value)| (name, without_unknown(value)))
                .filter(|(_, value)| !is_unknown(value))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(without_unknown).collect()),
        known => known,
    }
}

fn is_unknown(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::sample, *};

    #[test]
    fn every_kind_has_its_class() {
        let check = |stored: &StoredEvent, type_uid: u32, required: &[&str]| {
            let object = to_ocsf(stored);
            assert_eq!(object["type_uid"], type_uid, "{object}");
            assert_eq!(object["class_uid"], type_uid / 100);
            assert_eq!(object["category_uid"], type_uid / 100_000);
            assert_eq!(object["metadata"]["version"], "1.2.0");
            // What the schema requires of every event.
            for name in ["activity_id", "severity_id", "time", "metadata", "device"] {
                assert!(!object[name].is_null(), "{name}: {object}");
            }
            for name in required {
                assert!(!object[name].is_null(), "{name}: {object}");
            }
        };
        let mut open = sample::killed_open();
        check(&open, 200_401, &["finding_info", "evidences", "action_id"]);
        open.event.verdict = None;
        check(&open, 100_114, &["actor", "file"]);
        let mut rename = sample::refused_rename();
        rename.event.verdict = None;
        check(&rename, 100_105, &["actor", "file", "file_result"]);
        check(&sample::setuid_script(), 100_701, &["actor", "process"]);
        check(
            &sample::killed_exit(),
            100_702,
            &["actor", "process", "exit_code"],
        );
        check(&sample::survivor(), 200_401, &["finding_info", "evidences"]);
    }

    #[test]
    fn finding_has_the_activity_as_its_evidence() {
        let object = to_ocsf(&sample::killed_open());
        assert_eq!(
            object["finding_info"]["title"],
            "kill protect-credentials/shadow"
        );
        let evidence = &object["evidences"][0];
        assert_eq!(evidence["file"]["path"], "/etc/shadow");
        assert_eq!(evidence["file"]["name"], "shadow");
        assert_eq!(evidence["file"]["type_id"], 1);
        assert_eq!(evidence["actor"]["process"]["pid"], 4312);
        assert_eq!(
            evidence["actor"]["process"]["parent_process"]["name"],
            "bash"
        );
        assert_eq!(object["severity_id"], 4);
        assert_eq!(object["time"], 1_795_359_600_000_u64);
    }

    #[test]
    fn nothing_unknown_is_written() {
        let object = to_ocsf(&sample::killed_exit());
        assert_eq!(object.get("status_id"), None);
        assert_eq!(object["process"].get("cmd_line"), None);
        assert_eq!(object["exit_code"], 137);
    }
}
