//! The blocks in a store's raw files, found without sled's help.
//!
//! Every payload names itself and has a checksum over its own name, so a scan
//! of the bytes finds it wherever it lies. It finds what retention removed
//! and sled has not yet overwritten as well, and one block in several places:
//! that is why this is for stores that are damaged, not for queries.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use super::{
    block::{BLOCK_BYTES_MAX, BlockKey},
    layout::{BLOCK_SPACES, MAGIC, PAYLOAD_HEADER_BYTES, block_key, parse_payload_header},
    record,
};

/// Bytes read at once.
const WINDOW_BYTES: usize = 8 << 20;

/// Longest payload with everything around it; windows overlap by this.
const RECORD_BYTES_MAX: usize = 1 + PAYLOAD_HEADER_BYTES + KEY_BYTES_MAX + BLOCK_BYTES_MAX + 4;

/// Longest block key: time, epoch, sequence and a node's name.
const KEY_BYTES_MAX: usize = 8 + 16 + 8 + 63;

/// What a scan found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Whole blocks, each with one place where it lies. What was merged may have
    /// the key of its first part.
    pub whole: BTreeMap<(BlockKey, usize), Place>,
    /// Blocks that are nowhere whole.
    pub damaged: BTreeSet<BlockKey>,
}

/// Where a block's frames lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    file: PathBuf,
    at: u64,
    bytes: usize,
}

impl Place {
    /// Reads the frames.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let mut file = File::open(&self.file)?;
        file.seek(SeekFrom::Start(self.at))?;
        let mut frames = vec![0; self.bytes];
        file.read_exact(&mut frames)?;
        Ok(frames)
    }
}

/// Scans the files of the store in `folder`.
///
/// # Errors
/// When a file cannot be read.
pub fn scan(folder: &Path) -> io::Result<Scan> {
    let mut scan = Scan::default();
    scan_file(&folder.join("db"), &mut scan)?;
    match std::fs::read_dir(folder.join("blobs")) {
        Ok(entries) => {
            for entry in entries {
                scan_file(&entry?.path(), &mut scan)?;
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // An old copy may be overwritten in part; what counts is a whole one.
    let Scan { whole, damaged } = &mut scan;
    damaged.retain(|key| {
        let first = whole.range((key.clone(), 0)..).next();
        first.is_none_or(|((found, _), _)| found != key)
    });
    Ok(scan)
}

fn scan_file(path: &Path, scan: &mut Scan) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut window = Vec::new();
    // Place of the window's first byte in the file.
    let mut base = 0;
    loop {
        let read = (&mut file)
            .take(WINDOW_BYTES as u64)
            .read_to_end(&mut window)?;
        let last = read < WINDOW_BYTES;
        // What begins later is whole in the next window.
        let until = if last {
            window.len()
        } else {
            window.len() - RECORD_BYTES_MAX
        };
        let mut from = 0;
        while let Some(at) = find(&window[from..], MAGIC).map(|at| from + at) {
            if at >= until {
                break;
            }
            if at > 0 {
                inspect(&window[at - 1..], path, base + at as u64, scan);
            }
            from = at + 1;
        }
        if last {
            return Ok(());
        }
        // One byte before, where the envelope of a record at `until` begins.
        let kept = until - 1;
        window.drain(..kept);
        base += kept as u64;
    }
}

/// Looks at what may be a payload in its envelope; `at` is the place of its
/// magic bytes.
fn inspect(bytes: &[u8], path: &Path, at: u64, scan: &mut Scan) {
    let body = &bytes[1..];
    let Some(header) = parse_payload_header(body) else {
        return;
    };
    if header.key_bytes > KEY_BYTES_MAX || header.frames_bytes > BLOCK_BYTES_MAX {
        return;
    }
    let key_end = PAYLOAD_HEADER_BYTES + header.key_bytes;
    let Some(Ok(key)) = body
        .get(PAYLOAD_HEADER_BYTES..key_end)
        .map(BlockKey::decode)
    else {
        return;
    };
    let end = key_end + header.frames_bytes + 4;
    let whole = bytes.get(..1 + end).is_some_and(|value| {
        BLOCK_SPACES
            .iter()
            .any(|(_, payload)| record::open(&block_key(*payload, &key), value).is_ok())
    });
    if whole {
        scan.whole.insert(
            (key, header.frames_bytes),
            Place {
                file: path.to_owned(),
                at: at + key_end as u64,
                bytes: header.frames_bytes,
            },
        );
    } else {
        scan.damaged.insert(key);
    }
}

fn find(haystack: &[u8], needle: &[u8; 8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from
            + haystack[from..]
                .iter()
                .position(|byte| *byte == needle[0])?;
        if haystack[at..].starts_with(needle) {
            return Some(at);
        }
        from = at + 1;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        sample,
        store::layout::{Space, pack_payload},
    };

    fn sealed(block: &crate::store::block::Block) -> Vec<u8> {
        let stored = block_key(Space::Payload, &block.key);
        record::seal(&stored, &pack_payload(&block.key, &block.payload))
    }

    #[test]
    fn blocks_are_found_among_garbage_and_across_windows() {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = vec![b'S'; 100];
        let mut blocks = Vec::new();
        for index in 0..60 {
            let mut events = sample::events(1 + index * 10, 10);
            for event in &mut events {
                event.process.exe = sample::noise(index, 60_000).into();
            }
            events.truncate(1);
            let block = sample::blocks(&events).remove(0);
            bytes.extend_from_slice(b"SHRIKEBLnot one");
            bytes.extend(sealed(&block));
            bytes.extend(sample::noise(index, 200_000));
            blocks.push(block);
        }
        fs::write(folder.path().join("db"), &bytes).unwrap();
        let scan = scan(folder.path()).unwrap();
        assert_eq!(scan.whole.len(), blocks.len());
        assert!(scan.damaged.is_empty());
        for block in blocks {
            let place = &scan.whole[&(block.key.clone(), block.payload.len())];
            assert_eq!(place.read().unwrap(), block.payload);
        }
    }

    #[test]
    fn damaged_block_is_named_unless_it_is_whole_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let block = sample::blocks(&sample::events(1, 50)).remove(0);
        let whole = sealed(&block);
        let mut damaged = whole.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        fs::write(folder.path().join("db"), [&[0][..], &damaged].concat()).unwrap();
        let found = scan(folder.path()).unwrap();
        assert_eq!(found.damaged, BTreeSet::from([block.key.clone()]));
        fs::write(
            folder.path().join("db"),
            [&[0][..], &damaged, &whole].concat(),
        )
        .unwrap();
        let found = scan(folder.path()).unwrap();
        assert!(found.damaged.is_empty());
        assert!(
            found
                .whole
                .contains_key(&(block.key.clone(), block.payload.len()))
        );
    }
}
