//! Pieces: checked runs of events on their way into blocks.
//!
//! A batch usually is one piece with the agent's own compression; one that is
//! too long for a block, in bytes or in time, is cut. The writer joins the
//! pieces of one commit into blocks.

use prost::Message as _;
use shrike_proto::{event::Event, id::SequenceNumber, wire::event as wire};

use super::{
    block::{BLOCK_BYTES_MAX, BLOCK_RAW_BYTES_MAX, BLOCK_SPAN_NS_MAX, Block, BlockKey},
    stream::StreamKey,
    summary::Summary,
};

/// Most events in one block: what a query decodes to find one of them.
pub const BLOCK_EVENTS_MAX: u32 = 16_384;

/// Level 1, as agents use: cut batches are rare.
const ZSTD_LEVEL: i32 = 1;

/// A run of consecutive events that fits into one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// First sequence number.
    pub first_sequence: SequenceNumber,
    /// What the events mention.
    pub summary: Summary,
    /// The events, compressed.
    pub payload: Vec<u8>,
}

/// An event that no block can hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event {sequence} takes {bytes} bytes compressed, a block holds {BLOCK_BYTES_MAX}")]
pub struct EventTooBig {
    /// Which.
    pub sequence: SequenceNumber,
    /// Its size.
    pub bytes: usize,
}

/// Makes one piece of a whole payload; gives the summary back when it fits
/// into no block.
///
/// # Errors
/// The summary, when the events have to be cut.
pub fn whole(
    first_sequence: SequenceNumber,
    summary: Summary,
    payload: &[u8],
) -> Result<Piece, Summary> {
    if !fits(&summary, payload.len()) {
        return Err(summary);
    }
    Ok(Piece {
        first_sequence,
        summary,
        payload: payload.to_vec(),
    })
}

/// Makes pieces of events that took `compressed_bytes` together.
///
/// # Errors
/// [`EventTooBig`] for an event that fits into no block.
pub fn cut(events: &[Event], compressed_bytes: usize) -> Result<Vec<Piece>, EventTooBig> {
    let mut pieces = Vec::new();
    // A quarter to spare, so that parts seldom have to be halved again.
    let parts = (compressed_bytes + compressed_bytes / 4).div_ceil(BLOCK_BYTES_MAX);
    let events_each = events.len().div_ceil(parts.max(1)).max(1);
    for part in events.chunks(events_each) {
        cut_into(part, &mut pieces)?;
    }
    Ok(pieces)
}

fn fits(summary: &Summary, payload_bytes: usize) -> bool {
    payload_bytes <= BLOCK_BYTES_MAX
        && summary.raw_bytes <= BLOCK_RAW_BYTES_MAX
        && summary.count <= BLOCK_EVENTS_MAX
        && summary
            .time_max_unix_ns
            .saturating_sub(summary.time_min_unix_ns)
            <= BLOCK_SPAN_NS_MAX
}

/// Halves until every piece fits: a batch has at most 16,384 events, so the
/// recursion is at most 15 deep.
fn cut_into(events: &[Event], pieces: &mut Vec<Piece>) -> Result<(), EventTooBig> {
    let raw = wire::EventList {
        events: events.iter().cloned().map(Into::into).collect(),
    }
    .encode_to_vec();
    let payload =
        zstd::bulk::compress(&raw, ZSTD_LEVEL).expect("compression into memory cannot fail");
    let summary = Summary::gather(events, raw.len());
    if fits(&summary, payload.len()) {
        pieces.push(Piece {
            first_sequence: events[0].sequence,
            summary,
            payload,
        });
        return Ok(());
    }
    if events.len() == 1 {
        return Err(EventTooBig {
            sequence: events[0].sequence,
            bytes: payload.len(),
        });
    }
    let (left, right) = events.split_at(events.len() / 2);
    cut_into(left, pieces)?;
    cut_into(right, pieces)
}

/// Joins consecutive pieces of one stream into as few blocks as their bounds
/// allow.
pub fn join(stream: &StreamKey, pieces: Vec<Piece>) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Piece> = None;
    for piece in pieces {
        match &mut open {
            Some(current) if may_join(current, &piece) => {
                current.summary.merge(piece.summary);
                current.payload.extend_from_slice(&piece.payload);
            }
            Some(_) | None => blocks.extend(open.replace(piece).map(|piece| block(stream, piece))),
        }
    }
    blocks.extend(open.map(|piece| block(stream, piece)));
    blocks
}

fn may_join(left: &Piece, right: &Piece) -> bool {
    left.first_sequence.0 + u64::from(left.summary.count) == right.first_sequence.0
        && left.payload.len() + right.payload.len() <= BLOCK_BYTES_MAX
        && left.summary.raw_bytes + right.summary.raw_bytes <= BLOCK_RAW_BYTES_MAX
        && left.summary.count + right.summary.count <= BLOCK_EVENTS_MAX
        && left.summary.span_with(&right.summary) <= BLOCK_SPAN_NS_MAX
}

fn block(stream: &StreamKey, piece: Piece) -> Block {
    Block {
        key: BlockKey {
            time_min_unix_ns: piece.summary.time_min_unix_ns,
            epoch: stream.epoch,
            first_sequence: piece.first_sequence,
            node: stream.node.clone(),
        },
        footer: piece.summary.footer(piece.payload.len()),
        payload: piece.payload,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        sample,
        store::block::{self},
    };
    use shrike_proto::{batch, id::Epoch};

    fn pieces(events: &[Event]) -> Vec<Piece> {
        let sealed = batch::seal(Epoch([1; 16]), events[0].sequence, events.to_vec());
        let raw = batch::unpack(&sealed).unwrap();
        let summary = Summary::gather(events, raw.len());
        match whole(events[0].sequence, summary, &sealed.payload) {
            Ok(piece) => vec![piece],
            Err(_) => cut(events, sealed.payload.len()).unwrap(),
        }
    }

    fn decoded(blocks: &[Block]) -> Vec<Event> {
        blocks
            .iter()
            .flat_map(|it| block::decode_payload(&it.key, &it.footer, &it.payload).unwrap())
            .collect()
    }

    #[test]
    fn batches_of_one_commit_become_one_block() {
        let all = sample::events(1, 90);
        let pieces = all.chunks(30).flat_map(pieces).collect();
        let blocks = join(&sample::stream(), pieces);
        assert_eq!(blocks.len(), 1);
        assert_eq!(decoded(&blocks), all);
    }

    #[test]
    fn hole_between_pieces_starts_a_new_block() {
        let mut both = pieces(&sample::events(1, 10));
        both.extend(pieces(&sample::events(21, 10)));
        assert_eq!(join(&sample::stream(), both).len(), 2);
    }

    #[test]
    fn events_far_apart_do_not_share_a_block() {
        let mut events = sample::events(1, 10);
        events[7].time_unix_ns += 10 * BLOCK_SPAN_NS_MAX;
        let blocks = join(&sample::stream(), pieces(&events));
        assert!(blocks.len() > 1);
        assert_eq!(decoded(&blocks), events);
    }

    #[test]
    fn batch_that_does_not_compress_is_cut() {
        let events: Vec<Event> = sample::events(1, 200)
            .into_iter()
            .map(|mut event| {
                event.process.exe = sample::noise(event.sequence.0, 4000).into();
                event
            })
            .collect();
        let blocks = join(&sample::stream(), pieces(&events));
        assert!(blocks.len() >= 4);
        assert!(
            blocks
                .iter()
                .all(|block| block.payload.len() <= BLOCK_BYTES_MAX)
        );
        assert_eq!(decoded(&blocks), events);
    }

    #[test]
    fn event_larger_than_a_block_is_refused() {
        let mut events = sample::events(1, 1);
        events[0].process.exe = sample::noise(1, 2 * BLOCK_BYTES_MAX).into();
        assert!(cut(&events, 0).is_err());
    }
}
