//! What an agent may send of its epoch, and what it knows of the agents before
//! it.
//!
//! An agent whose disk does not answer sends what is in its memory, and may die
//! before the disk has that. Its successor gives the same numbers to other
//! events, and must not take the collector's word about the first ones for one
//! about its own. So a log knows the highest number that a collector can have
//! heard of: what was sent in this life, and what the journal has of agents
//! that set out to send. That an agent does is in the journal before it sends
//! anything that is.

use shrike_proto::id::SequenceNumber;

use super::EpochLog;
use crate::spool::journal::{Unheard, What};

impl EpochLog {
    /// An agent goes on with what was recovered; `unheard` is from where on no
    /// collector can know its numbers.
    pub fn begin_life(&mut self, unheard: Option<u64>) {
        let from = unheard.unwrap_or(self.next);
        self.unheard = Some(from);
        self.sent = from - 1;
        if unheard.is_none() {
            self.append(What::Unheard(Unheard { from }));
        }
    }

    /// Returns from where on no collector can know numbers, as the journal
    /// says it; 0: nowhere.
    pub(super) fn unheard_from(&self) -> u64 {
        match self.heard {
            Some(_) => 0,
            None => self.unheard.unwrap_or(0),
        }
    }

    /// The disk has everything below a number: it may be sent.
    pub fn note_written(&mut self, next: SequenceNumber) {
        self.written = self.written.max(next.0);
        self.sendable = self.sendable.max(next.0);
    }

    /// The disk answers, or does not: then everything may be sent.
    pub fn set_silent(&mut self, is_silent: bool) {
        self.is_silent = is_silent;
        if is_silent {
            self.sendable = self.next;
        }
    }

    /// Says whether the journal lets this agent send. Where the disk does not
    /// answer, one of which it has no event needs no leave: its successor
    /// begins where it did.
    pub(super) fn may_send(&mut self) -> bool {
        let Some(from) = self.unheard else {
            return true;
        };
        let ticket = match self.heard {
            Some(ticket) => ticket,
            None => {
                self.append(What::Unheard(Unheard { from: 0 }));
                let ticket = self.disk.ticket();
                self.heard = Some(ticket);
                ticket
            }
        };
        let is_told = ticket <= self.disk.done();
        if is_told {
            self.unheard = None;
        }
        is_told || self.is_silent && self.written <= from
    }
}
