//! A live read, and how it joins up with a query.

use std::collections::BTreeMap;

use shrike_proto::{
    event::StoredEvent,
    id::{Epoch, NodeId},
    wire::admin::{
        EventFilter, StoredEvent as WireStoredEvent, TailEventsRequest, TailEventsResponse,
    },
};
use tonic::Streaming;

use crate::{connection::Connection, failure::Failure};

/// A stream of what arrives.
pub(super) struct Tail {
    stream: Streaming<TailEventsResponse>,
}

impl Tail {
    /// Opens the tail; what is durable after this returns is delivered.
    pub(super) async fn open(
        connection: &Connection,
        filter: EventFilter,
    ) -> Result<Self, Failure> {
        let filter = EventFilter {
            // The past is the query's, and an event's own time may lie a
            // little before its arrival.
            since_unix_ns: 0,
            ..filter
        };
        let stream = connection
            .events()
            .tail_events(TailEventsRequest {
                filter: Some(filter),
            })
            .await?
            .into_inner();
        Ok(Self { stream })
    }

    /// Waits for events, and how many were skipped before them; `None` when
    /// the collector ends the stream.
    pub(super) async fn next(&mut self) -> Result<Option<(Vec<WireStoredEvent>, u64)>, Failure> {
        let response = self.stream.message().await?;
        Ok(response.map(|response| (response.events, response.skipped)))
    }
}

/// Gaps between remembered events, at most, for each epoch: the tail can
/// only repeat what was stored while the query ran, which are the highest
/// sequence numbers, so the lowest ones are forgotten first.
const RANGES_MAX: usize = 100_000;

/// The events that a query delivered, as ranges of sequence numbers for each
/// epoch, so that the tail does not deliver them again.
#[derive(Debug, Default)]
pub(super) struct Delivered(BTreeMap<(NodeId, Epoch), BTreeMap<u64, u64>>);

impl Delivered {
    pub(super) fn insert(&mut self, event: &StoredEvent) {
        let sequence = event.event.sequence.0;
        let ranges = self.0.entry((event.node.clone(), event.epoch)).or_default();
        let before = ranges.range(..=sequence).next_back();
        let (first, last) = match before {
            Some((_, last)) if *last >= sequence => return,
            Some((first, last)) if last + 1 == sequence => (*first, sequence),
            Some(_) | None => (sequence, sequence),
        };
        let last = sequence
            .checked_add(1)
            .and_then(|next| ranges.remove(&next))
            .unwrap_or(last);
        ranges.insert(first, last);
        if ranges.len() > RANGES_MAX {
            ranges.pop_first();
        }
    }

    pub(super) fn contains(&self, event: &StoredEvent) -> bool {
        let sequence = event.event.sequence.0;
        self.0
            .get(&(event.node.clone(), event.epoch))
            .and_then(|ranges| ranges.range(..=sequence).next_back())
            .is_some_and(|(_, last)| *last >= sequence)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shrike_proto::{
        event::{Event, Exit, Fact, Process},
        id::{Generation, SequenceNumber},
    };

    use super::*;

    fn event(node: &str, epoch: u8, sequence: u64) -> StoredEvent {
        StoredEvent {
            node: NodeId::parse(node).unwrap(),
            epoch: Epoch([epoch; 16]),
            event: Event {
                sequence: SequenceNumber(sequence),
                time_unix_ns: 0,
                boot_time_ns: 0,
                cpu: 0,
                cpu_sequence: 0,
                generation: Generation::NONE,
                process: Process::default(),
                verdict: None,
                fact: Fact::Exit(Exit::default()),
            },
        }
    }

    #[test]
    fn epochs_and_nodes_are_kept_apart() {
        let mut delivered = Delivered::default();
        delivered.insert(&event("a", 1, 7));
        let check = |node: &str, epoch: u8, sequence: u64, expect: bool| {
            assert_eq!(delivered.contains(&event(node, epoch, sequence)), expect);
        };
        check("a", 1, 7, true);
        check("a", 1, 6, false);
        check("a", 1, 8, false);
        check("a", 2, 7, false);
        check("b", 1, 7, false);
    }

    #[test]
    fn neighbours_take_one_range() {
        let mut delivered = Delivered::default();
        for sequence in [5, 3, 4, 1, 2, u64::MAX] {
            delivered.insert(&event("a", 1, sequence));
        }
        let ranges = delivered.0.values().next().unwrap();
        assert_eq!(*ranges, BTreeMap::from([(1, 5), (u64::MAX, u64::MAX)]));
    }

    proptest! {
        #[test]
        fn exactly_the_delivered_events_are_known(sequences in prop::collection::btree_set(0..40_u64, 0..30)) {
            let mut delivered = Delivered::default();
            for sequence in &sequences {
                delivered.insert(&event("a", 1, *sequence));
            }
            for sequence in 0..40 {
                prop_assert_eq!(
                    delivered.contains(&event("a", 1, sequence)),
                    sequences.contains(&sequence)
                );
            }
        }
    }
}
