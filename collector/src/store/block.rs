//! A block: many events of one stream, compressed, with a footer that lets a
//! query skip it unread.
//!
//! ```text
//! payload = zstd frame | zstd frame | …      each holds an encoded EventList
//! ```
//!
//! Concatenated frames decompress to concatenated lists, and concatenated
//! encodings of a list are one longer list: batches are joined into a block
//! without being compressed again. The footer lies under a key of its own, so
//! that skipping a block reads nothing of its payload.
//!
//! Blocks that were merged hold several runs of events, of several streams,
//! and hold them as [`columns`]:
//!
//! ```text
//! payload = "SHRUNS01"  length (4, little-endian)  runs  columns
//! ```

use std::borrow::Cow;

use prost::Message;
use shrike_proto::{
    batch::{self, BATCH_BYTES_MAX, BatchError},
    event::{Action, Event, Kind},
    id::{Epoch, IdError, NodeId, SequenceNumber},
};

use super::{
    bloom::Bloom,
    columns::{self, ColumnsError, Rows},
    stream::StreamKey,
};

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

/// What the payload of a merged block begins with; a zstd frame begins
/// otherwise.
const MERGED_MAGIC: &[u8; 8] = b"SHRUNS01";

/// Where a block lies: ordered by the time of its oldest event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockKey {
    /// Unix nanoseconds of the oldest event.
    pub time_min_unix_ns: i64,
    /// The epoch of the stream of the first run.
    pub epoch: Epoch,
    /// First sequence number of the first run.
    pub first_sequence: SequenceNumber,
    /// The node of the stream of the first run.
    pub node: NodeId,
}

impl BlockKey {
    /// Returns the stream of the block's first run.
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

/// Decodes such a time.
pub fn unsortable(bytes: [u8; 8]) -> i64 {
    (u64::from_be_bytes(bytes) ^ (1 << 63)).cast_signed()
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

/// Consecutive events of one stream.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    /// The stream.
    pub stream: StreamKey,
    /// First sequence number.
    pub first_sequence: SequenceNumber,
    /// How many; at least 1.
    pub count: u32,
}

impl Run {
    /// Returns the last sequence number.
    pub fn last(&self) -> SequenceNumber {
        let count = u64::from(self.count.saturating_sub(1));
        SequenceNumber(self.first_sequence.0.saturating_add(count))
    }
}

/// A run as it lies in the store.
#[derive(Clone, PartialEq, Message)]
struct RunRecord {
    #[prost(string, tag = "1")]
    node: String,
    #[prost(bytes = "vec", tag = "2")]
    epoch: Vec<u8>,
    #[prost(uint64, tag = "3")]
    first_sequence: u64,
    #[prost(uint32, tag = "4")]
    count: u32,
}

/// Runs as they lie in the store.
#[derive(Clone, PartialEq, Message)]
struct RunsRecord {
    #[prost(message, repeated, tag = "1")]
    runs: Vec<RunRecord>,
}

impl From<&Run> for RunRecord {
    fn from(run: &Run) -> Self {
        Self {
            node: run.stream.node.to_string(),
            epoch: run.stream.epoch.0.to_vec(),
            first_sequence: run.first_sequence.0,
            count: run.count,
        }
    }
}

impl TryFrom<RunRecord> for Run {
    type Error = FooterError;

    fn try_from(run: RunRecord) -> Result<Self, FooterError> {
        Ok(Self {
            stream: StreamKey {
                node: NodeId::parse(&run.node)?,
                epoch: Epoch::from_wire(&run.epoch)?,
            },
            first_sequence: SequenceNumber(run.first_sequence),
            count: run.count,
        })
    }
}

/// Bytes that are no footer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FooterError {
    /// They are not of protobuf's form.
    #[error(transparent)]
    Decode(#[from] prost::DecodeError),
    /// A run's node or epoch is none.
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
    /// The runs of a merged block, in the order of its events; empty for a
    /// block of the one run that its key names.
    pub merged: Vec<Run>,
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
    /// Returns the block's runs.
    pub fn runs(&self, key: &BlockKey) -> Cow<'_, [Run]> {
        if self.merged.is_empty() {
            Cow::Owned(vec![Run {
                stream: key.stream(),
                first_sequence: key.first_sequence,
                count: self.count,
            }])
        } else {
            Cow::Borrowed(&self.merged)
        }
    }

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
            merged: self.merged.iter().map(RunRecord::from).collect(),
        }
        .encode_to_vec()
    }

    /// Decodes a footer from the store.
    ///
    /// # Errors
    /// [`FooterError`] for bytes that are no footer.
    pub fn decode(bytes: &[u8]) -> Result<Self, FooterError> {
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
            merged: record
                .merged
                .into_iter()
                .map(Run::try_from)
                .collect::<Result<_, _>>()?,
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
    #[prost(message, repeated, tag = "10")]
    merged: Vec<RunRecord>,
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
    /// The columns are none.
    #[error("the payload's columns do not decode")]
    Columns(#[from] ColumnsError),
    /// The runs are none.
    #[error("the payload's runs do not decode")]
    Runs(#[from] FooterError),
    /// The runs are not those that the footer promises.
    #[error("the payload has other runs than its footer says")]
    OtherRuns,
}

/// Packs the events of several runs, in the order of the runs.
///
/// # Errors
/// [`ColumnsError`] for events that cannot become columns.
///
/// # Panics
/// When the runs are longer than blocks are.
pub fn pack_merged(
    runs: &[Run],
    rows: &Rows,
    schema: &columns::Schema,
) -> Result<Vec<u8>, ColumnsError> {
    let runs = RunsRecord {
        runs: runs.iter().map(RunRecord::from).collect(),
    }
    .encode_to_vec();
    let length = u32::try_from(runs.len()).expect("a block is bounded");
    let mut payload = MERGED_MAGIC.to_vec();
    payload.extend_from_slice(&length.to_le_bytes());
    payload.extend_from_slice(&runs);
    payload.extend(columns::encode(rows, schema)?);
    Ok(payload)
}

/// Says whether a payload is that of a merged block.
pub fn is_merged(payload: &[u8]) -> bool {
    payload.starts_with(MERGED_MAGIC)
}

/// A block's events as they were encoded, and whose they are.
#[derive(Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// The runs, in the order of the events.
    pub runs: Vec<Run>,
    /// The events.
    pub rows: Rows,
}

impl Unpacked {
    /// Decodes the events of the runs that are wanted.
    ///
    /// # Errors
    /// [`BlockError`] for one that is not as its run promises.
    pub fn decode(
        &self,
        mut wanted: impl FnMut(&Run) -> bool,
    ) -> Result<Vec<(&Run, Vec<Event>)>, BlockError> {
        let mut decoded = Vec::new();
        let mut from = 0;
        for run in &self.runs {
            let range = from..from + run.count as usize;
            from = range.end;
            if wanted(run) {
                let list = self.rows.list(range);
                decoded.push((run, batch::decode(list, run.first_sequence, run.count)?));
            }
        }
        Ok(decoded)
    }
}

/// Decompresses a payload.
///
/// # Errors
/// [`BlockError`] when it does not hold as many events, of those runs, as key
/// and footer promise.
pub fn unpack(key: &BlockKey, footer: &Footer, payload: &[u8]) -> Result<Unpacked, BlockError> {
    let runs = footer.runs(key);
    let room = (footer.raw_bytes as usize).min(BLOCK_RAW_BYTES_MAX);
    let unpacked = unpack_within(room, key, payload)?;
    if unpacked.runs != *runs {
        return Err(BlockError::OtherRuns);
    }
    Ok(unpacked)
}

/// Decompresses a payload of which only the key is known.
///
/// # Errors
/// [`BlockError`] when it holds no events.
pub fn unpack_without_footer(key: &BlockKey, payload: &[u8]) -> Result<Unpacked, BlockError> {
    unpack_within(BLOCK_RAW_BYTES_MAX, key, payload)
}

fn unpack_within(room: usize, key: &BlockKey, payload: &[u8]) -> Result<Unpacked, BlockError> {
    let Some(merged) = payload.strip_prefix(MERGED_MAGIC) else {
        let raw = zstd::bulk::decompress(payload, room).map_err(BlockError::Decompress)?;
        let rows = Rows::from_list(raw)?;
        let run = Run {
            stream: key.stream(),
            first_sequence: key.first_sequence,
            count: u32::try_from(rows.len()).map_err(|_| ColumnsError::TooBig)?,
        };
        return Ok(Unpacked {
            runs: vec![run],
            rows,
        });
    };
    let (runs, columns) = merged
        .split_first_chunk::<4>()
        .and_then(|(length, rest)| rest.split_at_checked(u32::from_le_bytes(*length) as usize))
        .ok_or(BlockError::OtherRuns)?;
    let runs = RunsRecord::decode(runs)
        .map_err(FooterError::from)?
        .runs
        .into_iter()
        .map(Run::try_from)
        .collect::<Result<Vec<_>, _>>()?;
    let rows = columns::decode(columns)?;
    let promised: u64 = runs.iter().map(|run| u64::from(run.count)).sum();
    if promised != rows.len() as u64 {
        return Err(BlockError::OtherRuns);
    }
    Ok(Unpacked { runs, rows })
}

/// Decompresses a payload and decodes all of its events.
///
/// # Errors
/// [`BlockError`] when it does not hold exactly the events that key and
/// footer promise.
#[cfg(test)]
pub fn decode_payload(
    key: &BlockKey,
    footer: &Footer,
    payload: &[u8],
) -> Result<Vec<Event>, BlockError> {
    let unpacked = unpack(key, footer, payload)?;
    let decoded = unpacked.decode(|_| true)?;
    Ok(decoded.into_iter().flat_map(|(_, events)| events).collect())
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
            merged: Vec::new(),
        };
        assert_eq!(Footer::decode(&footer.encode()), Ok(footer.clone()));
        let merged = Footer {
            merged: vec![
                Run {
                    stream: key(0, 1).stream(),
                    first_sequence: SequenceNumber(5),
                    count: 1,
                },
                Run {
                    stream: key(0, 1).stream(),
                    first_sequence: SequenceNumber(9),
                    count: 2,
                },
            ],
            ..footer
        };
        assert_eq!(Footer::decode(&merged.encode()), Ok(merged));
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
