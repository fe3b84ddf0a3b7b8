//! The policy book: what the fleet shall enforce, by generation.
//!
//! A generation is one change of the book, monotonic and kept for good. What
//! a single node shall enforce is the policies that select it, under the
//! generation that last touched them: a push for the web servers leaves the
//! databases alone.

mod book;
mod record;

pub use book::{Book, BookError, Change, Document, GenerationRecord, Origin, Push};
pub use record::{BookRecordError, load};
