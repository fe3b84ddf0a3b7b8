//! Commits that the disk has not taken yet.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use shrike_proto::id::SequenceNumber;

use super::{disk::Ticket, journal::Mark};

/// A commit, from the spool's side.
#[derive(Debug)]
struct Commit {
    /// Of its last write.
    ticket: Ticket,
    /// Number that the next event got.
    next: SequenceNumber,
    /// How far the rings had been read.
    marks: Vec<Mark>,
    /// When it was seen to wait.
    since: Option<Instant>,
}

/// Commits in their order, and how far the rings may be released. Bounded by
/// the bytes that wait for the disk: each commit has some among them.
#[derive(Debug, Default)]
pub struct Unwritten {
    commits: VecDeque<Commit>,
    released: Option<Vec<Mark>>,
}

impl Unwritten {
    /// Takes in a commit whose last write has this ticket.
    pub fn push(&mut self, ticket: Ticket, next: SequenceNumber, marks: Vec<Mark>) {
        self.commits.push_back(Commit {
            ticket,
            next,
            marks,
            since: None,
        });
    }

    /// The rings were read on, and there was nothing to commit: what was read
    /// goes with what was committed before.
    pub fn pass(&mut self, marks: &[Mark]) {
        match self.commits.back_mut() {
            Some(last) => last.marks = marks.to_vec(),
            None => self.released = Some(marks.to_vec()),
        }
    }

    /// Returns how long the oldest one has been waiting.
    pub fn age(&mut self, now: Instant) -> Duration {
        for commit in self.commits.iter_mut().rev() {
            if commit.since.is_some() {
                break;
            }
            commit.since = Some(now);
        }
        let since = self.commits.front().and_then(|commit| commit.since);
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Lets go of what the disk has, or the collector. Returns the number
    /// behind the last one that the disk has, if there are more than before.
    pub fn settle(&mut self, done: Ticket, acknowledged: SequenceNumber) -> Option<SequenceNumber> {
        let mut written = None;
        while let Some(commit) = self
            .commits
            .pop_front_if(|commit| commit.ticket <= done || commit.next.0 <= acknowledged.0 + 1)
        {
            if commit.ticket <= done {
                written = Some(commit.next);
            }
            self.released = Some(commit.marks);
        }
        written
    }

    /// Returns up to where the rings may be released, once.
    pub fn take_released(&mut self) -> Option<Vec<Mark>> {
        self.released.take()
    }

    /// Forgets the commits, and returns how far the rings had been read: they
    /// are committed again.
    pub fn restart(&mut self) -> Option<Vec<Mark>> {
        let last = self.commits.pop_back()?;
        self.commits.clear();
        Some(last.marks)
    }
}
