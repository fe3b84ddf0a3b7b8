//! Events: decoded facts about what a node's processes did. Immutable.
//!
//! The domain types mirror `shrike.event.v1`, with what can be absent as
//! `Option` and what is an enumeration as one. The conversion to and from the
//! wire is in [`wire`](self::wire) and nowhere else.

mod alert;
#[cfg(feature = "present")]
mod capability;
mod change;
#[cfg(feature = "present")]
pub mod compact;
#[cfg(feature = "present")]
pub mod ecs;
pub(crate) mod encode;
#[cfg(feature = "present")]
mod errno;
mod fact;
#[cfg(feature = "present")]
pub mod field;
mod image;
#[cfg(feature = "present")]
pub mod json;
mod mention;
#[cfg(feature = "present")]
pub mod ocsf;
mod process;
#[cfg(all(test, feature = "present"))]
pub(crate) mod sample;
#[cfg(feature = "present")]
mod time_text;
mod verdict;
mod wire;

pub use alert::{Alert, Cause, Obstacle};
pub use change::{Change, ChangedName, Operation};
pub use fact::{Exec, Exit, Fact, Fork, Kind, Open, ResolvedPath};
pub use image::{Capabilities, Environment, Image, Namespaces};
pub use mention::Mention;
pub use process::{Ancestor, Comm, Process};
#[cfg(feature = "present")]
pub use time_text::TimeText;
pub use verdict::{Action, Outcome, Receipt, Verdict};
pub use wire::WireError;

use crate::id::{Epoch, Generation, NodeId, PolicyName, RuleName, SequenceNumber};

/// One fact that a node's kernel reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Position in the agent's epoch, from 1.
    pub sequence: SequenceNumber,
    /// Wall clock in Unix nanoseconds.
    pub time_unix_ns: i64,
    /// `CLOCK_BOOTTIME` in nanoseconds when the hook ran.
    pub boot_time_ns: u64,
    /// CPU that ran the hook; 0 for an alert, which no hook reported.
    pub cpu: u32,
    /// The record's number on that CPU.
    pub cpu_sequence: u64,
    /// Policy generation that judged the event.
    pub generation: Generation,
    /// The process that acted: for a fork the parent, for an exec the new
    /// image, for an alert the one that it is about.
    pub process: Process,
    /// `None` when no rule matched.
    pub verdict: Option<Verdict>,
    /// What happened.
    pub fact: Fact,
}

impl Event {
    /// Returns the action that the event tells of: its verdict's, or that of
    /// the kill that an exit is the receipt of.
    pub fn action(&self) -> Option<Action> {
        match (&self.verdict, &self.fact) {
            (Some(verdict), _) => Some(verdict.action),
            (None, Fact::Exit(exit)) => exit.receipt.as_ref().map(|_| Action::Kill),
            (
                None,
                Fact::Exec(_) | Fact::Open(_) | Fact::Change(_) | Fact::Fork(_) | Fact::Alert(_),
            ) => None,
        }
    }
}

impl Event {
    /// Returns the policy and rule that the event tells of: its verdict's, or
    /// those of the kill that it is about.
    pub fn judged_by(&self) -> Option<(&PolicyName, &RuleName)> {
        let receipt = match &self.fact {
            Fact::Exit(exit) => exit.receipt.as_ref(),
            Fact::Alert(alert) => alert.receipt(),
            Fact::Exec(_) | Fact::Open(_) | Fact::Change(_) | Fact::Fork(_) => None,
        };
        match (&self.verdict, receipt) {
            (Some(verdict), _) => Some((&verdict.policy, &verdict.rule)),
            (None, Some(receipt)) => Some((&receipt.policy, &receipt.rule)),
            (None, None) => None,
        }
    }
}

/// An event and where it came from: what queries and tails deliver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// The node that reported it.
    pub node: NodeId,
    /// The epoch that its sequence number counts in.
    pub epoch: Epoch,
    /// The event.
    pub event: Event,
}
