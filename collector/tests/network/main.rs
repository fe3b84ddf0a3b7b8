//! The real binary over real sockets: certificates, roles, sessions, crashes
//! and full disks.

mod certificates;
mod client;
mod process;
mod site;

mod durability;
mod identity;
mod memory;
mod nodes;
mod nuisance;
mod policies;
mod reading;
