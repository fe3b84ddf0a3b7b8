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
mod files;
pub mod inspect;
mod journal;
mod log;
mod quarantine;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use class::Class;
pub use files::{Files, Folder, SpoolFile};
pub use journal::Mark;
pub use log::AckError;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use log::{Damage, EpochLog, Recovered, Sealed};
use quarantine::Refused;
use shrike_proto::{
    batch::{Fit, Packer},
    event::Event,
    id::{Epoch, SequenceNumber},
    ledger::{Ledger, LossReason},
    wire::ingest,
};

use crate::config::{SpoolLimits, Sync};

/// A folder that is no log any more is kept under this name.
const DAMAGED: &str = "damaged_";

const EPOCH: &str = "epoch_";

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

/// The spool of a node.
#[derive(Debug)]
pub struct Spool {
    files: Arc<dyn Files>,
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
    /// Number that the first event of this agent's life got.
    began_at: u64,
    sync_at: Option<Instant>,
    failing: bool,
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
        files: Arc<dyn Files>,
        limits: SpoolLimits,
        batch_events_max: usize,
        boot_id: &str,
        epoch: Epoch,
    ) -> Result<Self, SpoolError> {
        let mut found = find(&files, limits.segment_bytes())?;
        let ordinal = found.ordinal;
        for (name, damage) in &found.unusable {
            let aside = format!("{DAMAGED}{name}");
            tracing::error!(
                kept_as = aside,
                "the spool of an epoch is unusable: {damage}"
            );
            if let Err(error) = files.rename_folder(name, &aside) {
                tracing::error!(%error, name, "it cannot be set aside");
            }
        }
        let last = found
            .logs
            .pop_back_if(|last| last.clean && last.log.boot_id() == boot_id);
        let (open, origin, ordinal) = match last {
            Some(mut last) => {
                last.log.remove_strays();
                (last.log, Origin::Continued, ordinal)
            }
            None => {
                let origin = found.origin(boot_id);
                let open = begin(&files, &limits, ordinal + 1, epoch, boot_id);
                (open, origin, ordinal + 1)
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
            began_at: open.next_sequence().0,
            files,
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
            sync_at: None,
            failing: false,
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

    /// Writes what was pushed. `marks` is how far the rings were read.
    ///
    /// What cannot be written, whatever is given up for it, is lost, and
    /// counted.
    pub fn commit(&mut self, marks: &[Mark]) {
        for class in Class::ALL {
            self.seal(class);
        }
        self.verdicts = 0;
        if self.sealed.is_empty() {
            return;
        }
        let mut batches = std::mem::take(&mut self.sealed);
        batches.sort_by_key(|batch| batch.class);
        while let Err(error) = self.open.commit(&batches, marks) {
            if !self.failing {
                tracing::error!(%error, "the spool cannot be written: what is worth least is given up");
                self.failing = true;
            }
            if !self.evict_one() {
                let events = batches.iter().map(|batch| u64::from(batch.events)).sum();
                self.open.lose_next(events, LossReason::AgentSpoolFailed);
                tracing::error!(
                    events,
                    "events could not be written to the spool: they are lost"
                );
                return;
            }
        }
        if std::mem::take(&mut self.failing) {
            tracing::info!("the spool can be written again");
        }
        while self.bytes() > self.limits.bytes_max && self.evict_one() {}
        if self.limits.sync == Sync::Always {
            self.sync();
        }
    }

    /// Returns how many bytes are kept.
    pub fn bytes(&self) -> u64 {
        self.ended
            .iter()
            .chain([&self.open])
            .map(EpochLog::bytes)
            .sum()
    }

    fn evict_one(&mut self) -> bool {
        for class in Class::ALL.into_iter().rev() {
            for log in self.ended.iter_mut().chain([&mut self.open]) {
                if let Some(events) = log.evict(class) {
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
    /// stops.
    pub fn finish(&mut self) {
        self.sync();
    }

    fn sync(&mut self) {
        let (files, folder) = self.open.take_unsynced();
        let result = files
            .iter()
            .try_for_each(|file| file.sync())
            .and_then(|()| match folder {
                true => self.files.sync_folder(self.open.folder()),
                false => Ok(()),
            });
        if let Err(error) = result {
            tracing::error!(%error, "the spool cannot be synced: a power cut may lose events");
        }
    }

    /// Returns a job that brings what was written onto the disk, if it is time
    /// for that. It blocks.
    pub fn sync_if_due(&mut self, now: Instant) -> Option<impl FnOnce() + Send + use<>> {
        let Sync::Interval(interval) = self.limits.sync else {
            return None;
        };
        if self.sync_at.is_some_and(|at| now < at) {
            return None;
        }
        let (written, folder) = self.open.take_unsynced();
        if written.is_empty() && !folder {
            return None;
        }
        self.sync_at = Some(now + interval);
        let (files, name) = (Arc::clone(&self.files), self.open.folder().to_owned());
        Some(move || {
            let result =
                written
                    .iter()
                    .try_for_each(|file| file.sync())
                    .and_then(|()| match folder {
                        true => files.sync_folder(&name),
                        false => Ok(()),
                    });
            if let Err(error) = result {
                tracing::error!(%error, "the spool cannot be synced: a power cut may lose events");
            }
        })
    }

    /// Keeps the open epoch's ledger for a successor.
    pub fn keep_ledger(&mut self, ledger: &Ledger) {
        if let Err(error) = self.open.keep_ledger(ledger) {
            tracing::debug!(%error, "the ledger cannot be kept");
        }
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
    /// that this spool does not know: it lost its end. What it took in since
    /// may carry such numbers, so it is given up.
    pub fn begin_anew(&mut self, epoch: Epoch) {
        self.commit(&[]);
        let open = begin(
            &self.files,
            &self.limits,
            self.ordinal + 1,
            epoch,
            &self.boot_id,
        );
        self.ordinal += 1;
        let before = std::mem::replace(&mut self.open, open);
        let since = before.next_sequence().0 - self.began_at;
        tracing::error!(
            epoch = %before.epoch(),
            events = since,
            "the collector has events of this epoch that the spool lost: another epoch begins"
        );
        before.discard();
        self.began_at = 1;
        if since > 0 {
            self.open.lose_next(since, LossReason::AgentSpoolDamaged);
        }
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
        if let Err(error) = quarantine::keep(&self.files, &refused) {
            tracing::error!(%error, "a refused batch cannot be kept");
        }
        Some(events)
    }
}

/// How often files are synced where nothing else was asked for.
pub const SYNC_INTERVAL_DEFAULT: Duration = Duration::from_secs(1);

/// Logs that were found, in their order.
#[derive(Default)]
struct Found {
    logs: VecDeque<Recovered>,
    /// The highest number of a folder.
    ordinal: u64,
    /// Folders that are no log any more.
    unusable: Vec<(String, Damage)>,
}

impl Found {
    fn origin(&self, boot_id: &str) -> Origin {
        let reason = match (self.unusable.last(), self.logs.back()) {
            (Some((_, damage)), _) => format!("the last one is unusable: {damage}"),
            (None, None) => return Origin::New,
            (None, Some(last)) if last.log.boot_id() != boot_id => {
                "the machine was booted since".to_owned()
            }
            (None, Some(_)) => "the journal of the last one is torn".to_owned(),
        };
        Origin::Begun(reason)
    }
}

fn find(files: &Arc<dyn Files>, segment_bytes: u64) -> io::Result<Found> {
    let mut folders: Vec<(u64, String)> = files
        .list("")?
        .into_iter()
        .filter_map(|name| {
            let (ordinal, _) = name.strip_prefix(EPOCH)?.split_once('_')?;
            Some((ordinal.parse().ok()?, name))
        })
        .collect();
    folders.sort_unstable();
    let mut found = Found::default();
    for (ordinal, name) in folders {
        found.ordinal = ordinal;
        match EpochLog::recover(Arc::clone(files), name.clone(), segment_bytes)? {
            Ok(recovered) => found.logs.push_back(recovered),
            Err(damage) => {
                found.unusable.push((name, damage));
            }
        }
    }
    Ok(found)
}

fn begin(
    files: &Arc<dyn Files>,
    limits: &SpoolLimits,
    ordinal: u64,
    epoch: Epoch,
    boot_id: &str,
) -> EpochLog {
    EpochLog::begin(
        Arc::clone(files),
        format!("{EPOCH}{ordinal:06}_{epoch}"),
        epoch,
        boot_id.to_owned(),
        limits.segment_bytes(),
    )
}
