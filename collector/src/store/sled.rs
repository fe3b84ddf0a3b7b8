//! The store in sled 0.34.7.
//!
//! What sled needs to be durable and lean, measured and read in its source:
//!
//! - `flush()` alone is not durable on Linux: it calls `sync_file_range`,
//!   which writes neither file metadata nor the disk's cache. A commit is one
//!   batch in one tree (atomic across a crash), then `flush()`, then
//!   `fdatasync` of the `db` file and of blob files that are new.
//! - A leaf holds up to 17 values and is rewritten as one record; a record
//!   past a quarter of a segment becomes a blob file, and these leak. Hence
//!   16 MiB segments, the longest there are, and blocks of at most 224 KiB.
//! - What is removed from a leaf stays in it on disk until the leaf is written
//!   anew, with its tenth change, or is joined with its left neighbour, when
//!   somebody comes by and it holds fewer than four values.
//! - A failed write poisons the open database for good: [`recover`] closes
//!   and opens it again.
//!
//! [`recover`]: Store::recover

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, File},
    io,
    iter::Peekable,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError, RwLock},
    thread,
    time::{Duration, Instant},
};

use super::{
    Collection, Commit, Damage, Order, Page, Record, Store, StoreError,
    block::{BLOCK_BYTES_MAX, BlockKey, Footer},
    damaged_record,
    layout::{
        BLOCK_SPACES, FORMAT, FORMAT_BEFORE, FORMAT_KEY, RESTORING, Space, block_key, block_spaces,
        pack_payload, parse_watermark_key, unpack_payload, watermark_key,
    },
    listing::{Listing, PAGE_FOOTERS},
    record, record_name,
    stream::{StreamKey, Watermark},
    succession::Succession,
    verify::{Balance, Broken, Verification},
};
use crate::chain::chain;

/// See the module: 17 of the largest blocks fit into a quarter of it.
const SEGMENT_BYTES: usize = 16 << 20;

const _: () = assert!(17 * (BLOCK_BYTES_MAX + 1024) < SEGMENT_BYTES / 4);

/// Pages that sled keeps in memory.
const CACHE_BYTES: u64 = 128 << 20;

/// How long an open waits for the lock on the file. Sled's threads tell of a
/// finished write before they let go of the file, so that it can stay locked
/// for a moment after the last handle went.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// How a store is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// An empty folder becomes a new store.
    OrNew,
    /// There must be one.
    Only,
}

/// Keeps everything in a folder.
#[derive(Debug)]
pub struct SledStore {
    pub(super) folder: PathBuf,
    // Written by `recover` only; readers clone the handle and let go.
    open: RwLock<Option<Handle>>,
    synced_blobs: Mutex<BTreeSet<OsString>>,
    succession: Succession,
}

#[derive(Debug, Clone)]
pub(super) struct Handle {
    pub(super) db: sled::Db,
    file: std::sync::Arc<File>,
}

impl SledStore {
    /// Opens the store in `folder`.
    ///
    /// # Errors
    /// [`StoreError`] when the folder cannot be used, another process has it,
    /// or it holds something else.
    pub fn open(folder: &Path, existing: Existing) -> Result<Self, StoreError> {
        let is_store = folder.join("db").exists();
        match existing {
            Existing::Only if !is_store => {
                return Err(StoreError::Folder {
                    operation: "find a store in",
                    path: folder.to_owned(),
                    source: io::ErrorKind::NotFound.into(),
                });
            }
            Existing::Only | Existing::OrNew => {}
        }
        fs::create_dir_all(folder).map_err(|source| StoreError::Folder {
            operation: "make",
            path: folder.to_owned(),
            source,
        })?;
        let handle = open(folder)?;
        let store = Self {
            folder: folder.to_owned(),
            open: RwLock::new(Some(handle)),
            synced_blobs: Mutex::default(),
            succession: Succession::default(),
        };
        match existing {
            Existing::OrNew => store.migrate()?,
            // Whoever only looks leaves it to the version that wrote it.
            Existing::Only => {}
        }
        Ok(store)
    }

    pub(super) fn handle(&self) -> Result<Handle, StoreError> {
        self.open
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .ok_or(StoreError::Recovering)
    }

    /// Gives a store of the format before the new name.
    fn migrate(&self) -> Result<(), StoreError> {
        let format = self.handle()?.db.get(FORMAT_KEY);
        let format = format.map_err(|source| backend("read its format", source))?;
        if format.as_deref() != Some(FORMAT_BEFORE.as_bytes()) {
            return Ok(());
        }
        self.set_format(FORMAT)?;
        tracing::info!(
            from = FORMAT_BEFORE,
            to = FORMAT,
            "the store has a new format, which earlier collectors do not read"
        );
        Ok(())
    }

    /// Names the store's format.
    pub(super) fn set_format(&self, format: &str) -> Result<(), StoreError> {
        let handle = self.handle()?;
        handle
            .db
            .insert(FORMAT_KEY, format.as_bytes())
            .map_err(|source| backend("write its format", source))?;
        self.flush(&handle)
    }

    /// Makes what was written durable.
    pub(super) fn flush(&self, handle: &Handle) -> Result<(), StoreError> {
        handle
            .db
            .flush()
            .map_err(|source| backend("flush a commit", source))?;
        handle
            .file
            .sync_data()
            .map_err(|source| backend("sync a commit to disk", source))?;
        self.sync_new_blobs()
    }

    /// Syncs blob files that came up since the last time. With our bounds
    /// there are none; a single missing one would lose a leaf.
    fn sync_new_blobs(&self) -> Result<(), StoreError> {
        let folder = self.folder.join("blobs");
        let sync = || -> io::Result<()> {
            let mut synced = self
                .synced_blobs
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let mut found = BTreeSet::new();
            for entry in fs::read_dir(&folder)? {
                let name = entry?.file_name();
                if !synced.contains(&name) {
                    match File::open(folder.join(&name)) {
                        Ok(file) => file.sync_data()?,
                        // Sled removed it meanwhile.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                        Err(error) => return Err(error),
                    }
                }
                found.insert(name);
            }
            if found.iter().any(|name| !synced.contains(name)) {
                File::open(&folder)?.sync_all()?;
            }
            *synced = found;
            Ok(())
        };
        match sync() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|source| backend("sync its blob files", source)),
        }
    }
}

impl Store for SledStore {
    fn commit(&self, commit: &Commit) -> Result<(), StoreError> {
        let handle = self.handle()?;
        let replacing = (!commit.merges.is_empty()).then(|| self.succession.replacing());
        handle
            .db
            .apply_batch(batch(commit))
            .map_err(|source| backend("write a commit", source))?;
        // Queries see it from here on; if it does not become durable, the
        // store is recovered and they are interrupted.
        if let Some(replacing) = replacing {
            replacing.tell(&commit.merges);
        }
        self.flush(&handle)
    }

    fn recover(&self) -> Result<(), StoreError> {
        let mut slot = self.open.write().unwrap_or_else(PoisonError::into_inner);
        // Sled's lock on the file goes with the last handle; a query that
        // still reads keeps it, and recovery is tried again.
        drop(slot.take());
        self.succession.interrupt();
        *slot = Some(open(&self.folder)?);
        Ok(())
    }

    fn watermarks(&self) -> Result<Vec<(StreamKey, Watermark)>, StoreError> {
        self.handle()?
            .db
            .scan_prefix([Space::Watermark.prefix()])
            .map(|entry| {
                let (key, value) = entry.map_err(|source| backend("read a watermark", source))?;
                decode_watermark(&key, &value)
            })
            .collect()
    }

    fn page(&self, listing: &mut Listing) -> Page {
        let handle = match self.handle() {
            Ok(handle) => handle,
            Err(error) => {
                listing.is_done = true;
                return vec![Err(error)];
            }
        };
        let [merged, others] =
            BLOCK_SPACES.map(|(footers, _)| footers_of(&handle.db, footers, listing).peekable());
        let mut entries = InOrder {
            merged,
            others,
            order: listing.order,
        };
        let mut page = Vec::with_capacity(PAGE_FOOTERS);
        for entry in entries.by_ref().take(PAGE_FOOTERS) {
            match entry.map_err(|source| backend("read a footer", source)) {
                Ok((stored, value)) => {
                    listing.pass(stored[1..].to_vec());
                    page.push(decode_block_key(&stored).and_then(|key| {
                        let footer = decode_footer(&stored, &key, &value)?;
                        Ok((key, footer))
                    }));
                }
                // A page that cannot be read gives the same error for ever.
                Err(error) => {
                    listing.is_done = true;
                    page.push(Err(error));
                    return page;
                }
            }
        }
        listing.is_done = page.len() < PAGE_FOOTERS;
        page
    }

    fn succession(&self) -> &Succession {
        &self.succession
    }

    fn payload(&self, key: &BlockKey) -> Result<Option<Vec<u8>>, StoreError> {
        let db = self.handle()?.db;
        for (_, space) in BLOCK_SPACES {
            let stored = block_key(space, key);
            let value = db
                .get(&stored)
                .map_err(|source| backend("read a block", source))?;
            if let Some(value) = value {
                let payload = record::open(&stored, &value).map_err(|error| damaged(key, error))?;
                let frames = unpack_payload(payload)
                    .ok_or_else(|| damaged(key, "its payload is not of its form"))?;
                return Ok(Some(frames.to_vec()));
            }
        }
        Ok(None)
    }

    fn records(&self, collection: Collection) -> Result<Vec<Record>, StoreError> {
        self.handle()?
            .db
            .scan_prefix([Space::Record(collection).prefix()])
            .map(|entry| opened(collection, entry))
            .collect()
    }

    fn record(&self, collection: Collection, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let key = Space::Record(collection).key(key);
        let value = self.handle()?.db.get(&key);
        value
            .map_err(|source| backend("read a record", source))?
            .map(|value| opened(collection, Ok((key.into(), value))).map(|(_, body)| body))
            .transpose()
    }

    fn records_between(
        &self,
        collection: Collection,
        from: &[u8],
        until: &[u8],
    ) -> Result<Vec<Record>, StoreError> {
        let space = Space::Record(collection);
        self.handle()?
            .db
            .range(space.key(from)..space.key(until))
            .map(|entry| opened(collection, entry))
            .collect()
    }

    fn size_bytes(&self) -> Result<u64, StoreError> {
        self.handle()?
            .db
            .size_on_disk()
            .map_err(|source| backend("find out its size", source))
    }

    fn verify(&self) -> Result<Verification, StoreError> {
        let handle = self.handle()?;
        let mut verification = Verification::default();
        let mut balance = Balance::default();
        let footers = BLOCK_SPACES.map(|(space, _)| handle.db.scan_prefix([space.prefix()]));
        for entry in footers.into_iter().flatten() {
            match entry {
                Ok((stored, value)) => {
                    verify_block(&handle.db, &stored, &value, &mut balance, &mut verification);
                }
                Err(error) => {
                    verification.vital("a page of footers", error.to_string());
                    break;
                }
            }
        }
        for collection in [
            Collection::Nodes,
            Collection::Policies,
            Collection::Generations,
        ] {
            verify_records(&handle.db, collection, &mut verification);
        }
        let mut marks = Vec::new();
        for entry in handle.db.scan_prefix([Space::Watermark.prefix()]) {
            match entry.map_err(|source| backend("read a watermark", source)) {
                Ok((key, value)) => match decode_watermark(&key, &value) {
                    Ok(mark) => marks.push(mark),
                    Err(error) => verification.vital("a watermark", chain(&error)),
                },
                Err(error) => {
                    verification.vital("a page of watermarks", chain(&error));
                    break;
                }
            }
        }
        balance.settle(&marks, &mut verification);
        Ok(verification)
    }
}

fn verify_block(
    db: &sled::Db,
    stored: &[u8],
    footer: &[u8],
    balance: &mut Balance,
    verification: &mut Verification,
) {
    let spaces = BLOCK_SPACES
        .into_iter()
        .find(|(footers, _)| stored.first() == Some(&footers.prefix()))
        .expect("only footers are listed");
    let mut broken = Broken {
        spaces,
        stored_key: stored[1..].to_vec(),
        key: None,
        footer: None,
        why: String::new(),
    };
    let whole = || -> Result<(BlockKey, Footer), String> {
        let key = BlockKey::decode(&stored[1..]).map_err(|error| error.to_string())?;
        broken.key = Some(key.clone());
        let body = record::open(stored, footer).map_err(|error| error.to_string())?;
        let footer = Footer::decode(body).map_err(|error| error.to_string())?;
        balance.block(&footer.runs(&key));
        broken.footer = Some(footer.clone());
        let stored = block_key(spaces.1, &key);
        let value = db.get(&stored).map_err(|error| error.to_string())?;
        let value = value.ok_or("its payload is missing")?;
        let payload = record::open(&stored, &value).map_err(|error| error.to_string())?;
        match unpack_payload(payload) {
            Some(frames) if frames.len() == footer.payload_bytes as usize => Ok((key, footer)),
            Some(_) | None => Err("its payload is not as its footer says".to_owned()),
        }
    };
    match { whole }() {
        Ok((key, footer)) => verification.block(&key, &footer),
        Err(why) => verification.broken(Broken { why, ..broken }),
    }
}

fn verify_records(db: &sled::Db, collection: Collection, verification: &mut Verification) {
    for entry in db.scan_prefix([Space::Record(collection).prefix()]) {
        match entry {
            Ok((key, value)) => {
                if let Err(error) = record::open(&key, &value) {
                    verification.vital(record_name(collection, &key[1..]), error.to_string());
                }
            }
            Err(error) => {
                verification.vital("a page of records", error.to_string());
                return;
            }
        }
    }
}

type Entry = sled::Result<(sled::IVec, sled::IVec)>;

/// Lists the footers of a space that a listing has left.
fn footers_of(
    db: &sled::Db,
    space: Space,
    listing: &Listing,
) -> Box<dyn Iterator<Item = Entry> + Send> {
    let stored = |key: &Vec<u8>| space.key(key);
    let range = db.range((
        listing.low.as_ref().map(stored),
        listing.high.as_ref().map(stored),
    ));
    match listing.order {
        Order::OldestFirst => Box::new(range),
        Order::NewestFirst => Box::new(range.rev()),
    }
}

/// The footers of both spaces, in one order.
struct InOrder<I: Iterator<Item = Entry>> {
    merged: Peekable<I>,
    others: Peekable<I>,
    order: Order,
}

impl<I: Iterator<Item = Entry>> Iterator for InOrder<I> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        let merged_is_next = match (self.merged.peek(), self.others.peek()) {
            (Some(Ok((merged, _))), Some(Ok((others, _)))) => match self.order {
                Order::OldestFirst => merged[1..] <= others[1..],
                Order::NewestFirst => merged[1..] >= others[1..],
            },
            // What cannot be read is told first.
            (Some(_), Some(Ok(_)) | None) => true,
            (_, Some(_)) | (None, None) => false,
        };
        if merged_is_next {
            self.merged.next()
        } else {
            self.others.next()
        }
    }
}

pub(super) fn batch(commit: &Commit) -> sled::Batch {
    let mut batch = sled::Batch::default();
    // Parts go first: what was merged may lie where its first part did.
    let parts = commit.merges.iter().flat_map(|merge| &merge.parts);
    for key in parts.map(|part| &part.key).chain(&commit.removed) {
        // To remove what is not there writes nothing.
        for (footer, payload) in BLOCK_SPACES {
            batch.remove(block_key(footer, key));
            batch.remove(block_key(payload, key));
        }
    }
    let merged = commit.merges.iter().map(|merge| &merge.block);
    for block in commit.blocks.iter().chain(merged) {
        let (footer, payload) = block_spaces(&block.footer);
        let key = block_key(footer, &block.key);
        let value = record::seal(&key, &block.footer.encode());
        batch.insert(key, value);
        let key = block_key(payload, &block.key);
        let value = record::seal(&key, &pack_payload(&block.key, &block.payload));
        batch.insert(key, value);
    }
    for (stream, mark) in &commit.watermarks {
        let key = watermark_key(stream);
        let value = record::seal(&key, &mark.encode());
        batch.insert(key, value);
    }
    for stream in &commit.forgotten {
        batch.remove(watermark_key(stream));
    }
    for change in &commit.records {
        let key = Space::Record(change.collection).key(&change.key);
        match &change.value {
            Some(value) => {
                let value = record::seal(&key, value);
                batch.insert(key, value);
            }
            None => batch.remove(key),
        }
    }
    batch
}

fn open(folder: &Path) -> Result<Handle, StoreError> {
    let config = sled::Config::new()
        .path(folder)
        .segment_size(SEGMENT_BYTES)
        .cache_capacity(CACHE_BYTES)
        .mode(sled::Mode::HighThroughput)
        // The writer flushes; a timer would only take its place in the queue.
        .flush_every_ms(None);
    let started = Instant::now();
    let db = loop {
        // Sled asserts where it finds its own files inconsistent.
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()))
            .map_err(|_| StoreError::Corrupt {
                path: folder.to_owned(),
                source: "its files contradict each other".into(),
            })?
            .map_err(|source| open_error(folder, source));
        match opened {
            Err(StoreError::InUse { .. }) if started.elapsed() < LOCK_PATIENCE => {
                thread::sleep(Duration::from_millis(10));
            }
            other => break other?,
        }
    };
    let file = File::open(folder.join("db")).map_err(|source| StoreError::Folder {
        operation: "read",
        path: folder.to_owned(),
        source,
    })?;
    let handle = Handle {
        db,
        file: file.into(),
    };
    check_format(folder, &handle)?;
    Ok(handle)
}

fn open_error(folder: &Path, source: sled::Error) -> StoreError {
    let locked = matches!(&source, sled::Error::Io(error)
        if error.kind() == io::ErrorKind::WouldBlock || error.to_string().contains("lock"));
    if locked {
        return StoreError::InUse {
            path: folder.to_owned(),
        };
    }
    match source {
        sled::Error::Corruption { .. } | sled::Error::ReportableBug(_) => StoreError::Corrupt {
            path: folder.to_owned(),
            // Sled's own words end in an empty backtrace.
            source: "sled found its file to be corrupt".into(),
        },
        other => StoreError::Open {
            path: folder.to_owned(),
            source: other.into(),
        },
    }
}

fn check_format(folder: &Path, handle: &Handle) -> Result<(), StoreError> {
    let read = |source| backend("read its format", source);
    match handle.db.get(FORMAT_KEY).map_err(read)? {
        Some(format) if format == FORMAT.as_bytes() || format == FORMAT_BEFORE.as_bytes() => Ok(()),
        Some(format) if format == RESTORING.as_bytes() => Err(StoreError::Open {
            path: folder.to_owned(),
            source: "a restore into it did not finish: empty the folder and restore again".into(),
        }),
        Some(format) => Err(StoreError::Format {
            path: folder.to_owned(),
            found: String::from_utf8_lossy(&format).chars().take(40).collect(),
            expected: FORMAT,
        }),
        None => {
            let write = |source| backend("write its format", source);
            handle
                .db
                .insert(FORMAT_KEY, FORMAT.as_bytes())
                .map_err(write)?;
            handle.db.flush().map_err(write)?;
            let sync = || -> io::Result<()> {
                handle.file.sync_all()?;
                // The files' own names have to survive as well.
                File::open(folder)?.sync_all()?;
                folder.parent().map_or(Ok(()), |parent| {
                    let parent = if parent.as_os_str().is_empty() {
                        Path::new(".")
                    } else {
                        parent
                    };
                    File::open(parent)?.sync_all()
                })
            };
            sync().map_err(|source| backend("sync its folder", source))
        }
    }
}

fn decode_block_key(stored: &[u8]) -> Result<BlockKey, StoreError> {
    BlockKey::decode(&stored[1..]).map_err(|error| damaged("a block's key", error))
}

fn decode_footer(stored: &[u8], key: &BlockKey, value: &[u8]) -> Result<Footer, StoreError> {
    let body = record::open(stored, value).map_err(|error| damaged(key, error))?;
    Footer::decode(body).map_err(|error| damaged(key, error))
}

fn decode_watermark(key: &[u8], value: &[u8]) -> Result<(StreamKey, Watermark), StoreError> {
    let stream =
        parse_watermark_key(&key[1..]).map_err(|error| damaged("a watermark's key", error))?;
    let name = format!("watermark of node {} epoch {}", stream.node, stream.epoch);
    let body = record::open(key, value).map_err(|error| damaged(&name, error))?;
    let mark = Watermark::decode(body).map_err(|error| damaged(&name, error))?;
    Ok((stream, mark))
}

/// Takes a record out of its envelope.
fn opened(
    collection: Collection,
    entry: sled::Result<(sled::IVec, sled::IVec)>,
) -> Result<Record, StoreError> {
    let (key, value) = entry.map_err(|source| backend("read a record", source))?;
    let body = record::open(&key, &value)
        .map_err(|error| damaged_record(collection, &key[1..], &error))?;
    Ok((key[1..].to_vec(), body.to_vec()))
}

fn damaged(what: impl ToString, why: impl ToString) -> StoreError {
    StoreError::Damaged(Damage {
        what: what.to_string(),
        why: why.to_string(),
    })
}

pub(super) fn backend(
    operation: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> StoreError {
    StoreError::Backend {
        operation,
        source: source.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    fn locked(folder: &Path) -> File {
        drop(SledStore::open(folder, Existing::OrNew).unwrap());
        let file = File::open(folder.join("db")).unwrap();
        // The store that went may hold it for a moment.
        file.lock().unwrap();
        file
    }

    fn with_format(format: &[u8]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path(), Existing::OrNew).unwrap();
        let blocks = sample::blocks(&sample::events(1, 20));
        store
            .commit(&Commit {
                blocks,
                watermarks: vec![(
                    sample::stream(),
                    Watermark {
                        stored: 20,
                        ..Watermark::default()
                    },
                )],
                ..Commit::default()
            })
            .unwrap();
        store
            .handle()
            .unwrap()
            .db
            .insert(FORMAT_KEY, format)
            .unwrap();
        folder
    }

    fn format(folder: &Path) -> Vec<u8> {
        let config = sled::Config::new().path(folder).segment_size(SEGMENT_BYTES);
        let started = Instant::now();
        // The store that went may hold the lock for a moment.
        let db = loop {
            match config.open() {
                Err(sled::Error::Io(_)) if started.elapsed() < LOCK_PATIENCE => {
                    thread::sleep(Duration::from_millis(10));
                }
                opened => break opened.unwrap(),
            }
        };
        db.get(FORMAT_KEY).unwrap().unwrap().to_vec()
    }

    #[test]
    fn store_of_the_format_before_gets_the_new_name_and_keeps_everything() {
        let folder = with_format(FORMAT_BEFORE.as_bytes());
        drop(SledStore::open(folder.path(), Existing::Only).unwrap());
        assert_eq!(format(folder.path()), FORMAT_BEFORE.as_bytes());
        let store = SledStore::open(folder.path(), Existing::OrNew).unwrap();
        let verification = store.verify().unwrap();
        assert!(verification.is_whole());
        assert_eq!(verification.events, 20);
        drop(store);
        assert_eq!(format(folder.path()), FORMAT.as_bytes());
    }

    #[test]
    fn store_of_an_unknown_format_is_refused_with_the_way_out() {
        let folder = with_format(b"shrike-store 9");
        let error = SledStore::open(folder.path(), Existing::OrNew).unwrap_err();
        let words = error.to_string();
        for word in ["shrike-store 9", FORMAT, "store export"] {
            assert!(words.contains(word), "{words}");
        }
        assert_eq!(format(folder.path()), b"shrike-store 9");
    }

    #[test]
    fn file_that_is_let_go_a_moment_later_opens() {
        let folder = tempfile::tempdir().unwrap();
        let lock = locked(folder.path());
        let opened = thread::scope(|scope| {
            let opened = scope.spawn(|| SledStore::open(folder.path(), Existing::Only));
            thread::sleep(Duration::from_millis(200));
            drop(lock);
            opened.join().unwrap()
        });
        opened.unwrap();
    }

    #[test]
    fn file_that_stays_locked_is_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let _lock = locked(folder.path());
        let error = SledStore::open(folder.path(), Existing::Only).unwrap_err();
        assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    }
}
