//! A part of the store by position: for each stream, the sequence numbers
//! above one watermark and up to another.
//!
//! Sequence numbers never come twice and never go back, so two windows that
//! share a bound have every event in exactly one of them, whatever the
//! clocks of the nodes say.

use std::collections::BTreeMap;

use shrike_proto::{event::Event, id::SequenceNumber};

use crate::store::{
    Store, StoreError,
    block::{BlockKey, Footer, Run},
    stream::StreamKey,
};

/// How far each stream was durable at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks(BTreeMap<StreamKey, SequenceNumber>);

impl Marks {
    /// Reads the marks of a store.
    ///
    /// # Errors
    /// [`StoreError`] for an unreadable one.
    pub fn read(store: &dyn Store) -> Result<Self, StoreError> {
        let marks = store.watermarks()?;
        Ok(Self(
            marks
                .into_iter()
                .map(|(stream, mark)| (stream, mark.durable))
                .collect(),
        ))
    }

    /// Returns the highest durable sequence number of a stream; 0 for one
    /// that is not known.
    pub fn of(&self, stream: &StreamKey) -> SequenceNumber {
        self.0.get(stream).copied().unwrap_or_default()
    }
}

/// What lies above some marks and not above others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Exclusive.
    pub above: Marks,
    /// Inclusive.
    pub up_to: Marks,
}

impl Window {
    /// Says whether a block may hold an event of the window.
    pub fn may_hold(&self, key: &BlockKey, footer: &Footer) -> bool {
        footer.runs(key).iter().any(|run| self.may_hold_of(run))
    }

    /// Says whether a run has an event of the window.
    pub fn may_hold_of(&self, run: &Run) -> bool {
        run.last() > self.above.of(&run.stream) && run.first_sequence <= self.up_to.of(&run.stream)
    }

    /// Says whether an event is in the window.
    pub fn holds(&self, stream: &StreamKey, event: &Event) -> bool {
        event.sequence > self.above.of(stream) && event.sequence <= self.up_to.of(stream)
    }
}
