//! What an event is worth when there is no room for all.

use shrike_proto::event::{Action, Event, Fact};

/// Classes of events, the one that is worth most first. Events that came out
/// of the ring together are numbered in this order, so that each class has a
/// range of its own and can be given up alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Verdicts that are more than a mark, receipts of kills, and alerts.
    Verdicts,
    /// Execs, forks, exits and changes.
    Processes,
    /// Opens.
    Opens,
}

impl Class {
    /// Every class, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Verdicts, Self::Processes, Self::Opens];

    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Returns an event's class.
    pub fn of(event: &Event) -> Self {
        match event.action() {
            Some(Action::Alert | Action::Deny | Action::Kill) => return Self::Verdicts,
            Some(Action::Ignore | Action::Record) | None => {}
        }
        match &event.fact {
            Fact::Alert(_) => Self::Verdicts,
            Fact::Exec(_) | Fact::Fork(_) | Fact::Exit(_) | Fact::Change(_) => Self::Processes,
            Fact::Open(_) => Self::Opens,
        }
    }

    /// Returns the name that files have and people see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Verdicts => "verdicts",
            Self::Processes => "processes",
            Self::Opens => "opens",
        }
    }

    /// Returns its place in [`ALL`](Self::ALL).
    pub fn index(self) -> usize {
        self as usize
    }

    /// Returns the class with this place.
    pub fn at(index: u32) -> Option<Self> {
        Self::ALL.get(index as usize).copied()
    }
}
