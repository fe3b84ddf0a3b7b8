//! From a batch as it came to pieces that the store takes: every byte is
//! looked at once, before anything is believed.

use prost::Message as _;
use shrike_proto::{
    batch::{self, BatchError},
    event::Event,
    id::SequenceNumber,
    wire::{event as wire, ingest},
};

use super::glance::glance;
use crate::{
    store::piece::{self, EventTooBig, Piece},
    tail::Encoded,
};

/// Level 1, as agents use: this is seldom needed.
const ZSTD_LEVEL: i32 = 1;

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
    /// Its events, for live readers.
    pub events: Encoded,
}

/// Checks a batch and makes pieces of it, without its first `skip` events.
///
/// # Errors
/// [`PrepareError`] says why it can never be stored.
pub fn prepare(batch: &ingest::Batch, skip: usize) -> Result<Prepared, PrepareError> {
    if batch.count == 0 && batch.payload.is_empty() {
        return Ok(Prepared {
            pieces: Vec::new(),
            events: Encoded::default(),
        });
    }
    let raw = batch::unpack(batch)?;
    let first = SequenceNumber(batch.first_sequence);
    if skip == 0
        && batch.codec == i32::from(ingest::Codec::Zstd)
        && let Some(summary) = glance(&raw, first, batch.count)
        && let Ok(piece) = piece::whole(first, summary, &batch.payload)
    {
        return Ok(Prepared {
            pieces: vec![piece],
            events: Encoded::new(first, batch.count, batch.payload.clone()),
        });
    }
    let events = batch::decode(&raw, first, batch.count)?;
    let kept = events.get(skip..).unwrap_or_default();
    Ok(Prepared {
        pieces: piece::cut(kept, batch.payload.len())?,
        events: encode(kept),
    })
}

fn encode(events: &[Event]) -> Encoded {
    let Some(first) = events.first() else {
        return Encoded::default();
    };
    let list = wire::EventList {
        events: events.iter().cloned().map(Into::into).collect(),
    };
    let count = u32::try_from(events.len()).expect("a batch is bounded");
    let payload = zstd::bulk::compress(&list.encode_to_vec(), ZSTD_LEVEL)
        .expect("compression into memory cannot fail");
    Encoded::new(first.sequence, count, payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;
    use shrike_proto::id::Epoch;

    #[test]
    fn empty_batch_needs_no_payload() {
        let prepared = prepare(&ingest::Batch::default(), 0).unwrap();
        assert!(prepared.pieces.is_empty() && prepared.events.count() == 0);
    }

    #[test]
    fn batch_is_kept_as_the_agent_compressed_it() {
        let sealed = batch::seal(Epoch([1; 16]), SequenceNumber(1), sample::events(1, 9));
        let prepared = prepare(&sealed, 0).unwrap();
        assert_eq!(prepared.pieces[0].payload, sealed.payload);
        assert_eq!(prepared.events.decode(), sample::events(1, 9));
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
        assert_eq!(prepared.events.decode(), sample::events(5, 5));
        assert_eq!(prepared.pieces[0].first_sequence.0, 5);
        assert!(prepare(&sealed, 9).unwrap().pieces.is_empty());
    }
}
