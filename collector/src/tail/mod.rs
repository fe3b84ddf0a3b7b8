//! Live reads: what became durable, to whoever is listening.
//!
//! Publishing never waits. A reader that is slower than the events finds some
//! of them gone, and is told how many.

mod service;

pub use service::serve;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use shrike_proto::event::Event;
use tokio::sync::broadcast;

use crate::store::stream::StreamKey;

/// Arrivals kept for slow readers: some seconds of a busy collector, and at
/// most 64 of the largest batches in memory.
const ARRIVALS_KEPT: usize = 64;

/// Events that became durable together.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Where they came from.
    pub stream: StreamKey,
    /// The events.
    pub events: Arc<[Event]>,
}

/// An arrival and how many events came before it: what tells a reader how
/// many it missed.
#[derive(Debug)]
struct Numbered {
    before: u64,
    arrival: Arrival,
}

/// Publishes arrivals.
#[derive(Debug, Clone)]
pub struct Tail {
    sender: broadcast::Sender<Arc<Numbered>>,
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
        let count = arrival.events.len() as u64;
        let before = self.published.fetch_add(count, Ordering::Relaxed);
        if count > 0 {
            // Without readers there is nobody to tell.
            let _ = self.sender.send(Arc::new(Numbered { before, arrival }));
        }
    }

    /// Starts reading from here on.
    pub fn subscribe(&self) -> TailReader {
        // Subscribing first: an arrival in between is seen, not missed.
        let receiver = self.sender.subscribe();
        TailReader {
            receiver,
            expected: None,
        }
    }
}

/// Reads arrivals.
#[derive(Debug)]
pub struct TailReader {
    receiver: broadcast::Receiver<Arc<Numbered>>,
    expected: Option<u64>,
}

impl TailReader {
    /// Waits for the next arrival; also returns how many events were missed
    /// before it. `None` when the collector stops.
    pub async fn next(&mut self) -> Option<(u64, Arrival)> {
        loop {
            match self.receiver.recv().await {
                Ok(numbered) => {
                    let expected = self.expected.unwrap_or(numbered.before);
                    self.expected = Some(numbered.before + numbered.arrival.events.len() as u64);
                    let missed = numbered.before.saturating_sub(expected);
                    return Some((missed, numbered.arrival.clone()));
                }
                // The numbers say how much it was.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    fn arrival(first: u64, count: u64) -> Arrival {
        Arrival {
            stream: sample::stream(),
            events: sample::events(first, count).into(),
        }
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
        assert_eq!(next.events[0].sequence.0, 33);
    }

    #[tokio::test]
    async fn publishing_without_readers_does_nothing() {
        let tail = Tail::default();
        tail.publish(arrival(1, 2));
        let mut reader = tail.subscribe();
        tail.publish(arrival(3, 2));
        assert_eq!(reader.next().await.unwrap().1.events[0].sequence.0, 3);
    }
}
