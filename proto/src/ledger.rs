//! What became of everything that a node's kernel saw: nothing is lost
//! without a reason and a count.
//!
//! ```text
//! seen = filtered + lost in the kernel + sequenced          (agent's ledger)
//! sequenced = stored + lost in the agent + in flight        (collector)
//! ```

use std::collections::BTreeMap;

use crate::wire::event as wire;

/// Why an event could not be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LossReason {
    /// The kernel's ring had no room.
    KernelRingFull,
    /// The kernel's map of operations under way had no room.
    KernelPendingFull,
    /// The record is longer than the longest one.
    KernelOversize,
    /// A kernel structure could not be read.
    KernelUnreadable,
    /// The kernel did not run a probe (recursion, or no free return slot).
    KernelProbeMissed,
    /// The agent's spool had no room.
    AgentSpoolFull,
    /// A record was not of its form.
    AgentUndecodable,
    /// The collector would not take it.
    Quarantined,
    /// The agent had it acknowledged, but the collector's store does not have
    /// it: the store was replaced or damaged.
    StoreMissing,
    /// The agent's disk refused it.
    AgentSpoolFailed,
    /// It was in the agent's spool, which is damaged or lost its end.
    AgentSpoolDamaged,
}

impl LossReason {
    /// Every reason.
    pub const ALL: [Self; 11] = [
        Self::KernelRingFull,
        Self::KernelPendingFull,
        Self::KernelOversize,
        Self::KernelUnreadable,
        Self::KernelProbeMissed,
        Self::AgentSpoolFull,
        Self::AgentUndecodable,
        Self::Quarantined,
        Self::StoreMissing,
        Self::AgentSpoolFailed,
        Self::AgentSpoolDamaged,
    ];

    /// Returns the name that people see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KernelRingFull => "kernel-ring-full",
            Self::KernelPendingFull => "kernel-pending-full",
            Self::KernelOversize => "kernel-oversize",
            Self::KernelUnreadable => "kernel-unreadable",
            Self::KernelProbeMissed => "kernel-probe-missed",
            Self::AgentSpoolFull => "agent-spool-full",
            Self::AgentUndecodable => "agent-undecodable",
            Self::Quarantined => "quarantined",
            Self::StoreMissing => "store-missing",
            Self::AgentSpoolFailed => "agent-spool-failed",
            Self::AgentSpoolDamaged => "agent-spool-damaged",
        }
    }

    /// Reads a reason from the wire; `None` for a number that is none.
    pub fn from_wire(value: i32) -> Option<Self> {
        Some(match wire::LossReason::try_from(value).ok()? {
            wire::LossReason::Unspecified => return None,
            wire::LossReason::KernelRingFull => Self::KernelRingFull,
            wire::LossReason::KernelPendingFull => Self::KernelPendingFull,
            wire::LossReason::KernelOversize => Self::KernelOversize,
            wire::LossReason::KernelUnreadable => Self::KernelUnreadable,
            wire::LossReason::KernelProbeMissed => Self::KernelProbeMissed,
            wire::LossReason::AgentSpoolFull => Self::AgentSpoolFull,
            wire::LossReason::AgentUndecodable => Self::AgentUndecodable,
            wire::LossReason::Quarantined => Self::Quarantined,
            wire::LossReason::StoreMissing => Self::StoreMissing,
            wire::LossReason::AgentSpoolFailed => Self::AgentSpoolFailed,
            wire::LossReason::AgentSpoolDamaged => Self::AgentSpoolDamaged,
        })
    }
}

impl From<LossReason> for wire::LossReason {
    fn from(reason: LossReason) -> Self {
        match reason {
            LossReason::KernelRingFull => Self::KernelRingFull,
            LossReason::KernelPendingFull => Self::KernelPendingFull,
            LossReason::KernelOversize => Self::KernelOversize,
            LossReason::KernelUnreadable => Self::KernelUnreadable,
            LossReason::KernelProbeMissed => Self::KernelProbeMissed,
            LossReason::AgentSpoolFull => Self::AgentSpoolFull,
            LossReason::AgentUndecodable => Self::AgentUndecodable,
            LossReason::Quarantined => Self::Quarantined,
            LossReason::StoreMissing => Self::StoreMissing,
            LossReason::AgentSpoolFailed => Self::AgentSpoolFailed,
            LossReason::AgentSpoolDamaged => Self::AgentSpoolDamaged,
        }
    }
}

/// Counts since an epoch began.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ledger {
    /// Records that the hooks set out to write.
    pub seen: u64,
    /// Left out on purpose: the agent's own opens.
    pub filtered: u64,
    /// Not delivered, by reason.
    pub lost: BTreeMap<LossReason, u64>,
    /// Events that got a sequence number.
    pub sequenced: u64,
    /// What of it each hook counted, by its name.
    pub hooks: BTreeMap<String, HookCounts>,
}

/// Hooks that a ledger tells of: an agent has nine.
pub const HOOKS_MAX: usize = 64;

/// Longest name of a hook.
pub const HOOK_NAME_BYTES_MAX: usize = 64;

/// What one hook counted, over all CPUs: `seen = submitted + filtered + lost`,
/// and what it missed on top.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HookCounts {
    /// Records that it set out to write.
    pub seen: u64,
    /// Records that the ring took.
    pub submitted: u64,
    /// Left out: the agent's own.
    pub filtered_own: u64,
    /// Left out: repeats of what went out before.
    pub filtered_repeated: u64,
    /// The ring had no room.
    pub lost_ring_full: u64,
    /// The map of operations under way had no room.
    pub lost_pending_full: u64,
    /// The record is longer than the longest one.
    pub lost_oversize: u64,
    /// A kernel structure could not be read.
    pub lost_unreadable: u64,
    /// It did not run, or could not decide.
    pub missed: u64,
}

impl Ledger {
    /// Returns everything lost, whatever the reason.
    pub fn lost_total(&self) -> u64 {
        self.lost
            .values()
            .fold(0, |total, count| total.saturating_add(*count))
    }

    /// Returns `seen - filtered - lost before sequencing - sequenced`: 0 when
    /// every record is accounted for, more than 0 while some are still in the
    /// ring.
    pub fn unaccounted(&self) -> i128 {
        let lost_before_sequencing: i128 = self
            .lost
            .iter()
            .map(|(reason, count)| match reason {
                LossReason::KernelRingFull
                | LossReason::KernelPendingFull
                | LossReason::KernelOversize
                | LossReason::KernelUnreadable
                | LossReason::AgentUndecodable => i128::from(*count),
                // A probe that did not run saw nothing.
                LossReason::KernelProbeMissed
                | LossReason::AgentSpoolFull
                | LossReason::Quarantined
                | LossReason::StoreMissing
                | LossReason::AgentSpoolFailed
                | LossReason::AgentSpoolDamaged => 0,
            })
            .sum();
        i128::from(self.seen)
            - i128::from(self.filtered)
            - i128::from(self.sequenced)
            - lost_before_sequencing
    }
}

impl From<Ledger> for wire::Ledger {
    fn from(ledger: Ledger) -> Self {
        Self {
            seen: ledger.seen,
            filtered: ledger.filtered,
            lost: ledger
                .lost
                .into_iter()
                .map(|(reason, count)| wire::LossCount {
                    reason: wire::LossReason::from(reason).into(),
                    count,
                })
                .collect(),
            sequenced: ledger.sequenced,
            hooks: ledger
                .hooks
                .into_iter()
                .map(|(hook, counts)| wire::HookCounts {
                    hook,
                    seen: counts.seen,
                    submitted: counts.submitted,
                    filtered_own: counts.filtered_own,
                    filtered_repeated: counts.filtered_repeated,
                    lost_ring_full: counts.lost_ring_full,
                    lost_pending_full: counts.lost_pending_full,
                    lost_oversize: counts.lost_oversize,
                    lost_unreadable: counts.lost_unreadable,
                    missed: counts.missed,
                })
                .collect(),
        }
    }
}

impl From<wire::Ledger> for Ledger {
    /// Counts under a reason that this version does not know are left out, as
    /// are hooks beyond [`HOOKS_MAX`] and those with an endless name.
    fn from(ledger: wire::Ledger) -> Self {
        Self {
            seen: ledger.seen,
            filtered: ledger.filtered,
            lost: ledger
                .lost
                .into_iter()
                .filter_map(|loss| Some((LossReason::from_wire(loss.reason)?, loss.count)))
                .collect(),
            sequenced: ledger.sequenced,
            hooks: ledger
                .hooks
                .into_iter()
                .filter(|counts| counts.hook.len() <= HOOK_NAME_BYTES_MAX)
                .take(HOOKS_MAX)
                .map(|counts| {
                    let of_hook = HookCounts {
                        seen: counts.seen,
                        submitted: counts.submitted,
                        filtered_own: counts.filtered_own,
                        filtered_repeated: counts.filtered_repeated,
                        lost_ring_full: counts.lost_ring_full,
                        lost_pending_full: counts.lost_pending_full,
                        lost_oversize: counts.lost_oversize,
                        lost_unreadable: counts.lost_unreadable,
                        missed: counts.missed,
                    };
                    (counts.hook, of_hook)
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ledger_survives_the_wire() {
        let ledger = Ledger {
            seen: 100,
            filtered: 1,
            lost: LossReason::ALL.into_iter().zip(1..).collect(),
            sequenced: 60,
            hooks: BTreeMap::from([(
                "file-open".to_owned(),
                HookCounts {
                    seen: 36,
                    submitted: 1,
                    filtered_own: 2,
                    filtered_repeated: 3,
                    lost_ring_full: 4,
                    lost_pending_full: 5,
                    lost_oversize: 6,
                    lost_unreadable: 7,
                    missed: 8,
                },
            )]),
        };
        assert_eq!(Ledger::from(wire::Ledger::from(ledger.clone())), ledger);
    }

    #[test]
    fn hooks_of_a_peer_are_bounded() {
        let hook = |hook: String| wire::HookCounts {
            hook,
            ..wire::HookCounts::default()
        };
        let ledger = wire::Ledger {
            hooks: (0..1000)
                .map(|number| hook(number.to_string()))
                .chain([hook("x".repeat(HOOK_NAME_BYTES_MAX + 1))])
                .collect(),
            ..wire::Ledger::default()
        };
        assert_eq!(Ledger::from(ledger).hooks.len(), HOOKS_MAX);
    }

    #[test]
    fn losses_after_sequencing_do_not_count_twice() {
        let ledger = Ledger {
            seen: 10,
            filtered: 1,
            lost: BTreeMap::from([
                (LossReason::KernelRingFull, 2),
                (LossReason::AgentSpoolFull, 4),
                (LossReason::KernelProbeMissed, 9),
            ]),
            sequenced: 7,
            ..Ledger::default()
        };
        assert_eq!(ledger.unaccounted(), 0);
    }
}
