//! The fleet: the nodes that are known, and the policies they shall enforce.
//!
//! One task owns both, because what a node shall enforce follows from the
//! two. Services ask it by message; who waits for changes watches a counter
//! and asks again.

mod handle;
mod node;
mod record;
mod task;

pub use handle::{
    ControlLease, EventsLease, Fleet, FleetError, NodeView, Offer, PolicyBookView, Pushed, Status,
};
pub use node::{Applied, Node, Rollout};
pub use record::load;
pub use task::start;
