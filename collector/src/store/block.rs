//! A block: many events of one stream, compressed, with a footer that lets a
//! query skip it unread.
//!
//! ```text
//! payload = zstd frame | zstd frame | …      each holds an encoded EventList
//! ```
//!
//! Concatenated frames decompress to concatenated lists, and concatenated
//! encodings of a list are one longer list: batches are merged into a block
//! without being compressed again. The footer lies under a key of its own, so
//! that skipping a block reads nothing of its payload.

use prost::Message;
use shrike_proto::{
    batch::{self, BATCH_BYTES_MAX, BatchError},
    event::{Action, Event, Kind},
    id::{Epoch, IdError, NodeId, SequenceNumber},
};

use super::{bloom::Bloom, stream::StreamKey};

/// Longest payload: room for 4096 ordinary events, an agent's batch under
/// load. Sled rewrites a leaf of up to 17 values as one record, and a record
/// past a quarter of a segment becomes a blob file, which leaks: 17 of these
/// stay below a quarter of our 16 MiB segments.
pub const BLOCK_BYTES_MAX: usize = 224 << 10;

/// Longest payload before compression: as long as one batch may be, which is
/// also what a reader sets aside.
pub const BLOCK_RAW_BYTES_MAX: usize = BATCH_BYTES_MAX;

/// Longest time between the oldest and the newest event of a block: how much
/// further back a query must look than it was asked to.
pub const BLOCK_SPAN_NS_MAX: i64 = 60_000_000_000;

/// Distinct user IDs that a footer lists; with more, it says "any".
pub const FOOTER_UIDS_MAX: usize = 64;

/// Where a block lies: ordered by the time of its oldest event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockKey {
    /// Unix nanoseconds of the oldest event.
    pub time_min_unix_ns: i64,
    /// The stream's epoch.
    pub epoch: Epoch,
    /// First sequence number.
    pub first_sequence: SequenceNumber,
    /// The stream's node.
    pub node: NodeId,
}

impl BlockKey {
    /// Returns the stream that the block belongs to.
    pub fn stream(&self) -> StreamKey {
        StreamKey {
            node: self.node.clone(),
            epoch: self.epoch,
        }
    }

    /// Encodes the key so that bytes sort as blocks do.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(32 + self.node.as_str().len());
        bytes.extend_from_slice(&sortable(self.time_min_unix_ns));
        bytes.extend_from_slice(&self.epoch.0);
        bytes.extend_from_slice(&self.first_sequence.0.to_be_bytes());
        bytes.extend_from_slice(self.node.as_str().as_bytes());
        bytes
    }

    /// Decodes a key.
    ///
    /// # Errors
    /// [`KeyError`] for bytes that are no key.
    pub fn decode(bytes: &[u8]) -> Result<Self, KeyError> {
        let (time, rest) = bytes.split_first_chunk::<8>().ok_or(KeyError::Short)?;
        let (epoch, rest) = rest.split_first_chunk::<16>().ok_or(KeyError::Short)?;
        let (first, node) = rest.split_first_chunk::<8>().ok_or(KeyError::Short)?;
        Ok(Self {
            time_min_unix_ns: (u64::from_be_bytes(*time) ^ (1 << 63)).cast_signed(),
            epoch: Epoch(*epoch),
            first_sequence: SequenceNumber(u64::from_be_bytes(*first)),
            node: NodeId::parse(std::str::from_utf8(node).map_err(|_| KeyError::Node)?)?,
        })
    }
}

/// Encodes a time so that bytes sort as times do, negative ones included.
pub fn sortable(time_unix_ns: i64) -> [u8; 8] {
    (time_unix_ns.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

impl std::fmt::Display for BlockKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "block of node {} epoch {} from sequence {} at {}",
            self.node, self.epoch, self.first_sequence, self.time_min_unix_ns
        )
    }
}

/// Bytes that are no block key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Too short.
    #[error("a block key is longer")]
    Short,
    /// The node is not text.
    #[error("the node's name in a block key is not text")]
    Node,
    /// The node is not a node's name.
    #[error(transparent)]
    Id(#[from] IdError),
}

/// What a block holds, as far as queries need it to skip it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footer {
    /// Events in the block.
    pub count: u32,
    /// Unix nanoseconds of the newest event.
    pub time_max_unix_ns: i64,
    /// Bytes of the payload.
    pub payload_bytes: u32,
    /// Bytes of the payload before compression.
    pub raw_bytes: u32,
    /// Kinds inside, a bit each.
    pub kinds: u32,
    /// Verdicts' actions inside, a bit each.
    pub actions: u32,
    /// Distinct user IDs, sorted; `None` for more than [`FOOTER_UIDS_MAX`].
    pub uids: Option<Vec<u32>>,
    /// Executables, directories and process IDs.
    pub bloom: Bloom,
}

/// Returns the bit that stands for a kind in a footer.
pub fn kind_bit(kind: Kind) -> u32 {
    match kind {
        Kind::Exec => 1,
        Kind::Open => 1 << 1,
        Kind::Fork => 1 << 2,
        Kind::Exit => 1 << 3,
        Kind::Change => 1 << 4,
        Kind::Alert => 1 << 5,
    }
}

/// Returns the bit that stands for an action in a footer.
pub fn action_bit(action: Action) -> u32 {
    match action {
        Action::Record => 1,
        Action::Alert => 1 << 1,
        Action::Deny => 1 << 2,
        Action::Kill => 1 << 3,
        Action::Ignore => 1 << 4,
    }
}

impl Footer {
    /// Encodes the footer for the store.
    pub fn encode(&self) -> Vec<u8> {
        FooterRecord {
            count: self.count,
            time_max_unix_ns: self.time_max_unix_ns,
            payload_bytes: self.payload_bytes,
            raw_bytes: self.raw_bytes,
            kinds: self.kinds,
            actions: self.actions,
            uids: self.uids.clone().unwrap_or_default(),
            any_uid: self.uids.is_none(),
            bloom: self.bloom.as_bytes().to_vec(),
        }
        .encode_to_vec()
    }

    /// Decodes a footer from the store.
    ///
    /// # Errors
    /// The decoder's, for bytes that are no footer.
    pub fn decode(bytes: &[u8]) -> Result<Self, prost::DecodeError> {
        let record = FooterRecord::decode(bytes)?;
        Ok(Self {
            count: record.count,
            time_max_unix_ns: record.time_max_unix_ns,
            payload_bytes: record.payload_bytes,
            raw_bytes: record.raw_bytes,
            kinds: record.kinds,
            actions: record.actions,
            uids: (!record.any_uid).then_some(record.uids),
            bloom: Bloom::from_bytes(record.bloom),
        })
    }
}

/// The footer as it lies in the store.
#[derive(Clone, PartialEq, Message)]
struct FooterRecord {
    #[prost(uint32, tag = "1")]
    count: u32,
    #[prost(int64, tag = "2")]
    time_max_unix_ns: i64,
    #[prost(uint32, tag = "3")]
    payload_bytes: u32,
    #[prost(uint32, tag = "4")]
    raw_bytes: u32,
    #[prost(uint32, tag = "5")]
    kinds: u32,
    #[prost(uint32, tag = "6")]
    actions: u32,
    #[prost(uint32, repeated, tag = "7")]
    uids: Vec<u32>,
    #[prost(bool, tag = "8")]
    any_uid: bool,
    #[prost(bytes = "vec", tag = "9")]
    bloom: Vec<u8>,
}

/// A block on its way into the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Where it goes.
    pub key: BlockKey,
    /// What it holds.
    pub footer: Footer,
    /// Its events, compressed.
    pub payload: Vec<u8>,
}

/// A payload that does not hold the events that its key and footer promise.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// Decompression failed, or gives more than a block has.
    #[error("the payload does not decompress")]
    Decompress(#[source] std::io::Error),
    /// The events are not the expected ones.
    #[error("the payload does not decode")]
    Decode(#[from] BatchError),
}

/// Decompresses a payload into an encoded event list.
///
/// # Errors
/// [`BlockError`] when that gives more than the footer promises.
pub fn unpack_events(footer: &Footer, payload: &[u8]) -> Result<Vec<u8>, BlockError> {
    let room = (footer.raw_bytes as usize).min(BLOCK_RAW_BYTES_MAX);
    batch::decompress(payload, room).map_err(BlockError::Decompress)
}

/// Decompresses a payload and decodes its events.
///
/// # Errors
/// [`BlockError`] when it does not hold exactly the events that key and
/// footer promise.
pub fn decode_payload(
    key: &BlockKey,
    footer: &Footer,
    payload: &[u8],
) -> Result<Vec<Event>, BlockError> {
    let raw = unpack_events(footer, payload)?;
    Ok(batch::decode(&raw, key.first_sequence, footer.count)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(time: i64, first: u64) -> BlockKey {
        BlockKey {
            time_min_unix_ns: time,
            epoch: Epoch([7; 16]),
            first_sequence: SequenceNumber(first),
            node: NodeId::parse("web-1").unwrap(),
        }
    }

    #[test]
    fn footer_survives_the_store() {
        let footer = Footer {
            count: 3,
            time_max_unix_ns: -5,
            payload_bytes: 100,
            raw_bytes: 1000,
            kinds: kind_bit(Kind::Exec) | kind_bit(Kind::Exit),
            actions: action_bit(Action::Kill),
            uids: Some(vec![0, 1000]),
            bloom: Bloom::build(&[1, 2, 3]),
        };
        assert_eq!(Footer::decode(&footer.encode()), Ok(footer));
    }

    proptest! {
        #[test]
        fn key_survives_and_sorts_by_time(a: (i64, u64), b: (i64, u64)) {
            let (a, b) = (key(a.0, a.1), key(b.0, b.1));
            prop_assert_eq!(BlockKey::decode(&a.encode()), Ok(a.clone()));
            prop_assert_eq!(a.encode().cmp(&b.encode()), a.cmp(&b));
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = BlockKey::decode(&bytes);
            let _ = Footer::decode(&bytes);
        }
    }
}
