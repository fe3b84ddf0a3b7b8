//! One agent's event session, without IO and without a clock.
//!
//! ```text
//!           hello                     batch that follows
//! (start) ─────────▶ [ open ] ───────────────────────────▶ queued … acked
//!                       │ batch with a hole, foreign epoch, too big
//!                       ▼
//!                    (closed, with a status that says why)
//! ```
//!
//! The session knows up to where sequence numbers are accounted for
//! (`queued`): durable, or on their way into the store. A batch has to follow
//! on that. Numbers in between are taken as lost only if someone said so: the
//! agent by a lost range, the session itself by refusing a poison batch, or
//! the hello by holding nothing so old.
//!
//! What was not stored for lack of room is asked for again; everything that
//! was already under way behind it is sent back as well.

use std::collections::VecDeque;

use shrike_proto::{
    batch::{BATCH_EVENTS_MAX, BATCH_LOST_RANGES_MAX},
    id::{Epoch, IdError, NodeId, SequenceNumber},
    ledger::LossReason,
    wire::ingest,
};

use crate::store::{
    stream::{LostRange, StreamKey},
    writer::{Known, Outcome},
};

/// Batches that an agent may have unacknowledged: enough to fill a commit
/// while the one before is flushed, and at most 48 MiB of one session.
pub const CREDIT: u32 = 8;

/// How long an agent waits before it sends again what was not stored.
pub const RETRY_AFTER_MS: u32 = 2_000;

/// Lost ranges that wait for the events behind them.
const EXCUSED_MAX: usize = 4 * BATCH_LOST_RANGES_MAX;

/// Longest `boot_id`, a UUID with room to spare.
const BOOT_ID_BYTES_MAX: usize = 64;

/// What ends a session. The text goes to the agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// Something else came first.
    #[error("the first message of a session is a hello")]
    NoHello,
    /// A hello in the middle.
    #[error("a session has one hello, as its first message")]
    SecondHello,
    /// A message without content.
    #[error("the message is neither hello nor batch: unknown or empty")]
    Empty,
    /// The hello names another node than the certificate.
    #[error("the hello is from node {hello:?}, the certificate from {certificate:?}")]
    WrongNode {
        /// In the hello.
        hello: String,
        /// In the certificate.
        certificate: String,
    },
    /// A name or epoch is not one.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The boot ID is too long.
    #[error("a boot id has at most {BOOT_ID_BYTES_MAX} bytes")]
    BootId,
    /// The hello's numbers contradict each other.
    #[error("the hello holds sequence {first} to {next}: at least 1, and in order")]
    Sequences {
        /// Lowest held.
        first: u64,
        /// Next to be assigned.
        next: u64,
    },
    /// A batch of another epoch.
    #[error("the batch is of epoch {batch}, the session of {session}")]
    WrongEpoch {
        /// In the batch.
        batch: Epoch,
        /// In the hello.
        session: Epoch,
    },
    /// Too much of something.
    #[error("the batch has {count} {what}, at most {limit}")]
    TooMany {
        /// What.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Numbers past the last one.
    #[error("the batch's sequence numbers overflow")]
    Overflow,
    /// A reason for a loss that this version does not know.
    #[error("loss reason {0} is unknown")]
    LossReason(i32),
    /// More lost ranges than can wait.
    #[error("more than {EXCUSED_MAX} lost ranges wait for the events behind them")]
    TooManyLosses,
    /// A hole that nobody accounts for.
    #[error(
        "the batch begins at sequence {first}, expected {expected}: numbers in between are neither sent nor reported lost"
    )]
    OutOfOrder {
        /// As it came.
        first: u64,
        /// As it should have.
        expected: u64,
    },
    /// Another session of the node took over.
    #[error("another session of this node has taken over")]
    Superseded,
}

/// A batch that follows, and what storing it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The watermark that it follows.
    pub parent: SequenceNumber,
    /// The watermark afterwards.
    pub next: SequenceNumber,
    /// Numbers in between that are lost.
    pub lost: Vec<LostRange>,
    /// Leading events that are accounted for already.
    pub skip: usize,
    /// First sequence number of the batch, for a refusal.
    pub first: u64,
}

/// What to do with a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Decode it, then call [`Session::queue`] or [`Session::poison`].
    Decode(Plan),
    /// Answer at once.
    Reply(Reply),
}

/// What the agent hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Everything up to here is on disk.
    Ack(SequenceNumber),
    /// Not stored: send it again later.
    RetryLater {
        /// First sequence number of the batch.
        first: u64,
    },
    /// It will never be stored.
    Poison {
        /// First sequence number of the batch.
        first: u64,
        /// Why.
        reason: String,
    },
}

impl Reply {
    /// Converts the reply for the wire.
    pub fn into_wire(self, epoch: Epoch) -> ingest::StreamEventsResponse {
        use ingest::{nack::Reason, stream_events_response::Message};
        let nack = |first_sequence, reason| {
            Message::Nack(ingest::Nack {
                first_sequence,
                reason: Some(reason),
            })
        };
        ingest::StreamEventsResponse {
            message: Some(match self {
                Self::Ack(durable) => Message::Ack(ingest::Ack {
                    epoch: epoch.0.to_vec(),
                    durable_sequence: durable.0,
                }),
                Self::RetryLater { first } => nack(first, Reason::RetryAfterMs(RETRY_AFTER_MS)),
                Self::Poison { first, reason } => nack(first, Reason::Poison(reason)),
            }),
        }
    }
}

/// A hello that was checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Hello {
    /// Whose events.
    pub stream: StreamKey,
    /// The machine's boot.
    pub boot_id: String,
    /// Lowest sequence number that the agent still holds.
    pub first: u64,
    /// The epoch got its last event: its number.
    pub ended_at: Option<u64>,
    /// What the agent says of its node.
    pub info: ingest::NodeInfo,
}

impl Hello {
    /// Checks a hello from the agent with this name in its certificate.
    ///
    /// # Errors
    /// [`SessionError`] says what is wrong.
    pub fn check(hello: ingest::Hello, certificate: &str) -> Result<Self, SessionError> {
        if hello.node != certificate {
            return Err(SessionError::WrongNode {
                hello: hello.node.chars().take(80).collect(),
                certificate: certificate.to_owned(),
            });
        }
        if hello.boot_id.len() > BOOT_ID_BYTES_MAX {
            return Err(SessionError::BootId);
        }
        if hello.first_sequence == 0 || hello.next_sequence < hello.first_sequence {
            return Err(SessionError::Sequences {
                first: hello.first_sequence,
                next: hello.next_sequence,
            });
        }
        Ok(Self {
            stream: StreamKey {
                node: NodeId::parse(&hello.node)?,
                epoch: Epoch::from_wire(&hello.epoch)?,
            },
            boot_id: hello.boot_id,
            first: hello.first_sequence,
            ended_at: hello.ended.then(|| hello.next_sequence - 1),
            info: hello.info.unwrap_or_default(),
        })
    }
}

#[derive(Debug, Clone, Copy)]
struct InFlight {
    parent: u64,
    next: u64,
    first: u64,
}

/// The state of one session.
#[derive(Debug)]
pub struct Session {
    epoch: Epoch,
    /// Lowest number that the agent held at its hello: what is older and not
    /// accounted for is gone for good.
    held_from: u64,
    /// Everything up to here is durable or queued.
    queued: u64,
    /// Of an epoch that ended: its last number, and the last one that its agent
    /// ever spoke of. What lies between is gone with a machine's power.
    ended: Option<(u64, u64)>,
    /// Plans in the store's queue, oldest first.
    in_flight: VecDeque<InFlight>,
    /// How many of these are behind one that was not stored.
    stale: usize,
    /// After something was not stored: batches further on are sent back until
    /// the agent begins again at `queued + 1`.
    rewound: bool,
    /// Ranges that somebody accounts for as lost.
    excused: Vec<LostRange>,
}

impl Session {
    /// Opens a session on what is known, and returns the welcome.
    pub fn open(hello: &Hello, known: Known) -> (Self, ingest::Welcome) {
        let Known { durable, sequenced } = known;
        let session = Self {
            epoch: hello.stream.epoch,
            held_from: hello.first,
            queued: durable.0,
            // No number is the last one that there is: one is always added.
            ended: hello
                .ended_at
                .map(|last| (last, sequenced.min(u64::MAX - 1))),
            in_flight: VecDeque::new(),
            stale: 0,
            rewound: false,
            excused: Vec::new(),
        };
        let welcome = ingest::Welcome {
            durable_sequence: durable.0,
            credit: CREDIT,
        };
        (session, welcome)
    }

    /// Looks at a batch's header.
    ///
    /// # Errors
    /// [`SessionError`] ends the session.
    pub fn handle_batch(&mut self, batch: &ingest::Batch) -> Result<Step, SessionError> {
        self.check_header(batch)?;
        self.excuse(&batch.lost)?;
        let first = batch.first_sequence;
        let count = u64::from(batch.count);
        // A batch without events has no place of its own.
        let last = match count {
            0 => self.queued,
            count => first
                .checked_add(count - 1)
                .filter(|last| *last < u64::MAX)
                .ok_or(SessionError::Overflow)?,
        };
        let mut lost = Vec::new();
        let mut cursor = self.queued;
        if count > 0 && first > cursor.saturating_add(1) {
            cursor = self.cover(cursor, first - 1, &mut lost);
            if cursor + 1 != first {
                if self.rewound {
                    return Ok(Step::Reply(Reply::RetryLater { first }));
                }
                return Err(SessionError::OutOfOrder {
                    first,
                    expected: cursor + 1,
                });
            }
        }
        let skip = match count {
            0 => 0,
            count => (cursor + 1 - first).min(count),
        };
        cursor = cursor.max(last);
        // Losses that were reported for what comes next.
        cursor = self.cover(cursor, u64::MAX, &mut lost);
        cursor = self.cover_end(cursor, &mut lost);
        Ok(Step::Decode(Plan {
            parent: SequenceNumber(self.queued),
            next: SequenceNumber(cursor),
            lost,
            skip: usize::try_from(skip).expect("a batch is bounded"),
            first,
        }))
    }

    fn check_header(&self, batch: &ingest::Batch) -> Result<(), SessionError> {
        let epoch = Epoch::from_wire(&batch.epoch)?;
        if epoch != self.epoch {
            return Err(SessionError::WrongEpoch {
                batch: epoch,
                session: self.epoch,
            });
        }
        for (what, count, limit) in [
            ("events", batch.count as usize, BATCH_EVENTS_MAX),
            ("lost ranges", batch.lost.len(), BATCH_LOST_RANGES_MAX),
        ] {
            if count > limit {
                return Err(SessionError::TooMany { what, count, limit });
            }
        }
        if batch.count > 0 && batch.first_sequence == 0 {
            return Err(SessionError::OutOfOrder {
                first: 0,
                expected: self.queued + 1,
            });
        }
        Ok(())
    }

    /// Remembers what the agent gave up.
    fn excuse(&mut self, lost: &[ingest::LostRange]) -> Result<(), SessionError> {
        for range in lost {
            if range.count == 0 {
                continue;
            }
            let reason = LossReason::from_wire(range.reason)
                .ok_or(SessionError::LossReason(range.reason))?;
            let last = range
                .first_sequence
                .checked_add(range.count - 1)
                .ok_or(SessionError::Overflow)?;
            if range.first_sequence == 0 || last == u64::MAX {
                return Err(SessionError::Overflow);
            }
            // What is accounted for already was not lost after all.
            if last > self.queued {
                self.add_excuse(LostRange {
                    first: SequenceNumber(range.first_sequence),
                    count: range.count,
                    reason,
                })?;
            }
        }
        Ok(())
    }

    fn add_excuse(&mut self, range: LostRange) -> Result<(), SessionError> {
        if self.excused.contains(&range) {
            return Ok(());
        }
        if self.excused.len() == EXCUSED_MAX {
            return Err(SessionError::TooManyLosses);
        }
        self.excused.push(range);
        self.excused.sort_by_key(|range| range.first);
        Ok(())
    }

    /// Goes from `cursor` as far towards `until` as excuses lead, and lists
    /// them, cut to what they account for.
    fn cover(&self, mut cursor: u64, until: u64, lost: &mut Vec<LostRange>) -> u64 {
        // What the agent said of itself comes before the guess below.
        for range in &self.excused {
            if range.last() <= cursor {
                continue;
            }
            if range.first.0 > cursor + 1 {
                cursor = self.cover_missing(cursor, until.min(range.first.0 - 1), lost);
            }
            if range.first.0 > cursor + 1 || cursor >= until {
                break;
            }
            let last = range.last().min(until);
            lost.push(LostRange {
                first: SequenceNumber(cursor + 1),
                count: last - cursor,
                reason: range.reason,
            });
            cursor = last;
        }
        self.cover_missing(cursor, until, lost)
    }

    /// Accounts for what the agent held no more when it said hello, and the
    /// store does not have: it was acknowledged into another store.
    fn cover_missing(&self, cursor: u64, until: u64, lost: &mut Vec<LostRange>) -> u64 {
        let last = until.min(self.held_from.saturating_sub(1));
        // Only ahead of events that follow: the agent may still report why.
        if until == u64::MAX || last <= cursor {
            return cursor;
        }
        lost.push(LostRange {
            first: SequenceNumber(cursor + 1),
            count: last - cursor,
            reason: LossReason::StoreMissing,
        });
        last
    }

    /// Accounts for the numbers that an ended epoch's spool lost.
    fn cover_end(&self, cursor: u64, lost: &mut Vec<LostRange>) -> u64 {
        match self.ended {
            Some((last, sequenced)) if cursor >= last && sequenced > cursor => {
                lost.push(LostRange {
                    first: SequenceNumber(cursor + 1),
                    count: sequenced - cursor,
                    reason: LossReason::AgentSpoolDamaged,
                });
                sequenced
            }
            Some(_) | None => cursor,
        }
    }

    /// Returns what is to be stored of an epoch that ended and of which nothing
    /// more will come, if anything.
    pub fn close_epoch(&self) -> Option<Plan> {
        let mut lost = Vec::new();
        let next = self.cover_end(self.queued, &mut lost);
        (next > self.queued).then(|| Plan {
            parent: SequenceNumber(self.queued),
            next: SequenceNumber(next),
            lost,
            skip: 0,
            first: self.queued + 1,
        })
    }

    /// The batch is whole and goes into the store's queue.
    pub fn queue(&mut self, plan: &Plan) {
        assert!(self.has_room(), "whoever reads asks first");
        assert_eq!(plan.parent.0, self.queued, "plans are queued in order");
        self.queued = plan.next.0;
        self.rewound = false;
        self.in_flight.push_back(InFlight {
            parent: plan.parent.0,
            next: plan.next.0,
            first: plan.first,
        });
    }

    /// The batch is not whole: it is refused for good, and its numbers count
    /// as quarantined.
    ///
    /// # Errors
    /// [`SessionError::TooManyLosses`] when the agent sends nothing else.
    pub fn poison(&mut self, batch: &ingest::Batch, reason: String) -> Result<Reply, SessionError> {
        if batch.count > 0 {
            self.add_excuse(LostRange {
                first: SequenceNumber(batch.first_sequence),
                count: u64::from(batch.count),
                reason: LossReason::Quarantined,
            })?;
        }
        Ok(Reply::Poison {
            first: batch.first_sequence,
            reason,
        })
    }

    /// The store says what became of the oldest queued batch.
    ///
    /// # Errors
    /// [`SessionError::Superseded`] when another session took over.
    ///
    /// # Panics
    /// When nothing is queued.
    pub fn handle_outcome(&mut self, outcome: Outcome) -> Result<Reply, SessionError> {
        let answered = self.in_flight.pop_front().expect("an answer to a question");
        let first = answered.first;
        if self.stale > 0 {
            self.stale -= 1;
            return Ok(Reply::RetryLater { first });
        }
        match outcome {
            Outcome::Durable => {
                self.excused.retain(|range| range.last() > answered.next);
                Ok(Reply::Ack(SequenceNumber(answered.next)))
            }
            // Without numbers of its own, nothing hangs on it.
            Outcome::Later if answered.parent == answered.next => Ok(Reply::RetryLater { first }),
            Outcome::Later => {
                self.queued = answered.parent;
                self.stale = self.in_flight.len();
                self.rewound = true;
                Ok(Reply::RetryLater { first })
            }
            Outcome::Superseded { .. } => Err(SessionError::Superseded),
        }
    }

    /// Says whether another batch may be read. An agent that was refused a
    /// batch sends again what is under way still, so more than the credit is
    /// no mistake of its: it waits in the connection's window.
    pub fn has_room(&self) -> bool {
        self.in_flight.len() < CREDIT as usize
    }

    /// Says whether answers of the store are still to come.
    pub fn is_waiting(&self) -> bool {
        !self.in_flight.is_empty()
    }
}

#[cfg(test)]
mod tests;
