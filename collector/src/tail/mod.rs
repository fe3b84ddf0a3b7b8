//! Live reads: what became durable, to whoever is listening.
//!
//! Publishing never waits. A reader that is slower than the events finds some
//! of them gone, and is told how many. Who asks for it first gets what is
//! stored, and then what arrives, each event once.

mod history;
mod service;

pub use service::{History, serve};

use std::sync::{
    Arc, Mutex, PoisonError, Weak,
    atomic::{AtomicU64, Ordering},
};

use shrike_proto::{
    batch::{self, BATCH_BYTES_MAX, BatchError},
    event::Event,
    id::SequenceNumber,
};
use tokio::sync::broadcast;

use crate::{chain::chain, store::stream::StreamKey};

/// Arrivals kept for slow readers: some seconds of a busy collector, and at
/// most 64 of the largest batches in memory, compressed.
const ARRIVALS_KEPT: usize = 64;

/// Events as they came, checked but neither decompressed nor built: most
/// arrivals have no reader.
#[derive(Debug, Default)]
pub struct Encoded {
    first: SequenceNumber,
    count: u32,
    payload: Vec<u8>,
}

impl Encoded {
    /// Keeps a compressed list of `count` events from `first` on.
    pub fn new(first: SequenceNumber, count: u32, payload: Vec<u8>) -> Self {
        Self {
            first,
            count,
            payload,
        }
    }

    /// Returns how many events there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Builds the events.
    pub fn decode(&self) -> Vec<Event> {
        if self.count == 0 {
            return Vec::new();
        }
        batch::decompress(&self.payload, BATCH_BYTES_MAX)
            .map_err(BatchError::Decompress)
            .and_then(|raw| batch::decode(&raw, self.first, self.count))
            .unwrap_or_else(|error| {
                // They were checked before they were stored.
                tracing::error!(error = chain(&error), "stored events do not decode");
                Vec::new()
            })
    }
}

/// Events that became durable together.
#[derive(Debug)]
pub struct Arrival {
    stream: StreamKey,
    encoded: Encoded,
    /// While somebody reads them.
    decoded: Mutex<Weak<[Event]>>,
}

impl Arrival {
    /// Makes an arrival.
    pub fn new(stream: StreamKey, encoded: Encoded) -> Self {
        Self {
            stream,
            encoded,
            decoded: Mutex::new(Weak::<[Event; 0]>::new()),
        }
    }

    /// Returns where the events came from.
    pub fn stream(&self) -> &StreamKey {
        &self.stream
    }

    /// Returns the events; the first reader builds them, which takes
    /// milliseconds, for all who read while it does: built events take a
    /// hundred times the room.
    pub fn events(&self) -> Arc<[Event]> {
        let mut decoded = self.decoded.lock().unwrap_or_else(PoisonError::into_inner);
        decoded.upgrade().unwrap_or_else(|| {
            let events: Arc<[Event]> = self.encoded.decode().into();
            *decoded = Arc::downgrade(&events);
            events
        })
    }
}

/// An arrival and how many events came before it: what tells a reader how
/// many it missed.
#[derive(Debug, Clone)]
struct Numbered {
    before: u64,
    arrival: Arc<Arrival>,
}

/// Publishes arrivals.
#[derive(Debug, Clone)]
pub struct Tail {
    sender: broadcast::Sender<Numbered>,
    published: Arc<AtomicU64>,
}

impl Default for Tail {
    fn default() -> Self {
        Self {
            sender: broadcast::Sender::new(ARRIVALS_KEPT),
            published: Arc::default(),
        }
    }
}

impl Tail {
    /// Hands an arrival to every reader. Called by the writer only, so that
    /// numbers and arrivals come in one order.
    pub fn publish(&self, arrival: Arrival) {
        let count = u64::from(arrival.encoded.count);
        let before = self.published.fetch_add(count, Ordering::Relaxed);
        if count > 0 {
            // Without readers there is nobody to tell.
            let _ = self.sender.send(Numbered {
                before,
                arrival: Arc::new(arrival),
            });
        }
    }

    /// Starts reading from here on.
    pub fn subscribe(&self) -> TailReader {
        // Subscribing first: an arrival in between is seen, not missed.
        let receiver = self.sender.subscribe();
        TailReader {
            receiver,
            expected: self.published.load(Ordering::Relaxed),
        }
    }
}

/// Reads arrivals.
#[derive(Debug)]
pub struct TailReader {
    receiver: broadcast::Receiver<Numbered>,
    expected: u64,
}

impl TailReader {
    /// Says whether arrivals went by that this reader will not see.
    pub fn has_missed(&self) -> bool {
        // What waits is at most what is kept; more means that some are gone.
        self.receiver.len() > ARRIVALS_KEPT
    }

    /// Waits for the next arrival; also returns how many events were missed
    /// before it. `None` when the collector stops.
    pub async fn next(&mut self) -> Option<(u64, Arc<Arrival>)> {
        loop {
            match self.receiver.recv().await {
                Ok(numbered) => {
                    let count = u64::from(numbered.arrival.encoded.count);
                    let missed = numbered.before.saturating_sub(self.expected);
                    self.expected = numbered.before + count;
                    return Some((missed, numbered.arrival));
                }
                // The numbers say how much it was.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::sample;

    pub(super) fn arrival(first: u64, count: u64) -> Arrival {
        let list = shrike_proto::wire::event::EventList {
            events: sample::events(first, count)
                .into_iter()
                .map(Into::into)
                .collect(),
        };
        let raw = prost::Message::encode_to_vec(&list);
        let payload = zstd::bulk::compress(&raw, 1).unwrap();
        let count = u32::try_from(count).unwrap();
        let encoded = Encoded::new(SequenceNumber(first), count, payload);
        Arrival::new(sample::stream(), encoded)
    }

    #[tokio::test]
    async fn slow_reader_learns_how_many_it_missed() {
        let tail = Tail::default();
        let mut reader = tail.subscribe();
        tail.publish(arrival(1, 2));
        assert_eq!(reader.next().await.unwrap().0, 0);
        for index in 0..(ARRIVALS_KEPT as u64 + 10) {
            tail.publish(arrival(3 + 3 * index, 3));
        }
        let (missed, next) = reader.next().await.unwrap();
        assert_eq!(missed, 30);
        assert_eq!(next.events()[0].sequence.0, 33);
    }

    #[tokio::test]
    async fn publishing_without_readers_does_nothing() {
        let tail = Tail::default();
        tail.publish(arrival(1, 2));
        let mut reader = tail.subscribe();
        tail.publish(arrival(3, 2));
        assert_eq!(reader.next().await.unwrap().1.events()[0].sequence.0, 3);
    }
}
