//! What became of blocks that were merged while a query was under way.
//!
//! A query lists footers page by page and reads payloads when their turn
//! comes, while merges put one block in the place of many. So that it meets
//! each event once, it holds a [`Ticket`] and looks at the succession before
//! each page and each payload: it is told, in order, of every merge since,
//! and no merge happens while it reads.
//!
//! ```text
//! merge    ── write lock ── blocks and log change ──
//! query    ── read lock ── merges since my last look ── page or payload ──
//! ```

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use super::{
    StoreError,
    block::{Block, BlockKey, Footer, Run},
};

/// Replaced blocks that are remembered for the slowest query: about 50 MiB,
/// and about ten minutes of a thousand nodes with an event a second each. A
/// query that does not go on for as long is ended.
const REMEMBERED_MAX: usize = 500_000;

/// A block, as far as it must be known to remove it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Where it lies.
    pub key: BlockKey,
    /// The events that it holds.
    pub runs: Vec<Run>,
    /// Bytes of its payload.
    pub payload_bytes: u64,
}

impl Extent {
    /// Returns the extent of a block.
    pub fn of(key: BlockKey, footer: &Footer) -> Self {
        Self {
            runs: footer.runs(&key).into_owned(),
            payload_bytes: footer.payload_bytes.into(),
            key,
        }
    }

    /// Returns how many events it holds.
    pub fn events(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.count)).sum()
    }
}

/// One block in the place of others, with the same events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merge {
    /// The others.
    pub parts: Vec<Extent>,
    /// What holds their events.
    pub block: Block,
}

/// A merge, as a query needs to know of it.
#[derive(Debug)]
pub struct Replaced {
    /// The blocks that are gone.
    pub parts: Vec<Extent>,
    /// The one that came.
    pub key: BlockKey,
    /// Its footer.
    pub footer: Footer,
}

#[derive(Debug, Default)]
struct Log {
    entries: VecDeque<Arc<Replaced>>,
    /// Number of the first entry.
    first: u64,
    /// Parts in all entries.
    parts: usize,
}

impl Log {
    fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn forget_first(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.parts -= entry.parts.len();
            self.first += 1;
        }
    }
}

/// The merges that queries under way have to know of.
#[derive(Debug, Default)]
pub struct Succession {
    log: RwLock<Log>,
    /// For each ticket, the number of the entry that it looks at next. Taken
    /// after `log`.
    tickets: Mutex<BTreeMap<u64, u64>>,
}

impl Succession {
    /// Begins a query.
    pub fn enter(&self) -> Ticket<'_> {
        let log = self.log.read().unwrap_or_else(PoisonError::into_inner);
        let mut tickets = self.tickets();
        let id = tickets.last_key_value().map_or(0, |(id, _)| id + 1);
        tickets.insert(id, log.end());
        Ticket {
            succession: self,
            id,
        }
    }

    /// Holds queries off while blocks are replaced.
    pub fn replacing(&self) -> Replacing<'_> {
        Replacing {
            log: self.log.write().unwrap_or_else(PoisonError::into_inner),
            succession: self,
        }
    }

    /// Ends every query under way: what is in the store is not known to follow
    /// from what they saw.
    pub fn interrupt(&self) {
        let mut log = self.log.write().unwrap_or_else(PoisonError::into_inner);
        log.first = log.end() + 1;
        log.entries.clear();
        log.parts = 0;
    }

    fn tickets(&self) -> MutexGuard<'_, BTreeMap<u64, u64>> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to replace blocks.
#[derive(Debug)]
pub struct Replacing<'a> {
    log: RwLockWriteGuard<'a, Log>,
    succession: &'a Succession,
}

impl Replacing<'_> {
    /// Tells queries under way of merges that are in the store.
    pub fn tell(mut self, merges: &[Merge]) {
        let slowest = self.succession.tickets().values().min().copied();
        let Some(slowest) = slowest else {
            // Nobody has to know.
            let log = &mut *self.log;
            log.first = log.end() + merges.len() as u64;
            log.entries.clear();
            log.parts = 0;
            return;
        };
        for merge in merges {
            self.log.parts += merge.parts.len();
            self.log.entries.push_back(Arc::new(Replaced {
                parts: merge.parts.clone(),
                key: merge.block.key.clone(),
                footer: merge.block.footer.clone(),
            }));
        }
        while self.log.first < slowest || self.log.parts > REMEMBERED_MAX {
            self.log.forget_first();
        }
    }
}

/// A query under way.
#[derive(Debug)]
pub struct Ticket<'a> {
    succession: &'a Succession,
    id: u64,
}

/// While it is held, no block is replaced.
#[derive(Debug)]
pub struct Look<'a> {
    _log: RwLockReadGuard<'a, Log>,
    /// The merges since the last look, in order.
    pub replaced: Vec<Arc<Replaced>>,
}

impl<'a> Ticket<'a> {
    /// Looks at what was merged since the last time.
    ///
    /// # Errors
    /// [`StoreError::Overtaken`] when that is not known any more.
    pub fn look(&self) -> Result<Look<'a>, StoreError> {
        let log = self
            .succession
            .log
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let end = log.end();
        let next = self
            .succession
            .tickets()
            .insert(self.id, end)
            .unwrap_or(end);
        let skipped = next.checked_sub(log.first).ok_or(StoreError::Overtaken)?;
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        let replaced = log.entries.iter().skip(skipped).cloned().collect();
        Ok(Look {
            _log: log,
            replaced,
        })
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.succession.tickets().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    fn merge(first: u64) -> Merge {
        let block = sample::blocks(&sample::events(first, 2)).remove(0);
        Merge {
            parts: vec![Extent::of(block.key.clone(), &block.footer)],
            block,
        }
    }

    fn seen(ticket: &Ticket<'_>) -> Vec<u64> {
        let look = ticket.look().unwrap();
        look.replaced
            .iter()
            .map(|entry| entry.key.first_sequence.0)
            .collect()
    }

    #[test]
    fn each_query_is_told_of_each_merge_once_and_of_none_before_it() {
        let succession = Succession::default();
        succession.replacing().tell(&[merge(1)]);
        let early = succession.enter();
        succession.replacing().tell(&[merge(2), merge(3)]);
        let late = succession.enter();
        assert_eq!(seen(&early), [2, 3]);
        succession.replacing().tell(&[merge(4)]);
        assert_eq!((seen(&early), seen(&late)), (vec![4], vec![4]));
        assert_eq!((seen(&early), seen(&late)), (vec![], vec![]));
    }

    #[test]
    fn nothing_is_remembered_for_nobody() {
        let succession = Succession::default();
        let ticket = succession.enter();
        succession.replacing().tell(&[merge(1)]);
        assert_eq!(succession.log.read().unwrap().entries.len(), 1);
        drop(ticket);
        succession.replacing().tell(&[merge(2)]);
        assert_eq!(succession.log.read().unwrap().entries.len(), 0);
    }

    #[test]
    fn query_that_stands_still_for_too_long_is_ended() {
        let succession = Succession::default();
        let (still, moving) = (succession.enter(), succession.enter());
        let mut one = merge(1);
        one.parts = vec![one.parts[0].clone(); REMEMBERED_MAX / 2];
        for _ in 0..3 {
            succession.replacing().tell(std::slice::from_ref(&one));
            assert_eq!(seen(&moving), [1]);
        }
        assert!(matches!(still.look(), Err(StoreError::Overtaken)));
    }

    #[test]
    fn interrupted_queries_are_ended_and_later_ones_are_not() {
        let succession = Succession::default();
        let before = succession.enter();
        succession.interrupt();
        assert!(matches!(before.look(), Err(StoreError::Overtaken)));
        assert!(seen(&succession.enter()).is_empty());
    }
}
