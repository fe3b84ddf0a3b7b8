//! Events from agents into the store: one session for each stream.
//!
//! ```text
//! stream → session (order, duplicates) → prepare (decode, check) → writer
//!                                      ← acknowledgements ←
//! ```

pub(crate) mod glance;
mod prepare;
mod service;
pub mod session;

pub use service::Ingest;
