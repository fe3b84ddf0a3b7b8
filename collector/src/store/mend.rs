//! Mends a store of which some blocks are damaged, so that the others can be
//! used: a damaged block is set aside, and what it held becomes lost.
//!
//! - A block whose footer is damaged and whose payload is whole gets its
//!   footer anew: the payload names itself. Nothing is lost.
//! - A block whose payload is damaged leaves the store. What its footer says
//!   it held is lost under [`LossReason::StoreMissing`], by range.
//! - Where the footer is damaged as well, the watermark still says how many
//!   events of the stream are missing: these are lost by number, without a
//!   range.
//!
//! What leaves the store is kept in the folder `damaged` beside it, as it was.
//! Watermarks and records are never mended: a wrong one would lie.

use std::{collections::BTreeMap, fs, path::PathBuf};

use shrike_proto::{event::Mention, ledger::LossReason};

use super::{
    Commit, Store as _, StoreError,
    block::{self, Block, BlockKey, Run},
    layout::{BLOCK_SPACES, Space, unpack_payload},
    record,
    sled::{SledStore, backend, batch},
    stream::{LostRange, StreamKey, Watermark},
    summary::Summary,
    verify::Verification,
};

/// Where damaged values are kept, beside the store's own files.
const FOLDER: &str = "damaged";

/// What was done for one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mend {
    /// Its footer was made anew; nothing is lost.
    FooterMade {
        /// Which block.
        block: String,
        /// What was wrong with it.
        why: String,
    },
    /// It left the store.
    SetAside {
        /// Which block.
        block: String,
        /// What was wrong with it.
        why: String,
        /// What it held, where its footer says so.
        runs: Vec<Run>,
        /// Where its bytes are.
        kept: PathBuf,
    },
    /// Events of a stream are missing, without a trace of where they were.
    Missing {
        /// Whose.
        stream: StreamKey,
        /// How many.
        events: u64,
    },
}

/// Mends what a check found.
///
/// # Errors
/// [`StoreError`] when the store cannot be written, or its watermarks cannot
/// be read.
///
/// # Panics
/// When the damage is not one that can be mended.
pub fn mend(store: &SledStore, verification: &Verification) -> Result<Vec<Mend>, StoreError> {
    assert!(verification.is_mendable(), "the caller looks first");
    let mut mender = Mender {
        store,
        marks: store.watermarks()?.into_iter().collect(),
        missing: verification.missing.clone(),
        commit: Commit::default(),
        removed: Vec::new(),
        done: Vec::new(),
    };
    mender.blocks(verification)?;
    if !mender.missing.is_empty() {
        mender.payloads_without_footer()?;
    }
    mender.missing_events();
    mender.finish()
}

struct Mender<'a> {
    store: &'a SledStore,
    marks: BTreeMap<StreamKey, Watermark>,
    /// Events of which no footer tells.
    missing: BTreeMap<StreamKey, u64>,
    commit: Commit,
    /// Keys as they lie in the store.
    removed: Vec<Vec<u8>>,
    done: Vec<Mend>,
}

impl Mender<'_> {
    fn blocks(&mut self, verification: &Verification) -> Result<(), StoreError> {
        for broken in &verification.broken {
            let rebuilt = match (&broken.key, &broken.footer) {
                (Some(key), None) => self.rebuilt(key, broken.spaces)?,
                (Some(_) | None, Some(_)) | (None, None) => None,
            };
            if let Some(block) = rebuilt {
                self.done.push(Mend::FooterMade {
                    block: broken.name(),
                    why: broken.why.clone(),
                });
                self.found(&block.footer.runs(&block.key));
                self.commit.blocks.push(block);
                continue;
            }
            let runs = match (&broken.key, &broken.footer) {
                (Some(key), Some(footer)) => footer.runs(key).into_owned(),
                (Some(_), None) | (None, Some(_) | None) => Vec::new(),
            };
            for run in &runs {
                self.lose(run);
            }
            let kept = self.keep(&broken.stored_key, broken.spaces)?;
            self.done.push(Mend::SetAside {
                block: broken.name(),
                why: broken.why.clone(),
                runs,
                kept,
            });
        }
        Ok(())
    }

    /// Makes a block of its payload alone; `None` when that is not whole
    /// either.
    fn rebuilt(
        &self,
        key: &BlockKey,
        (_, space): (Space, Space),
    ) -> Result<Option<Block>, StoreError> {
        let stored = space.key(&key.encode());
        let value = self
            .store
            .handle()?
            .db
            .get(&stored)
            .map_err(|source| backend("read a block", source))?;
        Ok(value.and_then(|value| rebuild(key, &stored, &value)))
    }

    /// Finds blocks of which only the payload is left. Only such are taken that
    /// the watermarks miss.
    fn payloads_without_footer(&mut self) -> Result<(), StoreError> {
        let handle = self.store.handle()?;
        let payloads = BLOCK_SPACES.map(|(footers, payloads)| {
            let entries = handle.db.scan_prefix([payloads.prefix()]);
            entries.map(move |entry| (footers, entry))
        });
        for (footers, entry) in payloads.into_iter().flatten() {
            let (stored, value) = entry.map_err(|source| backend("read a block", source))?;
            let Ok(key) = BlockKey::decode(&stored[1..]) else {
                continue;
            };
            let has_footer = handle
                .db
                .contains_key(footers.key(&stored[1..]))
                .map_err(|source| backend("read a footer", source))?;
            if has_footer {
                continue;
            }
            let Some(block) = rebuild(&key, &stored, &value) else {
                continue;
            };
            let runs = block.footer.runs(&key).into_owned();
            let is_missed = runs.iter().all(|run| {
                let missing = self.missing.get(&run.stream).copied().unwrap_or_default();
                missing >= u64::from(run.count)
            });
            if is_missed {
                self.found(&runs);
                self.done.push(Mend::FooterMade {
                    block: key.to_string(),
                    why: "its footer is missing".to_owned(),
                });
                self.commit.blocks.push(block);
            }
        }
        Ok(())
    }

    fn found(&mut self, runs: &[Run]) {
        for run in runs {
            if let Some(missing) = self.missing.get_mut(&run.stream) {
                *missing = missing.saturating_sub(run.count.into());
            }
        }
    }

    fn lose(&mut self, run: &Run) {
        if let Some(mark) = self.marks.get_mut(&run.stream) {
            let count = u64::from(run.count);
            mark.stored = mark.stored.saturating_sub(count);
            mark.add_lost(LostRange {
                first: run.first_sequence,
                count,
                reason: LossReason::StoreMissing,
            });
            self.changed(&run.stream);
        }
    }

    /// What no block accounts for is lost by number.
    fn missing_events(&mut self) {
        for (stream, events) in std::mem::take(&mut self.missing) {
            let Some(mark) = self.marks.get_mut(&stream).filter(|_| events > 0) else {
                continue;
            };
            mark.stored = mark.stored.saturating_sub(events);
            *mark.lost.entry(LossReason::StoreMissing).or_default() += events;
            self.changed(&stream);
            self.done.push(Mend::Missing { stream, events });
        }
    }

    fn changed(&mut self, stream: &StreamKey) {
        let marks = &mut self.commit.watermarks;
        marks.retain(|(of, _)| of != stream);
        marks.push((stream.clone(), self.marks[stream].clone()));
    }

    /// Keeps a block's bytes beside the store and has it removed.
    fn keep(
        &mut self,
        stored_key: &[u8],
        (footer, payload): (Space, Space),
    ) -> Result<PathBuf, StoreError> {
        let folder = self.store.folder.join(FOLDER);
        let name: String = stored_key
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let kept = folder.join(name);
        let handle = self.store.handle()?;
        for (space, extension) in [(footer, "footer"), (payload, "payload")] {
            let stored = space.key(stored_key);
            let value = handle
                .db
                .get(&stored)
                .map_err(|source| backend("read a damaged block", source))?;
            if let Some(value) = value {
                let path = kept.with_extension(extension);
                fs::create_dir_all(&folder)
                    .and_then(|()| fs::write(&path, &value))
                    .map_err(|source| StoreError::Folder {
                        operation: "keep a damaged block in",
                        path: folder.clone(),
                        source,
                    })?;
            }
            self.removed.push(stored);
        }
        Ok(kept)
    }

    /// Writes everything at once.
    fn finish(self) -> Result<Vec<Mend>, StoreError> {
        let handle = self.store.handle()?;
        let mut batch = batch(&self.commit);
        for key in &self.removed {
            batch.remove(key.as_slice());
        }
        handle
            .db
            .apply_batch(batch)
            .map_err(|source| backend("set damaged blocks aside", source))?;
        self.store.flush(&handle)?;
        Ok(self.done)
    }
}

/// Makes a block of its payload's value.
fn rebuild(key: &BlockKey, stored: &[u8], value: &[u8]) -> Option<Block> {
    let payload = unpack_payload(record::open(stored, value).ok()?)?.to_vec();
    let unpacked = block::unpack_without_footer(key, &payload).ok()?;
    let decoded = unpacked.decode(|_| true).ok()?;
    let raw_bytes = unpacked.rows.list(0..unpacked.rows.len()).len();
    let mut summary = Summary::new(raw_bytes);
    for event in decoded.iter().flat_map(|(_, events)| events) {
        summary.add(&Mention::from(event));
    }
    if summary.count == 0 {
        return None;
    }
    let mut footer = summary.footer(payload.len());
    if block::is_merged(&payload) {
        footer.merged = unpacked.runs;
    }
    Some(Block {
        key: key.clone(),
        footer,
        payload,
    })
}

#[cfg(test)]
mod tests {
    use shrike_proto::id::SequenceNumber;

    use super::*;
    use crate::{
        sample,
        store::{Collection, Order, RecordChange, sled::Existing},
    };

    const BLOCKS: u64 = 5;

    /// Five blocks of ten events each, a policy, and the watermark.
    fn store() -> (tempfile::TempDir, SledStore, Vec<Block>) {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path(), Existing::OrNew).unwrap();
        let blocks: Vec<Block> = (0..BLOCKS)
            .flat_map(|index| sample::blocks(&sample::events(1 + index * 10, 10)))
            .collect();
        store
            .commit(&Commit {
                blocks: blocks.clone(),
                watermarks: vec![(
                    sample::stream(),
                    Watermark {
                        durable: SequenceNumber(BLOCKS * 10),
                        stored: BLOCKS * 10,
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
        (folder, store, blocks)
    }

    fn flip(store: &SledStore, stored: &[u8]) {
        let db = store.handle().unwrap().db;
        let mut value = db.get(stored).unwrap().unwrap().to_vec();
        let middle = value.len() / 2;
        value[middle] ^= 0x10;
        db.insert(stored, value).unwrap();
    }

    fn flip_block(store: &SledStore, space: Space, key: &BlockKey) {
        flip(store, &space.key(&key.encode()));
    }

    fn events(store: &SledStore) -> u64 {
        store
            .footers(i64::MIN, i64::MAX, Order::OldestFirst)
            .map(|entry| u64::from(entry.unwrap().1.count))
            .sum()
    }

    fn mark(store: &SledStore) -> Watermark {
        store.watermarks().unwrap().remove(0).1
    }

    /// Mends the store, which must be whole afterwards, with every number
    /// accounted for.
    fn mended(store: &SledStore) -> Vec<Mend> {
        let found = store.verify().unwrap();
        assert!(!found.is_whole() && found.is_mendable());
        let done = mend(store, &found).unwrap();
        let after = store.verify().unwrap();
        assert!(after.is_whole(), "{:?}", after.damages);
        let mark = mark(store);
        let lost: u64 = mark.lost.values().sum();
        assert_eq!(mark.durable.0, mark.stored + lost);
        assert_eq!(mark.stored, events(store));
        done
    }

    #[test]
    fn block_with_a_damaged_payload_is_set_aside_and_its_range_is_lost() {
        let (folder, store, blocks) = store();
        flip_block(&store, Space::Payload, &blocks[2].key);
        let done = mended(&store);
        let [
            Mend::SetAside {
                block, runs, kept, ..
            },
        ] = done.as_slice()
        else {
            panic!("{done:?}");
        };
        assert_eq!(*block, blocks[2].key.to_string());
        assert_eq!((runs[0].first_sequence.0, runs[0].count), (21, 10));
        assert!(kept.with_extension("payload").starts_with(folder.path()));
        assert!(kept.with_extension("payload").exists());
        let mark = mark(&store);
        assert_eq!(mark.lost[&LossReason::StoreMissing], 10);
        let range = mark.lost_ranges[0];
        assert_eq!((range.first.0, range.count), (21, 10));
        assert_eq!(store.records(Collection::Policies).unwrap().len(), 1);
    }

    #[test]
    fn damaged_footer_is_made_anew_and_nothing_is_lost() {
        let (_folder, store, blocks) = store();
        flip_block(&store, Space::Footer, &blocks[1].key);
        let done = mended(&store);
        assert!(
            matches!(done.as_slice(), [Mend::FooterMade { .. }]),
            "{done:?}"
        );
        assert_eq!(events(&store), BLOCKS * 10);
        let footers: Vec<_> = store
            .footers(i64::MIN, i64::MAX, Order::OldestFirst)
            .map(|entry| entry.unwrap().1)
            .collect();
        assert_eq!(footers[1], blocks[1].footer);
    }

    #[test]
    fn footer_that_vanished_is_made_anew() {
        let (_folder, store, blocks) = store();
        let stored = Space::Footer.key(&blocks[4].key.encode());
        store.handle().unwrap().db.remove(stored).unwrap();
        let done = mended(&store);
        assert!(
            matches!(done.as_slice(), [Mend::FooterMade { .. }]),
            "{done:?}"
        );
        assert_eq!(events(&store), BLOCKS * 10);
    }

    #[test]
    fn block_that_is_damaged_all_over_is_lost_by_number() {
        let (_folder, store, blocks) = store();
        flip_block(&store, Space::Footer, &blocks[3].key);
        flip_block(&store, Space::Payload, &blocks[3].key);
        let done = mended(&store);
        assert!(
            matches!(
                done.as_slice(),
                [Mend::SetAside { runs, .. }, Mend::Missing { events: 10, .. }] if runs.is_empty()
            ),
            "{done:?}"
        );
        let mark = mark(&store);
        assert_eq!(mark.lost[&LossReason::StoreMissing], 10);
        assert!(mark.lost_ranges.is_empty(), "its range is not known");
    }

    #[test]
    fn block_that_vanished_is_lost_by_number() {
        let (_folder, store, blocks) = store();
        for space in [Space::Footer, Space::Payload] {
            let stored = space.key(&blocks[0].key.encode());
            store.handle().unwrap().db.remove(stored).unwrap();
        }
        let done = mended(&store);
        assert!(
            matches!(done.as_slice(), [Mend::Missing { events: 10, .. }]),
            "{done:?}"
        );
    }

    #[test]
    fn key_that_cannot_be_read_is_set_aside() {
        let (_folder, store, _) = store();
        let db = store.handle().unwrap().db;
        db.insert(b"fgarbage", b"garbage").unwrap();
        let done = mended(&store);
        assert!(
            matches!(done.as_slice(), [Mend::SetAside { .. }]),
            "{done:?}"
        );
        assert_eq!(events(&store), BLOCKS * 10);
    }

    #[test]
    fn damaged_watermark_or_policy_is_vital() {
        let check = |stored: &dyn Fn() -> Vec<u8>| {
            let (_folder, store, _) = store();
            flip(&store, &stored());
            let found = store.verify().unwrap();
            assert!(!found.is_whole() && !found.is_mendable());
        };
        check(&|| super::super::layout::watermark_key(&sample::stream()));
        check(&|| Space::Record(Collection::Policies).key(b"p"));
    }

    #[test]
    fn mended_store_is_whole_when_it_is_opened_again() {
        let (folder, store, blocks) = store();
        flip_block(&store, Space::Payload, &blocks[0].key);
        mended(&store);
        drop(store);
        let store = SledStore::open(folder.path(), Existing::Only).unwrap();
        assert!(store.verify().unwrap().is_whole());
        assert_eq!(events(&store), (BLOCKS - 1) * 10);
    }
}
