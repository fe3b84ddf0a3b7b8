//! Events from agents into the store: one session for each stream.
//!
//! ```text
//! stream → inbound (memory) → session (order, duplicates) → prepare (decode, check) → writer
//!                                      ← acknowledgements ←
//! ```

pub(crate) mod glance;
mod inbound;
mod prepare;
mod service;
pub mod session;

pub use inbound::{COST_MAX, Metered};
pub use service::Ingest;
