//! The store: blocks of events, the watermarks that go with them, and the
//! small records of the policy book and the nodes.
//!
//! One narrow interface, two implementations (sled and memory) under one
//! conformance suite. What is written goes through one [`writer`], so that a
//! commit holds the batches of many sessions and costs one flush; what is
//! read goes to the store directly, on blocking threads.
//!
//! A store never decides what a batch means: it keeps what it is given,
//! whole or not at all.

pub mod backup;
pub mod block;
pub mod bloom;
pub mod columns;
#[cfg(test)]
mod conformance;
pub mod covered;
pub mod disk;
pub mod export;
pub mod hours;
mod layout;
pub mod listing;
pub mod memory;
pub mod mend;
pub mod merge;
pub mod piece;
pub mod record;
pub mod retention;
pub mod scan;
pub mod sled;
pub mod stats;
pub mod stream;
pub mod succession;
pub mod summary;
pub mod upkeep;
pub mod verify;
pub mod writer;

use std::{fmt, path::PathBuf};

use block::{Block, BlockKey, Footer};
use listing::Listing;
use stream::{StreamKey, Watermark};
use succession::{Merge, Succession};

/// A namespace of small records that others keep in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Collection {
    /// What is known of each node, by name.
    Nodes,
    /// The policies in force, by name.
    Policies,
    /// What each generation changed, by number.
    Generations,
    /// What became of what was counted in an hour, by hour and stream.
    Hours,
}

/// One small record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordChange {
    /// Where.
    pub collection: Collection,
    /// Under which key.
    pub key: Vec<u8>,
    /// What; `None` removes it.
    pub value: Option<Vec<u8>>,
}

/// A record as it is read: its key, then its value.
pub type Record = (Vec<u8>, Vec<u8>);

/// Everything that becomes durable at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Commit {
    /// Blocks to add.
    pub blocks: Vec<Block>,
    /// Blocks to remove.
    pub removed: Vec<BlockKey>,
    /// Blocks to put in the place of others.
    pub merges: Vec<Merge>,
    /// Watermarks to set.
    pub watermarks: Vec<(StreamKey, Watermark)>,
    /// Watermarks to forget.
    pub forgotten: Vec<StreamKey>,
    /// Small records to set or remove.
    pub records: Vec<RecordChange>,
}

impl Commit {
    /// Says whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
            && self.removed.is_empty()
            && self.merges.is_empty()
            && self.watermarks.is_empty()
            && self.forgotten.is_empty()
            && self.records.is_empty()
    }
}

/// The order in which blocks are listed, by the time of their oldest event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// From the past on.
    OldestFirst,
    /// From the future back.
    NewestFirst,
}

/// Footers in order, each with its block's key.
pub type Footers<'a> = Box<dyn Iterator<Item = Result<(BlockKey, Footer), StoreError>> + Send + 'a>;

/// Some footers, each with its block's key.
pub type Page = Vec<Result<(BlockKey, Footer), StoreError>>;

/// What keeps blocks, watermarks and records.
///
/// Every method blocks: none is called on a runtime thread.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Makes a commit durable: when this returns, it survives a power cut, as
    /// a whole.
    ///
    /// # Errors
    /// [`StoreError`]; nothing of the commit may then be taken as stored.
    fn commit(&self, commit: &Commit) -> Result<(), StoreError>;

    /// Opens the store anew after a failed commit, keeping what is durable.
    ///
    /// # Errors
    /// [`StoreError`] when that fails; it may be tried again.
    fn recover(&self) -> Result<(), StoreError>;

    /// Lists every watermark.
    ///
    /// # Errors
    /// [`StoreError`] for an unreadable one.
    fn watermarks(&self) -> Result<Vec<(StreamKey, Watermark)>, StoreError>;

    /// Lists the next footers, at most [`listing::PAGE_FOOTERS`].
    fn page(&self, listing: &mut Listing) -> Page;

    /// Lists the footers of blocks whose oldest event lies in
    /// `[from_unix_ns, until_unix_ns)`. Whoever lists them while blocks are
    /// merged goes by [`Store::succession`].
    fn footers(&self, from_unix_ns: i64, until_unix_ns: i64, order: Order) -> Footers<'_> {
        let listing = Listing::new(from_unix_ns, until_unix_ns, order);
        Box::new(listing::all(self, listing))
    }

    /// Returns what queries under way must know of merges.
    fn succession(&self) -> &Succession;

    /// Reads a block's payload; `None` when it was removed meanwhile.
    ///
    /// # Errors
    /// [`StoreError`] for an unreadable one.
    fn payload(&self, key: &BlockKey) -> Result<Option<Vec<u8>>, StoreError>;

    /// Lists the records of a collection, sorted by key.
    ///
    /// # Errors
    /// [`StoreError`] for an unreadable one.
    fn records(&self, collection: Collection) -> Result<Vec<Record>, StoreError>;

    /// Reads one record; `None` when there is none.
    ///
    /// # Errors
    /// [`StoreError`] for an unreadable one.
    fn record(&self, collection: Collection, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Lists the records of a collection whose keys lie in `[from, until)`,
    /// sorted by key.
    ///
    /// # Errors
    /// [`StoreError`] for an unreadable one.
    fn records_between(
        &self,
        collection: Collection,
        from: &[u8],
        until: &[u8],
    ) -> Result<Vec<Record>, StoreError>;

    /// Returns the bytes that the store takes.
    ///
    /// # Errors
    /// [`StoreError`] when they cannot be found out.
    fn size_bytes(&self) -> Result<u64, StoreError>;

    /// Checks every record, block and watermark, and says what is not whole.
    ///
    /// # Errors
    /// [`StoreError`] when the check itself cannot go on.
    fn verify(&self) -> Result<verify::Verification, StoreError>;
}

/// Something in the store that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// What: a block by node, epoch and sequence, or a record by its key.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

/// Says that a small record is not of its form.
fn damaged_record(collection: Collection, key: &[u8], why: &dyn std::error::Error) -> StoreError {
    StoreError::Damaged(Damage {
        what: record_name(collection, key),
        why: why.to_string(),
    })
}

fn record_name(collection: Collection, key: &[u8]) -> String {
    match collection {
        Collection::Nodes => format!("record of node {}", String::from_utf8_lossy(key)),
        Collection::Policies => format!("record of policy {}", String::from_utf8_lossy(key)),
        Collection::Generations => match <[u8; 8]>::try_from(key) {
            Ok(number) => format!("record of generation {}", u64::from_be_bytes(number)),
            Err(_) => "record of a generation".to_owned(),
        },
        Collection::Hours => "ledger of an hour".to_owned(),
    }
}

/// A store that cannot do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Its folder cannot be made or read.
    #[error("cannot {operation} the store's folder {}", path.display())]
    Folder {
        /// What was tried.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error("the store {} is in use by another process: stop the collector first", path.display())]
    InUse {
        /// Where.
        path: PathBuf,
    },
    /// The database cannot be opened.
    #[error("cannot open the store {}", path.display())]
    Open {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database is damaged so badly that it does not open.
    #[error("the store {} is damaged and does not open", path.display())]
    Corrupt {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Written by another version.
    #[error(
        "the store {} has format {found:?}, this collector reads {expected:?}: \
         run the version of the collector that wrote it, whose `store export` \
         writes its events, or begin with an empty folder",
        path.display()
    )]
    Format {
        /// Where.
        path: PathBuf,
        /// In the store.
        found: String,
        /// In this version.
        expected: &'static str,
    },
    /// A read or write failed.
    #[error("the store cannot {operation}")]
    Backend {
        /// What was tried.
        operation: &'static str,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A value is not as it was written.
    #[error("the store is damaged: {0}")]
    Damaged(Damage),
    /// A query cannot be told what became of blocks that it has yet to read.
    #[error(
        "blocks were merged for too long while nothing was read, or the store was recovered: \
         ask again"
    )]
    Overtaken,
    /// It is being opened anew after a failed write.
    #[error("the store is being recovered after a failed write")]
    Recovering,
}
