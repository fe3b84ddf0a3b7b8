//! What is said about an attempt and about its files: the lines that the
//! guest prints, one JSON object each.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// What the guest says when it has opened what is to be opened before the
/// policy.
pub const OPENED: &str = "opened";

/// How a process ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// By itself.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

/// What the witness saw of one attempt.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Attempt {
    /// The case.
    pub case: String,
    /// The process that did it; `None` when it did not come that far.
    pub actor: Option<u32>,
    /// How the actor ended; `None` when it was nobody's child.
    pub ended: Option<Ended>,
    /// Every process that took part, as the first PID namespace counts.
    pub processes: BTreeSet<u32>,
    /// The system call's result: `ok` or an error's name; `None` when it did
    /// not return.
    pub result: Option<String>,
    /// The protected contents were read.
    pub leaked: bool,
    /// The forbidden program ran.
    pub ran: bool,
    /// The path that the events must have, where it is not the target's.
    pub named: Option<String>,
    /// The events have no whole path: there is none.
    pub nameless: bool,
    /// The file that was attempted is not the one that was prepared.
    pub another_file: bool,
    /// What went wrong before the attempt could be made.
    pub broken: Option<String>,
}

/// A case's files, before or after.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Scene {
    /// The case.
    pub case: String,
    /// The target, where it exists.
    pub target: Option<State>,
    /// Everything in the case's folder, relative to it.
    pub entries: BTreeSet<String>,
}

/// The state of a file.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct State {
    /// `MAJOR:MINOR`.
    pub device: String,
    /// Inode number.
    pub inode: u64,
    /// How many names it has.
    pub links: u64,
    /// Type and rights (inode(7)).
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its size in bytes.
    pub size: u64,
    /// Its contents as they are, when they are short.
    pub contents: Option<String>,
    /// It has the extended attribute that attempts set, or an access control
    /// list.
    pub attribute: bool,
}

impl Scene {
    /// What differs from another look at the same case, in words.
    pub fn changes(&self, after: &Self) -> Vec<&'static str> {
        let mut changes = Vec::new();
        match (&self.target, &after.target) {
            (None, Some(_)) => changes.push("created"),
            (Some(_), None) => changes.push("gone"),
            (None, None) => {}
            (Some(before), Some(after)) => changes.extend(before.changes(after)),
        }
        // A target that came or went is an entry, too, and is named above.
        if changes.is_empty() && self.entries != after.entries {
            changes.push("names");
        }
        changes
    }

    /// Whether the contents that were prepared are still there, or were moved
    /// as they are.
    pub fn keeps_contents(&self, after: &Self) -> bool {
        match (&self.target, &after.target) {
            (Some(before), Some(after)) => {
                before.size == after.size && before.contents == after.contents
            }
            (None, _) | (Some(_), None) => true,
        }
    }
}

impl State {
    fn changes(&self, after: &Self) -> Vec<&'static str> {
        let differs = [
            (
                self.size != after.size || self.contents != after.contents,
                "contents",
            ),
            (
                (&self.device, self.inode) != (&after.device, after.inode),
                "replaced",
            ),
            (self.links != after.links, "links"),
            (self.mode != after.mode, "mode"),
            (self.uid != after.uid, "owner"),
            (self.attribute != after.attribute, "attributes"),
        ];
        differs
            .into_iter()
            .filter_map(|(differs, word)| differs.then_some(word))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene(target: Option<State>, entries: &[&str]) -> Scene {
        Scene {
            case: "x".to_owned(),
            target,
            entries: entries.iter().map(|&entry| entry.to_owned()).collect(),
        }
    }

    fn state() -> State {
        State {
            device: "8:1".to_owned(),
            inode: 7,
            links: 1,
            mode: 0o100_644,
            uid: 0,
            size: 3,
            contents: Some("abc".to_owned()),
            attribute: false,
        }
    }

    #[test]
    fn every_change_has_its_word() {
        let before = scene(Some(state()), &["secret"]);
        let check = |after: State, words: &[&str]| {
            let after = scene(Some(after), &["secret"]);
            assert_eq!(before.changes(&after), words);
        };
        check(state(), &[]);
        check(
            State {
                size: 0,
                contents: Some(String::new()),
                ..state()
            },
            &["contents"],
        );
        check(
            State {
                inode: 8,
                ..state()
            },
            &["replaced"],
        );
        check(
            State {
                links: 2,
                ..state()
            },
            &["links"],
        );
        check(
            State {
                mode: 0o100_777,
                ..state()
            },
            &["mode"],
        );
        check(State { uid: 1, ..state() }, &["owner"]);
        check(
            State {
                attribute: true,
                ..state()
            },
            &["attributes"],
        );
        assert_eq!(before.changes(&scene(None, &[])), ["gone"]);
        assert_eq!(scene(None, &[]).changes(&before), ["created"]);
        assert_eq!(
            before.changes(&scene(Some(state()), &["secret", "other"])),
            ["names"]
        );
    }
}
