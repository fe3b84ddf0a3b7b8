//! A live read, and how it joins up with a query.

use std::collections::BTreeMap;

use shrike_proto::{
    event::StoredEvent,
    id::{Epoch, NodeId, SequenceNumber},
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

/// The highest sequence number that a query delivered, for each epoch. A
/// store takes an epoch's events in order, so whatever is not above it was
/// in the store when the query ran, and was delivered by it.
#[derive(Debug, Default)]
pub(super) struct Watermarks(BTreeMap<(NodeId, Epoch), SequenceNumber>);

impl Watermarks {
    pub(super) fn raise(&mut self, event: &StoredEvent) {
        let mark = self
            .0
            .entry((event.node.clone(), event.epoch))
            .or_default();
        *mark = (*mark).max(event.event.sequence);
    }

    pub(super) fn is_new(&self, event: &StoredEvent) -> bool {
        self.0
            .get(&(event.node.clone(), event.epoch))
            .is_none_or(|mark| event.event.sequence > *mark)
    }
}

#[cfg(test)]
mod tests {
    use shrike_proto::{
        event::{Event, Exit, Fact, Process},
        id::Generation,
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
    fn what_the_query_delivered_is_not_new() {
        let mut watermarks = Watermarks::default();
        watermarks.raise(&event("a", 1, 7));
        watermarks.raise(&event("a", 1, 5));
        let check = |node: &str, epoch: u8, sequence: u64, new: bool| {
            assert_eq!(watermarks.is_new(&event(node, epoch, sequence)), new);
        };
        check("a", 1, 7, false);
        check("a", 1, 8, true);
        check("a", 2, 1, true);
        check("b", 1, 1, true);
    }
}
