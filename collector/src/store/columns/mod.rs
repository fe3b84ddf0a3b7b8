//! Encoded events turned on their side: what all events say of one field lies
//! together, which compresses to a fraction of the same events one by one.
//!
//! ```text
//! columns  = "SHCOLUM1"  sections
//! sections = count  ( raw length, stored length )…  bytes…       all varints
//!            the first one is the outline, the others hold columns
//!
//! event    = shape  ( number | string | message )…
//! message  = which of the distinct ones             string = likewise
//! ```
//!
//! It works on the wire form and knows no field by its name: the schema only
//! says which fields hold messages. So a field that is added later needs
//! nothing here, and what is decoded is what was encoded, byte for byte, for
//! everything that an encoder of protobuf writes.
//!
//! A message's *shape* is the list of its tags. Shapes, strings and nested
//! messages are numbered, and a column holds those numbers: a thousand events
//! of one process hold that process once.

mod number;
mod outline;
mod section;
mod string;
mod tree;

use std::ops::Range;

pub use tree::Schema;

use super::block::BLOCK_RAW_BYTES_MAX;

/// What the encoding begins with; a zstd frame begins otherwise.
pub const MAGIC: &[u8; 8] = b"SHCOLUM1";

/// Most bytes of all sections before compression: columns are shorter than
/// the events that they hold, but for what tells them apart.
const SECTIONS_BYTES_MAX: usize = 2 * BLOCK_RAW_BYTES_MAX;

/// Bytes that are no columns, or events that cannot become some.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ColumnsError {
    /// An event is not of protobuf's wire form.
    #[error("an event is not of protobuf's wire form")]
    Wire,
    /// The columns end too early, or their parts do not fit together.
    #[error("the columns do not fit together: {0}")]
    Form(&'static str),
    /// A section does not decompress.
    #[error("section {0} does not decompress")]
    Section(usize),
    /// More bytes than a block has.
    #[error("the columns hold more than {BLOCK_RAW_BYTES_MAX} bytes")]
    TooBig,
}

/// Events as they were encoded: an event list, and where each event lies in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    list: Vec<u8>,
    /// Where each event begins and ends, without tag and length.
    spans: Vec<(usize, usize)>,
}

impl Rows {
    /// Reads an encoded list.
    ///
    /// # Errors
    /// [`ColumnsError::Wire`] for bytes that are no list.
    pub fn from_list(list: Vec<u8>) -> Result<Self, ColumnsError> {
        let mut spans = Vec::new();
        let mut rest = list.as_slice();
        while !rest.is_empty() {
            let (tag, after) = tree::varint(rest).ok_or(ColumnsError::Wire)?;
            let (event, after) = tree::delimited(after).ok_or(ColumnsError::Wire)?;
            if tag != EVENTS_TAG {
                return Err(ColumnsError::Wire);
            }
            let end = list.len() - after.len();
            spans.push((end - event.len(), end));
            rest = after;
        }
        Ok(Self { list, spans })
    }

    /// Adds an encoded event.
    pub fn push(&mut self, event: &[u8]) {
        tree::put_varint(&mut self.list, EVENTS_TAG);
        tree::put_varint(&mut self.list, event.len() as u64);
        let start = self.list.len();
        self.list.extend_from_slice(event);
        self.spans.push((start, self.list.len()));
    }

    /// Adds all events of others.
    pub fn append(&mut self, others: &Self) {
        let moved = self.list.len();
        self.list.extend_from_slice(&others.list);
        let spans = others.spans.iter();
        self.spans
            .extend(spans.map(|(start, end)| (start + moved, end + moved)));
    }

    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Says whether there are none.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Returns all of them in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.spans
            .iter()
            .map(|(start, end)| &self.list[*start..*end])
    }

    /// Returns a range of them as an encoded list.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn list(&self, range: Range<usize>) -> &[u8] {
        let place = |index: usize| match index.checked_sub(1) {
            Some(before) => self.spans[before].1,
            None => 0,
        };
        &self.list[place(range.start)..place(range.end)]
    }
}

/// Tag of `EventList.events`.
const EVENTS_TAG: u64 = (1 << 3) | 2;

/// Turns events into columns.
///
/// # Errors
/// [`ColumnsError`] for events that cannot be.
pub fn encode(rows: &Rows, schema: &Schema) -> Result<Vec<u8>, ColumnsError> {
    let mut tree = tree::Tree::default();
    for event in rows.iter() {
        tree.take(event, schema)?;
    }
    let mut sections = section::Writer::default();
    let outline = outline::write(&tree, &mut sections);
    let mut bytes = MAGIC.to_vec();
    sections.finish(&outline, &mut bytes);
    Ok(bytes)
}

/// Says whether a payload holds columns.
pub fn are_columns(payload: &[u8]) -> bool {
    payload.starts_with(MAGIC)
}

/// Turns columns into events.
///
/// # Errors
/// [`ColumnsError`] for bytes that are no columns.
pub fn decode(bytes: &[u8]) -> Result<Rows, ColumnsError> {
    let body = bytes
        .strip_prefix(MAGIC)
        .ok_or(ColumnsError::Form("they begin otherwise"))?;
    let (outline, mut sections) = section::Reader::open(body, SECTIONS_BYTES_MAX)?;
    outline::read(&outline, &mut sections)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shrike_proto::{
        batch,
        id::{Epoch, SequenceNumber},
        wire::FILE_DESCRIPTOR_SET,
    };

    use super::*;
    use crate::sample;

    fn schema() -> Schema {
        Schema::of(FILE_DESCRIPTOR_SET, "shrike.event.v1", "Event").unwrap()
    }

    fn rows(first: u64, count: u64) -> Rows {
        let events = sample::events(first, count);
        let batch = batch::seal(Epoch([1; 16]), SequenceNumber(first), events);
        Rows::from_list(batch::unpack(&batch).unwrap()).unwrap()
    }

    #[test]
    fn events_come_back_byte_for_byte() {
        let check = |count| {
            let rows = rows(1, count);
            let bytes = encode(&rows, &schema()).unwrap();
            assert!(are_columns(&bytes));
            assert_eq!(decode(&bytes).unwrap(), rows);
        };
        for count in [0, 1, 2, 100, 5000] {
            check(count);
        }
    }

    #[test]
    fn columns_are_a_fraction_of_compressed_rows() {
        let rows = rows(1, 5000);
        let compressed = zstd::bulk::compress(rows.list(0..5000), 9).unwrap();
        let columns = encode(&rows, &schema()).unwrap();
        assert!(
            columns.len() * 4 < compressed.len() * 3,
            "{} and {}",
            columns.len(),
            compressed.len()
        );
    }

    #[test]
    fn fields_that_the_schema_does_not_know_are_kept() {
        let mut unknown = Rows::default();
        // Field 100 as a number, 101 as a string, 102 and 103 of fixed length,
        // and each of them more than once.
        for value in 0..5_u8 {
            let mut event = vec![0xa0, 0x06, value, 0xaa, 0x06, 2, value, value];
            event.extend([0xb5, 0x06, 1, 2, 3, value, 0xb9, 0x06]);
            event.extend([value; 8]);
            event.extend([0xa0, 0x06, 7]);
            unknown.push(&event);
        }
        let bytes = encode(&unknown, &schema()).unwrap();
        assert_eq!(decode(&bytes).unwrap(), unknown);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for event in [&[0x08][..], &[0x3a, 5, 0], &[0x0b], &[0x80; 11]] {
            let mut rows = Rows::default();
            rows.push(event);
            assert_eq!(encode(&rows, &schema()), Err(ColumnsError::Wire));
        }
        assert_eq!(
            Rows::from_list(vec![0x12, 0]).unwrap_err(),
            ColumnsError::Wire
        );
    }

    proptest! {
        #[test]
        fn any_numbers_and_strings_survive(
            events in prop::collection::vec(
                (any::<u64>(), prop::collection::vec(any::<u8>(), 0..40), any::<bool>()), 0..60),
        ) {
            let mut rows = Rows::default();
            for (number, string, twice) in events {
                let mut event = Vec::new();
                for _ in 0..=u8::from(twice) {
                    event.push(0x08);
                    tree::put_varint(&mut event, number);
                    event.push(0x6a);
                    tree::put_varint(&mut event, string.len() as u64);
                    event.extend_from_slice(&string);
                }
                rows.push(&event);
            }
            let bytes = encode(&rows, &schema()).unwrap();
            prop_assert_eq!(decode(&bytes).unwrap(), rows);
        }

        #[test]
        fn damaged_columns_never_panic(at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
            let mut bytes = encode(&rows(1, 60), &schema()).unwrap();
            let place = at.index(bytes.len());
            bytes[place] = byte;
            let _ = decode(&bytes);
            let _ = decode(&bytes[..cut.index(bytes.len())]);
        }
    }
}
