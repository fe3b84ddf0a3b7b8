//! The one conversion between events and `shrike.event.v1`.

mod change;
mod mirror;

use super::{Action, Event, Exit, Fact, Outcome, Receipt, StoredEvent, Verdict};
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
                Fact::Exec(exec) => wire::event::Fact::Exec(Box::new(exec.into())),
                Fact::Open(open) => wire::event::Fact::Open(open.into()),
                Fact::Change(change) => wire::event::Fact::Change(change.into()),
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
                wire::event::Fact::Exec(exec) => Fact::Exec((*exec).into()),
                wire::event::Fact::Open(open) => Fact::Open(open.into()),
                wire::event::Fact::Change(change) => Fact::Change(change.try_into()?),
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

impl From<Exit> for wire::Exit {
    fn from(exit: Exit) -> Self {
        Self {
            code: exit.code,
            signal: exit.signal,
            core_dumped: exit.core_dumped,
            duration_ns: exit.duration_ns,
            receipt: exit.receipt.map(Into::into),
            repeated_opens: exit.repeated_opens,
            group_exit: exit.group_exit,
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
            group_exit: exit.group_exit,
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
            Action::Ignore => Self::Ignore,
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
            Ok(wire::Action::Ignore) => Ok(Self::Ignore),
            Ok(wire::Action::Record) => Ok(Self::Record),
            Ok(wire::Action::Alert) => Ok(Self::Alert),
            Ok(wire::Action::Deny) => Ok(Self::Deny),
            Ok(wire::Action::Kill) => Ok(Self::Kill),
            Ok(wire::Action::Unspecified) | Err(_) => Err(WireError::UnknownValue { field, value }),
        }
    }
}

#[cfg(test)]
mod tests;
