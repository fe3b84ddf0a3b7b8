//! What a disk was told, write by write: the log that QEMU's blklogwrites driver
//! keeps, in the form of the kernel's dm-log-writes
//! (drivers/md/dm-log-writes.c, QEMU's block/blklogwrites.c).
//!
//! ```text
//! superblock   magic (8)  version 1 (8)  entries (8)  sector's bytes (4)
//! entry        first sector (8)  sectors (8)  flags (8)  length (8)
//!              the sectors, unless they are discarded
//! ```
//!
//! Each begins at a sector; numbers are little-endian. A prefix of the log is a
//! disk that lost its power there, with everything before and nothing after.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// `WRITE_LOG_MAGIC`
const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const DISCARD: u64 = 1 << 2;

/// The log of a disk.
pub struct WriteLog {
    log: File,
    entries: Vec<Entry>,
}

struct Entry {
    /// First byte on the disk.
    at: u64,
    /// The data's place in the log.
    data: Range<u64>,
    flags: u64,
    /// Bytes that are discarded.
    discarded: u64,
}

impl WriteLog {
    /// Reads a log; what is not whole at its end is left out.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let log = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(log)
    }

    fn parse(log: File) -> Result<Self> {
        let length = log.metadata()?.len();
        let [magic, _, _, sector] = words(&log, 0).context("it has no superblock")?;
        let sector = sector & u64::from(u32::MAX);
        ensure!(
            magic == MAGIC && sector.is_power_of_two() && sector >= 512,
            "this is no log of writes"
        );
        let mut entries = Vec::new();
        let mut at = sector;
        while at + sector <= length {
            let [first, sectors, flags, _] = words(&log, at)?;
            let begin = at + sector;
            let bytes = sectors.saturating_mul(sector);
            let held = if flags & DISCARD == 0 { bytes } else { 0 };
            if held > length - begin {
                break;
            }
            entries.push(Entry {
                at: first.saturating_mul(sector),
                data: begin..begin + held,
                flags,
                discarded: bytes - held,
            });
            at = begin + held;
        }
        Ok(Self { log, entries })
    }

    /// Returns how many writes, discards and flushes it tells of.
    pub fn entries(&self) -> usize {
        self.entries.len()
    }

    /// Returns how many of them are flushes.
    pub fn flushes(&self) -> usize {
        let flushes = self.entries.iter().filter(|entry| entry.flags & FLUSH != 0);
        flushes.count()
    }

    /// Returns how many of the first entries are certain to be on a disk that
    /// was told so many: those up to the last flush among them.
    pub fn flushed_of(&self, entries: usize) -> usize {
        self.entries[..entries]
            .iter()
            .rposition(|entry| entry.flags & FLUSH != 0)
            .map_or(0, |flush| flush + 1)
    }

    /// Returns how many entries lie whole before a length of the log.
    pub fn entries_before(&self, log_bytes: u64) -> usize {
        self.entries
            .partition_point(|entry| entry.data.end <= log_bytes)
    }

    /// Carries out a part of the log on a disk that everything before it was
    /// carried out on.
    ///
    /// # Errors
    /// When the disk cannot be written.
    pub fn replay(&self, entries: Range<usize>, disk: &File) -> Result<()> {
        let mut data = Vec::new();
        for entry in &self.entries[entries] {
            let held = entry.data.end - entry.data.start;
            data.clear();
            data.resize(usize::try_from(held + entry.discarded)?, 0);
            let held = usize::try_from(held)?;
            self.log
                .read_exact_at(&mut data[..held], entry.data.start)?;
            disk.write_all_at(&data, entry.at)?;
        }
        Ok(())
    }
}

/// Reads four little-endian numbers.
fn words(log: &File, at: u64) -> Result<[u64; 4]> {
    let mut bytes = [0; 32];
    log.read_exact_at(&mut bytes, at)?;
    let (words, _) = bytes.as_chunks::<8>();
    Ok(std::array::from_fn(|word| u64::from_le_bytes(words[word])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file
    }

    fn log(entries: &[(u64, u64, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut sector = |words: &[u64], data: &[u8]| {
            for word in words {
                bytes.extend(word.to_le_bytes());
            }
            bytes.resize(bytes.len().next_multiple_of(512), 0);
            bytes.extend(data);
        };
        sector(&[MAGIC, 1, entries.len() as u64, 512], &[]);
        for (first, flags, data) in entries {
            let sectors = data.len() as u64 / 512;
            let data = if flags & DISCARD == 0 { data } else { &[][..] };
            sector(&[*first, sectors, *flags, 0], data);
        }
        bytes
    }

    #[test]
    fn a_prefix_of_the_log_is_the_disk_at_that_moment() {
        let (a, b) = ([1; 1024], [2; 512]);
        let bytes = log(&[(0, 0, &a), (0, FLUSH, &[]), (1, 0, &b), (0, DISCARD, &b)]);
        let torn = bytes.len() as u64 - 1;
        let log = WriteLog::parse(file(&bytes)).unwrap();
        assert_eq!((log.entries(), log.flushes()), (4, 1));
        assert_eq!(log.entries_before(torn), 3);
        assert_eq!((log.flushed_of(1), log.flushed_of(4)), (0, 2));
        let disk = tempfile::tempfile().unwrap();
        disk.set_len(1024).unwrap();
        let content = |upto: Range<usize>| {
            log.replay(upto, &disk).unwrap();
            let mut sectors = [0; 1024];
            disk.read_exact_at(&mut sectors, 0).unwrap();
            (sectors[0], sectors[512])
        };
        assert_eq!(content(0..2), (1, 1));
        assert_eq!(content(2..3), (1, 2));
        assert_eq!(content(3..4), (0, 2));
    }

    #[test]
    fn what_is_no_log_is_refused() {
        assert!(WriteLog::parse(file(&[7; 4096])).is_err());
        assert!(WriteLog::parse(file(&[])).is_err());
    }
}
