//! The store in memory: for tests, and the measure of what a store has to do.

use std::{
    collections::BTreeMap,
    ops::RangeBounds as _,
    sync::{Mutex, PoisonError},
};

use super::{
    Collection, Commit, Order, Page, Record, Store, StoreError,
    block::{BlockKey, Footer},
    listing::{Listing, PAGE_FOOTERS},
    stream::{StreamKey, Watermark},
    succession::Succession,
    verify::Verification,
};

#[derive(Debug, Default)]
struct Contents {
    blocks: BTreeMap<BlockKey, (Footer, Vec<u8>)>,
    watermarks: BTreeMap<StreamKey, Watermark>,
    records: BTreeMap<(Collection, Vec<u8>), Vec<u8>>,
}

/// Keeps everything in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    // Held for the length of one map operation, never across an await.
    contents: Mutex<Contents>,
    succession: Succession,
}

impl MemoryStore {
    fn contents(&self) -> std::sync::MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn commit(&self, commit: &Commit) -> Result<(), StoreError> {
        let replacing = (!commit.merges.is_empty()).then(|| self.succession.replacing());
        let mut contents = self.contents();
        for part in commit.merges.iter().flat_map(|merge| &merge.parts) {
            contents.blocks.remove(&part.key);
        }
        let merged = commit.merges.iter().map(|merge| &merge.block);
        for block in commit.blocks.iter().chain(merged) {
            contents.blocks.insert(
                block.key.clone(),
                (block.footer.clone(), block.payload.clone()),
            );
        }
        for key in &commit.removed {
            contents.blocks.remove(key);
        }
        for (stream, watermark) in &commit.watermarks {
            contents
                .watermarks
                .insert(stream.clone(), watermark.clone());
        }
        for stream in &commit.forgotten {
            contents.watermarks.remove(stream);
        }
        for change in &commit.records {
            let key = (change.collection, change.key.clone());
            match &change.value {
                Some(value) => contents.records.insert(key, value.clone()),
                None => contents.records.remove(&key),
            };
        }
        drop(contents);
        if let Some(replacing) = replacing {
            replacing.tell(&commit.merges);
        }
        Ok(())
    }

    fn recover(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn watermarks(&self) -> Result<Vec<(StreamKey, Watermark)>, StoreError> {
        let contents = self.contents();
        Ok(contents
            .watermarks
            .iter()
            .map(|(stream, mark)| (stream.clone(), mark.clone()))
            .collect())
    }

    fn page(&self, listing: &mut Listing) -> Page {
        let bounds = (listing.low.clone(), listing.high.clone());
        let mut page: Vec<_> = self
            .contents()
            .blocks
            .iter()
            .filter(|(key, _)| bounds.contains(&key.encode()))
            .map(|(key, (footer, _))| (key.clone(), footer.clone()))
            .collect();
        if listing.order == Order::NewestFirst {
            page.reverse();
        }
        page.truncate(PAGE_FOOTERS);
        match page.last() {
            Some((key, _)) => listing.pass(key.encode()),
            None => listing.is_done = true,
        }
        page.into_iter().map(Ok).collect()
    }

    fn succession(&self) -> &Succession {
        &self.succession
    }

    fn payload(&self, key: &BlockKey) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self
            .contents()
            .blocks
            .get(key)
            .map(|(_, payload)| payload.clone()))
    }

    fn records(&self, collection: Collection) -> Result<Vec<Record>, StoreError> {
        Ok(self
            .contents()
            .records
            .iter()
            .filter(|((of, _), _)| *of == collection)
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect())
    }

    fn record(&self, collection: Collection, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let key = (collection, key.to_vec());
        Ok(self.contents().records.get(&key).cloned())
    }

    fn records_between(
        &self,
        collection: Collection,
        from: &[u8],
        until: &[u8],
    ) -> Result<Vec<Record>, StoreError> {
        let range = (collection, from.to_vec())..(collection, until.to_vec());
        Ok(self
            .contents()
            .records
            .range(range)
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect())
    }

    fn size_bytes(&self) -> Result<u64, StoreError> {
        Ok(self
            .contents()
            .blocks
            .values()
            .map(|(_, payload)| payload.len() as u64)
            .sum())
    }

    fn verify(&self) -> Result<Verification, StoreError> {
        Ok(Verification::default())
    }
}
