//! Events that wait for the collector's durable acknowledgement, on disk.
//!
//! ```text
//!  drain of the rings                         commit                 session
//!  ┌──────────────────────┐  one batch  ┌───────────────────┐  read   ┌──────┐
//!  │ verdicts │ processes │ ──────────► │ data files, then  │ ──────► │ sent │
//!  │        opens         │ for a class │ the journal       │         └──┬───┘
//!  └──────────────────────┘             └─────────▲─────────┘            │
//!                                                 └── leaves by acknowledgement
//! ```
//!
//! Events get their numbers when they are committed: the journal's entry and
//! the numbers come to be together, and only then do the rings give up what
//! was read, and may a batch be sent. So an agent that is killed at any moment
//! loses nothing and numbers nothing twice. Against a power cut the files are
//! synced as [`Sync`] says; what the kernel's rings held is gone then anyway.
//!
//! An epoch ends when a number could be given twice: with the machine's boot,
//! with a torn journal, with a spool that is gone. What waits of an ended epoch
//! is delivered before the next one.
//!
//! Bytes are bounded. Past the bound the oldest file of the class that is worth
//! least is given up; the lost ranges take its place and leave as events do.

mod class;
mod disk;
mod files;
mod found;
pub mod inspect;
mod journal;
mod log;
mod quarantine;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod unwritten;

pub use class::Class;
pub use disk::Disk;
pub use files::{Files, Folder, SpoolFile};
pub use journal::Mark;
pub use log::AckError;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use disk::{DiskFile, Ticket, Trouble};
use found::{EPOCH, Found};
use log::{Carried, EpochLog, Eviction, Sealed};
use quarantine::Refused;
use shrike_proto::{
    batch::{self, Fit, Packer},
    event::Event,
    id::{Epoch, SequenceNumber},
    ledger::{Ledger, LossReason},
    wire::ingest,
};

use tokio::sync::watch;
use unwritten::Unwritten;

use crate::config::{SpoolLimits, Sync};

/// A disk that does not take a commit for so long does not answer: what is in
/// memory is sent from there. A sync of a busy disk takes tenths of that.
const PATIENCE: Duration = Duration::from_secs(1);

/// Memory for what the disk has not taken, in bytes: a minute of a busy node,
/// and more than the rings of the default size hold in this form. Beyond it
/// records wait in the rings.
const WAITING_BYTES_MAX: usize = 16 << 20;

/// Longest wait for the disk when the agent stops.
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait for the disk while one epoch's events are carried over into
/// another.
const CARRY_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no spool.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the spool")]
pub struct SpoolError(#[from] io::Error);

/// What became of the spool that was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// There was none.
    New,
    /// The epoch of the agent before goes on.
    Continued,
    /// Another epoch begins; why, for a person.
    Begun(String),
}

/// What an epoch that goes on with another one's events has not got of its
/// agent's, and has got of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inheritance {
    /// Events of this agent's life that the epoch before has delivered.
    pub delivered: u64,
    /// Events that agents before this one took in.
    pub of_others: u64,
}

/// The spool of a node.
#[derive(Debug)]
pub struct Spool {
    disk: Disk,
    limits: SpoolLimits,
    batch_events_max: usize,
    boot_id: String,
    /// Epochs that ended, the oldest first, each with something that waits.
    ended: VecDeque<EpochLog>,
    open: EpochLog,
    /// Number of the open epoch's folder.
    ordinal: u64,
    origin: Origin,
    packers: [Packer; Class::COUNT],
    sealed: Vec<Sealed>,
    verdicts: u64,
    unwritten: Unwritten,
    /// The failed attempt for which something was given up last.
    evicted_for: u64,
    /// The disk does not take what it should; it was said when this was its
    /// last write.
    trouble: Option<Ticket>,
    /// An epoch that was carried over, and when the disk has all of it.
    carried: Option<(Ticket, EpochLog)>,
    sync_at: Option<Instant>,
}

impl Spool {
    /// Opens the spool, or makes it. `epoch` is what an epoch is called that
    /// begins, if one does.
    ///
    /// # Errors
    /// [`SpoolError`] when the folder cannot be read. What is in it and is no
    /// spool is set aside, and told; a disk that takes nothing costs events,
    /// counted, and does not keep an agent from its work.
    pub fn open(
        disk: Disk,
        limits: SpoolLimits,
        batch_events_max: usize,
        boot_id: &str,
        epoch: Epoch,
    ) -> Result<Self, SpoolError> {
        let mut found = Found::read(&disk, limits.segment_bytes())?;
        found.set_aside_unusable(&disk);
        found.void.drain(..).for_each(EpochLog::discard);
        let last = found
            .logs
            .pop_back_if(|last| last.clean && last.log.boot_id() == boot_id);
        let (open, origin, ordinal) = match last {
            Some(mut last) => {
                last.log.remove_strays();
                last.log.begin_life(last.unheard);
                (last.log, Origin::Continued, found.ordinal)
            }
            None => {
                let (origin, ordinal) = (found.origin(boot_id), found.ordinal + 1);
                let open = begin(&disk, &limits, ordinal, epoch, boot_id);
                (open, origin, ordinal)
            }
        };
        let mut ended = VecDeque::new();
        for recovered in found.logs {
            let mut log = recovered.log;
            if log.is_empty() {
                log.discard();
            } else {
                log.remove_strays();
                ended.push_back(log);
            }
        }
        Ok(Self {
            disk,
            limits,
            batch_events_max,
            boot_id: boot_id.to_owned(),
            ended,
            open,
            ordinal,
            origin,
            packers: Default::default(),
            sealed: Vec::new(),
            verdicts: 0,
            unwritten: Unwritten::default(),
            evicted_for: 0,
            trouble: None,
            carried: None,
            sync_at: None,
        })
    }

    /// Says what became of the spool that was there.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Returns how far the rings had been read by what is in the spool.
    pub fn marks(&self) -> Vec<Mark> {
        let ended = self.ended.back();
        let same_boot = ended.filter(|log| log.boot_id() == self.boot_id);
        match (self.open.marks(), same_boot) {
            ([], Some(before)) => before.marks().to_vec(),
            (marks, _) => marks.to_vec(),
        }
    }

    /// Returns the ledger that the open epoch's last agent kept.
    pub fn kept_ledger(&self) -> &Ledger {
        self.open.ledger()
    }

    /// Returns the number that the next committed event gets.
    pub fn next_number(&self) -> SequenceNumber {
        self.open.next_sequence()
    }

    /// Returns the number that the next event of [`Class::Verdicts`] gets:
    /// those come first in their commit, so it is known beforehand.
    pub fn next_verdict_number(&self) -> SequenceNumber {
        SequenceNumber(self.open.next_sequence().0 + self.verdicts)
    }

    /// Takes in an event. It has a number, and is safe, with the next
    /// [`commit`](Self::commit).
    ///
    /// # Panics
    /// When one of [`Class::Verdicts`] carries another number than the next
    /// one: that would be our own mistake.
    pub fn push(&mut self, event: &Event) {
        let class = Class::of(event);
        if class == Class::Verdicts {
            assert_eq!(event.sequence, self.next_verdict_number());
            self.verdicts += 1;
        }
        let index = class.index();
        if self.packers[index].push(event) == Fit::Full {
            self.seal(class);
            let fit = self.packers[index].push(event);
            assert_eq!(fit, Fit::Taken, "a batch takes any event");
        }
        if self.packers[index].events() >= self.batch_events_max {
            self.seal(class);
        }
    }

    fn seal(&mut self, class: Class) {
        let packer = &mut self.packers[class.index()];
        if packer.events() == 0 {
            return;
        }
        // The number is the journal's to give.
        let batch = packer.seal(self.open.epoch(), SequenceNumber(0));
        self.sealed.push(Sealed {
            class,
            payload: batch.payload,
            events: batch.count,
            crc32c: batch.crc32c,
        });
    }

    /// Says whether events wait to be committed.
    pub fn is_pending(&self) -> bool {
        !self.sealed.is_empty() || self.packers.iter().any(|packer| packer.events() > 0)
    }

    /// Gives what was pushed its numbers, and to the disk. `marks` is how far
    /// the rings were read: [`settle`](Self::settle) says when they may be
    /// released.
    pub fn commit(&mut self, marks: &[Mark]) {
        for class in Class::ALL {
            self.seal(class);
        }
        self.verdicts = 0;
        if self.sealed.is_empty() {
            self.unwritten.pass(marks);
            return;
        }
        let mut batches = std::mem::take(&mut self.sealed);
        batches.sort_by_key(|batch| batch.class);
        self.open.commit(batches, marks);
        while self.bytes() > self.limits.bytes_max && self.evict_one(Eviction::Any) {}
        if self.limits.sync == Sync::Always {
            self.sync();
        }
        let next = self.open.next_sequence();
        self.unwritten
            .push(self.disk.ticket(), next, marks.to_vec());
        self.attend();
    }

    /// Looks at what the disk has done, and does what follows from it: batches
    /// may be sent, and a full disk gets room. Returns up to where the rings
    /// may be released, if that is further than before.
    pub fn settle(&mut self, now: Instant) -> Option<Vec<Mark>> {
        self.attend();
        let is_silent = self.unwritten.age(now) >= PATIENCE;
        self.open.set_silent(is_silent);
        self.tell_trouble(is_silent);
        self.sync_if_due(now);
        self.unwritten.take_released()
    }

    fn attend(&mut self) {
        while let Some(failure) = self.disk.failure()
            && failure.trouble == Trouble::NoRoom
            && failure.attempt > self.evicted_for
        {
            self.evicted_for = failure.attempt;
            if !self.evict_one(Eviction::OnDisk) {
                break;
            }
            self.disk.retry();
        }
        let done = self.disk.done();
        let acknowledged = self.open.acknowledged();
        if let Some(next) = self.unwritten.settle(done, acknowledged) {
            self.open.note_written(next);
        }
        if let Some((_, log)) = self.carried.take_if(|(ticket, _)| *ticket <= done) {
            log.discard();
        }
    }

    /// Says once that the disk does not take what it should, and once that it
    /// does again.
    fn tell_trouble(&mut self, is_silent: bool) {
        let failure = self.disk.failure();
        match self.trouble {
            None => {
                match failure {
                    Some(failure) => tracing::error!(
                        error = failure.error,
                        "the spool cannot be written: events wait in memory until it can"
                    ),
                    None if is_silent => tracing::error!(
                        "the disk with the spool does not answer: events wait in memory until it does"
                    ),
                    None => return,
                }
                self.trouble = Some(self.disk.ticket());
            }
            Some(ticket) if failure.is_none() && !is_silent && ticket <= self.disk.done() => {
                tracing::info!("the spool is written again");
                self.trouble = None;
            }
            Some(_) => {}
        }
    }

    /// Says whether there is memory for more that the disk has not taken.
    /// Where there is none, records are to stay in the rings.
    pub fn has_room(&self) -> bool {
        self.disk.waiting_bytes() < WAITING_BYTES_MAX
    }

    /// Returns what changes when there is something to
    /// [`settle`](Self::settle).
    pub fn progress(&self) -> watch::Receiver<u64> {
        self.disk.progress()
    }

    /// Returns how many bytes are kept.
    pub fn bytes(&self) -> u64 {
        self.ended
            .iter()
            .chain([&self.open])
            .map(EpochLog::bytes)
            .sum()
    }

    fn evict_one(&mut self, eviction: Eviction) -> bool {
        for class in Class::ALL.into_iter().rev() {
            for log in self.ended.iter_mut().chain([&mut self.open]) {
                if let Some(events) = log.evict(class, eviction) {
                    tracing::error!(
                        class = class.as_str(),
                        events,
                        "the spool is full: its oldest events of the class that is worth least are lost"
                    );
                    return true;
                }
            }
        }
        false
    }

    /// Brings everything onto the disk, whatever the policy says: the agent
    /// stops. Blocks until that is done, or the disk took too long.
    pub fn finish(&mut self) {
        self.sync();
        let ticket = self.disk.ticket();
        if !self.disk.wait(ticket, FINISH_TIMEOUT) {
            tracing::error!(
                bytes = self.disk.waiting_bytes(),
                "stopping though the disk with the spool does not take what waits for it"
            );
        }
        self.attend();
    }

    /// Syncs in the order of the writes.
    fn sync(&mut self) {
        let (files, folder) = self.open.take_unsynced();
        files.iter().for_each(DiskFile::sync);
        if folder {
            self.disk.sync_folder(self.open.folder());
        }
    }

    /// Syncs beside the writes that follow, if it is time for that.
    fn sync_if_due(&mut self, now: Instant) {
        let Sync::Interval(interval) = self.limits.sync else {
            return;
        };
        if self.sync_at.is_some_and(|at| now < at) {
            return;
        }
        let (files, folder) = self.open.take_unsynced();
        if files.is_empty() && !folder {
            return;
        }
        self.sync_at = Some(now + interval);
        let folder = folder.then(|| self.open.folder());
        self.disk.sync_beside(&files, folder);
    }

    /// Keeps the open epoch's ledger for a successor.
    pub fn keep_ledger(&mut self, ledger: &Ledger) {
        self.open.keep_ledger(ledger);
    }

    /// Returns what the open epoch gave up so far, by reason.
    pub fn lost(&self) -> BTreeMap<LossReason, u64> {
        self.open.lost()
    }

    /// Returns how many events wait.
    pub fn waiting(&self) -> u64 {
        self.ended
            .iter()
            .chain([&self.open])
            .map(EpochLog::waiting)
            .sum()
    }

    /// Says whether nothing waits, lost ranges included.
    pub fn is_empty(&self) -> bool {
        self.ended.is_empty() && self.open.is_empty() && !self.is_pending()
    }

    fn active(&self) -> &EpochLog {
        self.ended.front().unwrap_or(&self.open)
    }

    fn active_mut(&mut self) -> &mut EpochLog {
        self.ended.front_mut().unwrap_or(&mut self.open)
    }

    /// Returns the epoch that is being delivered.
    pub fn epoch(&self) -> Epoch {
        self.active().epoch()
    }

    /// Returns the boot in which its events happened.
    pub fn boot_id(&self) -> &str {
        self.active().boot_id()
    }

    /// Returns the ledger of the epoch that is being delivered, if it ended.
    pub fn ended_ledger(&self) -> Option<&Ledger> {
        self.ended.front().map(EpochLog::ledger)
    }

    /// Returns the lowest number of it that is not acknowledged.
    pub fn first_sequence(&self) -> SequenceNumber {
        self.active().first_sequence()
    }

    /// Returns the number of it that the next event gets, or would.
    pub fn next_sequence(&self) -> SequenceNumber {
        self.active().next_sequence()
    }

    /// Removes the epoch that is being delivered if it ended and nothing of it
    /// waits; then the next one's turn has come.
    pub fn retire(&mut self) -> bool {
        match self.ended.pop_front_if(|log| log.is_empty()) {
            Some(log) => {
                tracing::info!(epoch = %log.epoch(), "an ended epoch is delivered");
                log.discard();
                true
            }
            None => false,
        }
    }

    /// Returns how many batches were sent in this session and are not
    /// acknowledged.
    pub fn batches_under_way(&self) -> usize {
        self.active().batches_under_way()
    }

    /// Returns the next batch to send, with the lost ranges before it, and
    /// counts it as under way. A batch of 0 events carries lost ranges alone.
    pub fn take_next(&mut self) -> Option<ingest::Batch> {
        self.active_mut().take_next()
    }

    /// Returns a batch without events at the place of the next one to send,
    /// for a ledger.
    pub fn empty_batch(&self) -> ingest::Batch {
        self.active().empty_batch()
    }

    /// Forgets that anything was sent: a session begins.
    pub fn rewind(&mut self) {
        self.active_mut().rewind();
    }

    /// Sends again from `first` on.
    pub fn rewind_to(&mut self, first: SequenceNumber) {
        self.active_mut().rewind_to(first);
    }

    /// Lets go of everything up to and including `durable`, and returns how
    /// many batches and ranges that were.
    ///
    /// # Errors
    /// [`AckError::Ahead`] when the collector has more than there is: this
    /// spool lost its end. Of an ended epoch that is what a power cut does.
    pub fn acknowledge(&mut self, durable: SequenceNumber) -> Result<usize, AckError> {
        match self.ended.front_mut() {
            Some(log) => {
                let last = SequenceNumber(log.next_sequence().0 - 1);
                log.acknowledge(durable.min(last))
            }
            None => self.open.acknowledge(durable),
        }
    }

    /// Begins another epoch because the collector has events under numbers
    /// that this spool does not know: an older disk was put back, or the agent
    /// before sent what the disk had not taken when it died. What this agent
    /// took in since, and has not sent, is carried over; what it sent may be
    /// on the collector's disk or not, and counts as lost.
    pub fn begin_anew(&mut self, epoch: Epoch) -> Inheritance {
        let marks = self.open.marks().to_vec();
        self.commit(&marks);
        self.ordinal += 1;
        let open = self.open.begin_next(folder(self.ordinal, epoch), epoch);
        let mut before = std::mem::replace(&mut self.open, open);
        let marks = self.unwritten.restart().unwrap_or(marks);
        let inheritance = Inheritance {
            delivered: before.delivered_in_life(),
            of_others: before.carried_of_others(),
        };
        let until = Instant::now() + CARRY_TIMEOUT;
        let (mut batches, mut lost) = (0, 0);
        let mut next = before.begin_carrying().or_else(|| before.carry_next());
        while let Some(carried) = next {
            let (count, reason) = match carried {
                Carried::Batch(class, batch) if self.has_room_by(until) => {
                    batches += 1;
                    let lost = self.carry_over(class, *batch);
                    (lost, LossReason::AgentSpoolDamaged)
                }
                Carried::Batch(_, batch) => (batch.count.into(), LossReason::AgentSpoolFailed),
                Carried::Lost(count, reason) => (count, reason),
            };
            if count > 0 {
                self.open.lose_next(count, reason);
                lost += count;
            }
            next = before.carry_next();
        }
        tracing::error!(
            epoch = %before.epoch(),
            batches,
            lost,
            "the collector has events of this epoch that the spool does not know: another epoch begins, with what was not sent"
        );
        self.open.end_carrying(&marks);
        let ticket = self.disk.ticket();
        let next = self.open.next_sequence();
        self.unwritten.push(ticket, next, marks);
        if let Some((_, log)) = self.carried.replace((ticket, before)) {
            log.discard();
        }
        self.attend();
        inheritance
    }

    /// Takes in a batch of another epoch. Returns how many of its events could
    /// not be read.
    fn carry_over(&mut self, class: Class, batch: ingest::Batch) -> u64 {
        match class {
            // They carry their numbers, which are others here.
            Class::Verdicts => {
                let events = match batch::open(&batch) {
                    Ok(events) => events,
                    Err(error) => {
                        tracing::error!(%error, "a batch in the spool is damaged");
                        return batch.count.into();
                    }
                };
                for mut event in events {
                    event.sequence = self.next_verdict_number();
                    self.push(&event);
                }
                self.seal(class);
                self.verdicts = 0;
            }
            Class::Processes | Class::Opens => self.sealed.push(Sealed {
                class,
                payload: batch.payload,
                events: batch.count,
                crc32c: batch.crc32c,
            }),
        }
        let batches = std::mem::take(&mut self.sealed);
        self.open.commit(batches, &[]);
        0
    }

    fn has_room_by(&self, until: Instant) -> bool {
        if self.has_room() {
            return true;
        }
        let rest = until.saturating_duration_since(Instant::now());
        self.disk.wait(self.disk.ticket(), rest) || self.has_room()
    }

    /// Gives up the batch under way that begins at `first`, keeps it in the
    /// quarantine, and returns how many events that were; `None` when there is
    /// no such batch.
    pub fn quarantine(&mut self, first: SequenceNumber, reason: &str) -> Option<u64> {
        let (batch, events) = self.active_mut().give_up(first, LossReason::Quarantined)?;
        let refused = Refused {
            batch: Some(batch),
            reason: reason.to_owned(),
            time_unix_ns: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_nanos() as i64),
        };
        if let Err(error) = quarantine::keep(&self.disk, &refused) {
            tracing::error!(%error, "a refused batch cannot be kept");
        }
        Some(events)
    }
}

/// How often files are synced where nothing else was asked for.
pub const SYNC_INTERVAL_DEFAULT: Duration = Duration::from_secs(1);

fn begin(disk: &Disk, limits: &SpoolLimits, ordinal: u64, epoch: Epoch, boot_id: &str) -> EpochLog {
    EpochLog::begin(
        disk.clone(),
        folder(ordinal, epoch),
        epoch,
        boot_id.to_owned(),
        limits.segment_bytes(),
    )
}

fn folder(ordinal: u64, epoch: Epoch) -> String {
    format!("{EPOCH}{ordinal:06}_{epoch}")
}
