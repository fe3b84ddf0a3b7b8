//! What came of each kill: a verdict that asked for one is followed until its
//! process's exit.
//!
//! ```text
//!                     exit              the receipt is part of the exit event
//!           ┌───────────────────────→ ──────────────────────────────────────
//!  signal   │  patience is over  alive  alert: it survived, and why
//!  sent ────┤ ─────────────────┬─────→ ────────────── exit → receipt, late
//!           │                  │ gone   its exit may still be in the ring:
//!           │                  └─────→ patience again, then alert: unproven
//!  signal   │
//!  failed ──┴───────────────────────→  alert at once
//! ```
//!
//! A verdict alone only says what was asked. The receipt says what happened,
//! so that nobody has to take the kernel's word for it. The tracker looks at
//! nothing itself: whoever drives it tells what /proc says
//! ([`Fate`]).

mod fate;

pub use fate::Fate;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use foldhash::HashMap;
use shrike_proto::{
    event::{Alert, Cause, Event, Fact, Outcome, Process, Receipt, Verdict},
    id::Generation,
};

use crate::enrich::ProcessKey;

/// Kills whose exit has not been seen yet. A signalled process exits within
/// milliseconds; only lost exits and survivors make them pile up. When there
/// are more, the oldest is looked at before its time.
const PENDING_MAX: usize = 4096;

/// How long a process may take to die before somebody is told. One that lets
/// go of gigabytes, or waits for a slow disk, takes a second or two.
pub const PATIENCE_DEFAULT: Duration = Duration::from_secs(5);

/// SIGKILL (signal(7)).
const SIGKILL: u32 = 9;

/// Kills that wait for their process's exit.
#[derive(Debug)]
pub struct Receipts {
    patience: Duration,
    pending: HashMap<ProcessKey, Pending>,
    /// In the order of their time. An entry whose kill is settled, or waits
    /// until another time, is void.
    deadlines: VecDeque<(Instant, ProcessKey)>,
    /// Kills that are told already, oldest first: their exit may still come.
    told: VecDeque<ProcessKey>,
}

#[derive(Debug)]
struct Pending {
    receipt: Receipt,
    verdict: Verdict,
    process: Process,
    boot_time_ns: u64,
    state: State,
}

/// How far a kill is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The signal is sent.
    Sent { until: Instant },
    /// It was looked at and was gone.
    Gone { until: Instant },
    /// An alert told of it.
    Told,
}

impl State {
    fn until(self) -> Option<Instant> {
        match self {
            Self::Sent { until } | Self::Gone { until } => Some(until),
            Self::Told => None,
        }
    }
}

/// An alert that is due, and what its event takes from the verdict's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    /// The process that it is about.
    pub process: Process,
    /// The generation that judged.
    pub generation: Generation,
    /// The verdict that it is about.
    pub verdict: Option<Verdict>,
    /// What it says.
    pub alert: Alert,
}

impl Receipts {
    /// Starts with nothing to follow.
    pub fn new(patience: Duration) -> Self {
        Self {
            patience,
            pending: HashMap::default(),
            deadlines: VecDeque::new(),
            told: VecDeque::new(),
        }
    }

    /// Follows a kill, or puts its receipt onto the exit. The event must have
    /// its sequence number. Returns the alert about a signal that failed.
    pub fn observe(&mut self, event: &mut Event, now: Instant) -> Option<Alarm> {
        if let Fact::Exit(exit) = &mut event.fact {
            let pending = self.pending.remove(&ProcessKey::of(&event.process))?;
            let mut receipt = pending.receipt;
            receipt.died_by_it = receipt.signal_result == 0 && exit.signal == SIGKILL;
            receipt.after_ns = event.boot_time_ns.saturating_sub(pending.boot_time_ns);
            exit.receipt = Some(receipt);
            return None;
        }
        let verdict = event.verdict.as_ref()?;
        let signal_result = signal_result(verdict.outcome)?;
        let pending = Pending {
            receipt: Receipt {
                generation: event.generation,
                policy: verdict.policy.clone(),
                rule: verdict.rule.clone(),
                signal_result,
                died_by_it: false,
                verdict_sequence: event.sequence,
                after_ns: 0,
            },
            verdict: verdict.clone(),
            process: event.process.clone(),
            boot_time_ns: event.boot_time_ns,
            state: match signal_result {
                0 => State::Sent {
                    until: now + self.patience,
                },
                _ => State::Told,
            },
        };
        let alarm = (signal_result != 0).then(|| {
            let reason = format!(
                "the signal could not be sent to process {}",
                pending.process.tgid
            );
            pending.alarm(Cause::SignalFailed(pending.receipt.clone()), reason)
        });
        self.follow(ProcessKey::of(&event.process), pending);
        alarm
    }

    fn follow(&mut self, key: ProcessKey, pending: Pending) {
        let state = pending.state;
        match self.pending.get_mut(&key) {
            // The signal that got through is the one that it dies by.
            Some(earlier)
                if earlier.receipt.signal_result != 0 && pending.receipt.signal_result == 0 =>
            {
                *earlier = pending;
            }
            Some(_) => return,
            None => {
                self.pending.insert(key, pending);
            }
        }
        self.schedule(key, state);
    }

    fn schedule(&mut self, key: ProcessKey, state: State) {
        match state.until() {
            Some(until) => self.deadlines.push_back((until, key)),
            None => {
                self.told.push_back(key);
                self.forget_told();
            }
        }
        if self.deadlines.len() > 2 * PENDING_MAX {
            let pending = &self.pending;
            self.deadlines
                .retain(|(until, key)| is_due_at(pending, key, *until));
        }
    }

    /// Lets the oldest of those that were told go: whoever follows them knows.
    fn forget_told(&mut self) {
        while self.told.len() > PENDING_MAX
            && let Some(oldest) = self.told.pop_front()
        {
            if self
                .pending
                .get(&oldest)
                .is_some_and(|it| it.state == State::Told)
            {
                self.pending.remove(&oldest);
            }
        }
    }

    /// Returns a process whose fate has to be looked up, to be told with
    /// [`settle`](Self::settle) before the next call.
    pub fn overdue(&mut self, now: Instant) -> Option<ProcessKey> {
        while let Some((until, key)) = self.deadlines.front().copied() {
            if !is_due_at(&self.pending, &key, until) {
                self.deadlines.pop_front();
                continue;
            }
            // Those that wait, and those that were told, have as much room
            // each.
            let crowded = self.pending.len() > 2 * PENDING_MAX;
            if until > now && !crowded {
                return None;
            }
            self.deadlines.pop_front();
            return Some(key);
        }
        None
    }

    /// Takes in what became of a process, and returns the alert about it.
    pub fn settle(
        &mut self,
        key: ProcessKey,
        fate: Fate,
        now: Instant,
        boot_time_ns: u64,
    ) -> Option<Alarm> {
        let pending = self.pending.get_mut(&key)?;
        let first_look = matches!(pending.state, State::Sent { .. });
        pending.receipt.after_ns = boot_time_ns.saturating_sub(pending.boot_time_ns);
        let (state, alarm) = match fate {
            Fate::Gone if first_look => {
                let until = now + self.patience;
                (State::Gone { until }, None)
            }
            Fate::Gone => {
                let cause = Cause::KillUnproven(pending.receipt.clone());
                let reason = format!(
                    "process {} is gone, and its exit was not seen",
                    pending.process.tgid
                );
                let alarm = pending.alarm(cause, reason);
                self.pending.remove(&key);
                return Some(alarm);
            }
            Fate::Alive { obstacle, detail } => {
                let receipt = pending.receipt.clone();
                let cause = Cause::KillSurvived { receipt, obstacle };
                (State::Told, Some(pending.alarm(cause, detail)))
            }
        };
        pending.state = state;
        self.schedule(key, state);
        alarm
    }

    /// Returns how many kills are followed.
    #[cfg(test)]
    fn followed(&self) -> usize {
        self.pending.len()
    }
}

impl Pending {
    fn alarm(&self, cause: Cause, reason: String) -> Alarm {
        Alarm {
            process: self.process.clone(),
            generation: self.receipt.generation,
            verdict: Some(self.verdict.clone()),
            alert: Alert::new(cause, reason),
        }
    }
}

fn is_due_at(pending: &HashMap<ProcessKey, Pending>, key: &ProcessKey, at: Instant) -> bool {
    pending
        .get(key)
        .is_some_and(|pending| pending.state.until() == Some(at))
}

/// Returns the signal's result where one was to be sent.
fn signal_result(outcome: Outcome) -> Option<i32> {
    match outcome {
        Outcome::SignalSent => Some(0),
        Outcome::SignalFailed(result) => Some(result),
        Outcome::Noted
        | Outcome::Observed
        | Outcome::SparedInit
        | Outcome::SparedKernelThread
        | Outcome::SparedAgent
        | Outcome::SparedProtected
        | Outcome::BreakerOpen
        | Outcome::Denied => None,
    }
}

#[cfg(test)]
mod tests;
