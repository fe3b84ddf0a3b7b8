//! Conditions: filters as people write them, in the Common Expression
//! Language (<https://cel.dev>), over the flat fields of an event
//! ([`Field`]).
//!
//! ```text
//! exe == "/usr/bin/cat" && path.startsWith("/etc/") && argv.exists(a, a == "-n")
//! └────── term ───────┘    └──────── term ────────┘    └───────── rest ───────┘
//! ```
//!
//! What is compiled is checked first: every name is a field, every operator
//! fits its operands, so that a mistake is told with its place and not by an
//! empty answer. Then the top-level conjunction is taken apart. What has one
//! of a few simple forms becomes a typed [`Term`], which a collector compares
//! with whole blocks; only the rest is evaluated as CEL, event by event.
//!
//! A comparison with a field that the event does not have is neither true nor
//! false, nor is its negation: `exit_code != 0` finds exits only.
//!
//! Nothing here takes long or deep: text, nesting, loops and patterns are
//! bounded, and patterns are of the `regex` crate, whose time is linear. It
//! is a part of this crate, behind a feature, because a tool checks with the
//! same code what the collector runs.

mod check;
mod error;
mod evaluate;
mod term;

pub use error::ConditionError;
pub use term::Term;

use crate::{
    event::{Event, Mention, field::Field},
    id::{Epoch, NodeId},
};
use evaluate::Rest;

/// Longest condition in bytes: room for some hundred values.
pub const CONDITION_BYTES_MAX: usize = 8 << 10;

/// A condition that was checked.
#[derive(Debug)]
pub struct Condition {
    terms: Vec<Term>,
    rest: Rest,
}

impl Condition {
    /// Compiles a condition.
    ///
    /// # Errors
    /// [`ConditionError`] says what is wrong, and where.
    pub fn compile(source: &str) -> Result<Self, ConditionError> {
        let expression = check::parse(source)?;
        let mut conjuncts = Vec::new();
        term::split(expression, &mut conjuncts);
        let (mut terms, mut rest) = (Vec::new(), Vec::new());
        for conjunct in conjuncts {
            match term::of(&conjunct) {
                Some(term) => terms.push(term),
                None => rest.push(conjunct),
            }
        }
        Ok(Self {
            terms,
            rest: Rest::new(rest),
        })
    }

    /// Returns the simple terms: an event that the condition matches, all of
    /// them match.
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// Says whether the terms are all there is.
    pub fn is_simple(&self) -> bool {
        self.rest.is_empty()
    }

    /// Says whether an event meets the condition.
    pub fn matches(&self, node: &NodeId, epoch: Epoch, event: &Event) -> bool {
        let mention = Mention::from(event);
        self.terms.iter().all(|term| term.matches(node, &mention))
            && self.matches_rest(node, epoch, event)
    }

    /// Says whether an event that all terms match meets the rest.
    pub fn matches_rest(&self, node: &NodeId, epoch: Epoch, event: &Event) -> bool {
        self.rest.matches(node, epoch, event)
    }
}

/// Lists the fields and what each is, a line each: for help texts.
pub fn describe_fields() -> String {
    let width = Field::NAMES
        .iter()
        .map(|name| name.len())
        .max()
        .unwrap_or(0);
    Field::ALL
        .iter()
        .map(|field| format!("  {:width$}  {}\n", field.name(), field.about()))
        .collect()
}

#[cfg(test)]
mod tests;
