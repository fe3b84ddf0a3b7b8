//! The event protocol, from the agent's side, without a network or a clock.
//!
//! ```text
//!            Open              welcome
//!  Waiting ───────→ Opening ───────────→ Streaming ─┐ batch, ack, nack
//!     ↑                │                     │  ↑   │
//!     └────────────────┴── closed, silence, ─┘  └───┘
//!        backoff           or a violation
//! ```
//!
//! A session resumes where the collector's welcome says that its disk ends:
//! what is durable leaves the spool, the rest is sent again. Epochs that ended
//! are delivered first, each in a session of its own. What the peer
//! says is checked against what was sent; a collector that contradicts itself
//! loses the connection, never an event.

use std::time::{Duration, Instant};

use shrike_proto::{
    id::{Epoch, SequenceNumber},
    ledger::Ledger,
    wire::ingest,
};

use super::{Backoff, contradiction::Contradiction};
use crate::spool::{AckError, Inheritance, Spool};

/// Longest wait for a collector's welcome, dialling included.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(25);

/// Longest wait for an acknowledgement while batches are under way. A
/// collector that cannot store says so; one that says nothing is stuck.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// A changed ledger goes out at least this often.
const LEDGER_INTERVAL: Duration = Duration::from_secs(1);

/// A batch without events that nobody answered is forgotten after this.
const BARE_TIMEOUT: Duration = Duration::from_secs(5);

/// A session that lasted this long was a good one, even without an event.
const GOOD_SESSION: Duration = Duration::from_secs(10);

/// Most batches under way, whatever the collector offers: they are in memory
/// twice while they are sent, and are the last to be given up.
pub const CREDIT_MAX: u32 = 64;

/// Longest pause that a collector can ask for.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// A collector's reason is kept this long.
const REASON_CHARS_MAX: usize = 1000;

/// Number of an attempt to hold a session: tells reports of an old
/// connection from those of the present one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Attempt(pub u64);

/// What the shell is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Dial a collector and begin with this hello.
    Open {
        /// Number to put on every report.
        attempt: Attempt,
        /// `HOST:PORT`.
        address: String,
        /// First message.
        hello: Box<ingest::Hello>,
    },
    /// Send a batch on the open stream.
    Send(Box<ingest::Batch>),
    /// Everything up to here is on the collector's disk.
    Settled(SequenceNumber),
    /// The collector has events of the spool's epoch that the spool does not
    /// know: another epoch is to begin, by [`Session::begin_anew`].
    BeginAnew,
    /// End the stream.
    Close,
}

/// What a session needs to know and nobody tells it later.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// Name in the hello.
    pub node: String,
    /// The rest of the hello.
    pub info: ingest::NodeInfo,
    /// Collectors, tried in this order; at least one.
    pub collectors: Vec<String>,
    /// Any number that differs between agents, for the pauses between
    /// attempts.
    pub seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Waiting {
        until: Instant,
    },
    Opening {
        since: Instant,
    },
    Streaming {
        since: Instant,
        credit: u32,
        paused_until: Option<Instant>,
        /// When the collector last moved, or had nothing to do.
        progress: Instant,
        /// When a batch without events was sent that is not answered yet: it
        /// takes credit as others do, but no acknowledgement names it.
        bare: Option<Instant>,
    },
}

/// The agent's side of the event protocol, and the spool that it empties.
#[derive(Debug)]
pub struct Session {
    options: SessionOptions,
    spool: Spool,
    state: State,
    attempt: Attempt,
    collector: usize,
    backoff: Backoff,
    ledger: Ledger,
    ledger_sent: Option<Ledger>,
    ledger_sent_at: Option<Instant>,
    /// The last hour that ended in a ledger that was sent, and the last one that
    /// the collector has on its disk: numbers of marks.
    hours_sent: u64,
    hours_told: u64,
    stopping: bool,
}

impl Session {
    /// Starts without a connection; the first one is due at once.
    ///
    /// # Panics
    /// Without a collector: the configuration has at least one.
    pub fn new(options: SessionOptions, spool: Spool, now: Instant) -> Self {
        assert!(!options.collectors.is_empty(), "checked at the edge");
        Self {
            spool,
            state: State::Waiting { until: now },
            attempt: Attempt(0),
            collector: 0,
            backoff: Backoff::new(options.seed),
            ledger: Ledger::default(),
            ledger_sent: None,
            ledger_sent_at: None,
            hours_sent: 0,
            hours_told: 0,
            stopping: false,
            options,
        }
    }

    /// Returns the spool, for the ledger and the status line.
    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Returns the spool, to take in events. Nothing is sent before
    /// [`advance`](Self::advance).
    pub fn spool_mut(&mut self) -> &mut Spool {
        &mut self.spool
    }

    /// Takes in the counts as they are; they go out with the next batch, or
    /// alone when no batch is due.
    pub fn set_ledger(&mut self, ledger: Ledger) {
        self.ledger = ledger;
    }

    /// Returns the number of the last hour's mark that is durable at the
    /// collector and will not change; 0 for none.
    pub fn hours_told(&self) -> u64 {
        self.hours_told
    }

    /// Begins another epoch of this name, after [`Command::BeginAnew`].
    pub fn begin_anew(&mut self, epoch: Epoch) -> Inheritance {
        (self.hours_sent, self.hours_told) = (0, 0);
        self.spool.begin_anew(epoch)
    }

    /// Tells the collector how the node stands: only a hello says so, so the
    /// session begins again.
    pub fn set_info(&mut self, info: ingest::NodeInfo, now: Instant) -> Vec<Command> {
        self.options.info = info;
        let mut commands = Vec::new();
        if !matches!(self.state, State::Waiting { .. }) {
            self.abandon("the node's state has changed", now, &mut commands);
        }
        commands
    }

    /// Does whatever is due.
    pub fn advance(&mut self, now: Instant) -> Vec<Command> {
        let mut commands = Vec::new();
        match self.state {
            State::Waiting { until } if now >= until => commands.push(self.open(now)),
            State::Waiting { .. } => {}
            State::Opening { since } => {
                if now >= since + WELCOME_TIMEOUT {
                    self.abandon("no welcome from the collector", now, &mut commands);
                }
            }
            State::Streaming { .. } => self.stream(now, &mut commands),
        }
        commands
    }

    /// Returns when [`advance`](Self::advance) has something to do next, at
    /// the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { until } => Some(until),
            State::Opening { since } => Some(since + WELCOME_TIMEOUT),
            State::Streaming {
                paused_until,
                progress,
                bare,
                ..
            } => {
                let stall =
                    (self.spool.batches_under_way() > 0).then_some(progress + STALL_TIMEOUT);
                let ledger = (bare.is_none() && self.ledger_sent.as_ref() != Some(&self.ledger))
                    .then(|| self.ledger_sent_at.map(|at| at + LEDGER_INTERVAL))
                    .flatten();
                [
                    paused_until,
                    stall,
                    ledger,
                    bare.map(|sent| sent + BARE_TIMEOUT),
                ]
                .into_iter()
                .flatten()
                .min()
            }
        }
    }

    /// The collector took the session.
    pub fn handle_welcome(
        &mut self,
        attempt: Attempt,
        welcome: &ingest::Welcome,
        now: Instant,
    ) -> Vec<Command> {
        self.hear(attempt, now, |machine, commands| {
            if !matches!(machine.state, State::Opening { .. }) {
                return Err(Contradiction::SecondWelcome);
            }
            let durable = SequenceNumber(welcome.durable_sequence);
            let first = machine.spool.first_sequence().0;
            machine.spool.rewind();
            if let Err(error @ AckError::Ahead { .. }) = machine.spool.acknowledge(durable) {
                commands.push(Command::BeginAnew);
                return Err(error.into());
            }
            if durable.0 + 1 < first {
                // The hello said so; the collector accounts for them as
                // missing from its store.
                tracing::error!(
                    missing = first - durable.0 - 1,
                    "the collector's store lacks events that were acknowledged"
                );
            }
            tracing::info!(
                collector = machine.options.collectors[machine.collector],
                durable = durable.0,
                waiting = machine.spool.waiting(),
                "delivering events"
            );
            machine.state = State::Streaming {
                since: now,
                credit: welcome.credit.clamp(1, CREDIT_MAX),
                paused_until: None,
                progress: now,
                bare: None,
            };
            // Every session begins by telling the ledger.
            machine.ledger_sent = None;
            machine.ledger_sent_at = None;
            commands.push(Command::Settled(durable));
            Ok(())
        })
    }

    /// Events up to a number are on the collector's disk.
    pub fn handle_ack(
        &mut self,
        attempt: Attempt,
        ack: &ingest::Ack,
        now: Instant,
    ) -> Vec<Command> {
        self.hear(attempt, now, |machine, commands| {
            machine.insist_on_session("an acknowledgement")?;
            if ack.epoch != machine.spool.epoch().0 {
                return Err(Contradiction::OtherEpoch);
            }
            let durable = SequenceNumber(ack.durable_sequence);
            machine.note_answer();
            if machine.spool.acknowledge(durable)? > 0 {
                machine.backoff.reset();
                machine.note_progress(now);
            }
            if machine.spool.batches_under_way() == 0 {
                // Each batch has its answer: so do the ledgers that they brought.
                machine.hours_told = machine.hours_sent;
            }
            commands.push(Command::Settled(durable));
            Ok(())
        })
    }

    /// The collector did not store a batch.
    pub fn handle_nack(
        &mut self,
        attempt: Attempt,
        nack: &ingest::Nack,
        now: Instant,
    ) -> Vec<Command> {
        self.hear(attempt, now, |machine, _| {
            machine.insist_on_session("a refusal")?;
            machine.note_answer();
            machine.note_progress(now);
            let first = SequenceNumber(nack.first_sequence);
            match &nack.reason {
                Some(ingest::nack::Reason::RetryAfterMs(pause_ms)) => {
                    machine.pause(first, *pause_ms, now);
                }
                Some(ingest::nack::Reason::Poison(reason)) => machine.quarantine(first, reason),
                None => return Err(Contradiction::NoReason),
            }
            Ok(())
        })
    }

    /// The connection ended, or never came to be.
    pub fn handle_closed(&mut self, attempt: Attempt, reason: &str, now: Instant) -> Vec<Command> {
        if attempt == self.attempt && !matches!(self.state, State::Waiting { .. }) {
            self.retry(reason, now);
        }
        Vec::new()
    }

    /// Begins the end: whatever waits is sent as soon as it can be.
    pub fn handle_stop(&mut self, now: Instant) -> Vec<Command> {
        self.stopping = true;
        self.advance(now)
    }

    /// Says whether there is a connection, or one is being made.
    pub fn is_at_work(&self) -> bool {
        match self.state {
            State::Opening { .. } | State::Streaming { .. } => true,
            State::Waiting { .. } => false,
        }
    }

    /// Says whether nothing waits any longer for the collector's answer, the
    /// ledger included while there is a session to tell it.
    pub fn is_drained(&self) -> bool {
        let told = match self.state {
            State::Streaming { bare, .. } => {
                bare.is_none() && self.ledger_sent.as_ref() == Some(&self.ledger)
            }
            State::Waiting { .. } | State::Opening { .. } => true,
        };
        self.spool.is_empty() && told
    }

    /// Takes in a word of the collector. One to an earlier attempt is
    /// ignored; one that contradicts what was said costs the connection; after
    /// any other, whatever can be sent goes out.
    fn hear(
        &mut self,
        attempt: Attempt,
        now: Instant,
        take_in: impl FnOnce(&mut Self, &mut Vec<Command>) -> Result<(), Contradiction>,
    ) -> Vec<Command> {
        let mut commands = Vec::new();
        if attempt == self.attempt {
            match take_in(self, &mut commands) {
                Ok(()) => self.stream(now, &mut commands),
                Err(error) => self.abandon(&error.to_string(), now, &mut commands),
            }
        }
        commands
    }

    fn insist_on_session(&self, word: &'static str) -> Result<(), Contradiction> {
        match self.state {
            State::Streaming { .. } => Ok(()),
            State::Waiting { .. } | State::Opening { .. } => {
                Err(Contradiction::BeforeWelcome(word))
            }
        }
    }

    fn pause(&mut self, first: SequenceNumber, pause_ms: u32, now: Instant) {
        let pause = Duration::from_millis(pause_ms.into()).min(PAUSE_MAX);
        tracing::warn!(
            first = first.0,
            pause_ms,
            "the collector cannot store right now"
        );
        self.spool.rewind_to(first);
        // What it refused may have been a ledger.
        self.ledger_sent = None;
        if let State::Streaming { paused_until, .. } = &mut self.state {
            *paused_until = Some(now + pause);
        }
    }

    fn quarantine(&mut self, first: SequenceNumber, reason: &str) {
        let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
        match self.spool.quarantine(first, &reason) {
            Some(events) => tracing::error!(
                first = first.0,
                events,
                reason = reason.escape_debug().to_string(),
                "the collector refused a batch for good: it is kept in the quarantine"
            ),
            None => tracing::warn!(
                first = first.0,
                "the collector refused a batch that is not waiting"
            ),
        }
    }

    fn open(&mut self, now: Instant) -> Command {
        self.attempt.0 += 1;
        self.hours_sent = self.hours_told;
        self.state = State::Opening { since: now };
        Command::Open {
            attempt: self.attempt,
            address: self.options.collectors[self.collector].clone(),
            hello: Box::new(ingest::Hello {
                node: self.options.node.clone(),
                boot_id: self.spool.boot_id().to_owned(),
                epoch: self.spool.epoch().0.to_vec(),
                first_sequence: self.spool.first_sequence().0,
                next_sequence: self.spool.next_sequence().0,
                info: Some(self.options.info.clone()),
                ended: self.spool.ended_ledger().is_some(),
            }),
        }
    }

    /// Sends what credit and pauses allow.
    fn stream(&mut self, now: Instant, commands: &mut Vec<Command>) {
        let State::Streaming {
            credit,
            paused_until,
            progress,
            since,
            bare,
        } = &mut self.state
        else {
            return;
        };
        bare.take_if(|sent| now >= *sent + BARE_TIMEOUT);
        let is_bare = bare.is_some();
        if now >= *since + GOOD_SESSION {
            self.backoff.reset();
        }
        if self.spool.batches_under_way() == 0 {
            *progress = now;
        }
        let credit = (*credit as usize).saturating_sub(is_bare.into());
        let stalled = now >= *progress + STALL_TIMEOUT;
        if paused_until.is_some_and(|until| now >= until) {
            *paused_until = None;
        }
        let paused = paused_until.is_some();
        if stalled {
            self.abandon("no acknowledgement for a minute", now, commands);
            return;
        }
        if self.spool.retire() {
            // The next epoch has a session of its own.
            commands.push(Command::Close);
            self.state = State::Waiting { until: now };
            commands.push(self.open(now));
            return;
        }
        while !paused
            && self.spool.batches_under_way() < credit
            && let Some(batch) = self.spool.take_next()
        {
            commands.push(self.send(batch, now));
        }
        // While batches are under way the ledger goes with the next one.
        let ledger_due = !paused
            && !is_bare
            && self.spool.batches_under_way() == 0
            && (self.stopping
                || self
                    .ledger_sent_at
                    .is_none_or(|at| now >= at + LEDGER_INTERVAL));
        if ledger_due && self.ledger_sent.as_ref() != Some(&self.ledger) {
            let batch = self.spool.empty_batch();
            commands.push(self.send(batch, now));
        }
    }

    fn send(&mut self, mut batch: ingest::Batch, now: Instant) -> Command {
        let ended = self.spool.ended_ledger();
        if ended.is_none() {
            let ends = self.ledger.hours.iter().rev().nth(1);
            self.hours_sent = ends.map_or(self.hours_sent, |mark| mark.number);
        }
        let ledger = ended.unwrap_or(&self.ledger);
        batch.ledger = Some(ledger.clone().into());
        self.ledger_sent = Some(self.ledger.clone());
        self.ledger_sent_at = Some(now);
        if batch.count == 0
            && let State::Streaming { bare, .. } = &mut self.state
        {
            *bare = Some(now);
        }
        Command::Send(Box::new(batch))
    }

    fn note_answer(&mut self) {
        if let State::Streaming { bare, .. } = &mut self.state {
            *bare = None;
        }
    }

    fn note_progress(&mut self, now: Instant) {
        if let State::Streaming { progress, .. } = &mut self.state {
            *progress = now;
        }
    }

    fn abandon(&mut self, reason: &str, now: Instant, commands: &mut Vec<Command>) {
        commands.push(Command::Close);
        self.retry(reason, now);
    }

    fn retry(&mut self, reason: &str, now: Instant) {
        let delay = self.backoff.next_delay();
        tracing::warn!(
            collector = self.options.collectors[self.collector],
            reason,
            retry_in_ms = delay.as_millis() as u64,
            waiting = self.spool.waiting(),
            "not connected to the collector"
        );
        // The one that worked is tried again first; only one that never
        // welcomed gives way to the next.
        if matches!(self.state, State::Opening { .. }) {
            self.collector = (self.collector + 1) % self.options.collectors.len();
        }
        self.spool.rewind();
        self.state = State::Waiting { until: now + delay };
    }
}

#[cfg(test)]
mod tests;
