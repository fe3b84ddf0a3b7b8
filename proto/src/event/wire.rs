//! The one conversion between events and `shrike.event.v1`.

use super::{
    Action, Ancestor, Comm, Event, Exec, Exit, Fact, Fork, Open, Outcome, Process, Receipt,
    ResolvedPath, StoredEvent, Verdict,
};
use crate::{
    id::{Epoch, Generation, IdError, NodeId, PolicyName, RuleName, SequenceNumber},
    wire::{admin, event as wire},
};

/// A message that does not hold what its type promises.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field that must be set is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A number that is no value of its enumeration.
    #[error("{field} has the unknown value {value}")]
    UnknownValue {
        /// The field.
        field: &'static str,
        /// The number as it came.
        value: i32,
    },
    /// An identifier that is not of its form.
    #[error(transparent)]
    Id(#[from] IdError),
}

impl From<Event> for wire::Event {
    fn from(event: Event) -> Self {
        Self {
            sequence: event.sequence.0,
            time_unix_ns: event.time_unix_ns,
            boot_time_ns: event.boot_time_ns,
            cpu: event.cpu,
            cpu_sequence: event.cpu_sequence,
            generation: event.generation.0,
            process: Some(event.process.into()),
            verdict: event.verdict.map(Into::into),
            fact: Some(match event.fact {
                Fact::Exec(exec) => wire::event::Fact::Exec(exec.into()),
                Fact::Open(open) => wire::event::Fact::Open(open.into()),
                Fact::Fork(fork) => wire::event::Fact::Fork(fork.into()),
                Fact::Exit(exit) => wire::event::Fact::Exit(exit.into()),
                Fact::Alert(alert) => wire::event::Fact::Alert(alert.into()),
            }),
        }
    }
}

impl TryFrom<wire::Event> for Event {
    type Error = WireError;

    fn try_from(event: wire::Event) -> Result<Self, WireError> {
        Ok(Self {
            sequence: SequenceNumber(event.sequence),
            time_unix_ns: event.time_unix_ns,
            boot_time_ns: event.boot_time_ns,
            cpu: event.cpu,
            cpu_sequence: event.cpu_sequence,
            generation: Generation(event.generation),
            process: event
                .process
                .ok_or(WireError::Missing("event.process"))?
                .into(),
            verdict: event.verdict.map(TryInto::try_into).transpose()?,
            fact: match event.fact.ok_or(WireError::Missing("event.fact"))? {
                wire::event::Fact::Exec(exec) => Fact::Exec(exec.into()),
                wire::event::Fact::Open(open) => Fact::Open(open.into()),
                wire::event::Fact::Fork(fork) => Fact::Fork(fork.into()),
                wire::event::Fact::Exit(exit) => Fact::Exit(exit.try_into()?),
                wire::event::Fact::Alert(alert) => Fact::Alert(alert.try_into()?),
            },
        })
    }
}

impl From<StoredEvent> for admin::StoredEvent {
    fn from(stored: StoredEvent) -> Self {
        Self {
            node: stored.node.as_str().to_owned(),
            epoch: stored.epoch.0.to_vec(),
            event: Some(stored.event.into()),
        }
    }
}

impl TryFrom<admin::StoredEvent> for StoredEvent {
    type Error = WireError;

    fn try_from(stored: admin::StoredEvent) -> Result<Self, WireError> {
        Ok(Self {
            node: NodeId::parse(&stored.node)?,
            epoch: Epoch::from_wire(&stored.epoch)?,
            event: stored
                .event
                .ok_or(WireError::Missing("stored_event.event"))?
                .try_into()?,
        })
    }
}

impl From<ResolvedPath> for wire::ResolvedPath {
    fn from(file: ResolvedPath) -> Self {
        Self {
            path: file.path,
            device: file.device,
            inode: file.inode,
            unresolved: file.unresolved,
            task_path: file.task_path,
            mode: file.mode,
            links: file.links,
            owner_uid: file.owner_uid,
            owner_gid: file.owner_gid,
            deleted: file.deleted,
        }
    }
}

impl From<wire::ResolvedPath> for ResolvedPath {
    fn from(file: wire::ResolvedPath) -> Self {
        Self {
            path: file.path,
            device: file.device,
            inode: file.inode,
            unresolved: file.unresolved,
            task_path: file.task_path,
            mode: file.mode,
            links: file.links,
            owner_uid: file.owner_uid,
            owner_gid: file.owner_gid,
            deleted: file.deleted,
        }
    }
}

impl From<Ancestor> for wire::Ancestor {
    fn from(ancestor: Ancestor) -> Self {
        Self {
            tgid: ancestor.tgid,
            start_boot_ns: ancestor.start_boot_ns,
            comm: ancestor.comm.into_vec(),
            exe: ancestor.exe.to_vec(),
        }
    }
}

impl From<wire::Ancestor> for Ancestor {
    fn from(ancestor: wire::Ancestor) -> Self {
        Self {
            tgid: ancestor.tgid,
            start_boot_ns: ancestor.start_boot_ns,
            comm: Comm::from_slice(&ancestor.comm),
            exe: ancestor.exe.into(),
        }
    }
}

impl From<Fork> for wire::Fork {
    fn from(fork: Fork) -> Self {
        Self {
            child_tgid: fork.child_tgid,
            child_tid: fork.child_tid,
            child_start_boot_ns: fork.child_start_boot_ns,
            child_comm: fork.child_comm.into_vec(),
        }
    }
}

impl From<wire::Fork> for Fork {
    fn from(fork: wire::Fork) -> Self {
        Self {
            child_tgid: fork.child_tgid,
            child_tid: fork.child_tid,
            child_start_boot_ns: fork.child_start_boot_ns,
            child_comm: Comm::from_slice(&fork.child_comm),
        }
    }
}

impl From<Process> for wire::Process {
    fn from(process: Process) -> Self {
        Self {
            tgid: process.tgid,
            tid: process.tid,
            start_boot_ns: process.start_boot_ns,
            parent_tgid: process.parent_tgid,
            parent_start_boot_ns: process.parent_start_boot_ns,
            uid: process.uid,
            gid: process.gid,
            euid: process.euid,
            egid: process.egid,
            comm: process.comm.into_vec(),
            cgroup_id: process.cgroup_id,
            exe: process.exe.to_vec(),
            user: process.user.as_ref().to_owned(),
            cgroup_path: process.cgroup_path.to_vec(),
            container_id: process.container_id.as_ref().to_owned(),
            ancestors: process.ancestors.into_iter().map(Into::into).collect(),
            from_proc: process.from_proc,
        }
    }
}

impl From<wire::Process> for Process {
    fn from(process: wire::Process) -> Self {
        Self {
            tgid: process.tgid,
            tid: process.tid,
            start_boot_ns: process.start_boot_ns,
            parent_tgid: process.parent_tgid,
            parent_start_boot_ns: process.parent_start_boot_ns,
            uid: process.uid,
            gid: process.gid,
            euid: process.euid,
            egid: process.egid,
            comm: Comm::from_slice(&process.comm),
            cgroup_id: process.cgroup_id,
            exe: process.exe.into(),
            user: process.user.into(),
            cgroup_path: process.cgroup_path.into(),
            container_id: process.container_id.into(),
            ancestors: process.ancestors.into_iter().map(Into::into).collect(),
            from_proc: process.from_proc,
        }
    }
}

impl From<Exec> for wire::Exec {
    fn from(exec: Exec) -> Self {
        Self {
            syscall: exec.syscall.into(),
            result: exec.result,
            path_as_asked: exec.path_as_asked,
            file: exec.file.map(Into::into),
            interpreter: exec.interpreter,
            argv: exec.argv,
            argv_truncated: exec.argv_truncated,
            from_user_memory: exec.from_user_memory,
            directory_fd: exec.directory_fd,
            flags: exec.flags,
        }
    }
}

impl From<wire::Exec> for Exec {
    fn from(exec: wire::Exec) -> Self {
        Self {
            syscall: exec.syscall.into(),
            result: exec.result,
            path_as_asked: exec.path_as_asked,
            file: exec.file.map(Into::into),
            interpreter: exec.interpreter,
            argv: exec.argv,
            argv_truncated: exec.argv_truncated,
            from_user_memory: exec.from_user_memory,
            directory_fd: exec.directory_fd,
            flags: exec.flags,
        }
    }
}

impl From<Open> for wire::Open {
    fn from(open: Open) -> Self {
        Self {
            syscall: open.syscall.into(),
            result: open.result,
            path_as_asked: open.path_as_asked,
            path_as_asked_truncated: open.path_as_asked_truncated,
            file: open.file.map(Into::into),
            flags: open.flags,
            mode: open.mode,
            directory_fd: open.directory_fd,
            from_user_memory: open.from_user_memory,
        }
    }
}

impl From<wire::Open> for Open {
    fn from(open: wire::Open) -> Self {
        Self {
            syscall: open.syscall.into(),
            result: open.result,
            path_as_asked: open.path_as_asked,
            path_as_asked_truncated: open.path_as_asked_truncated,
            file: open.file.map(Into::into),
            flags: open.flags,
            mode: open.mode,
            directory_fd: open.directory_fd,
            from_user_memory: open.from_user_memory,
        }
    }
}

impl From<Exit> for wire::Exit {
    fn from(exit: Exit) -> Self {
        Self {
            code: exit.code,
            signal: exit.signal,
            core_dumped: exit.core_dumped,
            duration_ns: exit.duration_ns,
            receipt: exit.receipt.map(Into::into),
            repeated_opens: exit.repeated_opens,
        }
    }
}

impl TryFrom<wire::Exit> for Exit {
    type Error = WireError;

    fn try_from(exit: wire::Exit) -> Result<Self, WireError> {
        Ok(Self {
            code: exit.code,
            signal: exit.signal,
            core_dumped: exit.core_dumped,
            duration_ns: exit.duration_ns,
            receipt: exit.receipt.map(TryInto::try_into).transpose()?,
            repeated_opens: exit.repeated_opens,
        })
    }
}

impl From<Receipt> for wire::Receipt {
    fn from(receipt: Receipt) -> Self {
        Self {
            generation: receipt.generation.0,
            policy: receipt.policy.to_string(),
            rule: receipt.rule.to_string(),
            signal_result: receipt.signal_result,
            died_by_it: receipt.died_by_it,
            verdict_sequence: receipt.verdict_sequence.0,
            after_ns: receipt.after_ns,
        }
    }
}

impl TryFrom<wire::Receipt> for Receipt {
    type Error = WireError;

    fn try_from(receipt: wire::Receipt) -> Result<Self, WireError> {
        Ok(Self {
            generation: Generation(receipt.generation),
            policy: PolicyName::parse(&receipt.policy)?,
            rule: RuleName::parse(&receipt.rule)?,
            signal_result: receipt.signal_result,
            died_by_it: receipt.died_by_it,
            verdict_sequence: SequenceNumber(receipt.verdict_sequence),
            after_ns: receipt.after_ns,
        })
    }
}

impl From<Verdict> for wire::Verdict {
    fn from(verdict: Verdict) -> Self {
        let (outcome, signal_result) = outcome_to_wire(verdict.outcome);
        Self {
            action: wire::Action::from(verdict.action).into(),
            policy: verdict.policy.to_string(),
            rule: verdict.rule.to_string(),
            outcome: outcome.into(),
            signal_result,
            denied: verdict.denied,
        }
    }
}

/// Returns an outcome's number, and the signal's result beside it.
pub(super) fn outcome_to_wire(outcome: Outcome) -> (wire::Outcome, i32) {
    match outcome {
        Outcome::Noted => (wire::Outcome::Noted, 0),
        Outcome::Observed => (wire::Outcome::Observed, 0),
        Outcome::SignalSent => (wire::Outcome::SignalSent, 0),
        Outcome::SignalFailed(errno) => (wire::Outcome::SignalFailed, errno),
        Outcome::SparedInit => (wire::Outcome::SparedInit, 0),
        Outcome::SparedKernelThread => (wire::Outcome::SparedKernelThread, 0),
        Outcome::SparedAgent => (wire::Outcome::SparedAgent, 0),
        Outcome::Denied => (wire::Outcome::Denied, 0),
        Outcome::SparedProtected => (wire::Outcome::SparedProtected, 0),
        Outcome::BreakerOpen => (wire::Outcome::BreakerOpen, 0),
    }
}

impl TryFrom<wire::Verdict> for Verdict {
    type Error = WireError;

    fn try_from(verdict: wire::Verdict) -> Result<Self, WireError> {
        let unknown = || WireError::UnknownValue {
            field: "verdict.outcome",
            value: verdict.outcome,
        };
        let outcome = match wire::Outcome::try_from(verdict.outcome).map_err(|_| unknown())? {
            wire::Outcome::Unspecified => return Err(unknown()),
            wire::Outcome::Noted => Outcome::Noted,
            wire::Outcome::Observed => Outcome::Observed,
            wire::Outcome::SignalSent => Outcome::SignalSent,
            wire::Outcome::SignalFailed => Outcome::SignalFailed(verdict.signal_result),
            wire::Outcome::SparedInit => Outcome::SparedInit,
            wire::Outcome::SparedKernelThread => Outcome::SparedKernelThread,
            wire::Outcome::SparedAgent => Outcome::SparedAgent,
            wire::Outcome::Denied => Outcome::Denied,
            wire::Outcome::SparedProtected => Outcome::SparedProtected,
            wire::Outcome::BreakerOpen => Outcome::BreakerOpen,
        };
        Ok(Self {
            action: Action::from_wire(verdict.action, "verdict.action")?,
            policy: PolicyName::parse(&verdict.policy)?,
            rule: RuleName::parse(&verdict.rule)?,
            outcome,
            denied: verdict.denied,
        })
    }
}

impl From<Action> for wire::Action {
    fn from(action: Action) -> Self {
        match action {
            Action::Record => Self::Record,
            Action::Alert => Self::Alert,
            Action::Deny => Self::Deny,
            Action::Kill => Self::Kill,
        }
    }
}

impl Action {
    /// Reads an action from the wire.
    ///
    /// # Errors
    /// [`WireError::UnknownValue`], with `field`, for a number that is none.
    pub fn from_wire(value: i32, field: &'static str) -> Result<Self, WireError> {
        match wire::Action::try_from(value) {
            Ok(wire::Action::Record) => Ok(Self::Record),
            Ok(wire::Action::Alert) => Ok(Self::Alert),
            Ok(wire::Action::Deny) => Ok(Self::Deny),
            Ok(wire::Action::Kill) => Ok(Self::Kill),
            Ok(wire::Action::Unspecified) | Err(_) => Err(WireError::UnknownValue { field, value }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::{
        super::{Alert, Cause, Obstacle, encode},
        *,
    };

    /// Mostly short; sometimes long enough for a length of three bytes.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            9 => prop::collection::vec(any::<u8>(), 0..20),
            1 => (any::<u8>(), 120..20_000_usize).prop_map(|(byte, count)| vec![byte; count]),
        ]
    }

    fn name() -> impl Strategy<Value = String> {
        "[a-z0-9][a-z0-9._-]{0,20}"
    }

    fn outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            Just(Outcome::Noted),
            Just(Outcome::Observed),
            Just(Outcome::SignalSent),
            (-4095..0i32).prop_map(Outcome::SignalFailed),
            Just(Outcome::SparedInit),
            Just(Outcome::SparedKernelThread),
            Just(Outcome::SparedAgent),
            Just(Outcome::Denied),
            Just(Outcome::SparedProtected),
            Just(Outcome::BreakerOpen),
        ]
    }

    prop_compose! {
        fn verdict()(action in prop::sample::select(&Action::ALL[..]), policy in name(), rule in name(), outcome in outcome(), denied: bool) -> Verdict {
            Verdict {
                action,
                policy: PolicyName::parse(&policy).unwrap(),
                rule: RuleName::parse(&rule).unwrap(),
                outcome,
                denied,
            }
        }
    }

    prop_compose! {
        fn file()(
            path in bytes(),
            device: u64,
            inode: u64,
            unresolved: bool,
            task_path in bytes(),
            numbers: (u32, u32, u32, u32),
            deleted: bool,
        ) -> ResolvedPath {
            let (mode, links, owner_uid, owner_gid) = numbers;
            ResolvedPath {
                path, device, inode, unresolved, task_path, mode, links, owner_uid, owner_gid,
                deleted,
            }
        }
    }

    prop_compose! {
        fn receipt()(generation: u64, policy in name(), rule in name(), signal_result: i32, died_by_it: bool, verdict_sequence: u64, after_ns: u64) -> Receipt {
            Receipt {
                generation: Generation(generation),
                policy: PolicyName::parse(&policy).unwrap(),
                rule: RuleName::parse(&rule).unwrap(),
                signal_result,
                died_by_it,
                verdict_sequence: SequenceNumber(verdict_sequence),
                after_ns,
            }
        }
    }

    fn alert() -> impl Strategy<Value = Alert> {
        let cause = prop_oneof![
            receipt().prop_map(Cause::SignalFailed),
            (receipt(), prop::sample::select(&Obstacle::ALL[..]))
                .prop_map(|(receipt, obstacle)| Cause::KillSurvived { receipt, obstacle }),
            receipt().prop_map(Cause::KillUnproven),
            Just(Cause::Miscount),
        ];
        (cause, "[a-zé ]{0,200}").prop_map(|(cause, reason)| Alert::new(cause, reason))
    }

    fn fact() -> impl Strategy<Value = Fact> {
        prop_oneof![
            alert().prop_map(Fact::Alert),
            (
                "[a-z]{0,9}",
                any::<i32>(),
                bytes(),
                prop::option::of(file()),
                prop::collection::vec(bytes(), 0..5),
                any::<(bool, bool, i32, u32)>(),
            )
                .prop_map(|(syscall, result, asked, file, argv, rest)| Fact::Exec(
                    Exec {
                        syscall: syscall.into(),
                        result,
                        interpreter: asked.clone(),
                        path_as_asked: asked,
                        file,
                        argv,
                        argv_truncated: rest.0,
                        from_user_memory: rest.1,
                        directory_fd: rest.2,
                        flags: rest.3,
                    }
                )),
            (
                "[a-z]{0,9}",
                bytes(),
                prop::option::of(file()),
                any::<(i32, bool, bool, u32, u32, i32)>(),
            )
                .prop_map(|(syscall, asked, file, rest)| Fact::Open(Open {
                    syscall: syscall.into(),
                    result: rest.0,
                    path_as_asked: asked,
                    path_as_asked_truncated: rest.1,
                    file,
                    flags: rest.3,
                    mode: rest.4,
                    directory_fd: rest.5,
                    from_user_memory: rest.2,
                })),
            (any::<(u32, u32, u64)>(), bytes()).prop_map(|(ids, child_comm)| Fact::Fork(Fork {
                child_tgid: ids.0,
                child_tid: ids.1,
                child_start_boot_ns: ids.2,
                child_comm: Comm::from_vec(child_comm),
            })),
            (
                any::<(u32, u32, bool, u64, u64)>(),
                prop::option::of(receipt())
            )
                .prop_map(|(rest, receipt)| Fact::Exit(Exit {
                    code: rest.0,
                    signal: rest.1,
                    core_dumped: rest.2,
                    duration_ns: rest.3,
                    receipt,
                    repeated_opens: rest.4,
                })),
        ]
    }

    prop_compose! {
        fn process()(ids: (u32, u32, u64, u32, u64, u32, u32, u32, u32, u64), comm in bytes(), exe in bytes(), user in "[a-z]{0,8}", cgroup_path in bytes(), container_id in "[0-9a-f]{0,64}", from_proc: bool) -> Process {
            Process {
                tgid: ids.0,
                tid: ids.1,
                start_boot_ns: ids.2,
                parent_tgid: ids.3,
                parent_start_boot_ns: ids.4,
                uid: ids.5,
                gid: ids.6,
                euid: ids.7,
                egid: ids.8,
                cgroup_id: ids.9,
                ancestors: vec![Ancestor { tgid: ids.3, start_boot_ns: ids.4, comm: Comm::from_slice(&comm), exe: exe.clone().into() }],
                comm: Comm::from_vec(comm),
                exe: exe.into(),
                user: user.into(),
                cgroup_path: cgroup_path.into(),
                container_id: container_id.into(),
                from_proc,
            }
        }
    }

    proptest! {
        #[test]
        fn event_survives_the_wire(
            numbers: (u64, i64, u64, u32, u64, u64),
            process in process(),
            verdict in prop::option::of(verdict()),
            fact in fact(),
        ) {
            let event = Event {
                sequence: SequenceNumber(numbers.0),
                time_unix_ns: numbers.1,
                boot_time_ns: numbers.2,
                cpu: numbers.3,
                cpu_sequence: numbers.4,
                generation: Generation(numbers.5),
                process,
                verdict,
                fact,
            };
            let generated = wire::EventList { events: vec![event.clone().into()] };
            let mut encoded = Vec::new();
            encode::append_to_list(&mut encoded, &event);
            prop_assert_eq!(encoded, generated.encode_to_vec());
            prop_assert_eq!(Event::try_from(wire::Event::from(event.clone())), Ok(event));
        }
    }

    #[test]
    fn event_without_a_fact_is_refused() {
        let event = wire::Event {
            process: Some(wire::Process::default()),
            ..wire::Event::default()
        };
        assert_eq!(
            Event::try_from(event),
            Err(WireError::Missing("event.fact"))
        );
    }

    #[test]
    fn unknown_action_is_refused() {
        assert_eq!(
            Action::from_wire(77, "rule.action"),
            Err(WireError::UnknownValue {
                field: "rule.action",
                value: 77
            })
        );
    }
}
