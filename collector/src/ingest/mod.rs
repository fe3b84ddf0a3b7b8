//! Events from agents into the store: one session for each stream.
//!
//! ```text
//! stream → meter (memory) → session (order, duplicates) → prepare (decode, check) → writer
//!                                      ← acknowledgements ←
//! ```

pub(crate) mod glance;
mod meter;
mod prepare;
mod service;
pub mod session;

pub use meter::{COST_MAX, Metered};
pub use service::Ingest;
