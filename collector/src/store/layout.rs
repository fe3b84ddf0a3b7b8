//! Keys and values of the one sled tree.
//!
//! ```text
//! "v"                                    "shrike-store 2"
//! "f" block key                          footer            (envelope)
//! "p" block key                          payload           (envelope), see below
//! "F" block key                          merged footer     (envelope)
//! "P" block key                          merged payload    (envelope)
//! "w" epoch (16) node                    watermark         (envelope)
//! "n" node                               node's record     (envelope)
//! "c" policy name                        policy in force   (envelope)
//! "g" generation (8, big-endian)         generation        (envelope)
//! "h" hour (8) epoch (16) node           hour's ledger     (envelope)
//!
//! block key = oldest event's Unix ns, sign bit flipped (8, big-endian)
//!             epoch (16)  first sequence (8, big-endian)  node
//! ```
//!
//! payload   = "SHRIKEBL" (8)  key length (2)  frames length (4)   little-endian
//!             block key  zstd frames
//!
//! A payload names itself, so that [`super::scan`] finds it in the raw file
//! when sled cannot.
//!
//! Merged blocks lie apart from others: sled joins a leaf that is all but empty
//! with its left neighbour and writes both anew, which is cheap only among
//! leaves of small values.
//!
//! One tree, because only a batch within one tree is atomic without a
//! transaction. The envelope is [`super::record`]'s; inside it footers,
//! watermarks and records are protobuf messages, so that fields may be added.

use shrike_proto::id::{Epoch, NodeId};

use super::{
    Collection,
    block::{BlockKey, Footer, KeyError},
    stream::StreamKey,
};

/// Key of the format's name.
pub const FORMAT_KEY: &[u8] = b"v";

/// The format's name.
pub const FORMAT: &str = "shrike-store 2";

/// The format before: the same without merged blocks, so that a store of it
/// only needs the new name.
pub const FORMAT_BEFORE: &str = "shrike-store 1";

/// In place of the format's name until a restore is complete.
pub const RESTORING: &str = "shrike-store restoring";

/// First byte of a key: what lies under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// A block's footer.
    Footer,
    /// A block's payload.
    Payload,
    /// A merged block's footer.
    MergedFooter,
    /// A merged block's payload.
    MergedPayload,
    /// A stream's watermark.
    Watermark,
    /// A small record.
    Record(Collection),
}

impl Space {
    /// Returns the byte.
    pub fn prefix(self) -> u8 {
        match self {
            Self::Footer => b'f',
            Self::Payload => b'p',
            Self::MergedFooter => b'F',
            Self::MergedPayload => b'P',
            Self::Watermark => b'w',
            Self::Record(Collection::Nodes) => b'n',
            Self::Record(Collection::Policies) => b'c',
            Self::Record(Collection::Generations) => b'g',
            Self::Record(Collection::Hours) => b'h',
        }
    }

    /// Returns the whole key.
    pub fn key(self, rest: &[u8]) -> Vec<u8> {
        let mut key = Vec::with_capacity(1 + rest.len());
        key.push(self.prefix());
        key.extend_from_slice(rest);
        key
    }
}

/// Where footers and payloads lie, of merged blocks and of others.
pub const BLOCK_SPACES: [(Space, Space); 2] = [
    (Space::MergedFooter, Space::MergedPayload),
    (Space::Footer, Space::Payload),
];

/// Returns where a block's footer and payload lie.
pub fn block_spaces(footer: &Footer) -> (Space, Space) {
    let [merged, others] = BLOCK_SPACES;
    if footer.merged.is_empty() {
        others
    } else {
        merged
    }
}

/// Returns the key of a block's footer or payload.
pub fn block_key(space: Space, key: &BlockKey) -> Vec<u8> {
    space.key(&key.encode())
}

/// Returns the key of a watermark.
pub fn watermark_key(stream: &StreamKey) -> Vec<u8> {
    Space::Watermark.key(&stream_key(stream))
}

/// Returns the bytes that stand for a stream in keys.
pub fn stream_key(stream: &StreamKey) -> Vec<u8> {
    let mut key = stream.epoch.0.to_vec();
    key.extend_from_slice(stream.node.as_str().as_bytes());
    key
}

/// Reads a watermark's key, without its first byte.
///
/// # Errors
/// [`KeyError`] for bytes that are no such key.
pub fn parse_watermark_key(rest: &[u8]) -> Result<StreamKey, KeyError> {
    let (epoch, node) = rest.split_first_chunk::<16>().ok_or(KeyError::Short)?;
    Ok(StreamKey {
        node: NodeId::parse(std::str::from_utf8(node).map_err(|_| KeyError::Node)?)?,
        epoch: Epoch(*epoch),
    })
}

/// What a payload begins with.
pub const MAGIC: &[u8; 8] = b"SHRIKEBL";

/// Bytes of a payload before the block key.
pub const PAYLOAD_HEADER_BYTES: usize = MAGIC.len() + 2 + 4;

/// A payload's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadHeader {
    /// Bytes of the block key.
    pub key_bytes: usize,
    /// Bytes of the frames.
    pub frames_bytes: usize,
}

/// Builds the payload of a block.
///
/// # Panics
/// When the block is longer than blocks are.
pub fn pack_payload(key: &BlockKey, frames: &[u8]) -> Vec<u8> {
    let key = key.encode();
    let key_bytes = u16::try_from(key.len()).expect("a key is bounded");
    let frames_bytes = u32::try_from(frames.len()).expect("a block is bounded");
    let mut payload = Vec::with_capacity(PAYLOAD_HEADER_BYTES + key.len() + frames.len());
    payload.extend_from_slice(MAGIC);
    payload.extend_from_slice(&key_bytes.to_le_bytes());
    payload.extend_from_slice(&frames_bytes.to_le_bytes());
    payload.extend_from_slice(&key);
    payload.extend_from_slice(frames);
    payload
}

/// Reads a payload's header; `None` for bytes that are none.
pub fn parse_payload_header(bytes: &[u8]) -> Option<PayloadHeader> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (key_bytes, rest) = rest.split_first_chunk::<2>()?;
    let (frames_bytes, _) = rest.split_first_chunk::<4>()?;
    Some(PayloadHeader {
        key_bytes: u16::from_le_bytes(*key_bytes).into(),
        frames_bytes: u32::from_le_bytes(*frames_bytes) as usize,
    })
}

/// Returns a payload's frames; `None` for bytes that are no payload.
pub fn unpack_payload(payload: &[u8]) -> Option<&[u8]> {
    let header = parse_payload_header(payload)?;
    let frames = payload.get(PAYLOAD_HEADER_BYTES + header.key_bytes..)?;
    (frames.len() == header.frames_bytes).then_some(frames)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        sample,
        store::{record, stream::Watermark},
    };
    use shrike_proto::ledger::LossReason;

    /// What version 1 wrote, byte for byte: a store that is older than this
    /// collector stays readable.
    #[test]
    fn keys_and_payloads_are_as_version_1_wrote_them() {
        let key = sample::block_key(&sample::events(1, 1));
        let stored = block_key(Space::Payload, &key);
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        assert_eq!(
            hex(&stored),
            concat!(
                "70",
                "9816687ec0664240",
                "01010101010101010101010101010101",
                "0000000000000001",
                "6e6f64652d61"
            )
        );
        let payload = pack_payload(&key, b"frames");
        assert_eq!(
            hex(&record::seal(&stored, &payload)),
            concat!(
                "01",
                "53485249_4b45424c",
                "2600",
                "06000000",
                "9816687ec0664240",
                "01010101010101010101010101010101",
                "0000000000000001",
                "6e6f64652d61",
                "6672616d6573",
                "21505018"
            )
            .replace('_', "")
        );
    }

    #[test]
    fn footer_and_watermark_are_as_version_1_wrote_them() {
        let footer = Footer::decode(&[
            0x08, 0x03, 0x10, 0x05, 0x18, 0x64, 0x20, 0xe8, 0x07, 0x28, 0x09, 0x30, 0x08, 0x3a,
            0x03, 0x00, 0xe8, 0x07, 0x4a, 0x02, 0x12, 0x34,
        ])
        .unwrap();
        assert_eq!((footer.count, footer.time_max_unix_ns), (3, 5));
        assert_eq!((footer.payload_bytes, footer.raw_bytes), (100, 1000));
        assert_eq!((footer.kinds, footer.actions), (9, 8));
        assert_eq!(footer.uids, Some(vec![0, 1000]));
        assert_eq!(footer.bloom.as_bytes(), [0x12, 0x34]);
        let mark = Watermark::decode(&[
            0x08, 0x1e, 0x10, 0x14, 0x18, 0x05, 0x22, 0x04, 0x08, 0x08, 0x10, 0x0a, 0x2a, 0x06,
            0x08, 0x03, 0x10, 0x0a, 0x18, 0x08, 0x38, 0x01, 0x40, 0x02,
        ])
        .unwrap();
        assert_eq!((mark.durable.0, mark.stored, mark.removed), (30, 20, 5));
        assert_eq!(mark.lost[&LossReason::Quarantined], 10);
        assert_eq!(mark.lost_ranges[0].first.0, 3);
        assert_eq!((mark.opened_unix_ns, mark.committed_unix_ns), (1, 2));
    }

    #[test]
    fn payload_survives_packing() {
        let key = sample::block_key(&sample::events(1, 1));
        let payload = pack_payload(&key, b"frames");
        assert_eq!(unpack_payload(&payload), Some(&b"frames"[..]));
        assert_eq!(unpack_payload(&payload[..payload.len() - 1]), None);
        assert_eq!(unpack_payload(b"SHRIKEBL"), None);
    }
}
