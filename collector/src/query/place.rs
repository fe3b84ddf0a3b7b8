//! Where an event stands in an answer, so that another page can begin behind it.
//!
//! Events are ordered by time, then node, epoch and number, which no two share:
//! whatever arrives between two pages, what the first one had does not come
//! again, and nothing behind it is passed over.

use shrike_proto::{
    event::StoredEvent,
    id::{Epoch, IdError, NodeId, SequenceNumber},
    wire::admin,
};

use crate::store::{Order, stream::StreamKey};

/// Most events of a page: as many can be held and put in order, wherever in the
/// store they are.
pub const PAGE_EVENTS_MAX: u64 = 50_000;

/// Turns times and numbers so that smaller is earlier in the direction of the
/// query.
pub(super) fn at(time_unix_ns: i64, order: Order) -> i64 {
    match order {
        Order::OldestFirst => time_unix_ns,
        Order::NewestFirst => !time_unix_ns,
    }
}

/// The place of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// When it happened.
    pub time_unix_ns: i64,
    /// Whose it is.
    pub stream: StreamKey,
    /// Its number.
    pub sequence: SequenceNumber,
}

/// What places are compared by, in one direction.
pub(super) type Key<'a> = (i64, &'a str, [u8; 16], i64);

impl Place {
    /// Returns what it is compared by.
    pub(super) fn key(&self, order: Order) -> Key<'_> {
        (
            at(self.time_unix_ns, order),
            self.stream.node.as_str(),
            self.stream.epoch.0,
            at(self.sequence.0.cast_signed(), order),
        )
    }
}

impl From<&StoredEvent> for Place {
    fn from(stored: &StoredEvent) -> Self {
        Self {
            time_unix_ns: stored.event.time_unix_ns,
            stream: StreamKey {
                node: stored.node.clone(),
                epoch: stored.epoch,
            },
            sequence: stored.event.sequence,
        }
    }
}

impl From<Place> for admin::Place {
    fn from(place: Place) -> Self {
        Self {
            time_unix_ns: place.time_unix_ns,
            node: place.stream.node.to_string(),
            epoch: place.stream.epoch.0.to_vec(),
            sequence: place.sequence.0,
        }
    }
}

impl TryFrom<admin::Place> for Place {
    type Error = IdError;

    fn try_from(place: admin::Place) -> Result<Self, IdError> {
        Ok(Self {
            time_unix_ns: place.time_unix_ns,
            stream: StreamKey {
                node: NodeId::parse(&place.node)?,
                epoch: Epoch::from_wire(&place.epoch)?,
            },
            sequence: SequenceNumber(place.sequence),
        })
    }
}
