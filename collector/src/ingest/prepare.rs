//! From a batch as it came to pieces that the store takes: every byte is
//! looked at once, before anything is believed.

use std::sync::Arc;

use shrike_proto::{
    batch::{self, BatchError},
    event::Event,
    id::SequenceNumber,
    wire::ingest,
};

use crate::store::piece::{self, EventTooBig, Piece};

/// A batch that is poison.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// It is not what it says.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// It fits into no block.
    #[error(transparent)]
    TooBig(#[from] EventTooBig),
}

/// A batch that was checked.
#[derive(Debug)]
pub struct Prepared {
    /// Its events, compressed.
    pub pieces: Vec<Piece>,
    /// Its events.
    pub events: Arc<[Event]>,
}

/// Decodes and checks a batch, and cuts it into pieces without its first
/// `skip` events.
///
/// # Errors
/// [`PrepareError`] says why it can never be stored.
pub fn prepare(batch: &ingest::Batch, skip: usize) -> Result<Prepared, PrepareError> {
    if batch.count == 0 && batch.payload.is_empty() {
        return Ok(Prepared {
            pieces: Vec::new(),
            events: Arc::new([]),
        });
    }
    let raw = batch::unpack(batch)?;
    let mut events: Arc<[Event]> =
        batch::decode(&raw, SequenceNumber(batch.first_sequence), batch.count)?.into();
    let pieces = piece::cut(batch, raw.len(), &events, skip)?;
    if skip > 0 {
        events = events[skip..].into();
    }
    Ok(Prepared { pieces, events })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;
    use shrike_proto::id::Epoch;

    #[test]
    fn empty_batch_needs_no_payload() {
        let prepared = prepare(&ingest::Batch::default(), 0).unwrap();
        assert!(prepared.pieces.is_empty() && prepared.events.is_empty());
    }

    #[test]
    fn garbage_is_poison() {
        let mut sealed = batch::seal(Epoch([1; 16]), SequenceNumber(1), sample::events(1, 9));
        sealed.payload.truncate(20);
        assert!(prepare(&sealed, 0).is_err());
        sealed.crc32c = crc32c::crc32c(&sealed.payload);
        assert!(prepare(&sealed, 0).is_err());
    }

    #[test]
    fn skipped_events_reach_nobody() {
        let sealed = batch::seal(Epoch([1; 16]), SequenceNumber(1), sample::events(1, 9));
        let prepared = prepare(&sealed, 4).unwrap();
        assert_eq!(*prepared.events, sample::events(5, 5)[..]);
        assert_eq!(prepared.pieces[0].first_sequence.0, 5);
        assert!(prepare(&sealed, 9).unwrap().pieces.is_empty());
    }
}
