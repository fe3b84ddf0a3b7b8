//! The collector's front door: TCP, mutual TLS 1.3 with a time-out and a cap,
//! and who may call what.
//!
//! tonic's own TLS listener has neither a handshake time-out nor a connection
//! cap, and one slow client holds up no other here: each handshake is a task
//! of its own.

mod acceptor;
pub mod peer;

pub use acceptor::{Acceptor, Limits, accept};
