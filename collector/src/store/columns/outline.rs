//! The outline: which columns there are, in the order in which they lie.
//!
//! ```text
//! outline = events  strings in all  strings  message
//! message = shapes  ( tags  tag… )…  column of shapes  fields
//! fields  = count  ( tag  kind  field )…
//! field   = column                               numbers, and strings by place
//!         | column of which  distinct  message   messages
//! ```

use super::{
    ColumnsError, Rows,
    number::{self, next},
    section::{Likeness, Reader, Writer},
    string,
    tree::{DEPTH_MAX, FIXED32, FIXED64, Field, Message, Tree, VARINT, put_varint},
};
use crate::store::{block::BLOCK_RAW_BYTES_MAX, piece::BLOCK_EVENTS_MAX};

const NUMBERS: u64 = 0;
const STRINGS: u64 = 1;
const MESSAGES: u64 = 2;

/// Writes the columns into sections and returns the outline.
pub fn write(tree: &Tree, sections: &mut Writer) -> Vec<u8> {
    let mut outline = Vec::new();
    put_varint(&mut outline, tree.root.shape_of.len() as u64);
    let sorted = tree.strings.sort();
    sorted.write(&mut outline, sections);
    write_message(&tree.root, &sorted.places, &mut outline, sections);
    outline
}

fn write_message(message: &Message, places: &[u64], outline: &mut Vec<u8>, sections: &mut Writer) {
    let shapes = message.shapes();
    put_varint(outline, shapes.len() as u64);
    for shape in shapes {
        put_varint(outline, shape.len() as u64);
        for tag in shape {
            put_varint(outline, *tag);
        }
    }
    number::write(&message.shape_of, Likeness::Own, outline, sections);
    put_varint(outline, message.fields.len() as u64);
    for (tag, field) in &message.fields {
        put_varint(outline, *tag);
        match field {
            Field::Numbers(numbers) => {
                put_varint(outline, NUMBERS);
                put_varint(outline, numbers.len() as u64);
                number::write(numbers, Likeness::Own, outline, sections);
            }
            Field::Strings(numbers) => {
                let sorted: Vec<u64> = numbers
                    .iter()
                    .map(|number| places[usize::try_from(*number).expect("it was a length")])
                    .collect();
                put_varint(outline, STRINGS);
                put_varint(outline, sorted.len() as u64);
                number::write(&sorted, Likeness::Strings, outline, sections);
            }
            Field::Messages(messages) => {
                put_varint(outline, MESSAGES);
                put_varint(outline, messages.which.len() as u64);
                number::write(&messages.which, Likeness::Own, outline, sections);
                put_varint(outline, messages.distinct.shape_of.len() as u64);
                write_message(&messages.distinct, places, outline, sections);
            }
        }
    }
}

/// Reads the events of an outline.
///
/// # Errors
/// [`ColumnsError`] for columns that do not fit together.
pub fn read(outline: &[u8], sections: &mut Reader) -> Result<Rows, ColumnsError> {
    let mut outline = outline;
    let events = bounded(next(&mut outline)?, BLOCK_EVENTS_MAX as usize)?;
    let strings = string::Read::open(BLOCK_RAW_BYTES_MAX, &mut outline, sections)?;
    let messages = read_message(events, 0, &strings, &mut outline, sections)?;
    if !outline.is_empty() || !sections.is_exhausted() {
        return Err(ColumnsError::Form("something is left over"));
    }
    let mut rows = Rows::default();
    for index in 0..messages.ends.len() {
        rows.push(messages.get(index));
    }
    Ok(rows)
}

fn bounded(count: u64, most: usize) -> Result<usize, ColumnsError> {
    usize::try_from(count)
        .ok()
        .filter(|count| *count <= most)
        .ok_or(ColumnsError::TooBig)
}

/// Messages, one behind the other.
#[derive(Default)]
struct Messages {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Messages {
    fn get(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[index]]
    }
}

/// One field's values, ready to be written into messages one after the other.
enum Column<'a> {
    Numbers(u8, std::vec::IntoIter<u64>),
    Strings(&'a string::Read, std::vec::IntoIter<u64>),
    Messages {
        which: std::vec::IntoIter<u64>,
        distinct: Messages,
        told: usize,
    },
}

fn read_message(
    count: usize,
    depth: usize,
    strings: &string::Read,
    outline: &mut &[u8],
    sections: &mut Reader,
) -> Result<Messages, ColumnsError> {
    if depth == DEPTH_MAX {
        return Err(ColumnsError::Form("messages are nested too deep"));
    }
    // Every shape is that of some message.
    let mut shapes = Vec::new();
    for _ in 0..bounded(next(outline)?, count)? {
        let mut shape = Vec::new();
        for _ in 0..bounded(next(outline)?, outline.len())? {
            shape.push(next(outline)?);
        }
        shapes.push(shape);
    }
    let shape_of = number::read(count, outline, sections)?;
    let fields = bounded(next(outline)?, outline.len())?;
    let mut columns = Vec::with_capacity(fields);
    for _ in 0..fields {
        let tag = next(outline)?;
        let kind = next(outline)?;
        let values = bounded(next(outline)?, BLOCK_RAW_BYTES_MAX)?;
        let numbers = number::read(values, outline, sections)?.into_iter();
        let column = match kind {
            NUMBERS => Column::Numbers(tag as u8 & 7, numbers),
            STRINGS => Column::Strings(strings, numbers),
            MESSAGES => {
                let distinct = bounded(next(outline)?, values)?;
                Column::Messages {
                    which: numbers,
                    distinct: read_message(distinct, depth + 1, strings, outline, sections)?,
                    told: 0,
                }
            }
            _ => return Err(ColumnsError::Form("an unknown kind of field")),
        };
        columns.push((tag, column));
    }
    // Tags of a shape become places of columns once.
    let shapes = shapes
        .into_iter()
        .map(|shape| {
            shape
                .into_iter()
                .map(|tag| columns.iter().position(|(of, _)| *of == tag))
                .collect::<Option<Vec<usize>>>()
        })
        .collect::<Option<Vec<_>>>()
        .ok_or(ColumnsError::Form("a tag without a column"))?;
    let mut rows = Messages::default();
    rows.ends.reserve(count);
    for shape in shape_of {
        let shape = usize::try_from(shape)
            .ok()
            .and_then(|shape| shapes.get(shape))
            .ok_or(ColumnsError::Form("a shape that is not there"))?;
        for place in shape {
            let (tag, column) = &mut columns[*place];
            put_varint(&mut rows.bytes, *tag);
            column.put_next(&mut rows.bytes)?;
        }
        if rows.bytes.len() > BLOCK_RAW_BYTES_MAX {
            return Err(ColumnsError::TooBig);
        }
        rows.ends.push(rows.bytes.len());
    }
    Ok(rows)
}

impl Column<'_> {
    fn put_next(&mut self, out: &mut Vec<u8>) -> Result<(), ColumnsError> {
        let short = ColumnsError::Form("a column is shorter than its messages");
        match self {
            Self::Numbers(wire_type, numbers) => {
                let value = numbers.next().ok_or(short)?;
                match *wire_type {
                    VARINT => put_varint(out, value),
                    FIXED64 => out.extend_from_slice(&value.to_le_bytes()),
                    FIXED32 => {
                        let value = u32::try_from(value)
                            .map_err(|_| ColumnsError::Form("a number is too long"))?;
                        out.extend_from_slice(&value.to_le_bytes());
                    }
                    _ => return Err(ColumnsError::Form("a number of no wire type")),
                }
            }
            Self::Strings(strings, places) => {
                let string = strings.get(places.next().ok_or(short)?)?;
                put_varint(out, string.len() as u64);
                out.extend_from_slice(string);
            }
            Self::Messages {
                which,
                distinct,
                told,
            } => {
                let number = match which.next().ok_or(short)? {
                    0 => {
                        *told += 1;
                        *told - 1
                    }
                    number => usize::try_from(number - 1).unwrap_or(usize::MAX),
                };
                if number >= distinct.ends.len() {
                    return Err(ColumnsError::Form("a message that is not there"));
                }
                let message = distinct.get(number);
                put_varint(out, message.len() as u64);
                out.extend_from_slice(message);
            }
        }
        Ok(())
    }
}
