//! Everything that one node shall enforce, swapped whole.

use std::fmt;

use prost::Message as _;
use ring::digest;

use super::Policy;
use crate::{id::Generation, wire::policy as wire};

/// SHA-256 over the canonical encoding of a set's policies: two sets with the
/// same hash ask for the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PolicyHash(pub [u8; 32]);

impl fmt::Display for PolicyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PolicyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Policies under one generation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PolicySet {
    /// Monotonic.
    pub generation: Generation,
    /// Sorted by name; may be empty, which enforces nothing.
    pub policies: Vec<Policy>,
}

impl PolicySet {
    /// Builds a set, sorted by policy name.
    pub fn new(generation: Generation, mut policies: Vec<Policy>) -> Self {
        policies.sort_by(|a, b| a.name.cmp(&b.name));
        Self {
            generation,
            policies,
        }
    }

    /// Hashes the policies; the generation is not part of it.
    pub fn hash(&self) -> PolicyHash {
        let mut context = digest::Context::new(&digest::SHA256);
        for policy in &self.policies {
            // Length-delimited, so that no two lists encode alike.
            context.update(&wire::Policy::from(policy.clone()).encode_length_delimited_to_vec());
        }
        let hash = context.finish();
        PolicyHash(hash.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}
