//! What of an epoch goes on in another one, because the collector has events
//! under its numbers that this log does not know.

use shrike_proto::{
    id::{Epoch, SequenceNumber},
    ledger::LossReason,
    wire::ingest,
};

use super::{
    EpochLog,
    cursor::{Next, RunKind},
};
use crate::spool::{
    class::Class,
    journal::{Commit, Mark, What},
};

/// Numbers of an epoch that ended before its agent did.
#[derive(Debug)]
pub enum Carried {
    /// A batch that nobody was told of, as it would have been sent.
    Batch(Class, Box<ingest::Batch>),
    /// So many events that are gone, and why.
    Lost(u64, LossReason),
}

impl EpochLog {
    /// Begins the epoch that goes on with what this one holds, in a folder of
    /// its own. Until [`end_carrying`](Self::end_carrying) a successor believes
    /// nothing of it.
    pub fn begin_next(&self, folder: String, epoch: Epoch) -> Self {
        let mut log = Self {
            epoch,
            boot_id: self.boot_id.clone(),
            is_carrying: true,
            unheard: Some(1),
            ..Self::empty(self.disk.clone(), folder, self.segment_bytes)
        };
        log.begin_journal(0);
        log
    }

    /// Everything was carried over into this epoch; `marks` is how far the
    /// rings were read for that.
    pub fn end_carrying(&mut self, marks: &[Mark]) {
        self.is_carrying = false;
        self.has_carried = true;
        self.append(What::Commit(Commit {
            first_sequence: self.next,
            parts: Vec::new(),
            marks: marks.to_vec(),
        }));
        self.marks = marks.to_vec();
    }

    /// Returns how many events of this agent's life the collector has
    /// acknowledged.
    pub fn delivered_in_life(&self) -> u64 {
        (self.acknowledged + 1).saturating_sub(self.began)
    }

    /// Returns how many events of agents before this one are carried over.
    pub fn carried_of_others(&self) -> u64 {
        self.began.saturating_sub(self.carried_from())
    }

    fn carried_from(&self) -> u64 {
        let first = self.unheard.unwrap_or(self.began);
        first.max(self.acknowledged + 1)
    }

    /// Sets out to carry over what no collector can know, by whichever agent it
    /// was taken in; what is before that is on the collector's disk, which says
    /// that it has more. Of what this agent
    /// sent nobody knows whether the collector has that, or others under the
    /// same numbers: it is returned as lost.
    pub fn begin_carrying(&mut self) -> Option<Carried> {
        self.rewind();
        self.sendable = self.next;
        let first = self.carried_from();
        let unknown = (self.sent + 1).saturating_sub(first);
        self.skip_to(SequenceNumber(first + unknown));
        (unknown > 0).then_some(Carried::Lost(unknown, LossReason::AgentSpoolDamaged))
    }

    /// Returns what is to be carried over next.
    pub fn carry_next(&mut self) -> Option<Carried> {
        let expected = self.expected();
        match self.peek() {
            Next::End => None,
            Next::Batch(entry) => {
                self.skip_to(SequenceNumber(entry.last() + 1));
                let payload = self.payload(&entry).filter(|_| entry.first == expected);
                Some(match payload {
                    Some(payload) => Carried::Batch(
                        entry.class,
                        Box::new(self.batch(entry.first, Some((&entry, payload)))),
                    ),
                    None => {
                        Carried::Lost(entry.last() + 1 - expected, LossReason::AgentSpoolDamaged)
                    }
                })
            }
            Next::Run(run) => {
                self.skip_to(SequenceNumber(run.last() + 1));
                let reason = match run.kind {
                    RunKind::Batch(..) | RunKind::Evicted => LossReason::AgentSpoolFull,
                    RunKind::Lost(reason) => reason,
                };
                Some(Carried::Lost(run.count, reason))
            }
        }
    }
}
