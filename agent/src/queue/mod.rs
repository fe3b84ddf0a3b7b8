//! Events that wait for the collector's durable acknowledgement.
//!
//! ```text
//!  given up     under way        cut               being filled
//! ┌───────┐ ┌─────┬─────┐ ┌─────┬─────┬─────┐ ┌ ─ ─ ─ ─ ─ ┐
//! │ lost  │ │batch│batch│ │batch│batch│batch│   open batch    ← push
//! └───────┘ └─────┴─────┘ └─────┴─────┴─────┘ └ ─ ─ ─ ─ ─ ┘
//!    └── leaves by acknowledgement only ──┘
//! ```
//!
//! Sequence numbers have no holes here: what is given up leaves a lost range
//! in its place, and the range leaves the queue as events do, when the
//! collector's acknowledgement covers it. Memory is bounded by events and by
//! bytes; past a bound the oldest batch that is not under way is given up,
//! because the newest events are the ones that somebody waits for, and a
//! batch under way may lie on the collector's disk already.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use shrike_proto::{
    batch::{self, BATCH_LOST_RANGES_MAX, Fit, Packer},
    event::Event,
    id::{Epoch, SequenceNumber},
    ledger::LossReason,
    wire::ingest,
};

use crate::config::{BatchLimits, QueueLimits};

/// Sequence numbers that were given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LostRange {
    first: u64,
    count: u64,
    reason: LossReason,
    /// The collector has been told. While it has not, an acknowledgement that
    /// covers the range means that the events themselves arrived.
    told: bool,
}

#[derive(Debug)]
enum Entry {
    Batch(Box<ingest::Batch>),
    Lost(LostRange),
}

impl Entry {
    fn first(&self) -> u64 {
        match self {
            Self::Batch(batch) => batch.first_sequence,
            Self::Lost(lost) => lost.first,
        }
    }

    fn count(&self) -> u64 {
        match self {
            Self::Batch(batch) => batch.count.into(),
            Self::Lost(lost) => lost.count,
        }
    }

    /// Returns the last sequence number; entries are never empty.
    fn last(&self) -> u64 {
        self.first() + self.count() - 1
    }
}

/// What an acknowledgement can have wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AckError {
    /// It covers what was never sent.
    #[error("acknowledges event {acked}, the last one sent is {sent}")]
    Ahead {
        /// As acknowledged.
        acked: SequenceNumber,
        /// The last one that it could cover.
        sent: SequenceNumber,
    },
}

/// The bounded queue of one epoch.
#[derive(Debug)]
pub struct Queue {
    epoch: Epoch,
    queue_limits: QueueLimits,
    batch_limits: BatchLimits,
    next_sequence: u64,
    open: Packer,
    open_since: Option<Instant>,
    entries: VecDeque<Entry>,
    /// Entries from the front that were sent in this session.
    under_way: usize,
    events_held: usize,
    bytes_held: usize,
    settled: BTreeMap<LossReason, u64>,
}

impl Queue {
    /// Starts an epoch with an empty queue.
    pub fn new(epoch: Epoch, queue_limits: QueueLimits, batch_limits: BatchLimits) -> Self {
        Self {
            epoch,
            queue_limits,
            batch_limits,
            next_sequence: 1,
            open: Packer::default(),
            open_since: None,
            entries: VecDeque::new(),
            under_way: 0,
            events_held: 0,
            bytes_held: 0,
            settled: BTreeMap::new(),
        }
    }

    /// Returns the sequence number that the next event gets.
    pub fn next_sequence(&self) -> SequenceNumber {
        SequenceNumber(self.next_sequence)
    }

    /// Returns the lowest sequence number that is not acknowledged.
    pub fn first_sequence(&self) -> SequenceNumber {
        SequenceNumber(self.entries.front().map_or_else(
            || self.next_sequence - self.open.events() as u64,
            Entry::first,
        ))
    }

    /// Returns the epoch that the sequence numbers count in.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Says whether nothing waits, lost ranges included.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.open.events() == 0
    }

    /// Returns how many events wait.
    pub fn events_held(&self) -> usize {
        self.events_held
    }

    /// Returns how many bytes wait.
    pub fn bytes_held(&self) -> usize {
        self.bytes_held
    }

    /// Returns what this queue gave up so far, by reason.
    pub fn lost(&self) -> BTreeMap<LossReason, u64> {
        let mut lost = self.settled.clone();
        for entry in &self.entries {
            if let Entry::Lost(range) = entry {
                *lost.entry(range.reason).or_default() += range.count;
            }
        }
        lost
    }

    /// Takes in an event that carries [`next_sequence`](Self::next_sequence).
    ///
    /// # Panics
    /// When it carries another number: that would be our own mistake.
    pub fn push(&mut self, event: &Event, now: Instant) {
        assert_eq!(event.sequence.0, self.next_sequence, "events come in order");
        let mut before = self.open.bytes();
        if self.open.push(event) == Fit::Full {
            self.cut();
            before = 0;
            assert_eq!(self.open.push(event), Fit::Taken, "a batch takes any event");
        }
        self.next_sequence += 1;
        self.events_held += 1;
        self.bytes_held += self.open.bytes() - before;
        self.open_since.get_or_insert(now);
        if self.open.events() >= self.batch_limits.events_max {
            self.cut();
        }
        self.make_room();
    }

    /// Returns when the open batch is to be cut, if there is one.
    pub fn cut_at(&self) -> Option<Instant> {
        Some(self.open_since? + self.batch_limits.delay)
    }

    /// Cuts the open batch if its first event has waited long enough.
    pub fn cut_if_due(&mut self, now: Instant) {
        if self.cut_at().is_some_and(|at| now >= at) {
            self.cut();
        }
    }

    /// Closes the open batch, if there is one.
    pub fn cut(&mut self) {
        if self.open.events() == 0 {
            return;
        }
        let first = SequenceNumber(self.next_sequence - self.open.events() as u64);
        self.bytes_held -= self.open.bytes();
        let batch = self.open.seal(self.epoch, first);
        self.bytes_held += batch.payload.len();
        self.open_since = None;
        self.entries.push_back(Entry::Batch(Box::new(batch)));
    }

    /// Returns how many batches were sent in this session and are not
    /// acknowledged.
    pub fn batches_under_way(&self) -> usize {
        self.entries
            .iter()
            .take(self.under_way)
            .filter(|entry| matches!(entry, Entry::Batch(_)))
            .count()
    }

    /// Returns the next batch to send, with the lost ranges before it, and
    /// counts it as under way. A batch of 0 events carries lost ranges alone.
    pub fn take_next(&mut self) -> Option<ingest::Batch> {
        let mut lost = Vec::new();
        while let Some(entry) = self.entries.get_mut(self.under_way) {
            match entry {
                Entry::Lost(range) if lost.len() < BATCH_LOST_RANGES_MAX => {
                    range.told = true;
                    lost.push(ingest::LostRange {
                        first_sequence: range.first,
                        count: range.count,
                        reason: shrike_proto::wire::event::LossReason::from(range.reason).into(),
                    });
                    self.under_way += 1;
                }
                Entry::Lost(_) => break,
                Entry::Batch(batch) => {
                    self.under_way += 1;
                    return Some(ingest::Batch {
                        lost,
                        ..batch.as_ref().clone()
                    });
                }
            }
        }
        (!lost.is_empty()).then(|| ingest::Batch {
            lost,
            ..self.empty_batch()
        })
    }

    /// Returns a batch without events at the place of the next one to send,
    /// for a ledger.
    pub fn empty_batch(&self) -> ingest::Batch {
        let first = self.entries.get(self.under_way).map_or_else(
            || self.next_sequence - self.open.events() as u64,
            Entry::first,
        );
        batch::seal(self.epoch, SequenceNumber(first), Vec::new())
    }

    /// Forgets that anything was sent: a session begins.
    pub fn rewind(&mut self) {
        self.under_way = 0;
    }

    /// Sends again from `first` on.
    pub fn rewind_to(&mut self, first: SequenceNumber) {
        while self.under_way > 0 && self.entries[self.under_way - 1].last() >= first.0 {
            self.under_way -= 1;
        }
        self.rewind_lost();
    }

    /// Lost ranges travel with the batch behind them, so they share its fate.
    fn rewind_lost(&mut self) {
        while self.under_way > 0 && matches!(self.entries[self.under_way - 1], Entry::Lost(_)) {
            self.under_way -= 1;
        }
    }

    /// Lets go of everything up to and including `durable`, and returns how
    /// many entries that were.
    ///
    /// # Errors
    /// [`AckError::Ahead`] when that was never cut; nothing changes then.
    pub fn acknowledge(&mut self, durable: SequenceNumber) -> Result<usize, AckError> {
        let cut = self.next_sequence - self.open.events() as u64 - 1;
        if durable.0 > cut {
            return Err(AckError::Ahead {
                acked: durable,
                sent: SequenceNumber(cut),
            });
        }
        let mut released = 0;
        while let Some(entry) = self.entries.front()
            && entry.last() <= durable.0
        {
            if let Some(entry) = self.entries.pop_front() {
                self.release(&entry);
            }
            self.under_way = self.under_way.saturating_sub(1);
            released += 1;
        }
        if let Some(Entry::Lost(range)) = self.entries.front_mut()
            && range.first <= durable.0
        {
            // Ranges are joined, so one may begin with what had arrived.
            let covered = durable.0 + 1 - range.first;
            range.first += covered;
            range.count -= covered;
            if range.told {
                *self.settled.entry(range.reason).or_default() += covered;
            }
        }
        Ok(released)
    }

    /// Gives up the batch that begins at `first` under `reason`, and returns
    /// how many events that were; `None` when there is no such batch.
    pub fn give_up(&mut self, first: SequenceNumber, reason: LossReason) -> Option<u64> {
        let index = self.entries.iter().position(
            |entry| matches!(entry, Entry::Batch(batch) if batch.first_sequence == first.0),
        )?;
        // The range is sent in the batch's place, and what follows again.
        self.under_way = self.under_way.min(index);
        self.rewind_lost();
        let count = self.entries[index].count();
        self.lose(index, reason);
        Some(count)
    }

    fn release(&mut self, entry: &Entry) {
        match entry {
            Entry::Batch(batch) => self.forget(batch),
            Entry::Lost(range) if range.told => {
                *self.settled.entry(range.reason).or_default() += range.count;
            }
            // The collector had them after all.
            Entry::Lost(_) => {}
        }
    }

    fn forget(&mut self, batch: &ingest::Batch) {
        self.events_held -= batch.count as usize;
        self.bytes_held -= batch.payload.len();
    }

    fn is_over(&self) -> bool {
        self.events_held > self.queue_limits.events_max
            || self.bytes_held > self.queue_limits.bytes_max
    }

    fn make_room(&mut self) {
        while self.is_over() {
            let candidate = (self.under_way..self.entries.len())
                .chain(0..self.under_way)
                .find(|index| matches!(self.entries[*index], Entry::Batch(_)));
            match candidate {
                Some(index) => self.lose(index, LossReason::AgentQueueFull),
                None if self.open.events() == 0 => return,
                None => self.cut(),
            }
        }
    }

    /// Turns a batch into a lost range, joined with its neighbours where they
    /// have the same reason and the collector was told as much of them.
    fn lose(&mut self, index: usize, reason: LossReason) {
        let lost = LostRange {
            first: self.entries[index].first(),
            count: self.entries[index].count(),
            reason,
            told: false,
        };
        if let Entry::Batch(batch) = std::mem::replace(&mut self.entries[index], Entry::Lost(lost))
        {
            self.forget(&batch);
        }
        self.join(index + 1);
        self.join(index);
    }

    /// Joins the entry at `index` with the one before it.
    fn join(&mut self, index: usize) {
        if index == 0 || index == self.under_way {
            return;
        }
        let (Some(Entry::Lost(before)), Some(Entry::Lost(after))) =
            (self.entries.get(index - 1), self.entries.get(index))
        else {
            return;
        };
        if before.reason != after.reason || before.told != after.told {
            return;
        }
        let joined = LostRange {
            count: before.count + after.count,
            ..*before
        };
        self.entries[index - 1] = Entry::Lost(joined);
        self.entries.remove(index);
        if index < self.under_way {
            self.under_way -= 1;
        }
    }
}

#[cfg(test)]
mod tests;
