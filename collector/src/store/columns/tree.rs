//! The columns of a message, and of the messages in it.

use std::collections::{BTreeMap, HashMap};

use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorSet, field_descriptor_proto::Type};

use super::{ColumnsError, string::Strings};

/// Nesting of messages that is followed: the schema has five.
pub const DEPTH_MAX: usize = 16;

/// Which fields of a message hold messages, and of which form.
#[derive(Debug, Default)]
pub struct Schema {
    nested: BTreeMap<u64, Schema>,
}

impl Schema {
    /// Reads the schema of a message from an encoded `FileDescriptorSet`.
    ///
    /// `None` when the set does not hold it.
    pub fn of(descriptors: &[u8], package: &str, message: &str) -> Option<Self> {
        let set = FileDescriptorSet::decode(descriptors).ok()?;
        let messages: BTreeMap<String, &DescriptorProto> = set
            .file
            .iter()
            .flat_map(|file| file.message_type.iter().map(move |it| (file.package(), it)))
            .map(|(package, it)| (format!(".{package}.{}", it.name()), it))
            .collect();
        Self::from(&messages, &format!(".{package}.{message}"), DEPTH_MAX - 1)
    }

    fn from(
        messages: &BTreeMap<String, &DescriptorProto>,
        name: &str,
        depth: usize,
    ) -> Option<Self> {
        let nested = messages
            .get(name)?
            .field
            .iter()
            .filter(|field| field.r#type() == Type::Message && depth > 0)
            .filter_map(|field| {
                let number = u64::try_from(field.number()).ok()?;
                let schema = Self::from(messages, field.type_name(), depth - 1)?;
                Some(((number << 3) | u64::from(BYTES), schema))
            })
            .collect();
        Some(Self { nested })
    }
}

/// Wire types, as protobuf numbers them.
pub const VARINT: u8 = 0;
pub const FIXED64: u8 = 1;
pub const BYTES: u8 = 2;
pub const FIXED32: u8 = 5;

/// Everything that was said, by field.
#[derive(Debug, Default)]
pub struct Tree {
    /// The events themselves.
    pub root: Message,
    /// What all fields' strings are numbered by.
    pub strings: Strings,
}

/// What the messages of one field say.
#[derive(Debug, Default)]
pub struct Message {
    shapes: HashMap<Vec<u64>, u64>,
    /// For each message, which shape it has.
    pub shape_of: Vec<u64>,
    /// What each tag says, message after message.
    pub fields: BTreeMap<u64, Field>,
}

/// What one field says.
#[derive(Debug)]
pub enum Field {
    /// Numbers as they are.
    Numbers(Vec<u64>),
    /// Strings by their numbers.
    Strings(Vec<u64>),
    /// Messages.
    Messages(Messages),
}

/// Messages of which some come again.
#[derive(Debug, Default)]
pub struct Messages {
    numbers: HashMap<Vec<u8>, u64>,
    /// Which of the distinct ones, message after message; 0 is the next new
    /// one, others are counted from 1.
    pub which: Vec<u64>,
    /// The distinct ones.
    pub distinct: Message,
}

impl Tree {
    /// Takes an event in.
    ///
    /// # Errors
    /// [`ColumnsError::Wire`] when it is not of protobuf's form.
    pub fn take(&mut self, event: &[u8], schema: &Schema) -> Result<(), ColumnsError> {
        self.root.take(event, schema, &mut self.strings)
    }
}

impl Message {
    /// Returns the shapes in the order of their numbers.
    pub fn shapes(&self) -> Vec<&[u64]> {
        let mut shapes: Vec<_> = self.shapes.iter().collect();
        shapes.sort_unstable_by_key(|(_, number)| **number);
        shapes
            .into_iter()
            .map(|(shape, _)| shape.as_slice())
            .collect()
    }

    fn take(
        &mut self,
        message: &[u8],
        schema: &Schema,
        strings: &mut Strings,
    ) -> Result<(), ColumnsError> {
        let mut shape = Vec::new();
        let mut rest = message;
        while !rest.is_empty() {
            let (tag, after) = varint(rest).ok_or(ColumnsError::Wire)?;
            let field = self
                .fields
                .entry(tag)
                .or_insert_with(|| match tag as u8 & 7 {
                    BYTES if schema.nested.contains_key(&tag) => {
                        Field::Messages(Messages::default())
                    }
                    BYTES => Field::Strings(Vec::new()),
                    _ => Field::Numbers(Vec::new()),
                });
            rest = match field {
                Field::Numbers(numbers) => {
                    let (value, after) = number(tag as u8 & 7, after).ok_or(ColumnsError::Wire)?;
                    numbers.push(value);
                    after
                }
                Field::Strings(which) => {
                    let (string, after) = delimited(after).ok_or(ColumnsError::Wire)?;
                    which.push(strings.number(string));
                    after
                }
                Field::Messages(messages) => {
                    let (message, after) = delimited(after).ok_or(ColumnsError::Wire)?;
                    messages.take(message, &schema.nested[&tag], strings)?;
                    after
                }
            };
            shape.push(tag);
        }
        let next = self.shapes.len() as u64;
        self.shape_of
            .push(*self.shapes.entry(shape).or_insert(next));
        Ok(())
    }
}

impl Messages {
    fn take(
        &mut self,
        message: &[u8],
        schema: &Schema,
        strings: &mut Strings,
    ) -> Result<(), ColumnsError> {
        if let Some(number) = self.numbers.get(message) {
            self.which.push(number + 1);
            return Ok(());
        }
        let number = self.numbers.len() as u64;
        self.numbers.insert(message.to_vec(), number);
        self.which.push(0);
        self.distinct.take(message, schema, strings)
    }
}

/// Reads a number of a wire type.
fn number(wire_type: u8, bytes: &[u8]) -> Option<(u64, &[u8])> {
    match wire_type {
        VARINT => varint(bytes),
        FIXED64 => {
            let (value, rest) = bytes.split_first_chunk::<8>()?;
            Some((u64::from_le_bytes(*value), rest))
        }
        FIXED32 => {
            let (value, rest) = bytes.split_first_chunk::<4>()?;
            Some((u32::from_le_bytes(*value).into(), rest))
        }
        _ => None,
    }
}

/// Reads a length and as many bytes.
pub fn delimited(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = varint(bytes)?;
    rest.split_at_checked(usize::try_from(length).ok()?)
}

/// Reads a varint of at most ten bytes.
pub fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[index + 1..]));
        }
    }
    None
}

/// Writes a varint.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
