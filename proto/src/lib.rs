//! Shrike's wire schema, its generated code, the domain types and the one
//! conversion between them.
//!
//! Nothing here does IO beyond reading key files, and nothing here decides
//! anything: agents, collectors and tools share these words and no more.
//! Bytes that come from outside become domain types at the edge, through the
//! `TryFrom` beside each type, and are never a bare `String` again.

pub mod batch;
#[cfg(feature = "condition")]
pub mod condition;
pub mod escape;
pub mod event;
pub mod id;
pub mod identity;
pub mod ledger;
pub mod policy;
#[cfg(any(feature = "condition", feature = "document"))]
mod suggest;
#[cfg(feature = "telemetry")]
pub mod telemetry;
pub mod tls;
#[cfg(feature = "transport")]
pub mod transport;
pub mod wire;
