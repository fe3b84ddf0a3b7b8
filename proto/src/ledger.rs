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
    /// The agent's queue had no room.
    AgentQueueFull,
    /// A record was not of its form.
    AgentUndecodable,
    /// The collector would not take it.
    Quarantined,
    /// The agent had it acknowledged, but the collector's store does not have
    /// it: the store was replaced or damaged.
    StoreMissing,
}

impl LossReason {
    /// Every reason.
    pub const ALL: [Self; 9] = [
        Self::KernelRingFull,
        Self::KernelPendingFull,
        Self::KernelOversize,
        Self::KernelUnreadable,
        Self::KernelProbeMissed,
        Self::AgentQueueFull,
        Self::AgentUndecodable,
        Self::Quarantined,
        Self::StoreMissing,
    ];

    /// Returns the name that people see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KernelRingFull => "kernel-ring-full",
            Self::KernelPendingFull => "kernel-pending-full",
            Self::KernelOversize => "kernel-oversize",
            Self::KernelUnreadable => "kernel-unreadable",
            Self::KernelProbeMissed => "kernel-probe-missed",
            Self::AgentQueueFull => "agent-queue-full",
            Self::AgentUndecodable => "agent-undecodable",
            Self::Quarantined => "quarantined",
            Self::StoreMissing => "store-missing",
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
            wire::LossReason::AgentQueueFull => Self::AgentQueueFull,
            wire::LossReason::AgentUndecodable => Self::AgentUndecodable,
            wire::LossReason::Quarantined => Self::Quarantined,
            wire::LossReason::StoreMissing => Self::StoreMissing,
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
            LossReason::AgentQueueFull => Self::AgentQueueFull,
            LossReason::AgentUndecodable => Self::AgentUndecodable,
            LossReason::Quarantined => Self::Quarantined,
            LossReason::StoreMissing => Self::StoreMissing,
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
                | LossReason::AgentQueueFull
                | LossReason::Quarantined
                | LossReason::StoreMissing => 0,
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
        }
    }
}

impl From<wire::Ledger> for Ledger {
    /// Counts under a reason that this version does not know are left out.
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
        };
        assert_eq!(Ledger::from(wire::Ledger::from(ledger.clone())), ledger);
    }

    #[test]
    fn losses_after_sequencing_do_not_count_twice() {
        let ledger = Ledger {
            seen: 10,
            filtered: 1,
            lost: BTreeMap::from([
                (LossReason::KernelRingFull, 2),
                (LossReason::AgentQueueFull, 4),
                (LossReason::KernelProbeMissed, 9),
            ]),
            sequenced: 7,
        };
        assert_eq!(ledger.unaccounted(), 0);
    }
}
