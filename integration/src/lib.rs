//! Shrike driven from outside: virtual machines with real kernels, the
//! built binaries inside them, and what `cargo xtask` does with both.
//!
//! Nothing here links the agent, the collector or the CLI: whatever a test
//! claims, it has seen through the same files, sockets and exit codes that
//! an operator sees. It never loads eBPF into the machine that it runs on
//! and never stops a process that it did not start.

pub mod bench;
pub mod build;
pub mod demo;
pub mod fleet;
pub mod layout;
mod offspring;
pub mod outside;
pub mod progress;
pub mod proof;
pub mod random;
pub mod setup;
pub mod soak;
pub mod verifier;
pub mod vm;
