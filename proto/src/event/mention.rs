//! What an event mentions: as much of it as footers are made of and simple
//! terms ask for, without anything that is not asked for.

use super::{Action, Event, Kind};

/// What an event mentions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mention<'a> {
    /// When.
    pub time_unix_ns: i64,
    /// What happened.
    pub kind: Kind,
    /// The verdict's action, or that of the kill that it is the receipt of.
    pub action: Option<Action>,
    /// Who acted.
    pub tgid: u32,
    /// As which user.
    pub uid: u32,
    /// Running which executable.
    pub exe: &'a [u8],
    /// On which file.
    pub path: Option<&'a [u8]>,
}

impl<'a> From<&'a Event> for Mention<'a> {
    fn from(event: &'a Event) -> Self {
        Self {
            time_unix_ns: event.time_unix_ns,
            kind: event.fact.kind(),
            action: event.action(),
            tgid: event.process.tgid,
            uid: event.process.uid,
            exe: &event.process.exe,
            path: event.fact.path(),
        }
    }
}
