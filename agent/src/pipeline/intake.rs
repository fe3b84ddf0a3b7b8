//! What happens to each event between the kernel and the queue.

use std::time::Instant;

use shrike_proto::{event::Event, id::SequenceNumber};

use crate::{enrich::Enricher, receipts::Receipts};

/// Enriches events, numbers them, and matches kills with exits.
#[derive(Debug)]
pub struct Intake {
    enricher: Enricher,
    receipts: Receipts,
}

impl Intake {
    /// Starts with the processes that run already. Called after the hooks are
    /// attached.
    pub fn from_running_system(now: Instant) -> Self {
        Self::new(Enricher::from_running_system(now))
    }

    /// Starts with what the enricher knows.
    pub fn new(enricher: Enricher) -> Self {
        Self {
            enricher,
            receipts: Receipts::default(),
        }
    }

    /// Completes an event that came out of the ring.
    pub fn complete(&mut self, event: &mut Event, sequence: SequenceNumber, now: Instant) {
        self.enricher.enrich(event, now);
        event.sequence = sequence;
        self.receipts.observe(event);
    }
}
