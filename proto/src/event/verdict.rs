//! What the kernel decided, and what came of it.

use crate::id::{Generation, PolicyName, RuleName, SequenceNumber};

/// What a rule asks for. Ordered: the strongest of all matching rules wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Leave the event out.
    Ignore,
    /// Mark the event.
    Record,
    /// Mark the event as one that a person should see.
    Alert,
    /// Refuse the operation.
    Deny,
    /// End the process.
    Kill,
}

impl Action {
    /// Every action, weakest first.
    pub const ALL: [Self; 5] = [
        Self::Ignore,
        Self::Record,
        Self::Alert,
        Self::Deny,
        Self::Kill,
    ];

    /// Returns the word that policies use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ignore => "ignore",
            Self::Record => "record",
            Self::Alert => "alert",
            Self::Deny => "deny",
            Self::Kill => "kill",
        }
    }
}

/// What the kernel decided in one hook call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What the winning rule asks for.
    pub action: Action,
    /// The winning rule's policy.
    pub policy: PolicyName,
    /// The winning rule.
    pub rule: RuleName,
    /// What the kernel did about it.
    pub outcome: Outcome,
    /// The operation was refused: nothing was created, truncated, read or run.
    pub denied: bool,
}

/// What the kernel did about a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Recorded or alerted; nothing else was asked.
    Noted,
    /// The policy is in observe mode: nothing was touched.
    Observed,
    /// SIGKILL is on its way: `bpf_send_signal` returned 0.
    SignalSent,
    /// `bpf_send_signal` returned this negative errno.
    SignalFailed(i32),
    /// PID 1 is never killed.
    SparedInit,
    /// Kernel threads are never killed.
    SparedKernelThread,
    /// The agent is never killed.
    SparedAgent,
    /// The operation was refused, and nothing else done.
    Denied,
    /// The process's program is on the node's list of those never killed.
    SparedProtected,
    /// The rule killed too many processes within a minute: nothing is touched
    /// until the next generation.
    BreakerOpen,
}

/// What came of a kill: part of the process's exit event, or of an alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Generation that asked.
    pub generation: Generation,
    /// Policy that asked.
    pub policy: PolicyName,
    /// Rule that asked.
    pub rule: RuleName,
    /// `bpf_send_signal`'s result: 0, or a negative errno.
    pub signal_result: i32,
    /// The process ended by signal 9 after it was asked to.
    pub died_by_it: bool,
    /// The event that carries the verdict.
    pub verdict_sequence: SequenceNumber,
    /// From the verdict to the exit, or to the moment that an alert is about,
    /// in nanoseconds.
    pub after_ns: u64,
}
