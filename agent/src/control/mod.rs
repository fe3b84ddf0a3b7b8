//! Policy from the collector into the kernel, and back what came of it.
//!
//! ```text
//! offer → received → applied (digest of the maps) | rejected (why)
//! ```
//!
//! It runs on a connection of its own, so that policy never waits behind
//! events. A set is applied whole or not at all: on a rejection, and while no
//! collector can be reached, the last good one stays in force.

mod offer;
mod stream;

pub use offer::{Applied, ApplyRequest};
pub use stream::{Control, ControlOptions};
