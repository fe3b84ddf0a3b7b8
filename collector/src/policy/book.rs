//! The book itself, without IO: a change is planned, made durable by
//! whoever asked, and then applied.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use shrike_proto::{
    id::{Generation, PolicyName},
    policy::{Policy, PolicySet},
    wire::policy as wire,
};

/// Policies in the book: a node's whole set has to fit into one message.
const POLICIES_MAX: usize = 1000;

/// All policies of the book, encoded: a third of the message limit.
const POLICIES_BYTES_MAX: usize = 2 << 20;

/// Longest source text of one policy.
const SOURCE_BYTES_MAX: usize = 1 << 20;

/// Labels that a node must have.
pub type Selector = BTreeMap<String, String>;

/// Who made a change, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// SPIFFE ID of the person.
    pub by: String,
    /// Unix nanoseconds.
    pub at_unix_ns: i64,
}

/// A policy in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// What it says.
    pub policy: Policy,
    /// As it was written.
    pub source: String,
    /// The generation that brought it.
    pub generation: Generation,
    /// Who pushed it.
    pub origin: Origin,
}

/// What one generation changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerationRecord {
    /// Its number.
    pub generation: Generation,
    /// Who made it.
    pub origin: Origin,
    /// Policies that it added or replaced.
    pub pushed: Vec<Document>,
    /// Policies that it deleted.
    pub deleted: Vec<PolicyName>,
    /// Selectors of all these, as they were before and are after.
    pub touched: Vec<Selector>,
}

impl GenerationRecord {
    /// Says whether a node with these labels got something else by it.
    pub fn touches(&self, labels: &Selector) -> bool {
        self.touched
            .iter()
            .any(|selector| selects(selector, labels))
    }
}

fn selects(selector: &Selector, labels: &Selector) -> bool {
    selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

/// A change that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Add or replace policies by name.
    Push(Vec<Push>),
    /// Delete a policy.
    Delete(PolicyName),
}

/// A policy to add or replace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push {
    /// What it says.
    pub policy: Policy,
    /// As it was written.
    pub source: String,
}

/// A change that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BookError {
    /// The book has moved on.
    #[error(
        "the policies have changed meanwhile: the parent generation is {parent}, the current one {current}"
    )]
    Conflict {
        /// As asked.
        parent: Generation,
        /// As it is.
        current: Generation,
    },
    /// Nothing to push.
    #[error("there is no policy to push")]
    Nothing,
    /// One push with the same policy twice.
    #[error("policy {0} is in this push twice")]
    Twice(PolicyName),
    /// Not in the book.
    #[error("there is no policy {0}")]
    Unknown(PolicyName),
    /// Too long a text.
    #[error("the source of policy {0} has more than {SOURCE_BYTES_MAX} bytes")]
    SourceTooLong(PolicyName),
    /// Too many policies.
    #[error("the book would have {count} policies, at most {POLICIES_MAX}")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// Too much altogether.
    #[error("the policies would take {bytes} bytes, at most {POLICIES_BYTES_MAX}")]
    TooBig {
        /// How much.
        bytes: usize,
    },
}

/// The policies in force and how they came about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Book {
    documents: BTreeMap<PolicyName, Document>,
    /// Oldest first.
    history: Vec<GenerationRecord>,
}

impl Book {
    /// Builds the book from what was stored.
    pub fn new(documents: Vec<Document>, mut history: Vec<GenerationRecord>) -> Self {
        history.sort_by_key(|record| record.generation);
        Self {
            documents: documents
                .into_iter()
                .map(|document| (document.policy.name.clone(), document))
                .collect(),
            history,
        }
    }

    /// Returns the current generation.
    pub fn generation(&self) -> Generation {
        self.history
            .last()
            .map_or(Generation::NONE, |record| record.generation)
    }

    /// Lists the policies in force by name.
    pub fn documents(&self) -> impl Iterator<Item = &Document> {
        self.documents.values()
    }

    /// Returns one policy in force.
    pub fn document(&self, name: &PolicyName) -> Option<&Document> {
        self.documents.get(name)
    }

    /// Returns what a generation changed.
    pub fn record(&self, generation: Generation) -> Option<&GenerationRecord> {
        let index = self
            .history
            .binary_search_by_key(&generation, |record| record.generation)
            .ok()?;
        self.history.get(index)
    }

    /// Returns what a node with these labels shall enforce, under the
    /// generation that last touched it; generation 0 when none ever did.
    pub fn desired(&self, labels: &Selector) -> PolicySet {
        let generation = self
            .history
            .iter()
            .rev()
            .find(|record| record.touches(labels))
            .map_or(Generation::NONE, |record| record.generation);
        PolicySet::new(
            generation,
            self.documents()
                .filter(|document| document.policy.selects(labels))
                .map(|document| document.policy.clone())
                .collect(),
        )
    }

    /// Plans a change on top of `parent`. The new generation comes after
    /// `highest_applied` as well: agents may know a younger one than a book
    /// that was restored from a backup.
    ///
    /// # Errors
    /// [`BookError`] says why not.
    pub fn plan(
        &self,
        parent: Generation,
        change: Change,
        origin: Origin,
        highest_applied: Generation,
    ) -> Result<GenerationRecord, BookError> {
        if parent != self.generation() {
            return Err(BookError::Conflict {
                parent,
                current: self.generation(),
            });
        }
        let generation = self.generation().max(highest_applied).next();
        let record = match change {
            Change::Push(pushed) => self.plan_push(pushed, generation, origin)?,
            Change::Delete(name) => {
                let old = self
                    .documents
                    .get(&name)
                    .ok_or_else(|| BookError::Unknown(name.clone()))?;
                GenerationRecord {
                    generation,
                    origin,
                    pushed: Vec::new(),
                    touched: vec![old.policy.nodes.clone()],
                    deleted: vec![name],
                }
            }
        };
        let mut after = self.clone();
        after.apply(record.clone());
        after.check_size()?;
        Ok(record)
    }

    fn plan_push(
        &self,
        pushed: Vec<Push>,
        generation: Generation,
        origin: Origin,
    ) -> Result<GenerationRecord, BookError> {
        if pushed.is_empty() {
            return Err(BookError::Nothing);
        }
        let mut names = BTreeSet::new();
        let mut touched = Vec::new();
        for push in &pushed {
            let name = &push.policy.name;
            if !names.insert(name) {
                return Err(BookError::Twice(name.clone()));
            }
            if push.source.len() > SOURCE_BYTES_MAX {
                return Err(BookError::SourceTooLong(name.clone()));
            }
            touched.push(push.policy.nodes.clone());
            touched.extend(self.documents.get(name).map(|old| old.policy.nodes.clone()));
        }
        touched.sort();
        touched.dedup();
        Ok(GenerationRecord {
            generation,
            pushed: pushed
                .into_iter()
                .map(|push| Document {
                    policy: push.policy,
                    source: push.source,
                    generation,
                    origin: origin.clone(),
                })
                .collect(),
            deleted: Vec::new(),
            touched,
            origin,
        })
    }

    fn check_size(&self) -> Result<(), BookError> {
        let count = self.documents.len();
        if count > POLICIES_MAX {
            return Err(BookError::TooMany { count });
        }
        let bytes = self
            .documents()
            .map(|document| wire::Policy::from(document.policy.clone()).encoded_len())
            .sum();
        if bytes > POLICIES_BYTES_MAX {
            return Err(BookError::TooBig { bytes });
        }
        Ok(())
    }

    /// Applies a change that was planned on this very book.
    ///
    /// # Panics
    /// When it was planned on another one.
    pub fn apply(&mut self, record: GenerationRecord) {
        assert!(
            record.generation > self.generation(),
            "generations only grow"
        );
        for document in &record.pushed {
            self.documents
                .insert(document.policy.name.clone(), document.clone());
        }
        for name in &record.deleted {
            self.documents.remove(name);
        }
        self.history.push(record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shrike_proto::{
        event::Action,
        id::RuleName,
        policy::{Comm, Matcher, Mode, OnUnknown, Rule, Trigger},
    };

    fn name(name: &str) -> PolicyName {
        PolicyName::parse(name).unwrap()
    }

    fn push(policy: &str, labels: &[(&str, &str)]) -> Push {
        Push {
            policy: Policy {
                name: name(policy),
                mode: Mode::Enforce,
                nodes: selector(labels),
                rules: vec![Rule {
                    name: RuleName::parse("r").unwrap(),
                    trigger: Trigger::Exec,
                    matcher: Matcher {
                        comm: vec![Comm::parse("nc").unwrap()],
                        ..Matcher::default()
                    },
                    access: Vec::new(),
                    on_unknown: OnUnknown::Record,
                    unless: None,
                    action: Action::Kill,
                }],
            },
            source: String::new(),
        }
    }

    fn selector(labels: &[(&str, &str)]) -> Selector {
        labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn origin() -> Origin {
        Origin {
            by: "spiffe://a.test/admin/alice".to_owned(),
            at_unix_ns: 1,
        }
    }

    fn change(book: &mut Book, change: Change) -> Generation {
        let record = book
            .plan(book.generation(), change, origin(), Generation::NONE)
            .unwrap();
        let generation = record.generation;
        book.apply(record);
        generation
    }

    #[test]
    fn push_on_an_old_parent_is_a_conflict() {
        let mut book = Book::default();
        change(&mut book, Change::Push(vec![push("a", &[])]));
        assert_eq!(
            book.plan(
                Generation(0),
                Change::Push(vec![push("b", &[])]),
                origin(),
                Generation::NONE
            ),
            Err(BookError::Conflict {
                parent: Generation(0),
                current: Generation(1)
            })
        );
    }

    #[test]
    fn node_is_touched_only_by_policies_that_select_it() {
        let (web, db) = (selector(&[("role", "web")]), selector(&[("role", "db")]));
        let mut book = Book::default();
        change(&mut book, Change::Push(vec![push("all", &[])]));
        let second = change(
            &mut book,
            Change::Push(vec![push("web", &[("role", "web")])]),
        );
        assert_eq!(book.desired(&web).generation, second);
        assert_eq!(book.desired(&web).policies.len(), 2);
        assert_eq!(book.desired(&db).generation, Generation(1));
        let third = change(&mut book, Change::Delete(name("web")));
        assert_eq!(book.desired(&web).generation, third);
        assert_eq!(book.desired(&web).policies.len(), 1);
        assert_eq!(book.desired(&db).generation, Generation(1));
    }

    #[test]
    fn node_that_a_policy_leaves_is_touched_too() {
        let web = selector(&[("role", "web")]);
        let mut book = Book::default();
        change(&mut book, Change::Push(vec![push("p", &[("role", "web")])]));
        let second = change(&mut book, Change::Push(vec![push("p", &[("role", "db")])]));
        assert_eq!(book.desired(&web), PolicySet::new(second, Vec::new()));
    }

    #[test]
    fn empty_book_desires_nothing() {
        assert_eq!(
            Book::default().desired(&Selector::new()),
            PolicySet::default()
        );
    }

    #[test]
    fn generation_comes_after_what_agents_have() {
        let record = Book::default()
            .plan(
                Generation(0),
                Change::Push(vec![push("a", &[])]),
                origin(),
                Generation(41),
            )
            .unwrap();
        assert_eq!(record.generation, Generation(42));
    }

    #[test]
    fn mistakes_are_named() {
        let check = |change: Change, error: BookError| {
            assert_eq!(
                Book::default().plan(Generation(0), change, origin(), Generation::NONE),
                Err(error)
            );
        };
        check(Change::Push(Vec::new()), BookError::Nothing);
        check(
            Change::Push(vec![push("a", &[]), push("a", &[])]),
            BookError::Twice(name("a")),
        );
        check(Change::Delete(name("a")), BookError::Unknown(name("a")));
    }

    #[test]
    fn history_is_kept() {
        let mut book = Book::default();
        change(&mut book, Change::Push(vec![push("a", &[])]));
        change(&mut book, Change::Delete(name("a")));
        assert_eq!(book.record(Generation(1)).unwrap().pushed.len(), 1);
        assert_eq!(book.record(Generation(2)).unwrap().deleted, [name("a")]);
        assert_eq!(book.record(Generation(3)), None);
    }
}
