//! What became of everything that a node's kernel saw: nothing is lost
//! without a reason and a count.
//!
//! ```text
//! seen = filtered + lost in the kernel + sequenced          (agent's ledger)
//! sequenced = stored + lost in the agent + in flight        (collector)
//! ```

use std::collections::{BTreeMap, VecDeque};

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

/// Where an event was when it was lost, as far as its number goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// No hook saw it.
    Unseen,
    /// It was seen, and had no sequence number yet.
    Unnumbered,
    /// It had one.
    Numbered,
}

impl LossReason {
    /// Returns where an event was when it was lost for this reason.
    pub fn stage(self) -> Stage {
        match self {
            Self::KernelProbeMissed => Stage::Unseen,
            Self::KernelRingFull
            | Self::KernelPendingFull
            | Self::KernelOversize
            | Self::KernelUnreadable
            | Self::AgentUndecodable => Stage::Unnumbered,
            Self::AgentSpoolFull
            | Self::AgentSpoolFailed
            | Self::AgentSpoolDamaged
            | Self::Quarantined
            | Self::StoreMissing => Stage::Numbered,
        }
    }

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
    /// How it stood at the end of each hour, and stands in the present one, as
    /// far as that may be news for the collector. In the order of their numbers.
    pub hours: VecDeque<HourMark>,
}

/// An hour of Unix time: hours since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hour(pub i64);

impl Hour {
    /// Nanoseconds of an hour.
    pub const NS: i64 = 3_600_000_000_000;

    /// Returns the hour that a moment lies in.
    pub fn of(unix_ns: i64) -> Self {
        Self(unix_ns.div_euclid(Self::NS))
    }

    /// Returns the hour's first moment, in Unix nanoseconds.
    pub fn begin_unix_ns(self) -> i64 {
        self.0.saturating_mul(Self::NS)
    }
}

/// A ledger as it stood at the end of an hour of the node's clock: counts since
/// the epoch began. What belongs to the hour is the difference to the mark
/// before it.
///
/// What is counted while nobody reads the counters, because no agent runs, is
/// in the first mark after that. A clock that is set back makes another mark of
/// an hour that has one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HourMark {
    /// Which hour.
    pub hour: Hour,
    /// Counts the marks of the epoch from 1.
    pub number: u64,
    /// Records that the hooks set out to write.
    pub seen: u64,
    /// Left out on purpose.
    pub filtered: u64,
    /// Of what got no sequence number, by reason.
    pub lost: BTreeMap<LossReason, u64>,
    /// The last sequence number of the hour.
    pub sequenced: u64,
}

impl HourMark {
    /// Returns `seen - filtered - lost - sequenced`: what was on its way to a
    /// number when the hour ended. Less than 0: something counts wrong.
    pub fn unaccounted(&self) -> i128 {
        let lost: i128 = self
            .lost
            .iter()
            .filter(|(reason, _)| reason.stage() == Stage::Unnumbered)
            .map(|(_, count)| i128::from(*count))
            .sum();
        i128::from(self.seen) - i128::from(self.filtered) - lost - i128::from(self.sequenced)
    }
}

/// Hours that a ledger tells of: more than a month that no collector heard of.
pub const HOURS_MAX: usize = 1024;

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
    /// Notes that the present counts are those of an hour. Of more than
    /// [`HOURS_MAX`] marks the oldest is forgotten, so that its counts become
    /// the next one's.
    pub fn note_hour(&mut self, hour: Hour) {
        let last = self.hours.pop_back_if(|last| last.hour == hour);
        let number = match (&last, self.hours.back()) {
            (Some(same), _) => same.number,
            (None, Some(before)) => before.number + 1,
            (None, None) => 1,
        };
        self.hours.push_back(HourMark {
            hour,
            number,
            seen: self.seen,
            filtered: self.filtered,
            lost: self
                .lost
                .iter()
                .filter(|(reason, _)| reason.stage() != Stage::Numbered)
                .map(|(reason, count)| (*reason, *count))
                .collect(),
            sequenced: self.sequenced,
        });
        if self.hours.len() > HOURS_MAX {
            self.hours.pop_front();
        }
    }

    /// Forgets the marks that the collector has, up to this number; the last
    /// one stays.
    pub fn forget_hours(&mut self, upto: u64) {
        while self.hours.len() > 1
            && self
                .hours
                .pop_front_if(|mark| mark.number <= upto)
                .is_some()
        {}
    }

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
            .filter(|(reason, _)| reason.stage() == Stage::Unnumbered)
            .map(|(_, count)| i128::from(*count))
            .sum();
        i128::from(self.seen)
            - i128::from(self.filtered)
            - i128::from(self.sequenced)
            - lost_before_sequencing
    }
}

/// Converts counts by reason for the wire.
pub fn losses_to_wire(lost: BTreeMap<LossReason, u64>) -> Vec<wire::LossCount> {
    lost.into_iter()
        .map(|(reason, count)| wire::LossCount {
            reason: wire::LossReason::from(reason).into(),
            count,
        })
        .collect()
}

/// Reads counts by reason; those under a reason that this version does not know
/// are left out.
pub fn losses_from_wire(lost: Vec<wire::LossCount>) -> BTreeMap<LossReason, u64> {
    lost.into_iter()
        .filter_map(|loss| Some((LossReason::from_wire(loss.reason)?, loss.count)))
        .collect()
}

impl From<HourMark> for wire::HourMark {
    fn from(mark: HourMark) -> Self {
        Self {
            hour: mark.hour.0,
            number: mark.number,
            seen: mark.seen,
            filtered: mark.filtered,
            lost: losses_to_wire(mark.lost),
            sequenced: mark.sequenced,
        }
    }
}

impl From<wire::HourMark> for HourMark {
    fn from(mark: wire::HourMark) -> Self {
        Self {
            hour: Hour(mark.hour),
            number: mark.number,
            seen: mark.seen,
            filtered: mark.filtered,
            lost: losses_from_wire(mark.lost),
            sequenced: mark.sequenced,
        }
    }
}

impl From<Ledger> for wire::Ledger {
    fn from(ledger: Ledger) -> Self {
        Self {
            seen: ledger.seen,
            filtered: ledger.filtered,
            lost: losses_to_wire(ledger.lost),
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
            hours: ledger.hours.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<wire::Ledger> for Ledger {
    /// Counts under a reason that this version does not know are left out, as
    /// are hooks beyond [`HOOKS_MAX`], those with an endless name, and hours beyond
    /// [`HOURS_MAX`].
    fn from(ledger: wire::Ledger) -> Self {
        Self {
            seen: ledger.seen,
            filtered: ledger.filtered,
            lost: losses_from_wire(ledger.lost),
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
            hours: ledger
                .hours
                .into_iter()
                .take(HOURS_MAX)
                .map(Into::into)
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
            hours: VecDeque::from([HourMark {
                hour: Hour(490_000),
                number: 3,
                seen: 9,
                filtered: 1,
                lost: BTreeMap::from([(LossReason::KernelOversize, 2)]),
                sequenced: 6,
            }]),
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

    #[test]
    fn an_hour_holds_what_was_counted_when_it_was_noted_last() {
        let mut ledger = Ledger {
            seen: 10,
            filtered: 1,
            lost: BTreeMap::from([
                (LossReason::KernelRingFull, 2),
                (LossReason::KernelProbeMissed, 3),
                (LossReason::AgentSpoolFull, 4),
            ]),
            sequenced: 7,
            ..Ledger::default()
        };
        ledger.note_hour(Hour(5));
        ledger.seen = 20;
        ledger.note_hour(Hour(5));
        assert_eq!(ledger.hours.len(), 1);
        assert_eq!(ledger.hours[0].unaccounted(), 10);
        assert_eq!(ledger.hours[0].lost.len(), 2, "what has a number");
        // The clock is set back: counts go on.
        ledger.seen = 30;
        ledger.note_hour(Hour(3));
        let marks = ledger.hours.iter();
        let marks: Vec<_> = marks
            .map(|mark| (mark.hour.0, mark.number, mark.seen))
            .collect();
        assert_eq!(marks, [(5, 1, 20), (3, 2, 30)]);
        ledger.forget_hours(1);
        ledger.forget_hours(2);
        assert_eq!((ledger.hours.len(), ledger.hours[0].number), (1, 2));
        (6..5000).for_each(|hour| ledger.note_hour(Hour(hour)));
        assert_eq!(ledger.hours.len(), HOURS_MAX);
        assert_eq!(ledger.hours.back().map(|mark| mark.hour), Some(Hour(4999)));
    }

    #[test]
    fn an_hour_begins_at_its_own_moment_also_before_1970() {
        assert_eq!(Hour::of(Hour::NS), Hour(1));
        assert_eq!(Hour::of(Hour::NS - 1), Hour(0));
        assert_eq!(Hour::of(-1), Hour(-1));
        assert_eq!(Hour(-1).begin_unix_ns(), -Hour::NS);
    }
}
