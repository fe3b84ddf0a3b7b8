//! What the kernel side and the user side of the agent share: the layout of
//! records and maps, and the engine that matches rules.
//!
//! It allocates nothing, calls no helper and depends on nothing, so that the
//! very same code runs inside the kernel, in unit tests on the host and over
//! stored history.

#![no_std]

#[cfg(test)]
extern crate std;

pub mod counter;
pub mod digest;
pub mod guard_rail;
pub mod matching;
pub mod offset;
pub mod plan;
pub mod record;
pub mod text;
#[cfg(feature = "user")]
mod user;

/// Words that one of the programs' hashes takes at most: as many secret
/// multipliers they get.
pub const HASH_WORDS: usize = 12;
