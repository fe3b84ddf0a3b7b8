//! Events in the Elastic Common Schema, version 8.17.0
//! (<https://www.elastic.co/guide/en/ecs/8.17>), one JSON object each.
//!
//! `event.category` is `file` for opens and changes and `process` for execs,
//! forks and exits; an event with a verdict, or an alert, has `event.kind`
//! `alert`. What the schema has no field for stands below `shrike`.

use serde_json::{Value, json};

use super::{
    Event, Fact, Operation, Outcome, Process, ResolvedPath, StoredEvent, errno,
    json::{format_time, outcome_name},
    ocsf::without_unknown,
};
use crate::escape::lossless;

/// The schema's version, as `ecs.version` has it.
pub const ECS_VERSION: &str = "8.17.0";

/// Returns the event as an ECS object.
pub fn to_ecs(stored: &StoredEvent) -> Value {
    let event = &stored.event;
    let process = &event.process;
    let result = match &event.fact {
        Fact::Exec(exec) => Some(exec.result),
        Fact::Open(open) => Some(open.result),
        Fact::Change(change) => Some(change.result),
        Fact::Fork(_) | Fact::Exit(_) | Fact::Alert(_) => None,
    };
    let is_alert = event.verdict.is_some() || matches!(event.fact, Fact::Alert(_));
    let (policy, rule) = match event.judged_by() {
        Some((policy, rule)) => (Some(policy.as_str()), Some(rule.as_str())),
        None => (None, None),
    };
    let reason = match &event.fact {
        Fact::Alert(alert) => Some(alert.reason.as_str()),
        Fact::Exec(_) | Fact::Open(_) | Fact::Change(_) | Fact::Fork(_) | Fact::Exit(_) => None,
    };
    without_unknown(json!({
        "@timestamp": format_time(event.time_unix_ns),
        "ecs": { "version": ECS_VERSION },
        "event": {
            "kind": if is_alert { "alert" } else { "event" },
            "category": [category(&event.fact)],
            "type": types(event),
            "action": action(&event.fact),
            "outcome": result.map(|it| if it < 0 { "failure" } else { "success" }),
            "sequence": event.sequence.0,
            "id": format!("{}/{}/{}", stored.node, stored.epoch, event.sequence),
            "provider": "shrike",
            "module": "shrike",
            "reason": reason,
        },
        "host": { "name": stored.node.as_str(), "hostname": stored.node.as_str() },
        "process": process_object(event),
        "user": {
            "id": process.uid.to_string(),
            "name": &*process.user,
            "effective": { "id": process.euid.to_string() },
        },
        "group": { "id": process.gid.to_string() },
        "container": { "id": &*process.container_id },
        "file": file(&event.fact),
        "rule": { "name": rule, "ruleset": policy },
        "error": { "code": result.and_then(errno::name) },
        "shrike": {
            "epoch": stored.epoch.to_string(),
            "generation": event.generation.0,
            "boot_time_ns": event.boot_time_ns,
            "verdict": event.verdict.as_ref().map(|verdict| json!({
                "action": verdict.action.as_str(),
                "outcome": outcome_name(verdict.outcome),
                "denied": verdict.denied,
            })),
        },
    }))
}

fn category(fact: &Fact) -> &'static str {
    match fact {
        Fact::Open(_) | Fact::Change(_) => "file",
        Fact::Exec(_) | Fact::Fork(_) | Fact::Exit(_) | Fact::Alert(_) => "process",
    }
}

fn types(event: &Event) -> Vec<&'static str> {
    let mut types = vec![match &event.fact {
        Fact::Exec(_) | Fact::Fork(_) => "start",
        Fact::Exit(_) => "end",
        Fact::Open(_) => "access",
        Fact::Alert(_) => "info",
        Fact::Change(change) => match change.operation {
            Operation::Link | Operation::Symlink | Operation::Mkdir | Operation::Mknod => {
                "creation"
            }
            Operation::Unlink | Operation::Rmdir => "deletion",
            Operation::Truncate
            | Operation::Rename
            | Operation::Chmod
            | Operation::Chown
            | Operation::Setxattr
            | Operation::Removexattr => "change",
        },
    }];
    if event
        .verdict
        .as_ref()
        .is_some_and(|verdict| verdict.denied || verdict.outcome == Outcome::Denied)
    {
        types.push("denied");
    }
    types
}

fn action(fact: &Fact) -> &str {
    match fact {
        Fact::Change(change) => change.operation.as_str(),
        Fact::Alert(alert) => alert.cause.as_str(),
        Fact::Exec(_) | Fact::Open(_) | Fact::Fork(_) | Fact::Exit(_) => fact.kind().as_str(),
    }
}

fn process_object(event: &Event) -> Value {
    let process = &event.process;
    let nearest = process.ancestors.first();
    let argv: Option<Vec<_>> = match &event.fact {
        Fact::Exec(exec) => Some(exec.argv.iter().map(|it| lossless(it)).collect()),
        Fact::Open(_) | Fact::Change(_) | Fact::Fork(_) | Fact::Exit(_) | Fact::Alert(_) => None,
    };
    let exit_code = match &event.fact {
        Fact::Exit(exit) if exit.signal == 0 => Some(exit.code),
        Fact::Exit(exit) => Some(128 + exit.signal),
        Fact::Exec(_) | Fact::Open(_) | Fact::Change(_) | Fact::Fork(_) | Fact::Alert(_) => None,
    };
    json!({
        "pid": process.tgid,
        "entity_id": entity(process.tgid, process.start_boot_ns),
        "name": lossless(&process.comm),
        "executable": lossless(&process.exe),
        "start": started(event, process),
        "args": argv,
        "args_count": argv.as_ref().map(Vec::len),
        "command_line": argv.as_ref().map(|argv| argv.join(" ")),
        "exit_code": exit_code,
        "thread": { "id": process.tid },
        "parent": {
            "pid": process.parent_tgid,
            "entity_id": entity(process.parent_tgid, process.parent_start_boot_ns),
            "name": nearest.map(|it| lossless(&it.comm)),
            "executable": nearest.map(|it| lossless(&it.exe)),
        },
    })
}

fn entity(pid: u32, start_boot_ns: u64) -> String {
    format!("{pid}-{start_boot_ns}")
}

/// Wall-clock time of a process's start, by the event's own two clocks.
fn started(event: &Event, process: &Process) -> Option<String> {
    let age = event.boot_time_ns.checked_sub(process.start_boot_ns)?;
    let start = event.time_unix_ns.checked_sub(age.try_into().ok()?)?;
    Some(format_time(start))
}

fn file(fact: &Fact) -> Value {
    let resolved: Option<&ResolvedPath> = match fact {
        Fact::Open(open) => open.file.as_ref(),
        Fact::Change(change) => Some(&change.file),
        Fact::Exec(_) | Fact::Fork(_) | Fact::Exit(_) | Fact::Alert(_) => return Value::Null,
    };
    let path = fact.path().unwrap_or_default();
    let (directory, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(0) => (&path[..1], &path[1..]),
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&path[..0], path),
    };
    let known = resolved.filter(|file| file.mode != 0);
    json!({
        "path": lossless(path),
        "directory": lossless(directory),
        "name": lossless(name),
        "inode": resolved.filter(|file| file.inode != 0).map(|file| file.inode.to_string()),
        "device": resolved.filter(|file| file.device != 0)
            .map(|file| format!("{}:{}", file.device >> 20, file.device & 0xf_ffff)),
        "mode": known.map(|file| format!("{:04o}", file.mode & 0o7777)),
        "uid": known.map(|file| file.owner_uid.to_string()),
        "gid": known.map(|file| file.owner_gid.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::{super::sample, *};

    #[test]
    fn killed_open_is_an_alert_about_a_file() {
        let object = to_ecs(&sample::killed_open());
        assert_eq!(object["ecs"]["version"], "8.17.0");
        assert_eq!(object["@timestamp"], "2026-11-22T15:00:00.000000001Z");
        assert_eq!(object["event"]["kind"], "alert");
        assert_eq!(object["event"]["category"], json!(["file"]));
        assert_eq!(object["event"]["outcome"], "success");
        assert_eq!(object["file"]["path"], "/etc/shadow");
        assert_eq!(object["file"]["directory"], "/etc");
        assert_eq!(object["file"]["mode"], "0600");
        assert_eq!(
            object["rule"],
            json!({"name": "shadow", "ruleset": "protect-credentials"})
        );
        assert_eq!(object["process"]["parent"]["name"], "bash");
        assert_eq!(object["process"]["start"], "2026-11-22T14:59:59.900000001Z");
        assert_eq!(object.get("container"), None);
    }

    #[test]
    fn life_of_a_process_is_its_category() {
        let check = |stored: &StoredEvent, kind: &str, action: &str| {
            let object = to_ecs(stored);
            assert_eq!(object["event"]["category"], json!(["process"]));
            assert_eq!(object["event"]["type"][0], kind);
            assert_eq!(object["event"]["action"], action);
        };
        check(&sample::setuid_script(), "start", "exec");
        check(&sample::killed_exit(), "end", "exit");
        check(&sample::survivor(), "info", "kill-survived");
        let refused = to_ecs(&sample::refused_rename());
        assert_eq!(refused["event"]["type"], json!(["change", "denied"]));
        assert_eq!(refused["error"]["code"], "EPERM");
    }
}
