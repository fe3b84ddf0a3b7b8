//! Reading an epoch's log from front to back: what is sent, in what order, and
//! what an acknowledgement lets go of.

use std::collections::VecDeque;

use shrike_proto::{
    batch::BATCH_LOST_RANGES_MAX,
    id::SequenceNumber,
    ledger::LossReason,
    wire::{event as wire, ingest},
};

use super::{AckError, EpochLog, LostRange, UnderWay};
use crate::spool::{
    class::Class,
    journal::{self, What},
};

/// A place in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Number of the file.
    pub journal: u64,
    /// First byte of a frame.
    pub offset: u64,
}

/// A batch that the journal names.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    pub first: u64,
    pub events: u32,
    pub class: Class,
    pub segment: u64,
    pub offset: u64,
    pub bytes: u32,
    pub crc32c: u32,
    /// The commit that it is part of.
    at: Position,
}

impl Entry {
    pub(super) fn last(&self) -> u64 {
        self.first + u64::from(self.events) - 1
    }
}

/// The next place to read.
#[derive(Debug, Default)]
pub struct Cursor {
    /// Number of the journal's file.
    pub journal: u64,
    offset: u64,
    /// The number that is next.
    expected: u64,
    /// The rest of a commit that was read.
    ready: VecDeque<Entry>,
}

/// Consecutive numbers that share a fate.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    pub first: u64,
    pub count: u64,
    pub kind: RunKind,
}

/// What became of the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunKind {
    /// A batch.
    Batch(Class, u64),
    /// A batch of a class that was given up.
    Evicted,
    /// Numbers that were given up.
    Lost(LossReason),
}

impl Run {
    pub(super) fn last(&self) -> u64 {
        self.first + self.count - 1
    }
}

/// What comes next.
pub enum Next {
    /// A batch.
    Batch(Entry),
    /// Numbers that were given up.
    Run(Run),
    /// Nothing, or nothing that may be sent.
    End,
}

impl EpochLog {
    /// Returns how many batches were sent in this session and are not
    /// acknowledged.
    pub fn batches_under_way(&self) -> usize {
        self.under_way
            .iter()
            .filter(|under_way| matches!(under_way.run.kind, RunKind::Batch(..)))
            .count()
    }

    /// Returns the next batch to send, with the lost ranges before it, and
    /// counts it as under way. A batch of 0 events carries lost ranges alone.
    pub fn take_next(&mut self) -> Option<ingest::Batch> {
        if !self.may_send() {
            return None;
        }
        let mut lost: Vec<ingest::LostRange> = Vec::new();
        let mut given_up = 0;
        loop {
            let at = self.position();
            let run = match self.peek() {
                Next::End => break,
                Next::Batch(entry) => match self.payload(&entry) {
                    Some(payload) => {
                        let run = Run {
                            first: entry.first,
                            count: entry.events.into(),
                            kind: RunKind::Batch(entry.class, entry.segment),
                        };
                        self.pass(&run);
                        self.under_way.push_back(UnderWay { run, at });
                        self.sent = self.sent.max(run.last());
                        let batch = self.batch(entry.first, Some((&entry, payload)));
                        return Some(ingest::Batch { lost, ..batch });
                    }
                    None => {
                        self.lose_damaged(&entry);
                        continue;
                    }
                },
                Next::Run(run) => run,
            };
            let reason = match run.kind {
                RunKind::Batch(..) | RunKind::Evicted => LossReason::AgentSpoolFull,
                RunKind::Lost(reason) => reason,
            };
            let reason = wire::LossReason::from(reason).into();
            let is_full = lost.len() >= BATCH_LOST_RANGES_MAX;
            if let Some(before) = lost.last_mut()
                && before.reason == reason
                && before.first_sequence + before.count == run.first
            {
                before.count += run.count;
            } else if is_full {
                break;
            } else {
                lost.push(ingest::LostRange {
                    first_sequence: run.first,
                    count: run.count,
                    reason,
                });
            }
            self.pass(&run);
            self.note_given_up(run, at, &mut given_up);
        }
        (!lost.is_empty()).then(|| ingest::Batch {
            lost,
            ..self.empty_batch()
        })
    }

    /// Counts numbers that were given up as under way. `given_up` says how many
    /// such runs there are since the last batch: neighbours of one fate are one
    /// of them, however many batches they were.
    fn note_given_up(&mut self, run: Run, at: Position, given_up: &mut usize) {
        let before = match *given_up {
            0 => None,
            _ => self.under_way.back_mut(),
        };
        let run = match before {
            Some(before) if before.run.kind == run.kind && before.run.last() + 1 == run.first => {
                before.run.count += run.count;
                before.run
            }
            Some(_) | None => {
                self.under_way.push_back(UnderWay { run, at });
                *given_up += 1;
                run
            }
        };
        if run.kind == RunKind::Evicted {
            self.note_told(run.first, run.last());
        }
        self.sent = self.sent.max(run.last());
    }

    fn note_told(&mut self, mut first: u64, mut last: u64) {
        // Neighbours grow together.
        while let Some((&before, &upto)) = self.told.range(..=last + 1).next_back()
            && upto + 1 >= first
        {
            self.told.remove(&before);
            (first, last) = (first.min(before), last.max(upto));
        }
        self.told.insert(first, last);
    }

    fn forget_told(&mut self, acknowledged: u64) {
        let rest = self.told.split_off(&(acknowledged + 1));
        let (_, last) = self.told.pop_last().unwrap_or_default();
        self.told = rest;
        if last > acknowledged {
            self.told.insert(acknowledged + 1, last);
        }
    }

    fn lose_damaged(&mut self, entry: &Entry) {
        tracing::error!(
            first = entry.first,
            events = entry.events,
            "a batch in the spool is damaged: its events are lost"
        );
        if let Some(segment) = self.segments[entry.class.index()]
            .iter_mut()
            .find(|segment| segment.number == entry.segment)
        {
            segment.waiting = segment.waiting.saturating_sub(entry.events.into());
        }
        self.lose(LostRange {
            first: entry.first,
            count: entry.events.into(),
            reason: LossReason::AgentSpoolDamaged,
        });
    }

    /// Returns a batch without events at the place of the next one to send,
    /// for a ledger.
    pub fn empty_batch(&self) -> ingest::Batch {
        self.batch(self.expected(), None)
    }

    /// Forgets that anything was sent: a session begins.
    pub fn rewind(&mut self) {
        if let Some(front) = self.under_way.front() {
            let front = *front;
            self.under_way.clear();
            self.go_to(front.at, front.run.first);
        }
    }

    /// Sends again from `first` on.
    pub fn rewind_to(&mut self, first: SequenceNumber) {
        let mut back = None;
        while let Some(last) = self.under_way.pop_back_if(|last| {
            // Lost ranges travel with the batch behind them, and share its
            // fate.
            last.run.last() >= first.0
                || back.is_some() && !matches!(last.run.kind, RunKind::Batch(..))
        }) {
            back = Some(last);
        }
        if let Some(back) = back {
            self.go_to(back.at, back.run.first);
        }
    }

    /// Lets go of everything up to and including `durable`, and returns how
    /// many batches and ranges that were.
    ///
    /// # Errors
    /// [`AckError::Ahead`] when no collector was told of that, neither in this
    /// agent's life nor by one before that left it in the journal; nothing
    /// changes then.
    pub fn acknowledge(&mut self, durable: SequenceNumber) -> Result<usize, AckError> {
        let last = self.sent;
        if durable.0 > last {
            return Err(AckError::Ahead {
                acked: durable,
                last: SequenceNumber(last),
            });
        }
        let mut released = 0;
        while let Some(front) = self
            .under_way
            .pop_front_if(|front| front.run.last() <= durable.0)
        {
            self.release(&front.run, Heard::Sent);
            released += 1;
        }
        // What an earlier session sent, and what it told.
        while self.under_way.is_empty() && self.cursor.expected <= durable.0 {
            let run = match self.peek() {
                Next::End => break,
                Next::Batch(entry) => Run {
                    first: entry.first,
                    count: entry.events.into(),
                    kind: RunKind::Batch(entry.class, entry.segment),
                },
                Next::Run(run) => run,
            };
            if run.last() > durable.0 {
                break;
            }
            self.pass(&run);
            self.release(&run, Heard::Before);
            released += 1;
        }
        self.acknowledged = self.acknowledged.max(durable.0);
        self.forget_told(self.acknowledged);
        self.trim();
        Ok(released)
    }

    fn release(&mut self, run: &Run, heard: Heard) {
        let evicted = match run.kind {
            RunKind::Batch(class, number) => {
                let segment = self.segments[class.index()]
                    .iter_mut()
                    .find(|segment| segment.number == number);
                if let Some(segment) = segment {
                    segment.waiting = segment.waiting.saturating_sub(run.count);
                    None
                } else {
                    // Given up while it was under way: it arrived after all.
                    (run.last() <= self.evicted[class.index()]).then_some(false)
                }
            }
            RunKind::Evicted => {
                let told = self.told.range(..=run.first).next_back();
                let told = told.is_some_and(|(_, last)| run.last() <= *last);
                Some(heard == Heard::Sent || told)
            }
            RunKind::Lost(reason) => {
                self.forget_lost(run);
                *self.settled.entry(reason).or_default() += run.count;
                None
            }
        };
        if let Some(is_lost) = evicted {
            self.evicted_waiting = self.evicted_waiting.saturating_sub(run.count);
            if is_lost {
                *self.settled.entry(LossReason::AgentSpoolFull).or_default() += run.count;
            }
        }
    }

    fn forget_lost(&mut self, run: &Run) {
        let Some((&first, range)) = self.lost.range_mut(..=run.first).next_back() else {
            return;
        };
        if range.last() < run.first {
            return;
        }
        let rest = LostRange {
            first: run.last() + 1,
            count: range.last().saturating_sub(run.last()),
            ..*range
        };
        range.count = run.first - first;
        if range.count == 0 {
            self.lost.remove(&first);
        }
        if rest.count > 0 {
            self.lost.insert(rest.first, rest);
        }
    }

    /// Gives up the batch under way that begins at `first` under `reason`, and
    /// returns its payload and how many events that were; `None` when there is
    /// no such batch.
    pub fn give_up(
        &mut self,
        first: SequenceNumber,
        reason: LossReason,
    ) -> Option<(ingest::Batch, u64)> {
        let index = self.under_way.iter().position(|under_way| {
            under_way.run.first == first.0 && matches!(under_way.run.kind, RunKind::Batch(..))
        })?;
        let given_up = self.under_way[index];
        self.go_to(given_up.at, first.0);
        let batch = match self.peek() {
            Next::Batch(entry) => {
                let payload = self.payload(&entry).unwrap_or_default();
                self.batch(first.0, Some((&entry, payload)))
            }
            Next::Run(_) | Next::End => self.batch(first.0, None),
        };
        if let RunKind::Batch(class, number) = given_up.run.kind
            && let Some(segment) = self.segments[class.index()]
                .iter_mut()
                .find(|segment| segment.number == number)
        {
            segment.waiting = segment.waiting.saturating_sub(given_up.run.count);
        }
        self.lose(LostRange {
            first: first.0,
            count: given_up.run.count,
            reason,
        });
        // The range is sent in the batch's place, and what follows again.
        self.rewind_to(first);
        Some((batch, given_up.run.count))
    }

    fn position(&self) -> Position {
        self.cursor.ready.front().map_or(
            Position {
                journal: self.cursor.journal,
                offset: self.cursor.offset,
            },
            |entry| entry.at,
        )
    }

    fn go_to(&mut self, at: Position, expected: u64) {
        self.cursor = Cursor {
            journal: at.journal,
            offset: at.offset,
            expected,
            ready: VecDeque::new(),
        };
    }

    fn pass(&mut self, run: &Run) {
        self.cursor.expected = run.last() + 1;
    }

    /// Goes on at a number that is not below the next one.
    pub(super) fn skip_to(&mut self, next: SequenceNumber) {
        self.cursor.expected = next.0;
    }

    /// Returns the number that is next.
    pub(super) fn expected(&self) -> u64 {
        self.cursor.expected.max(self.acknowledged + 1)
    }

    pub(super) fn peek(&mut self) -> Next {
        let expected = self.expected();
        self.cursor.expected = expected;
        loop {
            while self
                .cursor
                .ready
                .pop_front_if(|entry| entry.last() < expected)
                .is_some()
            {}
            if !self.cursor.ready.is_empty() || !self.read_commit() {
                break;
            }
        }
        if expected >= self.sendable {
            return Next::End;
        }
        let entry = self.cursor.ready.front().copied();
        if let Some(entry) = entry
            && entry.first <= expected
        {
            return self.look_at(entry, expected);
        }
        let end = entry.map_or(self.sendable, |entry| entry.first.min(self.sendable));
        // A hole: numbers that no commit covers.
        let known = self.lost_at(expected);
        let (last, reason) = match known {
            Some(range) => (range.last().min(end - 1), range.reason),
            None => {
                let until = self
                    .lost
                    .range(expected..end)
                    .next()
                    .map_or(end, |(first, _)| *first);
                (until - 1, LossReason::AgentSpoolDamaged)
            }
        };
        Next::Run(Run {
            first: expected,
            count: last - expected + 1,
            kind: RunKind::Lost(reason),
        })
    }

    fn look_at(&self, entry: Entry, expected: u64) -> Next {
        if let Some(range) = self.lost_at(expected) {
            return Next::Run(Run {
                first: expected,
                count: range.last().min(entry.last()) - expected + 1,
                kind: RunKind::Lost(range.reason),
            });
        }
        if entry.last() <= self.evicted[entry.class.index()] {
            return Next::Run(Run {
                first: expected,
                count: entry.last() - expected + 1,
                kind: RunKind::Evicted,
            });
        }
        Next::Batch(entry)
    }

    fn lost_at(&self, sequence: u64) -> Option<LostRange> {
        let (_, range) = self.lost.range(..=sequence).next_back()?;
        (range.last() >= sequence).then_some(*range)
    }

    /// Reads the next entry of the journal; false: there is none.
    fn read_commit(&mut self) -> bool {
        let Some(index) = self
            .journals
            .iter()
            .position(|journal| journal.number >= self.cursor.journal)
        else {
            return false;
        };
        let journal = &self.journals[index];
        if journal.number > self.cursor.journal {
            self.cursor.journal = journal.number;
            self.cursor.offset = 0;
        }
        let at = Position {
            journal: self.cursor.journal,
            offset: self.cursor.offset,
        };
        let Some((what, end)) = journal::read(&journal.file, at.offset, journal.bytes) else {
            // The end, or damage: what it held shows as a hole.
            let Some(following) = self.journals.get(index + 1) else {
                return false;
            };
            self.cursor.journal = following.number;
            self.cursor.offset = 0;
            return true;
        };
        self.cursor.offset = end;
        if let What::Commit(commit) = what {
            self.cursor.ready.extend(entries(&commit, at));
        }
        true
    }
}

fn entries(commit: &journal::Commit, at: Position) -> impl Iterator<Item = Entry> {
    let mut next = commit.first_sequence;
    commit.parts.iter().filter_map(move |part| {
        let first = next;
        next = next.checked_add(part.events.into())?;
        (part.events > 0).then_some(Entry {
            first,
            events: part.events,
            class: Class::at(part.class)?,
            segment: part.segment,
            offset: part.offset,
            bytes: part.bytes,
            crc32c: part.crc32c,
            at,
        })
    })
}

/// When the peer heard of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// In this session.
    Sent,
    /// In one before.
    Before,
}
