//! Bounded reads: prune by footer, decompress, filter, and merge by time.
//!
//! A query runs on a blocking thread, holds no lock and sends bounded chunks;
//! it stops as soon as its reader is gone.

mod completeness;
mod filter;
mod load;
mod merge;
mod place;
mod prune;
mod service;
mod window;

pub use completeness::Completeness;
pub use filter::{Filter, FilterError};
pub use merge::{DamagedBlocks, QueryStats, Search, run};
pub use place::{PAGE_EVENTS_MAX, Place};
pub use service::{Queries, serve, status, summary};
pub use window::{Marks, Window};
