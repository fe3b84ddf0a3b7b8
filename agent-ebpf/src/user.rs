//! Lets aya read and write the ABI types as map keys and values.

use crate::{
    counter::Counters,
    digest::Key,
    guard_rail::{Agent, Kills, Program},
    offset::{Offsets, Subvolumes},
    plan::{Entry, InForce, Plan},
};

// SAFETY: `repr(C)` integers only, without padding; every bit pattern is valid.
unsafe impl aya::Pod for Counters {}
// SAFETY: as above.
unsafe impl aya::Pod for Key {}
// SAFETY: as above.
unsafe impl aya::Pod for Offsets {}
// SAFETY: as above.
unsafe impl aya::Pod for Subvolumes {}
// SAFETY: as above.
unsafe impl aya::Pod for Entry {}
// SAFETY: as above.
unsafe impl aya::Pod for Plan {}
// SAFETY: as above.
unsafe impl aya::Pod for Program {}
// SAFETY: as above.
unsafe impl aya::Pod for Kills {}
// SAFETY: as above.
unsafe impl aya::Pod for InForce {}
// SAFETY: as above.
unsafe impl aya::Pod for Agent {}
