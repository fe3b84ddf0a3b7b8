//! What is left of an epoch's log after its agent ended, however that was.

use std::io;

use shrike_proto::{
    id::{Epoch, SequenceNumber},
    ledger::{Ledger, LossReason},
};

use super::{EpochLog, JOURNAL, Journal, LostRange, Segment, segment_name};
use crate::spool::{
    class::Class,
    disk::Disk,
    journal::{self, Count, Opening, Part, Unheard, What},
};

/// A log that was read again.
#[derive(Debug)]
pub struct Recovered {
    /// As it was.
    pub log: EpochLog,
    /// Nothing follows the last whole entry of the journal. Where something
    /// does, numbers may have been given that nobody knows any more, so none
    /// must be given again.
    pub clean: bool,
    /// What an epoch before held was being carried over: all of it is there
    /// still.
    pub is_partial: bool,
    /// The epoch before was carried over, whole: it is void.
    pub has_carried: bool,
    /// From where on no collector can know its numbers.
    pub unheard: Option<u64>,
}

/// Why a folder is no log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// No journal of it can be read.
    #[error("no journal in it can be read")]
    NoJournal,
    /// Another version wrote it.
    #[error(
        "it has version {found} of the format, this agent reads version {}",
        journal::VERSION
    )]
    Version {
        /// As the journal says.
        found: u32,
    },
}

impl EpochLog {
    /// Reads the log in a folder.
    ///
    /// # Errors
    /// When the folder cannot be read. What is wrong with its content is
    /// [`Damage`].
    pub fn recover(
        disk: Disk,
        folder: String,
        segment_bytes: u64,
    ) -> io::Result<Result<Recovered, Damage>> {
        let names = disk.list(&folder)?;
        let mut log = Self::empty(disk, folder, segment_bytes);
        let mut numbers: Vec<u64> = names
            .iter()
            .filter_map(|name| journal_number(name))
            .collect();
        numbers.sort_unstable();
        let mut replay = Replay::default();
        for number in numbers {
            match replay.read(&mut log, number) {
                Ok(()) => {}
                Err(damage @ Damage::Version { .. }) => return Ok(Err(damage)),
                Err(Damage::NoJournal) => replay.clean = false,
            }
        }
        let Some(first) = log.journals.front() else {
            return Ok(Err(Damage::NoJournal));
        };
        log.cursor.journal = first.number;
        for (segments, upto) in log.segments.iter_mut().zip(log.evicted) {
            segments.retain(|segment| segment.last > upto);
        }
        log.sendable = log.next;
        log.written = log.next;
        log.began = log.next;
        log.sent = log.next - 1;
        log.acknowledged = replay.first.saturating_sub(1);
        let acknowledged = replay.count.acknowledged.min(log.next - 1);
        log.acknowledge(SequenceNumber(acknowledged))
            .expect("it is below the next number");
        log.evicted_waiting = replay.count.evicted + replay.evicted_since;
        log.settled = replay
            .count
            .settled
            .iter()
            .filter_map(|lost| Some((LossReason::from_wire(lost.reason)?, lost.count)))
            .collect();
        log.ledger = replay.count.ledger.map(Ledger::from).unwrap_or_default();
        for class in Class::ALL {
            let prefix = format!("{}_", class.as_str());
            log.segments_made[class.index()] = names
                .iter()
                .filter_map(|name| name.strip_prefix(&prefix)?.parse::<u64>().ok())
                .map(|number| number + 1)
                .chain([log.segments_made[class.index()]])
                .max()
                .unwrap_or(0);
        }
        Ok(Ok(Recovered {
            clean: replay.clean,
            is_partial: log.is_carrying,
            has_carried: log.has_carried,
            unheard: Some(replay.unheard).filter(|from| (1..=log.next).contains(from)),
            log,
        }))
    }

    /// Removes files that the journal does not name: they were being written
    /// when the agent ended.
    pub fn remove_strays(&mut self) {
        for name in self.disk.list(&self.folder).unwrap_or_default() {
            let is_known = journal_number(&name).is_some()
                || Class::ALL.iter().any(|class| {
                    self.segments[class.index()]
                        .iter()
                        .any(|segment| segment_name(*class, segment.number) == name)
                });
            if !is_known {
                self.disk.remove(format!("{}/{name}", self.folder));
                self.folder_unsynced = true;
            }
        }
    }
}

fn journal_number(name: &str) -> Option<u64> {
    name.strip_prefix(JOURNAL)?.strip_prefix('_')?.parse().ok()
}

/// What the journal said so far.
#[derive(Debug)]
struct Replay {
    /// Number of the first event that the journal may name.
    first: u64,
    count: Count,
    /// Evicted since that count.
    evicted_since: u64,
    clean: bool,
    /// From where on no collector can know numbers; 0: nowhere.
    unheard: u64,
}

impl Default for Replay {
    fn default() -> Self {
        Self {
            first: 1,
            count: Count::default(),
            evicted_since: 0,
            clean: true,
            unheard: 0,
        }
    }
}

impl Replay {
    /// Reads a file of the journal.
    fn read(&mut self, log: &mut EpochLog, number: u64) -> Result<(), Damage> {
        let path = format!("{}/{}", log.folder, super::journal_name(number));
        let Ok(file) = log.disk.open(&path) else {
            return Err(Damage::NoJournal);
        };
        let length = file.length();
        let Some((What::Opening(opening), mut offset)) = journal::read(&file, 0, length) else {
            return Err(Damage::NoJournal);
        };
        self.open(log, number, opening)?;
        while let Some((what, end)) = journal::read(&file, offset, length) {
            self.take(log, what);
            offset = end;
        }
        if offset < length {
            tracing::warn!(
                file = path,
                bytes = length - offset,
                "the journal of the spool is torn or damaged behind its last whole entry"
            );
        }
        self.clean = offset == length;
        log.journals.push_back(Journal {
            number,
            file,
            bytes: offset,
            next: log.next,
        });
        Ok(())
    }

    fn open(&mut self, log: &mut EpochLog, number: u64, opening: Opening) -> Result<(), Damage> {
        if opening.version != journal::VERSION {
            return Err(Damage::Version {
                found: opening.version,
            });
        }
        let epoch = Epoch::from_wire(&opening.epoch).map_err(|_| Damage::NoJournal)?;
        if log.journals.is_empty() {
            log.epoch = epoch;
            log.boot_id = opening.boot_id;
            // Files before this one went when everything in them was
            // acknowledged.
            self.first = match number {
                0 => 1,
                _ => opening.next_sequence.max(1),
            };
        }
        log.next = log.next.max(opening.next_sequence);
        for evicted in opening.evicted {
            note_evicted(log, &evicted);
        }
        for lost in &opening.lost {
            note_lost(log, lost);
        }
        self.count(opening.count.unwrap_or_default());
        log.marks = opening.marks;
        log.is_carrying = opening.is_carrying;
        log.has_carried = opening.has_carried;
        self.unheard = opening.unheard_from;
        Ok(())
    }

    fn take(&mut self, log: &mut EpochLog, what: What) {
        match what {
            What::Opening(_) => {}
            What::Commit(commit) => {
                if commit.first_sequence < log.next {
                    tracing::error!(
                        first = commit.first_sequence,
                        expected = log.next,
                        "the journal of the spool goes back: an entry is left out"
                    );
                    return;
                }
                log.next = commit.first_sequence;
                if log.is_carrying && commit.parts.is_empty() {
                    log.is_carrying = false;
                    log.has_carried = true;
                }
                for part in &commit.parts {
                    open_segment(log, part);
                    log.note_part(part);
                }
                log.marks = commit.marks;
            }
            What::Evicted(evicted) => {
                note_evicted(log, &evicted);
                self.evicted_since += evicted.events;
            }
            What::Lost(lost) => {
                note_lost(log, &lost);
                log.next = log.next.max(lost.first_sequence.saturating_add(lost.count));
            }
            What::Count(count) => self.count(count),
            What::Unheard(Unheard { from }) => self.unheard = from,
        }
    }

    fn count(&mut self, count: Count) {
        self.count = count;
        self.evicted_since = 0;
    }
}

fn open_segment(log: &mut EpochLog, part: &Part) {
    let Some(class) = Class::at(part.class) else {
        return;
    };
    // No entry of the journal may ever mean another file than it does.
    let made = &mut log.segments_made[class.index()];
    *made = (*made).max(part.segment.saturating_add(1));
    let segments = &mut log.segments[class.index()];
    if segments
        .back()
        .is_some_and(|segment| segment.number >= part.segment)
    {
        return;
    }
    let path = format!("{}/{}", log.folder, segment_name(class, part.segment));
    // One that was given up or acknowledged is not there any longer.
    if let Ok(file) = log.disk.open(&path) {
        segments.push_back(Segment {
            number: part.segment,
            file,
            bytes: 0,
            last: 0,
            waiting: 0,
        });
    }
}

fn note_evicted(log: &mut EpochLog, evicted: &journal::Evicted) {
    let Some(class) = Class::at(evicted.class) else {
        return;
    };
    let upto = &mut log.evicted[class.index()];
    *upto = (*upto).max(evicted.upto);
}

fn note_lost(log: &mut EpochLog, lost: &journal::Lost) {
    let Some(reason) = LossReason::from_wire(lost.reason) else {
        return;
    };
    if lost.count > 0 && lost.first_sequence.checked_add(lost.count).is_some() {
        let range = LostRange {
            first: lost.first_sequence,
            count: lost.count,
            reason,
        };
        let known = log.lost.entry(range.first).or_insert(range);
        known.count = known.count.max(range.count);
    }
}
