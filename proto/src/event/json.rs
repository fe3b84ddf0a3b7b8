//! Events as JSON: one flat-ish object, the same from `shrikectl events` and
//! `shrike-agent watch`.
//!
//! Every field is always there; what is unknown or does not apply is `null`,
//! save that only the object of the event's own kind (`exec`, `open`, `fork`,
//! `exit`, `alert`) appears. Strings that come from the kernel are in the form of
//! [`lossless`]: UTF-8 as it is, other bytes as `\xNN`.
//!
//! ```text
//! node  epoch  sequence          where it was reported, and its place there
//! time                           RFC 3339, UTC, nanoseconds
//! boot_time_ns  cpu  cpu_sequence
//! kind                           exec | open | fork | exit | alert
//! generation                     policy generation that judged it
//! process   { pid tid start_boot_ns ppid parent_start_boot_ns uid gid euid egid user
//!             comm exe cgroup_id cgroup container_id from_proc
//!             ancestors [ { pid start_boot_ns comm exe } ] }
//! verdict   { action policy rule outcome signal_result denied } or null
//! exec      { syscall result error path_as_asked file interpreter argv
//!             argv_truncated from_user_memory directory_fd flags }
//! open      { syscall result error path_as_asked path_as_asked_truncated file
//!             access flags mode directory_fd from_user_memory }
//! fork      { child_pid child_tid child_start_boot_ns child_comm }
//! exit      { code signal core_dumped duration_ns repeated_opens
//!             receipt { generation policy rule signal_result died_by_it
//!                       verdict_sequence after_ns } or null }
//! alert     { cause reason obstacle receipt }; obstacle and receipt can be null
//! file      { path device inode unresolved task_path mode links owner_uid
//!             owner_gid deleted } or null; device is MAJOR:MINOR, mode octal
//! ```
//!
//! Numbers are whole and up to 64 bits wide: a reader that keeps them as
//! doubles loses the last digits of those above 2^53.

use std::{borrow::Cow, fmt, io};

use serde::{Serialize, Serializer};

use super::{
    Alert, Ancestor, Cause, Event, Exec, Exit, Fact, Fork, Open, Outcome, Process, Receipt,
    ResolvedPath, StoredEvent, TimeText, Verdict, errno, time_text::Fraction,
};
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
            fork: None,
            exit: None,
            alert: None,
        };
        match &event.fact {
            Fact::Exec(exec) => view.exec = Some(exec.into()),
            Fact::Open(open) => view.open = Some(open.into()),
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

#[derive(Serialize)]
struct ProcessView<'a> {
    pid: u32,
    tid: u32,
    start_boot_ns: u64,
    ppid: u32,
    parent_start_boot_ns: u64,
    uid: u32,
    gid: u32,
    euid: u32,
    egid: u32,
    user: Option<&'a str>,
    comm: Cow<'a, str>,
    exe: Option<Cow<'a, str>>,
    cgroup_id: u64,
    cgroup: Option<Cow<'a, str>>,
    container_id: Option<&'a str>,
    from_proc: bool,
    ancestors: Each<'a, Ancestor, AncestorView<'a>>,
}

impl<'a> From<&'a Process> for ProcessView<'a> {
    fn from(process: &'a Process) -> Self {
        Self {
            pid: process.tgid,
            tid: process.tid,
            start_boot_ns: process.start_boot_ns,
            ppid: process.parent_tgid,
            parent_start_boot_ns: process.parent_start_boot_ns,
            uid: process.uid,
            gid: process.gid,
            euid: process.euid,
            egid: process.egid,
            user: known_text(&process.user),
            comm: lossless(&process.comm),
            exe: known(&process.exe),
            cgroup_id: process.cgroup_id,
            cgroup: known(&process.cgroup_path),
            container_id: known_text(&process.container_id),
            from_proc: process.from_proc,
            ancestors: Each(&process.ancestors, AncestorView::from),
        }
    }
}

#[derive(Serialize)]
struct AncestorView<'a> {
    pid: u32,
    start_boot_ns: u64,
    comm: Cow<'a, str>,
    exe: Option<Cow<'a, str>>,
}

impl<'a> From<&'a Ancestor> for AncestorView<'a> {
    fn from(ancestor: &'a Ancestor) -> Self {
        Self {
            pid: ancestor.tgid,
            start_boot_ns: ancestor.start_boot_ns,
            comm: lossless(&ancestor.comm),
            exe: known(&ancestor.exe),
        }
    }
}

#[derive(Serialize)]
struct VerdictView<'a> {
    action: &'static str,
    policy: &'a str,
    rule: &'a str,
    outcome: &'static str,
    signal_result: Option<i32>,
    denied: bool,
}

impl<'a> From<&'a Verdict> for VerdictView<'a> {
    fn from(verdict: &'a Verdict) -> Self {
        Self {
            action: verdict.action.as_str(),
            policy: verdict.policy.as_str(),
            rule: verdict.rule.as_str(),
            outcome: outcome_name(verdict.outcome),
            signal_result: match verdict.outcome {
                Outcome::SignalSent => Some(0),
                Outcome::SignalFailed(errno) => Some(errno),
                Outcome::Noted
                | Outcome::Observed
                | Outcome::SparedInit
                | Outcome::SparedKernelThread
                | Outcome::SparedAgent
                | Outcome::SparedProtected
                | Outcome::BreakerOpen
                | Outcome::Denied => None,
            },
            denied: verdict.denied,
        }
    }
}

fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Noted => "noted",
        Outcome::Observed => "observed",
        Outcome::SignalSent => "signal-sent",
        Outcome::SignalFailed(_) => "signal-failed",
        Outcome::SparedInit => "spared-init",
        Outcome::SparedKernelThread => "spared-kernel-thread",
        Outcome::SparedAgent => "spared-agent",
        Outcome::Denied => "denied",
        Outcome::SparedProtected => "spared-protected",
        Outcome::BreakerOpen => "breaker-open",
    }
}

#[derive(Serialize)]
struct ExecView<'a> {
    syscall: Option<&'a str>,
    result: i32,
    error: Option<&'static str>,
    path_as_asked: Cow<'a, str>,
    file: Option<FileView<'a>>,
    interpreter: Option<Cow<'a, str>>,
    argv: Each<'a, Vec<u8>, Cow<'a, str>>,
    argv_truncated: bool,
    from_user_memory: bool,
    directory_fd: i32,
    flags: u32,
}

impl<'a> From<&'a Exec> for ExecView<'a> {
    fn from(exec: &'a Exec) -> Self {
        Self {
            syscall: known_text(&exec.syscall),
            result: exec.result,
            error: errno::name(exec.result),
            path_as_asked: lossless(&exec.path_as_asked),
            file: exec.file.as_ref().map(Into::into),
            interpreter: known(&exec.interpreter),
            argv: Each(&exec.argv, |argument| lossless(argument)),
            argv_truncated: exec.argv_truncated,
            from_user_memory: exec.from_user_memory,
            directory_fd: exec.directory_fd,
            flags: exec.flags,
        }
    }
}

#[derive(Serialize)]
struct OpenView<'a> {
    syscall: Option<&'a str>,
    result: i32,
    error: Option<&'static str>,
    path_as_asked: Cow<'a, str>,
    path_as_asked_truncated: bool,
    file: Option<FileView<'a>>,
    access: &'static str,
    flags: u32,
    mode: u32,
    directory_fd: i32,
    from_user_memory: bool,
}

impl<'a> From<&'a Open> for OpenView<'a> {
    fn from(open: &'a Open) -> Self {
        Self {
            syscall: known_text(&open.syscall),
            result: open.result,
            error: errno::name(open.result),
            path_as_asked: lossless(&open.path_as_asked),
            path_as_asked_truncated: open.path_as_asked_truncated,
            file: open.file.as_ref().map(Into::into),
            access: access_name(open.flags),
            flags: open.flags,
            mode: open.mode,
            directory_fd: open.directory_fd,
            from_user_memory: open.from_user_memory,
        }
    }
}

/// Returns what open(2) flags ask for: `read`, `write`, `read-write`, or
/// `path` for a descriptor that can do neither.
///
/// Source: include/uapi/asm-generic/fcntl.h; these bits are the same on every
/// architecture that Shrike builds for.
pub(super) fn access_name(flags: u32) -> &'static str {
    const O_ACCMODE: u32 = 0o3;
    const O_WRONLY: u32 = 0o1;
    const O_RDWR: u32 = 0o2;
    const O_PATH: u32 = 0o10_000_000;
    if flags & O_PATH != 0 {
        return "path";
    }
    match flags & O_ACCMODE {
        O_WRONLY => "write",
        // 3 asks for the permission to do both, and gets neither (open(2)).
        O_RDWR | O_ACCMODE => "read-write",
        _ => "read",
    }
}

#[derive(Serialize)]
struct FileView<'a> {
    path: Option<Cow<'a, str>>,
    device: Shown<Device>,
    inode: u64,
    unresolved: bool,
    task_path: Option<Cow<'a, str>>,
    mode: Option<String>,
    links: u32,
    owner_uid: u32,
    owner_gid: u32,
    deleted: bool,
}

impl<'a> From<&'a ResolvedPath> for FileView<'a> {
    fn from(file: &'a ResolvedPath) -> Self {
        Self {
            path: known(&file.path),
            device: Shown(Device(file.device)),
            inode: file.inode,
            unresolved: file.unresolved,
            task_path: known(&file.task_path),
            mode: (file.mode != 0).then(|| format!("{:o}", file.mode)),
            links: file.links,
            owner_uid: file.owner_uid,
            owner_gid: file.owner_gid,
            deleted: file.deleted,
        }
    }
}

struct Device(u64);

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // include/linux/kdev_t.h: MINORBITS is 20.
        write!(f, "{}:{}", self.0 >> 20, self.0 & 0xf_ffff)
    }
}

#[derive(Serialize)]
struct ForkView<'a> {
    child_pid: u32,
    child_tid: u32,
    child_start_boot_ns: u64,
    child_comm: Cow<'a, str>,
}

impl<'a> From<&'a Fork> for ForkView<'a> {
    fn from(fork: &'a Fork) -> Self {
        Self {
            child_pid: fork.child_tgid,
            child_tid: fork.child_tid,
            child_start_boot_ns: fork.child_start_boot_ns,
            child_comm: lossless(&fork.child_comm),
        }
    }
}

#[derive(Serialize)]
struct ExitView<'a> {
    code: u32,
    signal: u32,
    core_dumped: bool,
    duration_ns: Option<u64>,
    repeated_opens: u64,
    receipt: Option<ReceiptView<'a>>,
}

impl<'a> From<&'a Exit> for ExitView<'a> {
    fn from(exit: &'a Exit) -> Self {
        Self {
            code: exit.code,
            signal: exit.signal,
            core_dumped: exit.core_dumped,
            duration_ns: (exit.duration_ns != 0).then_some(exit.duration_ns),
            repeated_opens: exit.repeated_opens,
            receipt: exit.receipt.as_ref().map(Into::into),
        }
    }
}

#[derive(Serialize)]
struct ReceiptView<'a> {
    generation: u64,
    policy: &'a str,
    rule: &'a str,
    signal_result: i32,
    died_by_it: bool,
    verdict_sequence: u64,
    after_ns: u64,
}

impl<'a> From<&'a Receipt> for ReceiptView<'a> {
    fn from(receipt: &'a Receipt) -> Self {
        Self {
            generation: receipt.generation.0,
            policy: receipt.policy.as_str(),
            rule: receipt.rule.as_str(),
            signal_result: receipt.signal_result,
            died_by_it: receipt.died_by_it,
            verdict_sequence: receipt.verdict_sequence.0,
            after_ns: receipt.after_ns,
        }
    }
}

#[derive(Serialize)]
struct AlertView<'a> {
    cause: &'static str,
    reason: &'a str,
    obstacle: Option<&'static str>,
    receipt: Option<ReceiptView<'a>>,
}

impl<'a> From<&'a Alert> for AlertView<'a> {
    fn from(alert: &'a Alert) -> Self {
        Self {
            cause: alert.cause.as_str(),
            reason: &alert.reason,
            obstacle: match alert.cause {
                Cause::KillSurvived { obstacle, .. } => Some(obstacle.as_str()),
                Cause::SignalFailed(_) | Cause::KillUnproven(_) | Cause::Miscount => None,
            },
            receipt: alert.receipt().map(Into::into),
        }
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

    #[test]
    fn access_follows_the_flags() {
        let check = |flags: u32, expect: &str| assert_eq!(access_name(flags), expect);
        check(0, "read");
        check(0o1 | 0o100, "write");
        check(0o2, "read-write");
        check(0o3, "read-write");
        check(0o10_000_000, "path");
    }
}
