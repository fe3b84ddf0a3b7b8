//! Policies: named sets of rules that nodes enforce.
//!
//! A [`PolicySet`] is what one node gets: whole, under one generation. How a
//! person writes a policy is `document`'s business, how a kernel carries it
//! out the agent's.

#[cfg(feature = "document")]
pub mod document;
mod rule;
mod set;
mod wire;

pub use rule::{
    Access, Comm, Matcher, MatcherError, Mode, OnUnknown, PathPattern, Policy, PolicyError, Rule,
    Trigger,
};
pub use set::{PolicyHash, PolicySet};
pub use wire::PolicyWireError;
