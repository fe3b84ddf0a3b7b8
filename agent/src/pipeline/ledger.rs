//! The node's ledger, put together from who counted what.

use std::collections::BTreeMap;

use shrike_proto::{
    id::SequenceNumber,
    ledger::{Ledger, LossReason},
};

use super::Counts;
use crate::kernel::KernelCounters;

/// Puts the ledger together: what the hooks counted, the alerts that the agent
/// itself raised and what it left out, what could not be decoded, what the queue gave up, and how many events were sequenced.
///
/// No event may be taken out of the ring between reading `next_sequence` and
/// `counters`, or the ledger claims more events than the hooks had seen.
pub(crate) fn ledger(
    counters: &KernelCounters,
    intake: Counts,
    undecodable: u64,
    queue_lost: BTreeMap<LossReason, u64>,
    next_sequence: SequenceNumber,
) -> Ledger {
    let total = counters.total();
    let mut lost = counters.lost();
    if undecodable > 0 {
        lost.insert(LossReason::AgentUndecodable, undecodable);
    }
    lost.extend(queue_lost);
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
    }
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
                    seen: 100,
                    submitted: 90,
                    filtered_own: 1,
                    filtered_repeated: 2,
                    lost_oversize: 0,
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
            BTreeMap::from([(LossReason::AgentQueueFull, 20)]),
            SequenceNumber(88),
        );
        assert_eq!(ledger.unaccounted(), 0);
        assert_eq!(ledger.lost_total(), 7 + 2 + 1 + 20);
        assert_eq!(ledger.hooks["file-open"].filtered_repeated, 2);
    }
}
