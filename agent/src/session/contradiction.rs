//! What a collector can say that does not go with what was said before.
//!
//! None of it costs an event: the connection ends, and the next one begins
//! where the collector's disk does.

use crate::spool::AckError;

/// A word that cannot be true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Contradiction {
    /// It was welcomed already.
    #[error("a second welcome")]
    SecondWelcome,
    /// Something that presumes a welcome.
    #[error("{0} before the welcome")]
    BeforeWelcome(&'static str),
    /// An acknowledgement of what this spool never had.
    #[error("an acknowledgement of another epoch")]
    OtherEpoch,
    /// An acknowledgement of what was not sent yet.
    #[error(transparent)]
    Ack(#[from] AckError),
    /// A refusal that does not say what to do.
    #[error("a refusal without a reason")]
    NoReason,
}
