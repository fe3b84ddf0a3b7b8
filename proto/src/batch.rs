//! Batches: events under one sequence range, as they travel and lie on disk.
//!
//! ```text
//! payload = zstd(EventList)      crc32c over the payload as sent
//! ```
//!
//! A batch from outside is believed only after every check of [`open`] held:
//! size, checksum, bounded decompression, and that its events carry exactly
//! the sequence numbers that its header claims.

use std::{cell::RefCell, fmt, io};

use prost::Message as _;

use crate::{
    event::{Event, WireError, encode},
    id::{Epoch, IdError, SequenceNumber},
    wire::{event as event_wire, ingest},
};

/// Longest payload before compression: 4 MiB, the bound of one allocation
/// that a session can cause.
pub const BATCH_BYTES_MAX: usize = 4 << 20;

/// Most events in one batch.
pub const BATCH_EVENTS_MAX: usize = 16_384;

/// Most lost ranges in one batch.
pub const BATCH_LOST_RANGES_MAX: usize = 1024;

/// A sequence number that says nothing: an event's place in its batch gives it
/// one. Agents number events when a batch is complete.
pub const BY_PLACE: u64 = 0;

/// Level 1: the agent's CPU is somebody else's.
const ZSTD_LEVEL: i32 = 1;

/// A batch that cannot be believed.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// Its epoch is not one.
    #[error(transparent)]
    Epoch(#[from] IdError),
    /// A codec that this version does not know.
    #[error("codec {0} is unknown")]
    Codec(i32),
    /// The payload is not what was sent.
    #[error("checksum {computed:08x} of the payload differs from {claimed:08x} in the header")]
    Checksum {
        /// In the header.
        claimed: u32,
        /// Over the payload.
        computed: u32,
    },
    /// Decompression failed, or gives more than the bound.
    #[error("payload does not decompress to at most {BATCH_BYTES_MAX} bytes")]
    Decompress(#[source] std::io::Error),
    /// More events, bytes or lost ranges than a batch may have.
    #[error("{what}: {value}, at most {limit}")]
    TooBig {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        value: usize,
        /// How much there may be.
        limit: usize,
    },
    /// Not an event list.
    #[error("payload is not an event list")]
    Decode(#[from] prost::DecodeError),
    /// Another number of events than the header says.
    #[error("header counts {claimed} events, the payload has {actual}")]
    Count {
        /// In the header.
        claimed: u32,
        /// In the payload.
        actual: usize,
    },
    /// An event with another sequence number than its place gives it.
    #[error("event {index} has the sequence number {actual}, expected {expected}")]
    Sequence {
        /// Place in the batch, from 0.
        index: usize,
        /// By its place.
        expected: u64,
        /// As it says.
        actual: u64,
    },
    /// An event that is not of its form.
    #[error("event {index} is malformed")]
    Event {
        /// Place in the batch, from 0.
        index: usize,
        /// What is wrong with it.
        source: WireError,
    },
}

/// Packs events that carry consecutive sequence numbers from
/// `first_sequence` on.
///
/// Ledger, lost ranges and traceparent are left for the caller to fill in.
///
/// # Panics
/// When the events' sequence numbers are not consecutive, or the batch is
/// larger than [`BATCH_EVENTS_MAX`] or [`BATCH_BYTES_MAX`]: the caller cuts
/// batches, so that would be our own mistake.
pub fn seal(epoch: Epoch, first_sequence: SequenceNumber, events: Vec<Event>) -> ingest::Batch {
    let mut packer = Packer::default();
    for (event, expected) in events.iter().zip(first_sequence.0..) {
        assert_eq!(event.sequence.0, expected, "sequence numbers have no holes");
        assert_eq!(packer.push(event), Fit::Taken, "a batch is cut earlier");
    }
    packer.seal(epoch, first_sequence)
}

/// Whether an event is part of the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// It is.
    Taken,
    /// It is not: the batch would be larger than its bounds.
    Full,
}

/// A batch that is being filled: events are encoded as they come, so that
/// their bound is exact and nothing else of them is kept.
#[derive(Default)]
pub struct Packer {
    raw: Vec<u8>,
    events: u32,
    /// Made for the first batch and kept, because its tables are large.
    compressor: Option<zstd::bulk::Compressor<'static>>,
}

impl fmt::Debug for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packer")
            .field("bytes", &self.raw.len())
            .field("events", &self.events)
            .finish_non_exhaustive()
    }
}

impl Packer {
    /// Returns how many events it holds.
    pub fn events(&self) -> usize {
        self.events as usize
    }

    /// Returns how many bytes it holds, before compression.
    pub fn bytes(&self) -> usize {
        self.raw.len()
    }

    /// Adds an event, whose sequence number follows that of the one before or is
    /// [`BY_PLACE`].
    pub fn push(&mut self, event: &Event) -> Fit {
        let before = self.raw.len();
        encode::append_to_list(&mut self.raw, event);
        if self.raw.len() > BATCH_BYTES_MAX || self.events() >= BATCH_EVENTS_MAX {
            self.raw.truncate(before);
            return Fit::Full;
        }
        self.events += 1;
        Fit::Taken
    }

    /// Seals what it holds as one batch from `first_sequence` on, and is empty
    /// afterwards.
    ///
    /// Ledger, lost ranges and traceparent are left for the caller to fill in.
    pub fn seal(&mut self, epoch: Epoch, first_sequence: SequenceNumber) -> ingest::Batch {
        let compressor = self.compressor.get_or_insert_with(|| {
            zstd::bulk::Compressor::new(ZSTD_LEVEL).expect("the level is one that zstd has")
        });
        let payload = compressor
            .compress(&self.raw)
            .expect("compression into memory cannot fail");
        self.raw.clear();
        ingest::Batch {
            epoch: epoch.0.to_vec(),
            first_sequence: first_sequence.0,
            count: std::mem::take(&mut self.events),
            codec: ingest::Codec::Zstd.into(),
            crc32c: crc32c::crc32c(&payload),
            payload,
            ledger: None,
            lost: Vec::new(),
            traceparent: String::new(),
        }
    }
}

/// Unpacks and checks a batch from the wire.
///
/// # Errors
/// [`BatchError`] names the first check that failed.
pub fn open(batch: &ingest::Batch) -> Result<Vec<Event>, BatchError> {
    decode(
        &unpack(batch)?,
        SequenceNumber(batch.first_sequence),
        batch.count,
    )
}

/// Checks a batch's header and checksum and decompresses its payload into an
/// encoded event list, which [`decode`] reads.
///
/// # Errors
/// [`BatchError`] names the first check that failed.
pub fn unpack(batch: &ingest::Batch) -> Result<Vec<u8>, BatchError> {
    Epoch::from_wire(&batch.epoch)?;
    check_size("events", batch.count as usize, BATCH_EVENTS_MAX)?;
    check_size("lost ranges", batch.lost.len(), BATCH_LOST_RANGES_MAX)?;
    let computed = crc32c::crc32c(&batch.payload);
    if computed != batch.crc32c {
        return Err(BatchError::Checksum {
            claimed: batch.crc32c,
            computed,
        });
    }
    match ingest::Codec::try_from(batch.codec) {
        Ok(ingest::Codec::Zstd) => {
            decompress(&batch.payload, BATCH_BYTES_MAX).map_err(BatchError::Decompress)
        }
        Ok(ingest::Codec::None) => {
            check_size("payload bytes", batch.payload.len(), BATCH_BYTES_MAX)?;
            Ok(batch.payload.clone())
        }
        Ok(ingest::Codec::Unspecified) | Err(_) => Err(BatchError::Codec(batch.codec)),
    }
}

/// Returns how many bytes the payload says it has before compression; `None`
/// where it does not say so.
pub fn claimed_bytes(batch: &ingest::Batch) -> Option<u64> {
    zstd::zstd_safe::get_frame_content_size(&batch.payload).ok()?
}

/// Decodes an event list that must hold exactly the `count` events from
/// `first_sequence` on.
///
/// # Errors
/// [`BatchError`] names the first event that is not as expected.
pub fn decode(
    raw: &[u8],
    first_sequence: SequenceNumber,
    count: u32,
) -> Result<Vec<Event>, BatchError> {
    let list = event_wire::EventList::decode(raw)?;
    if list.events.len() != count as usize {
        return Err(BatchError::Count {
            claimed: count,
            actual: list.events.len(),
        });
    }
    list.events
        .into_iter()
        .enumerate()
        .map(|(index, event)| believe(event, first_sequence, index))
        .collect()
}

/// Decodes the event at `index` of a list that begins with `first_sequence`.
///
/// # Errors
/// [`BatchError`] when it is not as expected.
pub fn decode_event(
    raw: &[u8],
    first_sequence: SequenceNumber,
    index: usize,
) -> Result<Event, BatchError> {
    believe(event_wire::Event::decode(raw)?, first_sequence, index)
}

fn believe(
    mut event: event_wire::Event,
    first_sequence: SequenceNumber,
    index: usize,
) -> Result<Event, BatchError> {
    let expected = first_sequence.0.wrapping_add(index as u64);
    if event.sequence == BY_PLACE {
        event.sequence = expected;
    }
    if event.sequence != expected {
        return Err(BatchError::Sequence {
            index,
            expected,
            actual: event.sequence,
        });
    }
    Event::try_from(event).map_err(|source| BatchError::Event { index, source })
}

/// Decompresses to at most `bytes_max` bytes.
///
/// # Errors
/// zstd's, for what is no zstd or gives more.
pub fn decompress(compressed: &[u8], bytes_max: usize) -> io::Result<Vec<u8>> {
    thread_local! {
        // Its tables are large, and a batch may be small.
        static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> =
            const { RefCell::new(None) };
    }
    // One frame that says how much it holds needs no more room than that.
    let is_one_frame = zstd::zstd_safe::find_frame_compressed_size(compressed)
        .is_ok_and(|bytes| bytes == compressed.len());
    let room = match zstd::zstd_safe::get_frame_content_size(compressed) {
        Ok(Some(bytes)) if is_one_frame => {
            usize::try_from(bytes).map_or(bytes_max, |bytes| bytes.min(bytes_max))
        }
        Ok(_) | Err(_) => bytes_max,
    };
    DECOMPRESSOR.with_borrow_mut(|decompressor| {
        let decompressor = match decompressor {
            Some(decompressor) => decompressor,
            None => decompressor.insert(zstd::bulk::Decompressor::new()?),
        };
        decompressor.decompress(compressed, room)
    })
}

fn check_size(what: &'static str, value: usize, limit: usize) -> Result<(), BatchError> {
    if value > limit {
        return Err(BatchError::TooBig { what, value, limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        event::{Exit, Fact, Process},
        id::Generation,
    };

    fn events(first: u64, count: u64) -> Vec<Event> {
        (first..first + count)
            .map(|sequence| Event {
                sequence: SequenceNumber(sequence),
                time_unix_ns: 1,
                boot_time_ns: 2,
                cpu: 0,
                cpu_sequence: sequence,
                generation: Generation::NONE,
                process: Process::default(),
                verdict: None,
                fact: Fact::Exit(Exit::default()),
            })
            .collect()
    }

    fn sealed(first: u64, count: u64) -> ingest::Batch {
        seal(Epoch([1; 16]), SequenceNumber(first), events(first, count))
    }

    #[test]
    fn sealed_batch_opens_to_the_same_events() {
        assert_eq!(open(&sealed(5, 100)).unwrap(), events(5, 100));
        assert_eq!(open(&sealed(5, 0)).unwrap(), []);
    }

    #[test]
    fn events_without_a_number_get_that_of_their_place() {
        let mut packer = Packer::default();
        for event in events(5, 3) {
            let sequence = SequenceNumber(if event.sequence.0 == 6 { 6 } else { BY_PLACE });
            assert_eq!(packer.push(&Event { sequence, ..event }), Fit::Taken);
        }
        let batch = packer.seal(Epoch([1; 16]), SequenceNumber(5));
        assert_eq!(open(&batch).unwrap(), events(5, 3));
    }

    #[test]
    fn full_batch_stays_as_it_was() {
        let mut event = events(1, 1).remove(0);
        event.process.exe = vec![b'x'; BATCH_BYTES_MAX / 2].into();
        let mut packer = Packer::default();
        assert_eq!(packer.push(&event), Fit::Taken);
        assert_eq!(packer.push(&event), Fit::Full);
        let batch = packer.seal(Epoch([1; 16]), SequenceNumber(1));
        assert_eq!(open(&batch).unwrap(), [event.clone()]);
        assert_eq!((packer.events(), packer.bytes()), (0, 0));
        assert_eq!(packer.push(&event), Fit::Taken);
    }

    #[test]
    fn flipped_bit_is_found() {
        let mut batch = sealed(1, 3);
        batch.payload[4] ^= 1;
        assert!(matches!(open(&batch), Err(BatchError::Checksum { .. })));
    }

    #[test]
    fn shifted_sequence_is_refused() {
        let mut batch = sealed(1, 3);
        batch.first_sequence = 2;
        assert!(matches!(
            open(&batch),
            Err(BatchError::Sequence {
                index: 0,
                expected: 2,
                actual: 1
            })
        ));
    }

    #[test]
    fn wrong_count_is_refused() {
        let mut batch = sealed(1, 3);
        batch.count = 4;
        assert!(matches!(
            open(&batch),
            Err(BatchError::Count {
                claimed: 4,
                actual: 3
            })
        ));
    }

    #[test]
    fn decompression_bomb_is_refused() {
        let payload = zstd::bulk::compress(&vec![0; BATCH_BYTES_MAX + 1], 1).unwrap();
        let batch = ingest::Batch {
            crc32c: crc32c::crc32c(&payload),
            payload,
            ..sealed(1, 1)
        };
        assert!(matches!(open(&batch), Err(BatchError::Decompress(_))));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(
            payload in prop::collection::vec(any::<u8>(), 0..200),
            count: u32,
            first_sequence: u64,
            codec in 0..4i32,
        ) {
            let batch = ingest::Batch {
                epoch: vec![0; 16],
                first_sequence,
                count,
                codec,
                crc32c: crc32c::crc32c(&payload),
                payload,
                ..ingest::Batch::default()
            };
            if let Ok(events) = open(&batch) {
                prop_assert_eq!(events.len(), count as usize);
            }
        }
    }
}
