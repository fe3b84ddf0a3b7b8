//! The node's ledger, put together from who counted what.

use std::collections::{BTreeMap, VecDeque};

use shrike_proto::{
    id::SequenceNumber,
    ledger::{HookCounts, Ledger, LossReason, Stage},
};

use super::Counts;
use crate::kernel::KernelCounters;

/// Puts the ledger together: what the hooks counted, the alerts that the agent
/// itself raised and what it left out, what could not be decoded, what the spool
/// gave up, and how many events were sequenced.
///
/// No event may be taken out of the ring between reading `next_sequence` and
/// `counters`, or the ledger claims more events than the hooks had seen.
pub(crate) fn ledger(
    counters: &KernelCounters,
    intake: Counts,
    undecodable: u64,
    spool_lost: BTreeMap<LossReason, u64>,
    next_sequence: SequenceNumber,
) -> Ledger {
    let total = counters.total();
    let mut lost = counters.lost();
    if undecodable > 0 {
        lost.insert(LossReason::AgentUndecodable, undecodable);
    }
    lost.extend(spool_lost);
    Ledger {
        seen: total.seen + intake.raised,
        filtered: total.filtered() + intake.left_out,
        lost,
        sequenced: next_sequence.0 - 1,
        hooks: counters
            .hooks
            .iter()
            .map(|(name, counts)| ((*name).to_owned(), counts.into()))
            .collect(),
        hours: VecDeque::new(),
    }
}

/// Puts a ledger of this agent's life onto the one that the epoch's agents
/// before left: `began_at` is the number that its first event got.
///
/// Its hours are those before it: the present one is to be noted.
///
/// What those had seen is not taken from what they said last, which may be a
/// second older than their end, but from what became of it: every event that
/// has a number, and what was left out or lost before it could get one.
pub(crate) fn onto(before: &Ledger, began_at: SequenceNumber, own: Ledger) -> Ledger {
    let mut lost = own.lost;
    let mut lost_unnumbered = 0;
    for (reason, count) in &before.lost {
        let (is_kept, was_seen) = match reason.stage() {
            Stage::Unnumbered => (true, true),
            Stage::Unseen => (true, false),
            // The spool counts these on.
            Stage::Numbered => (false, false),
        };
        if is_kept {
            *lost.entry(*reason).or_default() += count;
        }
        if was_seen {
            lost_unnumbered += count;
        }
    }
    let mut hooks = own.hooks;
    for (name, counts) in &before.hooks {
        add(hooks.entry(name.clone()).or_default(), counts);
    }
    Ledger {
        seen: own.seen + before.filtered + lost_unnumbered + (began_at.0 - 1),
        filtered: own.filtered + before.filtered,
        lost,
        sequenced: own.sequenced,
        hooks,
        hours: before.hours.clone(),
    }
}

fn add(hook: &mut HookCounts, more: &HookCounts) {
    let HookCounts {
        seen,
        submitted,
        filtered_own,
        filtered_repeated,
        lost_ring_full,
        lost_pending_full,
        lost_oversize,
        lost_unreadable,
        missed,
    } = more;
    hook.seen += seen;
    hook.submitted += submitted;
    hook.filtered_own += filtered_own;
    hook.filtered_repeated += filtered_repeated;
    hook.lost_ring_full += lost_ring_full;
    hook.lost_pending_full += lost_pending_full;
    hook.lost_oversize += lost_oversize;
    hook.lost_unreadable += lost_unreadable;
    hook.missed += missed;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::HookCounters;

    #[test]
    fn every_record_is_accounted_for() {
        let counters = KernelCounters {
            hooks: BTreeMap::from([(
                "file-open",
                HookCounters {
                    seen: 101,
                    submitted: 90,
                    filtered_own: 1,
                    filtered_repeated: 2,
                    lost_oversize: 0,
                    lost_unreadable: 1,
                    lost_ring_full: 7,
                    lost_pending_full: 0,
                    missed: 2,
                },
            )]),
        };
        let ledger = ledger(
            &counters,
            Counts {
                raised: 2,
                left_out: 4,
            },
            1,
            BTreeMap::from([(LossReason::AgentSpoolFull, 20)]),
            SequenceNumber(88),
        );
        assert_eq!(ledger.unaccounted(), 0);
        assert_eq!(ledger.lost_total(), 7 + 1 + 2 + 1 + 20);
        assert_eq!(ledger.hooks["file-open"].filtered_repeated, 2);
    }

    #[test]
    fn an_epoch_that_goes_on_adds_up_whatever_its_agent_said_last() {
        // It numbered 50 events, of which its last ledger knew 40.
        let before = Ledger {
            seen: 48,
            filtered: 3,
            lost: BTreeMap::from([
                (LossReason::KernelRingFull, 5),
                (LossReason::KernelProbeMissed, 9),
                (LossReason::AgentSpoolFull, 7),
            ]),
            sequenced: 40,
            ..Ledger::default()
        };
        let own = Ledger {
            seen: 12,
            filtered: 1,
            lost: BTreeMap::from([
                (LossReason::KernelRingFull, 1),
                (LossReason::AgentSpoolFull, 8),
            ]),
            sequenced: 60,
            ..Ledger::default()
        };
        let ledger = onto(&before, SequenceNumber(51), own);
        assert_eq!(ledger.unaccounted(), 0);
        assert_eq!((ledger.seen, ledger.filtered), (12 + 50 + 3 + 5, 4));
        assert_eq!(ledger.lost[&LossReason::KernelRingFull], 6);
        assert_eq!(ledger.lost[&LossReason::KernelProbeMissed], 9);
        assert_eq!(ledger.lost[&LossReason::AgentSpoolFull], 8);
    }
}
