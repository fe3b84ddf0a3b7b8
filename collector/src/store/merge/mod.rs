//! Merging of blocks in the background.
//!
//! A fleet that is quiet writes a block for every event or two. Once a minute
//! is over, its blocks become few: with all nodes' events in one, streams side
//! by side, as [columns](super::columns). A merge is one commit through the
//! writer, which removes the parts as it adds what holds their events.
//!
//! ```text
//! writer ─► loose minutes ─plan→ groups ─pack→ block ─► writer
//! ```
//!
//! Merging rests for as long as it works, and nine times as long while many
//! events arrive: they come first.

pub mod loose;
mod pack;
mod plan;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{
    Order, Store, StoreError,
    block::BlockKey,
    succession::Extent,
    writer::{State, Writer},
};
use crate::chain::chain;
use loose::{Loose, Minute};
use pack::PackError;

/// Events a second from which on merging stands back.
const BUSY_EVENTS_PER_SECOND: f64 = 10_000.0;

/// Longest rest between two merges.
const REST_MAX: Duration = Duration::from_secs(5);

/// Blocks that could not be merged and are not tried again before the next
/// start; with more of them merging ends, since something is wrong.
const LEFT_OUT_MAX: usize = 10_000;

/// Merges blocks, one minute after the other.
#[derive(Debug)]
pub struct Merger {
    store: Arc<dyn Store>,
    writer: Writer,
    loose: Arc<Loose>,
    stop: CancellationToken,
    left_out: BTreeSet<BlockKey>,
    pace: Pace,
}

impl Merger {
    /// Prepares to merge what `writer` adds to `store`.
    pub fn new(store: Arc<dyn Store>, writer: Writer, stop: CancellationToken) -> Self {
        let loose = writer.loose();
        Self {
            store,
            writer,
            pace: Pace::new(loose.events()),
            loose,
            stop,
            left_out: BTreeSet::new(),
        }
    }

    /// Merges the blocks of one minute that is quiet; says whether there was
    /// one.
    pub async fn merge_minute(&mut self) -> bool {
        let is_healthy = *self.writer.state().borrow() == State::Healthy;
        if !is_healthy || self.left_out.len() > LEFT_OUT_MAX {
            return false;
        }
        let Some(minute) = self.loose.take(Instant::now()) else {
            return false;
        };
        match self.merge_blocks(minute).await {
            Ok(()) => {}
            // What cannot be stored for the moment can be later.
            Err(error) => {
                self.loose.put_back(minute);
                tracing::warn!(error = chain(&*error), "blocks are merged later");
                return false;
            }
        }
        true
    }

    async fn merge_blocks(
        &mut self,
        minute: Minute,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let (store, left_out) = (Arc::clone(&self.store), self.left_out.clone());
        let plan = tokio::task::spawn_blocking(move || {
            plan::plan(&*store, minute, |extent| left_out.contains(&extent.key))
        })
        .await??;
        if plan.is_partial {
            self.loose.put_back(minute);
        }
        let mut blocks = 0;
        let mut gone: Vec<BlockKey> = Vec::new();
        for group in plan.groups {
            if self.stop.is_cancelled() {
                return Ok(());
            }
            let began = Instant::now();
            gone.extend(group.iter().map(|part| part.key.clone()));
            blocks += self.merge_group(minute, group).await?;
            let rest = self.pace.rest(began, Instant::now(), self.loose.events());
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                () = self.stop.cancelled() => return Ok(()),
            }
        }
        if !gone.is_empty() {
            let (from_unix_ns, _) = minute.bounds_unix_ns();
            let parts = gone.len();
            tracing::debug!(from_unix_ns, parts, blocks, "blocks were merged");
            let store = Arc::clone(&self.store);
            tokio::task::spawn_blocking(move || come_by(&*store, minute, gone)).await??;
        }
        Ok(())
    }

    /// Merges a group and returns how many blocks it became.
    async fn merge_group(
        &mut self,
        minute: Minute,
        group: Vec<Extent>,
    ) -> Result<usize, Box<dyn std::error::Error + Send + Sync>> {
        let store = Arc::clone(&self.store);
        let keys: Vec<BlockKey> = group.iter().map(|part| part.key.clone()).collect();
        let packed = tokio::task::spawn_blocking(move || pack::pack(&*store, group)).await?;
        let merges = match packed {
            Ok(merges) => merges,
            Err(PackError::Part { key, source }) => {
                tracing::error!(block = %key, error = chain(&source), "a block is damaged");
                self.left_out.insert(*key);
                // The others are merged without it.
                self.loose.put_back(minute);
                return Ok(0);
            }
            Err(PackError::Store(StoreError::Damaged(damage))) => {
                tracing::error!(%damage, "a block is damaged and is not merged");
                self.left_out.extend(keys);
                return Ok(0);
            }
            Err(PackError::Store(error)) => return Err(error.into()),
            Err(error) => {
                tracing::error!(error = chain(&error), "blocks stay as they are");
                self.left_out.extend(keys);
                return Ok(0);
            }
        };
        let blocks = merges.len();
        self.writer.merge(merges).await?;
        Ok(blocks)
    }
}

/// Looks at the places of blocks that are gone, in order: sled joins what is
/// left of a leaf with its neighbour, and so gives up its room, only when
/// somebody comes by.
fn come_by(store: &dyn Store, minute: Minute, mut gone: Vec<BlockKey>) -> Result<(), StoreError> {
    gone.sort();
    for key in &gone {
        store.payload(key)?;
    }
    let (from, until) = minute.bounds_unix_ns();
    store
        .footers(from, until, Order::OldestFirst)
        .try_for_each(|entry| match entry {
            Ok(_) | Err(StoreError::Damaged(_)) => Ok(()),
            Err(error) => Err(error),
        })
}

/// How much of its time merging takes.
#[derive(Debug)]
struct Pace {
    events: u64,
    ended: Instant,
}

impl Pace {
    fn new(events: u64) -> Self {
        Self {
            events,
            ended: Instant::now(),
        }
    }

    /// Says how long to rest after work from `began` to `ended`, when `events`
    /// have come in all.
    fn rest(&mut self, began: Instant, ended: Instant, events: u64) -> Duration {
        let since = ended.saturating_duration_since(self.ended).as_secs_f64();
        let came = events.saturating_sub(self.events) as f64;
        let is_busy = came > BUSY_EVENTS_PER_SECOND * since;
        (self.events, self.ended) = (events, ended);
        let worked = ended.saturating_duration_since(began);
        worked
            .saturating_mul(if is_busy { 9 } else { 1 })
            .min(REST_MAX)
    }
}

#[cfg(test)]
mod tests;
