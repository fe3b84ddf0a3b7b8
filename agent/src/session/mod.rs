//! Delivering events to a collector.
//!
//! [`Session`] is the protocol without a network: what arrived and what time
//! it is go in, commands come out. [`Link`] is the network without a
//! protocol: one gRPC stream to one collector, from dialling to its end.

mod backoff;
mod contradiction;
mod link;
mod machine;

pub use backoff::Backoff;
pub(crate) use link::describe;
pub use link::{LINK_REPORTS_MAX, Link, Report};
pub use machine::{Attempt, Command, Session, SessionOptions};
