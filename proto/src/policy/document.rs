//! Policies as people write them: YAML documents.
//!
//! ```yaml
//! apiVersion: shrike/v1
//! kind: Policy
//! metadata: {name: protect-credentials}
//! spec:
//!   mode: enforce              # or observe
//!   nodes: {role: web}         # label selector; left out: every node
//!   rules:
//!     - name: shadow
//!       on: open               # or exec
//!       paths: [/etc/shadow, /etc/ssl/private/]
//!       access: [read, write]
//!       unless: {exe: [/usr/bin/passwd]}
//!       action: kill           # ignore | record | alert | deny | kill
//! ```
//!
//! A file may hold several documents. Reading never stops at the first
//! mistake: each one is reported with its line and column. Nothing is
//! guessed: an unknown field, a number where a name belongs or a word given
//! twice is a mistake, because a rule that means something else than its
//! author thinks is worse than none. Anchors, aliases and tags are refused,
//! and size and depth are bounded, so that a hostile file costs nothing.

mod read;
mod render;
mod schema;

mod tree;
mod value;

use std::{collections::BTreeMap, fmt};

pub use render::render;
pub use schema::JSON_SCHEMA;

use super::Policy;
use crate::escape::Terminal;

/// Longest file that is read: 1 MiB, thousands of rules.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// Mistakes that are reported at most; the rest is rarely worth reading.
const MISTAKES_MAX: usize = 100;

/// A place in a file, as editors count: from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// From 1.
    pub line: usize,
    /// From 1.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A mistake in a policy file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}:{position}: {message}", Terminal::text(file))]
pub struct DocumentError {
    /// The file, as it was named to [`parse`].
    pub file: String,
    /// Where in it.
    pub position: Position,
    /// What is wrong and how to mend it.
    pub message: String,
}

/// A policy and where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// What it says.
    pub policy: Policy,
    /// Its own part of the file.
    pub source: String,
    /// Where its name stands.
    pub position: Position,
}

/// Reads every policy of a file.
///
/// # Errors
/// Every mistake, in the order of the file.
pub fn parse(text: &str, file: &str) -> Result<Vec<Policy>, Vec<DocumentError>> {
    let documents = parse_documents(text, file)?;
    Ok(documents
        .into_iter()
        .map(|document| document.policy)
        .collect())
}

/// Reads every policy of a file, with the text of each.
///
/// # Errors
/// Every mistake, in the order of the file.
pub fn parse_documents(text: &str, file: &str) -> Result<Vec<Document>, Vec<DocumentError>> {
    let mut mistakes = Mistakes::default();
    let documents = read_all(text, &mut mistakes);
    if mistakes.0.is_empty() {
        return Ok(documents);
    }
    // Checks of a whole document come after those of its parts.
    mistakes.0.sort_by_key(|(position, _)| *position);
    mistakes.0.truncate(MISTAKES_MAX);
    Err(mistakes
        .0
        .into_iter()
        .map(|(position, message)| DocumentError {
            file: file.to_owned(),
            position,
            message,
        })
        .collect())
}

fn read_all(text: &str, mistakes: &mut Mistakes) -> Vec<Document> {
    const START: Position = Position { line: 1, column: 1 };
    if text.len() > FILE_BYTES_MAX {
        mistakes.add(
            START,
            format!(
                "the file has {} bytes, at most {FILE_BYTES_MAX} are read: split it",
                text.len()
            ),
        );
        return Vec::new();
    }
    let trees = tree::parse(text, mistakes);
    if trees.is_empty() {
        if mistakes.0.is_empty() {
            mistakes.add(
                START,
                "there is no policy in this file: begin one with `apiVersion: shrike/v1`",
            );
        }
        return Vec::new();
    }
    let mut first_places = BTreeMap::new();
    let mut documents = Vec::new();
    for tree in trees {
        let Some((policy, position)) = read::policy(&tree.root, mistakes) else {
            continue;
        };
        if let Some(first) = first_places.insert(policy.name.clone(), position) {
            mistakes.add(
                position,
                format!(
                    "policy `{}` is defined twice, first at {first}",
                    policy.name
                ),
            );
        }
        documents.push(Document {
            policy,
            source: tree.source,
            position,
        });
    }
    documents
}

/// The mistakes found so far.
#[derive(Debug, Default)]
struct Mistakes(Vec<(Position, String)>);

impl Mistakes {
    fn add(&mut self, position: Position, message: impl Into<String>) {
        // A syntax error may repeat endlessly; sorting needs a bound, too.
        if self.0.len() < 10 * MISTAKES_MAX {
            self.0.push((position, message.into()));
        }
    }

    fn count(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests;
