//! Keyed hashes of a few words, for tables that are a shortcut and never the
//! truth.
//!
//! Multilinear hashing: each word has its own secret, random, odd multiplier,
//! and the products are added up. Two inputs that differ have the same hash
//! for one in 2^64 choices of the multipliers, times the largest power of two
//! that divides the difference of one word; so no two values share a word.
//! Nobody outside knows the multipliers, so nobody can look for two inputs
//! with one hash.

use shrike_agent_ebpf::HASH_WORDS;

use crate::offsets::{HASH_KEYS, setting};

/// A running hash.
#[derive(Clone, Copy)]
pub struct Hash(u64);

impl Hash {
    /// Starts a hash; different starts make different tables of one.
    #[inline(always)]
    pub fn start(start: u64) -> Self {
        Self(start)
    }

    /// Takes in word number `NUMBER`.
    #[inline(always)]
    #[must_use]
    pub fn word<const NUMBER: usize>(self, word: u64) -> Self {
        const { assert!(NUMBER < HASH_WORDS) };
        let product = word.wrapping_mul(setting!(HASH_KEYS[NUMBER]));
        Self(self.0.wrapping_add(product))
    }

    /// Returns the hash: never 0, which stands for an empty place.
    #[inline(always)]
    pub fn finish(self) -> u64 {
        self.0 | 1
    }
}

/// Returns the place of a hash in a table of 2^`BITS` places: the high bits
/// depend on all bits of the words.
#[inline(always)]
pub fn place<const BITS: u32>(hash: u64) -> usize {
    (hash >> (64 - BITS)) as usize
}
