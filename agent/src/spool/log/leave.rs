//! What leaves an epoch's log: what is acknowledged, and what is given up.

use shrike_proto::ledger::LossReason;

use super::{EpochLog, LOST_MAX, LostRange, journal_name, lost_to_disk, segment_name};
use crate::spool::{
    class::Class,
    journal::{Evicted, What},
};

/// Which of a class's files can be given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// Any: there are too many bytes.
    Any,
    /// One of which the disk has something: the disk needs room.
    OnDisk,
}

impl EpochLog {
    /// Gives up the oldest file of a class. Returns how many events that were;
    /// `None`: it has none.
    pub fn evict(&mut self, class: Class, eviction: Eviction) -> Option<u64> {
        let index = class.index();
        let segment = self.segments[index].pop_front_if(|segment| match eviction {
            // One that was only begun gives no room.
            Eviction::Any => segment.bytes > 0,
            Eviction::OnDisk => segment.file.written() > 0,
        })?;
        let name = segment_name(class, segment.number);
        self.unsynced.retain(|(known, _)| *known != name);
        self.evicted[index] = self.evicted[index].max(segment.last);
        self.evicted_waiting += segment.waiting;
        // Where the agent dies before the disk has that, the payload is missing
        // after a restart, which is a loss as well.
        self.append(What::Evicted(Evicted {
            class: class as u32,
            upto: self.evicted[index],
            events: segment.waiting,
        }));
        segment.file.remove();
        self.folder_unsynced = true;
        Some(segment.waiting)
    }

    /// Gives up numbers that no file has.
    pub fn lose_next(&mut self, count: u64, reason: LossReason) {
        let range = LostRange {
            first: self.next,
            count,
            reason,
        };
        self.next += count;
        self.note_journal();
        self.lose(range);
    }

    pub(super) fn lose(&mut self, range: LostRange) {
        // A neighbour of the same reason grows.
        if let Some((_, before)) = self.lost.range_mut(..range.first).next_back()
            && before.last() + 1 == range.first
            && before.reason == range.reason
        {
            before.count += range.count;
        } else if self.lost.len() < LOST_MAX {
            self.lost.insert(range.first, range);
        } else {
            // Still a hole, without its reason.
            tracing::error!(first = range.first, "too many ranges are lost");
        }
        self.append(What::Lost(lost_to_disk(&range)));
    }

    /// Removes the whole epoch from the disk.
    pub fn discard(self) {
        for segment in self.segments.iter().flatten() {
            segment.file.remove();
        }
        for journal in &self.journals {
            journal.file.remove();
        }
        self.disk.remove_folder(&self.folder);
    }

    /// Removes the files that acknowledgements cover. The ones that are being
    /// written stay, unless what they are written for is over.
    pub(super) fn trim(&mut self) {
        for class in Class::ALL {
            let segments = &mut self.segments[class.index()];
            while let Some(front) = segments.front()
                && (segments.len() > 1 || front.file.waiting_bytes() > 0)
                && let Some(segment) =
                    segments.pop_front_if(|segment| segment.last <= self.acknowledged)
            {
                let name = segment_name(class, segment.number);
                self.unsynced.retain(|(known, _)| *known != name);
                segment.file.remove();
                self.folder_unsynced = true;
            }
        }
        let needed = self.under_way.front().map_or(self.cursor.journal, |front| {
            front.at.journal.min(self.cursor.journal)
        });
        let mut index = 0;
        while index + 1 < self.journals.len()
            && let journal = &self.journals[index]
            && journal.number < needed
            && journal.next <= self.acknowledged + 1
        {
            // The one behind it says all that still matters, once the disk has
            // that. Until then one that the disk has must stay, but no more of
            // it need be written.
            let is_told = self.journals[index + 1].file.written() > 0;
            if !is_told && !journal.file.is_unborn() {
                journal.file.forget();
                self.journals[index].bytes = self.journals[index].file.written();
                index += 1;
                continue;
            }
            let journal = self.journals.remove(index).expect("it is below the length");
            let name = journal_name(journal.number);
            self.unsynced.retain(|(known, _)| *known != name);
            journal.file.remove();
            self.folder_unsynced = true;
        }
    }
}
