//! Makes one block of many: reads them, checks them, turns their events into
//! columns, and reads those back before anybody is asked to believe them.

use std::sync::LazyLock;

use shrike_proto::{
    event::{Event, Mention},
    wire::FILE_DESCRIPTOR_SET,
};

use crate::store::{
    Store, StoreError,
    block::{self, BLOCK_BYTES_MAX, Block, BlockError, BlockKey, Run, Unpacked},
    columns::{ColumnsError, Rows, Schema},
    succession::{Extent, Merge},
    summary::Summary,
};

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    Schema::of(FILE_DESCRIPTOR_SET, "shrike.event.v1", "Event").expect("the schema has events")
});

/// Blocks that do not become one.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// One of them is not as it was written.
    #[error("{key} is damaged")]
    Part {
        /// Which.
        key: Box<BlockKey>,
        /// What is wrong.
        source: BlockError,
    },
    /// Their events cannot become columns.
    #[error("the events of a merged block do not become columns")]
    Columns(#[from] ColumnsError),
    /// What came out is not what went in.
    #[error("a merged block does not hold what it was made of")]
    Differs,
}

/// Merges blocks into one; into several, when one would be too long. A block
/// for which there is no other stays as it is.
///
/// # Errors
/// [`PackError`] when that is not possible.
pub fn pack(store: &dyn Store, parts: Vec<Extent>) -> Result<Vec<Merge>, PackError> {
    let block = pack_one(store, &parts)?;
    if block.payload.len() <= BLOCK_BYTES_MAX {
        return Ok(vec![Merge { parts, block }]);
    }
    let mut merges = Vec::new();
    let mut left = parts;
    let right = left.split_off(left.len() / 2);
    for half in [left, right] {
        // One alone may be as long as blocks are, and merged already.
        if half.len() > 1 {
            merges.extend(pack(store, half)?);
        }
    }
    Ok(merges)
}

fn pack_one(store: &dyn Store, parts: &[Extent]) -> Result<Block, PackError> {
    let mut pieces = Vec::new();
    for part in parts {
        let damaged = |source| PackError::Part {
            key: Box::new(part.key.clone()),
            source,
        };
        let payload = store.payload(&part.key)?.ok_or(PackError::Differs)?;
        let unpacked = block::unpack_without_footer(&part.key, &payload).map_err(damaged)?;
        if unpacked.runs != part.runs {
            return Err(damaged(BlockError::OtherRuns));
        }
        let decoded = unpacked.decode(|_| true).map_err(damaged)?;
        let mut from = 0;
        for (run, events) in decoded {
            let list = unpacked.rows.list(from..from + events.len());
            from += events.len();
            pieces.push((run.clone(), Rows::from_list(list.to_vec())?, events));
        }
    }
    pieces.sort_by(|(left, ..), (right, ..)| left.cmp(right));
    let (mut runs, mut rows): (Vec<Run>, Rows) = Default::default();
    let mut events: Vec<Event> = Vec::new();
    for (run, piece, decoded) in pieces {
        rows.append(&piece);
        events.extend(decoded);
        match runs.last_mut() {
            Some(last)
                if last.stream == run.stream && last.last().0 + 1 == run.first_sequence.0 =>
            {
                last.count += run.count;
            }
            Some(_) | None => runs.push(run),
        }
    }
    let payload = block::pack_merged(&runs, &rows, &SCHEMA)?;
    let mut summary = Summary::new(rows.list(0..rows.len()).len());
    events
        .iter()
        .for_each(|event| summary.add(&Mention::from(event)));
    let mut footer = summary.footer(payload.len());
    let first = runs.first().ok_or(PackError::Differs)?;
    let key = BlockKey {
        time_min_unix_ns: summary.time_min_unix_ns,
        epoch: first.stream.epoch,
        first_sequence: first.first_sequence,
        node: first.stream.node.clone(),
    };
    footer.merged = runs.clone();
    match block::unpack(&key, &footer, &payload) {
        Ok(read) if read == (Unpacked { runs, rows }) => Ok(Block {
            key,
            footer,
            payload,
        }),
        Ok(_) | Err(_) => Err(PackError::Differs),
    }
}
