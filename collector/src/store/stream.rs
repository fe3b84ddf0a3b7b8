//! A stream: one node's events under one epoch, and how far it is durable.

use std::collections::{BTreeMap, VecDeque};

use prost::Message;
use shrike_proto::{
    id::{Epoch, NodeId, SequenceNumber},
    ledger::{Ledger, LossReason, losses_from_wire, losses_to_wire},
    wire::{event as event_wire, ingest},
};

use super::hours::{OpenHours, OpenHoursRecord};

/// Lost ranges kept by position for each stream: what `nodes show` lists. The
/// counts by reason are complete whatever the number of ranges.
pub const LOST_RANGES_KEPT: usize = 256;

/// One node's events under one epoch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamKey {
    /// The node.
    pub node: NodeId,
    /// One life of its agent's queue.
    pub epoch: Epoch,
}

/// Sequence numbers that hold no event in the store, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostRange {
    /// First of them.
    pub first: SequenceNumber,
    /// How many; at least 1.
    pub count: u64,
    /// Why.
    pub reason: LossReason,
}

impl LostRange {
    /// Returns the last sequence number of the range.
    pub fn last(&self) -> u64 {
        self.first.0.saturating_add(self.count).saturating_sub(1)
    }
}

impl From<LostRange> for ingest::LostRange {
    fn from(range: LostRange) -> Self {
        Self {
            first_sequence: range.first.0,
            count: range.count,
            reason: event_wire::LossReason::from(range.reason).into(),
        }
    }
}

/// How far a stream is accounted for, and what its agent says of itself.
///
/// Invariant: `durable = stored + lost_total`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Watermark {
    /// Every sequence number up to here is stored or known to be lost.
    pub durable: SequenceNumber,
    /// Events that were stored, including those that retention removed.
    pub stored: u64,
    /// Events that retention removed.
    pub removed: u64,
    /// Sequence numbers lost, by reason.
    pub lost: BTreeMap<LossReason, u64>,
    /// The newest lost ranges, at most [`LOST_RANGES_KEPT`].
    pub lost_ranges: VecDeque<LostRange>,
    /// The agent's ledger as it last came.
    pub ledger: Option<Ledger>,
    /// What was counted in hours that may change still.
    pub hours: OpenHours,
    /// First and last commit of the stream by the collector's clock.
    pub opened_unix_ns: i64,
    /// See `opened_unix_ns`.
    pub committed_unix_ns: i64,
}

impl Watermark {
    /// Takes the agent's ledger into account.
    pub fn take_ledger(&mut self, mut ledger: Ledger) {
        self.hours.take_in(&std::mem::take(&mut ledger.hours));
        self.ledger = Some(ledger);
    }

    /// Takes a lost range into account.
    pub fn add_lost(&mut self, range: LostRange) {
        self.hours.lose(&range);
        let lost = self.lost.entry(range.reason).or_default();
        *lost = lost.saturating_add(range.count);
        match self.lost_ranges.back_mut() {
            Some(last) if last.reason == range.reason && last.last() + 1 == range.first.0 => {
                last.count += range.count;
            }
            Some(_) | None => {
                if self.lost_ranges.len() == LOST_RANGES_KEPT {
                    self.lost_ranges.pop_front();
                }
                self.lost_ranges.push_back(range);
            }
        }
    }

    /// Returns what was lost by reason, from the agent's ledger and from the
    /// ranges: a loss that both know of counts once.
    pub fn losses(&self) -> BTreeMap<LossReason, u64> {
        let mut losses = self.lost.clone();
        for (reason, count) in self.ledger.iter().flat_map(|ledger| &ledger.lost) {
            let entry = losses.entry(*reason).or_default();
            *entry = (*entry).max(*count);
        }
        losses.retain(|_, count| *count > 0);
        losses
    }

    /// Encodes the watermark for the store.
    pub fn encode(&self) -> Vec<u8> {
        WatermarkRecord {
            durable: self.durable.0,
            stored: self.stored,
            removed: self.removed,
            lost: losses_to_wire(self.lost.clone()),
            lost_ranges: self
                .lost_ranges
                .iter()
                .map(|range| (*range).into())
                .collect(),
            ledger: self.ledger.clone().map(Into::into),
            hours: Some(self.hours.to_disk()),
            opened_unix_ns: self.opened_unix_ns,
            committed_unix_ns: self.committed_unix_ns,
        }
        .encode_to_vec()
    }

    /// Decodes a watermark from the store.
    ///
    /// # Errors
    /// The decoder's, for bytes that are no watermark.
    pub fn decode(bytes: &[u8]) -> Result<Self, prost::DecodeError> {
        let record = WatermarkRecord::decode(bytes)?;
        Ok(Self {
            durable: SequenceNumber(record.durable),
            stored: record.stored,
            removed: record.removed,
            lost: losses_from_wire(record.lost),
            lost_ranges: record
                .lost_ranges
                .iter()
                .filter_map(|range| {
                    Some(LostRange {
                        first: SequenceNumber(range.first_sequence),
                        count: range.count,
                        reason: LossReason::from_wire(range.reason)?,
                    })
                })
                .collect(),
            ledger: record.ledger.map(Into::into),
            hours: record.hours.map(OpenHours::from_disk).unwrap_or_default(),
            opened_unix_ns: record.opened_unix_ns,
            committed_unix_ns: record.committed_unix_ns,
        })
    }
}

/// The watermark as it lies in the store.
#[derive(Clone, PartialEq, Message)]
struct WatermarkRecord {
    #[prost(uint64, tag = "1")]
    durable: u64,
    #[prost(uint64, tag = "2")]
    stored: u64,
    #[prost(uint64, tag = "3")]
    removed: u64,
    #[prost(message, repeated, tag = "4")]
    lost: Vec<event_wire::LossCount>,
    #[prost(message, repeated, tag = "5")]
    lost_ranges: Vec<ingest::LostRange>,
    #[prost(message, optional, tag = "6")]
    ledger: Option<event_wire::Ledger>,
    #[prost(int64, tag = "7")]
    opened_unix_ns: i64,
    #[prost(int64, tag = "8")]
    committed_unix_ns: i64,
    #[prost(message, optional, tag = "9")]
    hours: Option<OpenHoursRecord>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u64, count: u64, reason: LossReason) -> LostRange {
        LostRange {
            first: SequenceNumber(first),
            count,
            reason,
        }
    }

    #[test]
    fn watermark_survives_the_store() {
        let mut mark = Watermark {
            durable: SequenceNumber(30),
            stored: 20,
            removed: 5,
            ledger: Some(Ledger {
                seen: 40,
                ..Ledger::default()
            }),
            opened_unix_ns: 1,
            committed_unix_ns: 2,
            ..Watermark::default()
        };
        mark.add_lost(range(3, 10, LossReason::Quarantined));
        assert_eq!(Watermark::decode(&mark.encode()), Ok(mark));
    }

    #[test]
    fn neighbouring_losses_become_one_range() {
        let mut mark = Watermark::default();
        mark.add_lost(range(1, 4, LossReason::AgentSpoolFull));
        mark.add_lost(range(5, 2, LossReason::AgentSpoolFull));
        mark.add_lost(range(7, 1, LossReason::Quarantined));
        assert_eq!(
            mark.lost_ranges,
            [
                range(1, 6, LossReason::AgentSpoolFull),
                range(7, 1, LossReason::Quarantined)
            ]
        );
        assert_eq!(mark.lost[&LossReason::AgentSpoolFull], 6);
    }

    #[test]
    fn ranges_are_bounded_and_counts_complete() {
        let mut mark = Watermark::default();
        for index in 0..1000 {
            mark.add_lost(range(index * 2 + 1, 1, LossReason::AgentSpoolFull));
        }
        assert_eq!(mark.lost_ranges.len(), LOST_RANGES_KEPT);
        assert_eq!(mark.lost[&LossReason::AgentSpoolFull], 1000);
    }

    #[test]
    fn loss_that_ledger_and_ranges_both_know_counts_once() {
        let mut mark = Watermark::default();
        mark.add_lost(range(1, 4, LossReason::AgentSpoolFull));
        mark.ledger = Some(Ledger {
            lost: BTreeMap::from([
                (LossReason::AgentSpoolFull, 6),
                (LossReason::KernelRingFull, 2),
            ]),
            ..Ledger::default()
        });
        assert_eq!(
            mark.losses(),
            BTreeMap::from([
                (LossReason::AgentSpoolFull, 6),
                (LossReason::KernelRingFull, 2)
            ])
        );
    }
}
