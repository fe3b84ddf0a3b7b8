//! Keys and values of the one sled tree.
//!
//! ```text
//! "v"                                    "shrike-store 1"
//! "f" block key                          footer            (envelope)
//! "p" block key                          payload           (envelope)
//! "w" epoch (16) node                    watermark         (envelope)
//! "n" node                               node's record     (envelope)
//! "c" policy name                        policy in force   (envelope)
//! "g" generation (8, big-endian)         generation        (envelope)
//!
//! block key = oldest event's Unix ns, sign bit flipped (8, big-endian)
//!             epoch (16)  first sequence (8, big-endian)  node
//! ```
//!
//! One tree, because only a batch within one tree is atomic without a
//! transaction. The envelope is [`super::record`]'s; inside it footers,
//! watermarks and records are protobuf messages, so that fields may be added.

use shrike_proto::id::{Epoch, NodeId};

use super::{
    Collection,
    block::{BlockKey, KeyError},
    stream::StreamKey,
};

/// Key of the format's name.
pub const FORMAT_KEY: &[u8] = b"v";

/// The format's name.
pub const FORMAT: &str = "shrike-store 1";

/// First byte of a key: what lies under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// A block's footer.
    Footer,
    /// A block's payload.
    Payload,
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
            Self::Watermark => b'w',
            Self::Record(Collection::Nodes) => b'n',
            Self::Record(Collection::Policies) => b'c',
            Self::Record(Collection::Generations) => b'g',
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

/// Returns the key of a block's footer or payload.
pub fn block_key(space: Space, key: &BlockKey) -> Vec<u8> {
    space.key(&key.encode())
}

/// Returns the key of a watermark.
pub fn watermark_key(stream: &StreamKey) -> Vec<u8> {
    let mut rest = stream.epoch.0.to_vec();
    rest.extend_from_slice(stream.node.as_str().as_bytes());
    Space::Watermark.key(&rest)
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
