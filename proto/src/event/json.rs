//! Events as JSON: one flat-ish object, the same from `shrikectl events` and
//! `shrike-agent watch`.
//!
//! Every field is always there; what is unknown or does not apply is `null`,
//! save that only the object of the event's own kind (`exec`, `open`,
//! `change`, `fork`, `exit`, `alert`) appears. Strings that come from the kernel are in the form of
//! [`lossless`]: UTF-8 as it is, other bytes as `\xNN`.
//!
//! ```text
//! node  epoch  sequence          where it was reported, and its place there
//! time                           RFC 3339, UTC, nanoseconds
//! boot_time_ns  cpu  cpu_sequence
//! kind                           exec | open | change | fork | exit | alert
//! generation                     policy generation that judged it
//! process   { pid tid start_boot_ns ppid parent_start_boot_ns uid gid euid egid user
//!             comm exe cgroup_id cgroup container_id from_proc
//!             ancestors [ { pid start_boot_ns comm exe } ] }
//! verdict   { action policy rule outcome signal_result denied } or null
//! exec      { syscall result error path_as_asked file interpreter argv
//!             argv_truncated from_user_memory directory_fd flags memfd
//!             image { script working_directory tty session_id login_uid suid sgid
//!                     fsuid fsgid capabilities capabilities_before gained [ name ]
//!                     namespaces { mnt pid net user uts ipc cgroup }
//!                     environment { names truncated } or null } or null }
//!             capabilities: { permitted effective } in hexadecimal
//! open      { syscall result error path_as_asked path_as_asked_truncated file
//!             access flags mode directory_fd from_user_memory }
//! change    { operation result error file name other_path other_unresolved mode }
//!             name: which one file is, "old" | "new"; mode as asked, octal
//! fork      { child_pid child_tid child_start_boot_ns child_comm }
//! exit      { code signal core_dumped duration_ns repeated_opens group_exit
//!             receipt { generation policy rule signal_result died_by_it
//!                       verdict_sequence after_ns } or null }
//! alert     { cause reason obstacle receipt }; obstacle and receipt can be null
//! file      { path device inode unresolved task_path mode links owner_uid
//!             owner_gid deleted } or null; device is MAJOR:MINOR, mode octal
//! ```
//!
//! Numbers are whole and up to 64 bits wide: a reader that keeps them as
//! doubles loses the last digits of those above 2^53.

mod alert;
mod exec;
mod file;
mod image;
mod life;
mod process;
mod verdict;

pub(super) use file::access_name;
pub(super) use verdict::outcome_name;

use std::{borrow::Cow, fmt, io};

use serde::{Serialize, Serializer};

use self::{
    alert::AlertView,
    exec::ExecView,
    file::{ChangeView, OpenView},
    life::{ExitView, ForkView},
    process::ProcessView,
    verdict::VerdictView,
};
use super::{Event, Fact, StoredEvent, TimeText, time_text::Fraction};
use crate::{
    escape::lossless,
    id::{Epoch, NodeId},
};

/// Returns the event as a JSON object.
pub fn to_json(stored: &StoredEvent) -> serde_json::Value {
    let StoredEvent { node, epoch, event } = stored;
    let time = format_time(event.time_unix_ns);
    serde_json::to_value(EventView::new(node, *epoch, event, &time))
        .expect("views have string keys only")
}

/// Writes the event as one line of JSON, with its line feed.
///
/// # Errors
/// When `out` fails.
pub fn write_json(out: &mut impl io::Write, stored: &StoredEvent) -> io::Result<()> {
    let StoredEvent { node, epoch, event } = stored;
    let mut line = Vec::new();
    append_json(&mut line, &mut TimeText::default(), node, *epoch, event);
    out.write_all(&line)
}

/// Appends the event as one line of JSON, with its line feed: for many lines
/// that leave together. `clock` is the caller's to keep from line to line.
pub fn append_json(
    out: &mut Vec<u8>,
    clock: &mut TimeText,
    node: &NodeId,
    epoch: Epoch,
    event: &Event,
) {
    let mut time = String::with_capacity(32);
    clock
        .write(&mut time, event.time_unix_ns, Fraction::Nanoseconds)
        .expect("strings take everything");
    serde_json::to_writer(&mut *out, &EventView::new(node, epoch, event, &time))
        .expect("views have string keys only, and memory takes everything");
    out.push(b'\n');
}

/// Formats Unix nanoseconds as RFC 3339 with nanoseconds, in UTC.
pub fn format_time(unix_ns: i64) -> String {
    let mut time = String::new();
    TimeText::default()
        .write(&mut time, unix_ns, Fraction::Nanoseconds)
        .expect("strings take everything");
    time
}

#[derive(Serialize)]
struct EventView<'a> {
    node: &'a str,
    epoch: Shown<Epoch>,
    sequence: u64,
    time: &'a str,
    boot_time_ns: u64,
    cpu: u32,
    cpu_sequence: u64,
    kind: &'static str,
    generation: u64,
    process: ProcessView<'a>,
    verdict: Option<VerdictView<'a>>,
    // One of them is there. An enumeration that is flattened would say it
    // better, and cost as much as the rest of the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    exec: Option<ExecView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    open: Option<OpenView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<ChangeView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fork: Option<ForkView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit: Option<ExitView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alert: Option<AlertView<'a>>,
}

impl<'a> EventView<'a> {
    fn new(node: &'a NodeId, epoch: Epoch, event: &'a Event, time: &'a str) -> Self {
        let mut view = Self {
            node: node.as_str(),
            epoch: Shown(epoch),
            sequence: event.sequence.0,
            time,
            boot_time_ns: event.boot_time_ns,
            cpu: event.cpu,
            cpu_sequence: event.cpu_sequence,
            kind: event.fact.kind().as_str(),
            generation: event.generation.0,
            process: (&event.process).into(),
            verdict: event.verdict.as_ref().map(Into::into),
            exec: None,
            open: None,
            change: None,
            fork: None,
            exit: None,
            alert: None,
        };
        match &event.fact {
            Fact::Exec(exec) => view.exec = Some(exec.into()),
            Fact::Open(open) => view.open = Some(open.into()),
            Fact::Change(change) => view.change = Some(change.into()),
            Fact::Fork(fork) => view.fork = Some(fork.into()),
            Fact::Exit(exit) => view.exit = Some(exit.into()),
            Fact::Alert(alert) => view.alert = Some(alert.into()),
        }
        view
    }
}

/// Something as it is displayed, without a string in between.
struct Shown<T>(T);

impl<T: fmt::Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// A list of which each part is turned into its view when it is written.
struct Each<'a, T, V>(&'a [T], fn(&'a T) -> V);

impl<T, V: Serialize> Serialize for Each<'_, T, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(self.1))
    }
}

fn known(bytes: &[u8]) -> Option<Cow<'_, str>> {
    (!bytes.is_empty()).then(|| lossless(bytes))
}

fn known_text(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::sample, *};

    #[test]
    fn killed_open_has_every_documented_field() {
        let stored = sample::killed_open();
        assert_eq!(
            to_json(&stored),
            json!({
                "node": "web-1",
                "epoch": "07070707070707070707070707070707",
                "sequence": 41,
                "time": "2026-11-22T15:00:00.000000001Z",
                "boot_time_ns": 5_000_000_000_u64,
                "cpu": 1,
                "cpu_sequence": 12,
                "kind": "open",
                "generation": 3,
                "process": {
                    "pid": 4312, "tid": 4312, "start_boot_ns": 4_900_000_000_u64,
                    "ppid": 1200, "parent_start_boot_ns": 100_u64,
                    "uid": 1000, "gid": 1000, "euid": 0, "egid": 0,
                    "user": "mallory", "comm": "cat", "exe": "/usr/bin/cat",
                    "cgroup_id": 77, "cgroup": "/user.slice", "container_id": null,
                    "from_proc": false,
                    "ancestors": [{
                        "pid": 1200, "start_boot_ns": 100, "comm": "bash", "exe": null,
                    }],
                },
                "verdict": {
                    "action": "kill", "policy": "protect-credentials", "rule": "shadow",
                    "outcome": "signal-sent", "denied": false, "signal_result": 0,
                },
                "open": {
                    "syscall": "openat", "result": 0, "error": null,
                    "path_as_asked": "/etc/shadow", "path_as_asked_truncated": false,
                    "file": {
                        "path": "/etc/shadow", "device": "8:1", "inode": 1234,
                        "unresolved": false, "task_path": null, "mode": "100600",
                        "links": 1, "owner_uid": 0, "owner_gid": 0, "deleted": false,
                    },
                    "access": "read", "flags": 0, "mode": 0, "directory_fd": -100,
                    "from_user_memory": false,
                },
            })
        );
    }

    #[test]
    fn change_names_both_of_its_names() {
        assert_eq!(
            to_json(&sample::refused_rename())["change"],
            json!({
                "operation": "rename", "result": -1, "error": "EPERM",
                "file": {
                    "path": "/etc/shadow", "device": "8:1", "inode": 1234,
                    "unresolved": false, "task_path": null, "mode": "100600",
                    "links": 1, "owner_uid": 0, "owner_gid": 0, "deleted": false,
                },
                "name": "new", "other_path": "/tmp/mine", "other_unresolved": false,
                "mode": null,
            })
        );
    }

    #[test]
    fn receipt_stands_in_the_exit() {
        let value = to_json(&sample::killed_exit());
        assert_eq!(value["exit"]["signal"], 9);
        assert_eq!(value["exit"]["receipt"]["rule"], "shadow");
        assert_eq!(value["exit"]["receipt"]["died_by_it"], true);
        assert_eq!(value["verdict"], serde_json::Value::Null);
        assert_eq!(value.get("open"), None);
    }

    #[test]
    fn survivor_says_what_keeps_it_alive() {
        let value = to_json(&sample::survivor());
        assert_eq!(value["kind"], "alert");
        assert_eq!(value["verdict"]["action"], "kill");
        assert_eq!(
            value["alert"],
            json!({
                "cause": "kill-survived",
                "reason": "thread 4313 waits in percpu_rwsem_wait",
                "obstacle": "uninterruptible",
                "receipt": {
                    "generation": 3, "policy": "protect-credentials", "rule": "shadow",
                    "signal_result": 0, "died_by_it": false, "verdict_sequence": 41,
                    "after_ns": 5_200_000_000_u64,
                },
            })
        );
    }

    #[test]
    fn bytes_that_are_not_utf8_are_kept() {
        let mut stored = sample::killed_open();
        stored.event.process.comm = b"a\xffb".as_slice().into();
        assert_eq!(to_json(&stored)["process"]["comm"], r"a\xffb");
    }

    #[test]
    fn line_and_value_are_the_same_object() {
        let stored = sample::killed_exit();
        let mut line = Vec::new();
        write_json(&mut line, &stored).unwrap();
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert_eq!(
            serde_json::from_slice::<serde_json::Value>(&line).unwrap(),
            to_json(&stored)
        );
    }

    #[test]
    fn every_time_can_be_written() {
        let check = |unix_ns: i64, expect: &str| assert_eq!(format_time(unix_ns), expect);
        check(0, "1970-01-01T00:00:00.000000000Z");
        check(i64::MAX, "2262-04-11T23:47:16.854775807Z");
        check(i64::MIN, "1677-09-21T00:12:43.145224192Z");
    }
}
