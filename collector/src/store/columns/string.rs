//! The distinct strings of a block, sorted, each by what it does not share
//! with the one before: `/usr/lib/a.so` and `/usr/lib/b.so` differ in one
//! byte.

use std::collections::HashMap;

use super::{
    ColumnsError, SECTIONS_BYTES_MAX,
    number::{self, next},
    section::{Likeness, Reader, Writer},
    tree::put_varint,
};

/// Numbers strings as they come.
#[derive(Debug, Default)]
pub struct Strings {
    numbers: HashMap<Vec<u8>, u64>,
}

impl Strings {
    /// Returns the number of a string, for now.
    pub fn number(&mut self, string: &[u8]) -> u64 {
        if let Some(number) = self.numbers.get(string) {
            return *number;
        }
        let number = self.numbers.len() as u64;
        self.numbers.insert(string.to_vec(), number);
        number
    }

    /// Sorts the strings: by the number for now, gives the one for good.
    pub fn sort(&self) -> Sorted<'_> {
        let mut strings: Vec<(&[u8], u64)> = self
            .numbers
            .iter()
            .map(|(string, number)| (string.as_slice(), *number))
            .collect();
        strings.sort_unstable();
        let mut places = vec![0; strings.len()];
        for ((_, number), place) in strings.iter().zip(0..) {
            places[usize::try_from(*number).expect("it was a length")] = place;
        }
        Sorted {
            strings: strings.into_iter().map(|(string, _)| string).collect(),
            places,
        }
    }
}

/// Sorted strings.
#[derive(Debug)]
pub struct Sorted<'a> {
    strings: Vec<&'a [u8]>,
    /// By the number that a string had before.
    pub places: Vec<u64>,
}

impl Sorted<'_> {
    /// Writes the strings.
    pub fn write(&self, outline: &mut Vec<u8>, sections: &mut Writer) {
        let (mut fronts, mut backs, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        let mut middles = Vec::new();
        let mut before: &[u8] = b"";
        for string in &self.strings {
            let front = shared(before.iter(), string.iter());
            let back = shared(before[front..].iter().rev(), string[front..].iter().rev());
            let middle = &string[front..string.len() - back];
            fronts.push(front as u64);
            backs.push(back as u64);
            lengths.push(middle.len() as u64);
            middles.extend_from_slice(middle);
            before = string;
        }
        put_varint(outline, self.strings.len() as u64);
        for column in [&fronts, &backs, &lengths] {
            number::write(column, Likeness::Own, outline, sections);
        }
        put_varint(outline, sections.add(&middles, Likeness::Own) as u64);
    }
}

fn shared<'a>(left: impl Iterator<Item = &'a u8>, right: impl Iterator<Item = &'a u8>) -> usize {
    left.zip(right)
        .take_while(|(left, right)| left == right)
        .count()
}

/// Strings by their place.
#[derive(Debug)]
pub struct Read {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Read {
    /// Reads the strings of at most `count_max` columns' worth.
    ///
    /// # Errors
    /// [`ColumnsError`] for bytes that are none.
    pub fn open(
        count_max: usize,
        outline: &mut &[u8],
        sections: &mut Reader,
    ) -> Result<Self, ColumnsError> {
        let count = usize::try_from(next(outline)?)
            .ok()
            .filter(|count| *count <= count_max)
            .ok_or(ColumnsError::TooBig)?;
        let fronts = number::read(count, outline, sections)?;
        let backs = number::read(count, outline, sections)?;
        let lengths = number::read(count, outline, sections)?;
        let section = usize::try_from(next(outline)?).unwrap_or(usize::MAX);
        let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(count));
        let mut before = 0..0;
        for ((front, back), length) in fronts.into_iter().zip(backs).zip(lengths) {
            let whole = usize::try_from(front.saturating_add(back)).unwrap_or(usize::MAX);
            if whole > before.len() {
                return Err(ColumnsError::Form("a string shares more than there is"));
            }
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let (front, back) = (front as usize, back as usize);
            let start = bytes.len();
            bytes.extend_from_within(before.start..before.start + front);
            bytes.extend_from_slice(sections.take(section, length)?);
            bytes.extend_from_within(before.end - back..before.end);
            if bytes.len() > SECTIONS_BYTES_MAX {
                return Err(ColumnsError::TooBig);
            }
            before = start..bytes.len();
            ends.push(bytes.len());
        }
        Ok(Self { bytes, ends })
    }

    /// Returns the string at a place.
    ///
    /// # Errors
    /// [`ColumnsError::Form`] when there is none.
    pub fn get(&self, place: u64) -> Result<&[u8], ColumnsError> {
        let missing = ColumnsError::Form("a string that is not there");
        let place = usize::try_from(place).map_err(|_| missing.clone())?;
        let end = *self.ends.get(place).ok_or(missing)?;
        let start = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        Ok(&self.bytes[start..end])
    }
}
