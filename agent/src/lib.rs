//! Shrike's agent: it sees what a node's processes do, enforces policies
//! inside the kernel, and delivers every event to a collector.
//!
//! ```text
//! kernel → enrich → receipts → spool → session → collector
//!    ↑                                               │
//!    └──────────────── control ←─────────────────────┘
//! ```
//!
//! One task owns the sensor and everything from there to the spool
//! (`pipeline`); sessions are thin shells that it sends to and hears from.

pub mod args;
pub mod clock;
pub mod config;
pub mod control;
pub mod counters;
pub mod detach;
pub mod doctor;
pub mod enrich;
pub mod error;
pub mod hooks;
pub mod kernel;
pub mod node;
pub mod pipeline;
pub mod policy_store;
pub mod receipts;
pub mod run;
pub mod session;
pub mod shutdown;
pub mod signals;
pub mod spool;
pub mod watch;
