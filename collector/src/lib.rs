//! Shrike's collector: takes events over mutual TLS, keeps them in sled,
//! answers queries and tails, and hands out policies.
//!
//! ```text
//! listen → ingest → store ─┬→ query → admin
//!                  (writer) └→ tail  → admin
//! admin → policy book (fleet) → control → agents
//! ```
//!
//! Services are thin: they authenticate, convert, ask once and map the error.
//! What decides anything (sessions, the book, pruning, retention) does no IO
//! and owns no clock.

pub mod admin;
pub mod args;
pub mod budget;
pub mod chain;
pub mod chunk;
pub mod clock;
pub mod config;
pub mod control;
pub mod fleet;
pub mod health;
pub mod ingest;
pub mod listen;
pub mod policy;
pub mod query;
pub mod run;
#[cfg(test)]
mod sample;
pub mod store;
pub mod tail;
