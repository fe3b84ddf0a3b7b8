//! Sections: runs of bytes that are compressed apart, because what is alike
//! compresses best among its own.

use super::{
    ColumnsError,
    tree::{put_varint, varint},
};

/// Blocks are read more often than they are merged.
const ZSTD_LEVEL: i32 = 9;

/// Columns below this share one section: a frame of its own costs about 20
/// bytes.
const SMALL_BYTES: usize = 512;

/// Most sections: one for each column, of which the schema has about 120.
const SECTIONS_MAX: usize = 1024;

/// What a column is like, as far as it decides its company.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Likeness {
    /// Numbers of strings, of which another column may have the same.
    Strings,
    /// Differences, of which another column may have the same.
    Differences,
    /// Like no other.
    Own,
}

/// Gathers sections.
#[derive(Debug)]
pub struct Writer {
    sections: Vec<Vec<u8>>,
}

/// The first sections are shared.
const SMALL: usize = 0;
const STRINGS: usize = 1;
const DIFFERENCES: usize = 2;
const SHARED: usize = 3;

impl Default for Writer {
    fn default() -> Self {
        Self {
            sections: vec![Vec::new(); SHARED],
        }
    }
}

impl Writer {
    /// Adds a column's bytes and returns its section.
    pub fn add(&mut self, bytes: &[u8], likeness: Likeness) -> usize {
        let section = match likeness {
            _ if bytes.len() < SMALL_BYTES => SMALL,
            Likeness::Strings => STRINGS,
            Likeness::Differences => DIFFERENCES,
            Likeness::Own => {
                self.sections.push(Vec::new());
                self.sections.len() - 1
            }
        };
        self.sections[section].extend_from_slice(bytes);
        section
    }

    /// Compresses everything behind the outline.
    pub fn finish(self, outline: &[u8], out: &mut Vec<u8>) {
        let mut compressor =
            zstd::bulk::Compressor::new(ZSTD_LEVEL).expect("the level is one that zstd has");
        let mut stored = Vec::new();
        put_varint(out, self.sections.len() as u64 + 1);
        for raw in std::iter::once(outline).chain(self.sections.iter().map(Vec::as_slice)) {
            let compressed = compressor
                .compress(raw)
                .expect("compression into memory cannot fail");
            // As long as before means as it was.
            let bytes = if compressed.len() < raw.len() {
                compressed.as_slice()
            } else {
                raw
            };
            put_varint(out, raw.len() as u64);
            put_varint(out, bytes.len() as u64);
            stored.extend_from_slice(bytes);
        }
        out.extend_from_slice(&stored);
    }
}

/// Hands out what was added, in the same order.
#[derive(Debug)]
pub struct Reader {
    sections: Vec<Vec<u8>>,
    read: Vec<usize>,
}

impl Reader {
    /// Decompresses the outline and all sections, at most `bytes_max`.
    ///
    /// # Errors
    /// [`ColumnsError`] for bytes that are no sections.
    pub fn open(body: &[u8], bytes_max: usize) -> Result<(Vec<u8>, Self), ColumnsError> {
        let short = ColumnsError::Form("the list of sections ends early");
        let (count, mut rest) = varint(body).ok_or(short.clone())?;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count == 0 || count > SECTIONS_MAX {
            return Err(ColumnsError::Form("there are too many sections, or none"));
        }
        let mut lengths = Vec::with_capacity(count);
        let mut room = bytes_max;
        for _ in 0..count {
            let (raw, after) = varint(rest).ok_or(short.clone())?;
            let (stored, after) = varint(after).ok_or(short.clone())?;
            let raw = usize::try_from(raw).unwrap_or(usize::MAX);
            room = room.checked_sub(raw).ok_or(ColumnsError::TooBig)?;
            lengths.push((raw, usize::try_from(stored).unwrap_or(usize::MAX)));
            rest = after;
        }
        let mut decompressor = zstd::bulk::Decompressor::new().expect("memory for a decompressor");
        let mut sections = Vec::with_capacity(count);
        for (index, (raw, stored)) in lengths.into_iter().enumerate() {
            let (bytes, after) = rest
                .split_at_checked(stored)
                .ok_or(ColumnsError::Form("a section ends early"))?;
            rest = after;
            let section = if stored == raw {
                bytes.to_vec()
            } else {
                decompressor
                    .decompress(bytes, raw)
                    .map_err(|_| ColumnsError::Section(index))?
            };
            if section.len() != raw {
                return Err(ColumnsError::Section(index));
            }
            sections.push(section);
        }
        if !rest.is_empty() {
            return Err(ColumnsError::Form("something follows the last section"));
        }
        let outline = sections.remove(0);
        let read = vec![0; sections.len()];
        Ok((outline, Self { sections, read }))
    }

    /// Returns the next `length` bytes of a section.
    ///
    /// # Errors
    /// [`ColumnsError::Form`] when it has fewer.
    pub fn take(&mut self, section: usize, length: usize) -> Result<&[u8], ColumnsError> {
        let short = ColumnsError::Form("a section is too short for its columns");
        let read = self.read.get_mut(section).ok_or(short.clone())?;
        let end = read.checked_add(length).ok_or(short.clone())?;
        let bytes = self.sections[section].get(*read..end).ok_or(short)?;
        *read = end;
        Ok(bytes)
    }

    /// Says whether everything was taken.
    pub fn is_exhausted(&self) -> bool {
        self.sections
            .iter()
            .zip(&self.read)
            .all(|(section, read)| section.len() == *read)
    }
}
