//! A backup: a store in one file, to be restored into an empty folder.
//!
//! ```text
//! file  = "SHRIKEBK"  version (4)  entry…  end              little-endian
//! entry = key length (4)  value length (4)  key  value  crc32c (4)
//! end   = 0 (4)  0 (4)  entries (8)  crc32c (4)
//! ```
//!
//! Keys and values are the store's own (`layout.rs`), so that everything in
//! it is there: blocks, watermarks, records. An entry's checksum covers all of
//! it and goes on from the checksum of the entry before, so that none can be
//! missing or in another place; the one at the end covers the number of
//! entries too.
//!
//! A restore reads the whole file before it writes anything, and the store
//! that it makes does not open before it is complete and was checked.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    Store as _, StoreError,
    block::BLOCK_BYTES_MAX,
    layout::{FORMAT, FORMAT_KEY, RESTORING},
    sled::{Existing, SledStore, backend},
    verify::Verification,
};

/// What a backup begins with.
const MAGIC: &[u8; 8] = b"SHRIKEBK";

/// Version of the backup's form, and of the store's that is in it.
const VERSION: u32 = 1;

/// Longest key: time, epoch, sequence and a node's name; records of others are
/// far shorter.
const KEY_BYTES_MAX: usize = 1024;

/// Longest value: a block, or a generation with its policies.
const VALUE_BYTES_MAX: usize = 64 << 20;

const _: () = assert!(BLOCK_BYTES_MAX < VALUE_BYTES_MAX);

/// Bytes that a restore writes at once.
const BATCH_BYTES: usize = 8 << 20;

/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// How far a backup or restore is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Entries done.
    pub entries: u64,
    /// Bytes of the file done.
    pub bytes: u64,
}

/// What a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Blocks.
    pub blocks: u64,
    /// Events in them.
    pub events: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// A backup or restore that cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is something where the backup would go.
    #[error("{} is there already: name another file", path.display())]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// The store is not whole.
    #[error(
        "the store {} has {damaged} damages, the first: {first}\n\
         A collector that starts on it sets damaged blocks aside; back it up then.",
        path.display()
    )]
    NotWhole {
        /// Where.
        path: PathBuf,
        /// How many.
        damaged: u64,
        /// The first of them.
        first: String,
    },
    /// The file cannot be written.
    #[error("cannot write the backup {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file cannot be read.
    #[error("cannot read the backup {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is no backup, or one of another version.
    #[error("{} is not a backup that this version reads: {why}", path.display())]
    Form {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file is not as it was written.
    #[error("the backup {} is damaged at byte {at}: {why}; nothing was restored", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Where the entry begins.
        at: u64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The folder holds something.
    #[error("{} is not empty: restore into an empty folder", path.display())]
    NotEmpty {
        /// Which.
        path: PathBuf,
    },
    /// What was restored is not what a collector would start on.
    #[error("the restored store {} is not whole: {first}", path.display())]
    RestoredNotWhole {
        /// Where.
        path: PathBuf,
        /// The first damage.
        first: String,
    },
}

/// Writes the store in `folder` into `file`, which must not be there.
///
/// # Errors
/// [`BackupError`]; an unfinished file has another name.
pub fn backup(
    folder: &Path,
    file: &Path,
    mut progress: impl FnMut(Progress),
) -> Result<Summary, BackupError> {
    if file.exists() {
        return Err(BackupError::Exists {
            path: file.to_owned(),
        });
    }
    let store = SledStore::open(folder, Existing::Only)?;
    let verification = store.verify()?;
    if let Some(first) = verification.damages.first() {
        return Err(BackupError::NotWhole {
            path: folder.to_owned(),
            damaged: verification.damaged,
            first: first.to_string(),
        });
    }
    let mut partial = file.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let bytes = write(&store, &partial, &mut progress)?;
    let named = fs::rename(&partial, file).and_then(|()| sync_parent(file));
    named.map_err(|source| BackupError::Write {
        path: file.to_owned(),
        source,
    })?;
    Ok(summary(&verification, bytes))
}

fn summary(verification: &Verification, bytes: u64) -> Summary {
    Summary {
        blocks: verification.blocks,
        events: verification.events,
        bytes,
    }
}

/// The name of a new file has to survive as well.
fn sync_parent(file: &Path) -> io::Result<()> {
    let parent = file.parent().filter(|it| !it.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

fn write(
    store: &SledStore,
    path: &Path,
    progress: &mut impl FnMut(Progress),
) -> Result<u64, BackupError> {
    let failed = |source| BackupError::Write {
        path: path.to_owned(),
        source,
    };
    let mut out = BufWriter::new(File::create(path).map_err(failed)?);
    out.write_all(MAGIC).map_err(failed)?;
    out.write_all(&VERSION.to_le_bytes()).map_err(failed)?;
    let mut done = Progress {
        entries: 0,
        bytes: 12,
    };
    let mut crc = 0;
    let mut told = Instant::now();
    for entry in store.handle()?.db.iter() {
        let (key, value) = entry.map_err(|source| backend("read everything", source))?;
        if key == FORMAT_KEY {
            continue;
        }
        let header = header(key.len(), value.len());
        for part in [&header[..], &key, &value] {
            crc = crc32c::crc32c_append(crc, part);
            out.write_all(part).map_err(failed)?;
        }
        out.write_all(&crc.to_le_bytes()).map_err(failed)?;
        done.entries += 1;
        done.bytes += (header.len() + key.len() + value.len() + 4) as u64;
        if told.elapsed() >= PROGRESS_INTERVAL {
            told = Instant::now();
            progress(done);
        }
    }
    let mut end = header(0, 0).to_vec();
    end.extend_from_slice(&done.entries.to_le_bytes());
    crc = crc32c::crc32c_append(crc, &end);
    end.extend_from_slice(&crc.to_le_bytes());
    out.write_all(&end).map_err(failed)?;
    let file = out
        .into_inner()
        .map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)?;
    Ok(done.bytes + end.len() as u64)
}

fn header(key_bytes: usize, value_bytes: usize) -> [u8; 8] {
    let length = |bytes| {
        u32::try_from(bytes)
            .expect("records are bounded")
            .to_le_bytes()
    };
    let mut header = [0; 8];
    header[..4].copy_from_slice(&length(key_bytes));
    header[4..].copy_from_slice(&length(value_bytes));
    header
}

/// Makes a store in `folder`, which must be empty or not there, of a backup.
///
/// # Errors
/// [`BackupError`]; a store that is not complete does not open.
pub fn restore(
    file: &Path,
    folder: &Path,
    mut progress: impl FnMut(Progress),
) -> Result<Summary, BackupError> {
    let is_empty = match fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(source) => {
            return Err(BackupError::Store(StoreError::Folder {
                operation: "read",
                path: folder.to_owned(),
                source,
            }));
        }
    };
    if !is_empty {
        return Err(BackupError::NotEmpty {
            path: folder.to_owned(),
        });
    }
    // Everything is read before anything is written.
    read(file, |_, _| Ok(()), &mut |_| {})?;
    let store = SledStore::open(folder, Existing::OrNew)?;
    store.set_format(RESTORING)?;
    let db = store.handle()?.db;
    let written = |source| BackupError::Store(backend("write what is restored", source));
    let (mut batch, mut batched) = (sled::Batch::default(), 0);
    let bytes = read(
        file,
        |key, value| {
            batched += key.len() + value.len();
            batch.insert(key, value);
            if batched >= BATCH_BYTES {
                batched = 0;
                db.apply_batch(std::mem::take(&mut batch))
                    .map_err(written)?;
            }
            Ok(())
        },
        &mut progress,
    )?;
    db.apply_batch(batch).map_err(written)?;
    let verification = store.verify()?;
    if let Some(first) = verification.damages.first() {
        return Err(BackupError::RestoredNotWhole {
            path: folder.to_owned(),
            first: first.to_string(),
        });
    }
    store.set_format(FORMAT)?;
    Ok(summary(&verification, bytes))
}

/// Reads a backup, checks it, and hands out its entries.
fn read(
    path: &Path,
    mut each: impl FnMut(&[u8], &[u8]) -> Result<(), BackupError>,
    progress: &mut impl FnMut(Progress),
) -> Result<u64, BackupError> {
    let failed = |source| BackupError::Read {
        path: path.to_owned(),
        source,
    };
    let mut input = BufReader::new(File::open(path).map_err(failed)?);
    let mut begin = [0; 12];
    let form = |why: String| BackupError::Form {
        path: path.to_owned(),
        why,
    };
    match input.read_exact(&mut begin) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(form("it is too short".to_owned()));
        }
        other => other.map_err(failed)?,
    }
    if begin[..8] != *MAGIC {
        return Err(form("it begins otherwise".to_owned()));
    }
    let version = u32::from_le_bytes([begin[8], begin[9], begin[10], begin[11]]);
    if version != VERSION {
        return Err(form(format!(
            "it has version {version}, this version reads {VERSION}"
        )));
    }
    let mut done = Progress {
        entries: 0,
        bytes: 12,
    };
    let (mut crc, mut told) = (0, Instant::now());
    loop {
        let damaged = |why| BackupError::Damaged {
            path: path.to_owned(),
            at: done.bytes,
            why,
        };
        let mut fill = |bytes: &mut [u8]| match input.read_exact(bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(damaged("it ends in the middle of an entry"))
            }
            other => other.map_err(failed),
        };
        let mut header = [0; 8];
        fill(&mut header)?;
        let length = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
                as usize
        };
        let (key_bytes, value_bytes) = (length(0), length(4));
        if key_bytes > KEY_BYTES_MAX || value_bytes > VALUE_BYTES_MAX {
            return Err(damaged("an entry is longer than entries are"));
        }
        // The end has the number of entries in place of key and value.
        let is_end = key_bytes == 0;
        let mut body = vec![0; if is_end { 8 } else { key_bytes + value_bytes }];
        fill(&mut body)?;
        let mut stored = [0; 4];
        fill(&mut stored)?;
        crc = crc32c::crc32c_append(crc32c::crc32c_append(crc, &header), &body);
        if crc != u32::from_le_bytes(stored) {
            return Err(damaged("a checksum does not hold"));
        }
        if is_end {
            if body != done.entries.to_le_bytes() {
                return Err(damaged("entries are missing"));
            }
            let bytes = done.bytes + 20;
            let mut more = [0];
            return match input.read(&mut more).map_err(failed)? {
                0 => Ok(bytes),
                _ => Err(BackupError::Damaged {
                    path: path.to_owned(),
                    at: bytes,
                    why: "something follows its end",
                }),
            };
        }
        let (key, value) = body.split_at(key_bytes);
        each(key, value)?;
        done.entries += 1;
        done.bytes += (header.len() + body.len() + stored.len()) as u64;
        if told.elapsed() >= PROGRESS_INTERVAL {
            told = Instant::now();
            progress(done);
        }
    }
}

#[cfg(test)]
mod tests {
    use shrike_proto::id::SequenceNumber;

    use super::*;
    use crate::{
        sample,
        store::{Collection, Commit, Order, RecordChange, stream::Watermark},
    };

    fn contents(folder: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
        let store = SledStore::open(folder, Existing::Only).unwrap();
        assert!(store.verify().unwrap().is_whole());
        let db = store.handle().unwrap().db;
        db.iter()
            .map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())))
            .collect::<Result<_, _>>()
            .unwrap()
    }

    fn filled(folder: &Path, events: u64) {
        let store = SledStore::open(folder, Existing::OrNew).unwrap();
        let all = sample::events(1, events);
        store
            .commit(&Commit {
                blocks: all.chunks(10).flat_map(sample::blocks).collect(),
                watermarks: vec![(
                    sample::stream(),
                    Watermark {
                        durable: SequenceNumber(events),
                        stored: events,
                        ..Watermark::default()
                    },
                )],
                records: vec![RecordChange {
                    collection: Collection::Policies,
                    key: b"p".to_vec(),
                    value: Some(b"policy".to_vec()),
                }],
                ..Commit::default()
            })
            .unwrap();
    }

    struct Backup {
        folder: tempfile::TempDir,
        file: PathBuf,
    }

    fn backed_up(events: u64) -> Backup {
        let folder = tempfile::tempdir().unwrap();
        filled(&folder.path().join("store"), events);
        let file = folder.path().join("backup");
        let summary = backup(&folder.path().join("store"), &file, |_| {}).unwrap();
        assert_eq!(summary.events, events);
        assert_eq!(summary.bytes, fs::metadata(&file).unwrap().len());
        Backup { folder, file }
    }

    #[test]
    fn restored_store_is_the_one_that_was_backed_up() {
        let Backup { folder, file } = backed_up(100);
        let restored = folder.path().join("restored");
        let summary = restore(&file, &restored, |_| {}).unwrap();
        assert_eq!((summary.blocks, summary.events), (10, 100));
        assert_eq!(contents(&restored), contents(&folder.path().join("store")));
    }

    #[test]
    fn empty_store_is_backed_up_too() {
        let folder = tempfile::tempdir().unwrap();
        let (store, file) = (folder.path().join("store"), folder.path().join("backup"));
        drop(SledStore::open(&store, Existing::OrNew).unwrap());
        backup(&store, &file, |_| {}).unwrap();
        restore(&file, &folder.path().join("restored"), |_| {}).unwrap();
    }

    #[test]
    fn nothing_is_overwritten() {
        let Backup { folder, file } = backed_up(20);
        let store = folder.path().join("store");
        let again = backup(&store, &file, |_| {});
        assert!(matches!(again, Err(BackupError::Exists { .. })));
        let before = contents(&store);
        let over = restore(&file, &store, |_| {});
        assert!(matches!(over, Err(BackupError::NotEmpty { .. })));
        assert_eq!(contents(&store), before);
    }

    #[test]
    fn every_flipped_byte_and_every_cut_is_found_before_anything_is_written() {
        let Backup { folder, file } = backed_up(20);
        let whole = fs::read(&file).unwrap();
        let target = folder.path().join("restored");
        let refused = |bytes: &[u8]| {
            fs::write(&file, bytes).unwrap();
            let error = restore(&file, &target, |_| {}).unwrap_err();
            assert!(!target.exists());
            error
        };
        for at in (0..whole.len()).step_by(7) {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            let error = refused(&bytes);
            match error {
                BackupError::Form { .. } => assert!(at < 12),
                BackupError::Damaged { at: place, .. } => assert!(place as usize <= at),
                other => panic!("{other}"),
            }
        }
        for cut in [0, 11, 12, 100, whole.len() - 1] {
            refused(&whole[..cut]);
        }
        refused(&[&whole[..], b"x"].concat());
    }

    #[test]
    fn interrupted_restore_does_not_open() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path(), Existing::OrNew).unwrap();
        store.set_format(RESTORING).unwrap();
        drop(store);
        let error = SledStore::open(folder.path(), Existing::OrNew).unwrap_err();
        let words = crate::chain::chain(&error);
        assert!(words.contains("restore"), "{words}");
    }

    #[test]
    fn damaged_store_is_not_backed_up() {
        let folder = tempfile::tempdir().unwrap();
        let (store, file) = (folder.path().join("store"), folder.path().join("backup"));
        filled(&store, 20);
        let opened = SledStore::open(&store, Existing::Only).unwrap();
        let (key, _) = opened
            .footers(i64::MIN, i64::MAX, Order::OldestFirst)
            .next()
            .unwrap()
            .unwrap();
        let stored = super::super::layout::block_key(super::super::layout::Space::Payload, &key);
        opened.handle().unwrap().db.insert(stored, b"x").unwrap();
        drop(opened);
        let error = backup(&store, &file, |_| {}).unwrap_err();
        assert!(error.to_string().contains(&key.to_string()), "{error}");
        assert!(!file.exists());
    }

    /// What version 1 wrote: a backup that is older than this collector can be
    /// restored.
    #[test]
    fn backup_of_version_1_is_restored() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("backup");
        fs::write(&file, include_bytes!("fixtures/backup-1.bin")).unwrap();
        let restored = folder.path().join("restored");
        let summary = restore(&file, &restored, |_| {}).unwrap();
        assert_eq!((summary.blocks, summary.events), (2, 20));
        let store = SledStore::open(&restored, Existing::Only).unwrap();
        let (stream, mark) = store.watermarks().unwrap().remove(0);
        assert_eq!((stream, mark.durable.0), (sample::stream(), 20));
        assert_eq!(store.records(Collection::Policies).unwrap().len(), 1);
    }
}
