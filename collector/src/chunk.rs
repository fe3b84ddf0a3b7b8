//! Cuts streams of events into messages well below the message limit.

use prost::Message as _;
use shrike_proto::wire::admin::StoredEvent;

/// Events in one message.
const EVENTS_MAX: usize = 512;

/// Bytes in one message, before its last event.
const BYTES_MAX: usize = 1 << 20;

/// Events that will go out together.
#[derive(Debug, Default)]
pub struct Chunk {
    events: Vec<StoredEvent>,
    bytes: usize,
}

impl Chunk {
    /// Adds an event; returns the message's events once there are enough.
    pub fn push(&mut self, event: StoredEvent) -> Option<Vec<StoredEvent>> {
        self.bytes += event.encoded_len();
        self.events.push(event);
        let is_full = self.events.len() >= EVENTS_MAX || self.bytes >= BYTES_MAX;
        is_full.then(|| self.take())
    }

    /// Returns what has been added since the last message.
    pub fn take(&mut self) -> Vec<StoredEvent> {
        self.bytes = 0;
        std::mem::take(&mut self.events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(bytes: usize) -> StoredEvent {
        StoredEvent {
            node: "x".repeat(bytes),
            ..StoredEvent::default()
        }
    }

    #[test]
    fn message_is_full_by_events_or_by_bytes() {
        let mut chunk = Chunk::default();
        let sent = (0..EVENTS_MAX).find_map(|_| chunk.push(event(1)));
        assert_eq!(sent.map(|events| events.len()), Some(EVENTS_MAX));
        assert!(chunk.take().is_empty());
        assert_eq!(chunk.push(event(BYTES_MAX / 2)), None);
        assert_eq!(chunk.push(event(BYTES_MAX / 2)).map(|it| it.len()), Some(2));
    }
}
