//! The minutes that have blocks to merge.
//!
//! A block belongs to the minute of its oldest event. Which minutes to look
//! at is told by whoever adds blocks, so that nobody searches the store for
//! small ones: events of a node that was cut off come late and lie anywhere.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::store::block::{BLOCK_SPAN_NS_MAX, BlockKey, Footer};

/// How long a minute has to be left alone: merging is best done once.
pub const QUIET: Duration = Duration::from_secs(10);

/// Minutes that are remembered, ten weeks; what lies in further ones is merged
/// after the next start.
const MINUTES_MAX: usize = 100_000;

/// Events below which a merged block is merged again.
pub const LOOSE_EVENTS_MAX: u32 = 8192;

/// A minute, by the number of [`BLOCK_SPAN_NS_MAX`] since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Minute(i64);

impl Minute {
    /// Returns the minute of a block.
    pub fn of(key: &BlockKey) -> Self {
        Self(key.time_min_unix_ns.div_euclid(BLOCK_SPAN_NS_MAX))
    }

    /// Returns its first nanosecond, and the first one behind it.
    pub fn bounds_unix_ns(self) -> (i64, i64) {
        let from = self.0.saturating_mul(BLOCK_SPAN_NS_MAX);
        (from, from.saturating_add(BLOCK_SPAN_NS_MAX))
    }
}

/// Says whether a block is one to merge.
pub fn is_loose(footer: &Footer) -> bool {
    footer.merged.is_empty() || footer.count < LOOSE_EVENTS_MAX
}

/// Minutes with blocks to merge, and when the last of these came.
#[derive(Debug, Default)]
pub struct Loose {
    // Held for the length of one map operation.
    minutes: Mutex<BTreeMap<Minute, Option<Instant>>>,
    events: AtomicU64,
}

impl Loose {
    /// Takes a block into account that was there at the start.
    pub fn found(&self, minute: Minute) {
        self.insert(minute, None);
    }

    /// Takes a block into account that has come.
    pub fn came(&self, key: &BlockKey, footer: &Footer, now: Instant) {
        self.events
            .fetch_add(footer.count.into(), Ordering::Relaxed);
        if is_loose(footer) {
            self.insert(Minute::of(key), Some(now));
        }
    }

    fn insert(&self, minute: Minute, came: Option<Instant>) {
        let mut minutes = self.minutes();
        if minutes.len() < MINUTES_MAX || minutes.contains_key(&minute) {
            minutes.insert(minute, came);
        }
    }

    /// Takes out a minute that is quiet, the oldest first.
    pub fn take(&self, now: Instant) -> Option<Minute> {
        let mut minutes = self.minutes();
        let quiet = minutes
            .iter()
            .find(|(_, came)| came.is_none_or(|came| now.saturating_duration_since(came) >= QUIET));
        let minute = *quiet?.0;
        minutes.remove(&minute);
        Some(minute)
    }

    /// Puts a minute back that is not done.
    pub fn put_back(&self, minute: Minute) {
        let mut minutes = self.minutes();
        minutes.entry(minute).or_insert(None);
    }

    /// Returns how many minutes wait.
    pub fn minutes_waiting(&self) -> usize {
        self.minutes().len()
    }

    /// Returns how many events have come.
    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    fn minutes(&self) -> MutexGuard<'_, BTreeMap<Minute, Option<Instant>>> {
        self.minutes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn minute_is_taken_once_it_is_quiet_and_once_only() {
        let (loose, start) = (Loose::default(), Instant::now());
        let block = sample::blocks(&sample::events(1, 5)).remove(0);
        loose.came(&block.key, &block.footer, start);
        assert_eq!(loose.take(start + QUIET / 2), None);
        loose.came(&block.key, &block.footer, start + QUIET / 2);
        assert_eq!(loose.take(start + QUIET), None);
        let minute = Minute::of(&block.key);
        assert_eq!(loose.take(start + QUIET * 2), Some(minute));
        assert_eq!(loose.take(start + QUIET * 2), None);
        loose.put_back(minute);
        assert_eq!(loose.take(start), Some(minute));
        assert_eq!(loose.events(), 10);
    }

    #[test]
    fn minute_holds_its_first_nanosecond_and_not_the_next_ones() {
        let mut key = sample::block_key(&sample::events(1, 1));
        for time in [-1, 0, 59_999_999_999, 60_000_000_000, -60_000_000_001] {
            key.time_min_unix_ns = time;
            let (from, until) = Minute::of(&key).bounds_unix_ns();
            assert!((from..until).contains(&time), "{time}");
        }
    }
}
