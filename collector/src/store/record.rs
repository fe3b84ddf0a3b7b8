//! The envelope of every value in the store.
//!
//! ```text
//! value = version (1 byte) | body | crc32c (4 bytes, little-endian)
//! ```
//!
//! The checksum covers the key, the version and the body, so that a value
//! under another key is found as surely as a flipped bit.

use prost::Message;

/// Version of the envelope and of the bodies in it.
pub const VERSION: u8 = 1;

const CRC_BYTES: usize = 4;

/// A value that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Shorter than an envelope.
    #[error("{0} bytes are too few for a record")]
    Short(usize),
    /// The checksum does not hold.
    #[error("checksum {computed:08x} differs from {stored:08x} in the record")]
    Checksum {
        /// In the record.
        stored: u32,
        /// Over key and record.
        computed: u32,
    },
    /// Written by another version.
    #[error("record version {0} is unknown, this collector reads version {VERSION}")]
    Version(u8),
    /// The body is not of its form.
    #[error("the record does not decode: {0}")]
    Body(String),
}

/// Wraps a body for `key`.
pub fn seal(key: &[u8], body: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(1 + body.len() + CRC_BYTES);
    value.push(VERSION);
    value.extend_from_slice(body);
    let crc = checksum(key, &value);
    value.extend_from_slice(&crc.to_le_bytes());
    value
}

/// Wraps an encoded message for `key`.
pub fn seal_message(key: &[u8], message: &impl Message) -> Vec<u8> {
    seal(key, &message.encode_to_vec())
}

/// Checks a value that lay under `key` and returns its body.
///
/// # Errors
/// [`RecordError`] when it is not what was written there.
pub fn open<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a [u8], RecordError> {
    let Some((checked, stored)) = value.split_last_chunk::<CRC_BYTES>() else {
        return Err(RecordError::Short(value.len()));
    };
    let Some((version, body)) = checked.split_first() else {
        return Err(RecordError::Short(value.len()));
    };
    let stored = u32::from_le_bytes(*stored);
    let computed = checksum(key, checked);
    if stored != computed {
        return Err(RecordError::Checksum { stored, computed });
    }
    if *version != VERSION {
        return Err(RecordError::Version(*version));
    }
    Ok(body)
}

/// Checks a value that lay under `key` and decodes its message.
///
/// # Errors
/// [`RecordError`] when it is not what was written there.
pub fn open_message<M: Message + Default>(key: &[u8], value: &[u8]) -> Result<M, RecordError> {
    M::decode(open(key, value)?).map_err(|error| RecordError::Body(error.to_string()))
}

fn checksum(key: &[u8], checked: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), checked)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn value_under_another_key_is_found() {
        let value = seal(b"a", b"body");
        assert_eq!(open(b"a", &value), Ok(&b"body"[..]));
        assert!(matches!(
            open(b"b", &value),
            Err(RecordError::Checksum { .. })
        ));
    }

    #[test]
    fn another_version_is_named() {
        let mut value = seal(b"a", b"body");
        value.truncate(value.len() - CRC_BYTES);
        value[0] = 9;
        let crc = checksum(b"a", &value);
        value.extend_from_slice(&crc.to_le_bytes());
        assert_eq!(open(b"a", &value), Err(RecordError::Version(9)));
    }

    proptest! {
        #[test]
        fn every_flipped_bit_is_found(
            body in prop::collection::vec(any::<u8>(), 0..64),
            at: prop::sample::Index,
            bit in 0..8u32,
        ) {
            let mut value = seal(b"key", &body);
            let at = at.index(value.len());
            value[at] ^= 1 << bit;
            prop_assert!(open(b"key", &value).is_err());
        }

        #[test]
        fn garbage_never_panics(value in prop::collection::vec(any::<u8>(), 0..32)) {
            let _ = open(b"key", &value);
        }
    }
}
