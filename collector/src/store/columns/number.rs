//! One column of numbers, in the form that promises to compress best.
//!
//! ```text
//! column = form
//! form   = 0  value                             all the same
//!        | 1  width  section  least             numbers above the least
//!        | 2  width  section  first             differences, zigzag
//!        | 3  width  section  count  column     places in a sorted table
//! ```
//!
//! Numbers lie in planes: all lowest bytes, then all second bytes, and so on,
//! so that bytes which vary little are among their own.

use std::collections::BTreeSet;

use super::{
    ColumnsError,
    section::{Likeness, Reader, Writer},
    tree::{put_varint, varint},
};

const SAME: u64 = 0;
const PLAIN: u64 = 1;
const DIFFERENCES: u64 = 2;
const TABLE: u64 = 3;

/// Bits that an entry of a table takes, roughly.
const TABLE_ENTRY_BITS: f64 = 24.0;

/// Writes a column; its form goes into the outline.
pub fn write(values: &[u64], likeness: Likeness, outline: &mut Vec<u8>, sections: &mut Writer) {
    let Some(first) = values.first().copied() else {
        return;
    };
    if values.iter().all(|value| *value == first) {
        put_varint(outline, SAME);
        put_varint(outline, first);
        return;
    }
    let least = values.iter().copied().min().unwrap_or_default();
    let plain = Planes::of(values.iter().map(|value| value - least));
    let differences = Planes::of(
        values
            .windows(2)
            .map(|pair| zigzag(pair[1].wrapping_sub(pair[0]))),
    );
    let distinct: BTreeSet<u64> = values.iter().copied().collect();
    let table: Vec<u64> = distinct.into_iter().collect();
    // A table pays where values come again.
    let places = (table.len() <= values.len() / 2).then(|| {
        Planes::of(values.iter().map(|value| {
            let place = table
                .binary_search(value)
                .expect("the table has every value");
            place as u64
        }))
    });
    let table_bits = places.as_ref().map_or(f64::INFINITY, |places| {
        places.bits + table.len() as f64 * TABLE_ENTRY_BITS
    });
    if table_bits < plain.bits && table_bits < differences.bits {
        let places = places.expect("it has finite bits");
        put_varint(outline, TABLE);
        places.write(likeness, outline, sections);
        put_varint(outline, table.len() as u64);
        write(&table, Likeness::Own, outline, sections);
    } else if differences.bits < plain.bits {
        put_varint(outline, DIFFERENCES);
        differences.write(Likeness::Differences, outline, sections);
        put_varint(outline, first);
    } else {
        put_varint(outline, PLAIN);
        plain.write(likeness, outline, sections);
        put_varint(outline, least);
    }
}

/// Reads a column of `count` numbers.
///
/// # Errors
/// [`ColumnsError`] for bytes that are none.
pub fn read(
    count: usize,
    outline: &mut &[u8],
    sections: &mut Reader,
) -> Result<Vec<u64>, ColumnsError> {
    if count == 0 {
        return Ok(Vec::new());
    }
    match next(outline)? {
        SAME => Ok(vec![next(outline)?; count]),
        PLAIN => {
            let mut values = read_planes(count, outline, sections)?;
            let least = next(outline)?;
            for value in &mut values {
                *value = value.wrapping_add(least);
            }
            Ok(values)
        }
        DIFFERENCES => {
            let mut values = read_planes(count - 1, outline, sections)?;
            let first = next(outline)?;
            let mut last = first;
            for value in &mut values {
                last = last.wrapping_add(unzigzag(*value));
                *value = last;
            }
            values.insert(0, first);
            Ok(values)
        }
        TABLE => {
            let mut values = read_planes(count, outline, sections)?;
            let entries = next(outline)?;
            // It was written because it is shorter than the column.
            let entries = usize::try_from(entries)
                .ok()
                .filter(|entries| *entries < count)
                .ok_or(ColumnsError::Form("a table is longer than its column"))?;
            let table = read(entries, outline, sections)?;
            for value in &mut values {
                *value = usize::try_from(*value)
                    .ok()
                    .and_then(|place| table.get(place))
                    .copied()
                    .ok_or(ColumnsError::Form("a place beyond its table"))?;
            }
            Ok(values)
        }
        _ => Err(ColumnsError::Form("an unknown form of column")),
    }
}

/// Reads a number from the outline.
pub fn next(outline: &mut &[u8]) -> Result<u64, ColumnsError> {
    let (value, rest) = varint(outline).ok_or(ColumnsError::Form("the outline ends early"))?;
    *outline = rest;
    Ok(value)
}

fn zigzag(difference: u64) -> u64 {
    let signed = difference.cast_signed();
    ((signed << 1) ^ (signed >> 63)).cast_unsigned()
}

fn unzigzag(value: u64) -> u64 {
    (value >> 1) ^ (value & 1).wrapping_neg()
}

/// Numbers by their bytes.
struct Planes {
    width: usize,
    bytes: Vec<u8>,
    /// What they take when each plane's bytes are coded by how often they come.
    bits: f64,
}

impl Planes {
    fn of(values: impl ExactSizeIterator<Item = u64> + Clone) -> Self {
        let count = values.len();
        let most = values.clone().fold(0, |most, value| most | value);
        let width = (8 - most.leading_zeros() as usize / 8).max(1);
        let mut bytes = vec![0; width * count];
        for (index, value) in values.enumerate() {
            for (plane, byte) in value.to_le_bytes().iter().take(width).enumerate() {
                bytes[plane * count + index] = *byte;
            }
        }
        let bits = bytes.chunks(count.max(1)).map(entropy_bits).sum();
        Self { width, bytes, bits }
    }

    fn write(&self, likeness: Likeness, outline: &mut Vec<u8>, sections: &mut Writer) {
        // Narrow columns have no company: there is little to have in common.
        let likeness = if self.width == 1 {
            Likeness::Own
        } else {
            likeness
        };
        put_varint(outline, self.width as u64);
        put_varint(outline, sections.add(&self.bytes, likeness) as u64);
    }
}

fn read_planes(
    count: usize,
    outline: &mut &[u8],
    sections: &mut Reader,
) -> Result<Vec<u64>, ColumnsError> {
    let width = usize::try_from(next(outline)?)
        .ok()
        .filter(|width| (1..=8).contains(width))
        .ok_or(ColumnsError::Form("a column's width is none"))?;
    let section = usize::try_from(next(outline)?).unwrap_or(usize::MAX);
    let length = width
        .checked_mul(count)
        .ok_or(ColumnsError::Form("a column is too long"))?;
    let bytes = sections.take(section, length)?;
    let mut values = vec![0_u64; count];
    for (plane, bytes) in bytes.chunks(count.max(1)).enumerate() {
        for (value, byte) in values.iter_mut().zip(bytes) {
            *value |= u64::from(*byte) << (8 * plane);
        }
    }
    Ok(values)
}

fn entropy_bits(bytes: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    for byte in bytes {
        counts[usize::from(*byte)] += 1;
    }
    let total = bytes.len() as f64;
    counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| {
            let count = f64::from(*count);
            count * (total / count).log2()
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round(values: &[u64]) -> Vec<u64> {
        let (mut outline, mut sections) = (Vec::new(), Writer::default());
        write(values, Likeness::Own, &mut outline, &mut sections);
        let mut bytes = Vec::new();
        sections.finish(&outline, &mut bytes);
        let (outline, mut sections) = Reader::open(&bytes, 1 << 20).unwrap();
        let mut rest = outline.as_slice();
        let read = read(values.len(), &mut rest, &mut sections).unwrap();
        assert!(rest.is_empty() && sections.is_exhausted());
        read
    }

    #[test]
    fn every_form_gives_back_what_it_was_given() {
        let check = |values: Vec<u64>| assert_eq!(round(&values), values);
        check(vec![]);
        check(vec![7; 100]);
        check((0..5000).map(|n| n * n).collect());
        check((0..5000).map(|n| n * 1_000_003).collect());
        check((0..5000).map(|n| (n % 400) * 7_919_000_000).collect());
        check(vec![u64::MAX, 0, u64::MAX, 1 << 63, 5]);
    }

    proptest! {
        #[test]
        fn any_numbers_survive(values in prop::collection::vec(any::<u64>(), 0..200)) {
            prop_assert_eq!(round(&values), values);
        }

        #[test]
        fn few_numbers_survive(values in prop::collection::vec(1_u64..4, 0..2000)) {
            prop_assert_eq!(round(&values), values);
        }
    }
}
