//! What happens to each event between the kernel and the queue.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use shrike_proto::{
    event::{Alert, Cause, Event, Fact, Process},
    id::{Generation, SequenceNumber},
};

use crate::{
    clock,
    enrich::Enricher,
    kernel::{Miscount, Processes},
    receipts::{Alarm, Fate, Receipts},
};

/// Enriches events, numbers them, and follows kills until the exit.
#[derive(Debug)]
pub struct Intake {
    enricher: Enricher,
    receipts: Receipts,
    /// Alerts that are due: at most one for each event since they were taken
    /// last.
    alarms: VecDeque<Alarm>,
    counts: Counts,
}

/// What became of events between the ring and the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Alerts: events that no hook has seen.
    pub raised: u64,
    /// Left out on purpose: the self-test's own.
    pub left_out: u64,
}

impl Intake {
    /// Starts with the processes that run already. Called after the hooks are
    /// attached. A process that lives on `kill_patience` after it was killed
    /// is an alert.
    pub fn from_running_system(told: Processes, now: Instant, kill_patience: Duration) -> Self {
        Self::new(Enricher::from_running_system(told, now), kill_patience)
    }

    /// Starts with what the enricher knows.
    pub fn new(enricher: Enricher, kill_patience: Duration) -> Self {
        Self {
            enricher,
            receipts: Receipts::new(kill_patience),
            alarms: VecDeque::new(),
            counts: Counts::default(),
        }
    }

    /// Completes an event that came out of the ring.
    pub fn complete(&mut self, event: &mut Event, sequence: SequenceNumber, now: Instant) {
        self.enricher.enrich(event, now);
        event.sequence = sequence;
        self.alarms.extend(self.receipts.observe(event, now));
    }

    /// Raises an alert: the ledger cannot be trusted.
    pub fn raise_miscount(&mut self, miscount: &Miscount) {
        let process = Process {
            tgid: std::process::id(),
            comm: b"shrike-agent".as_slice().into(),
            ..Process::default()
        };
        self.alarms.push_back(Alarm {
            process,
            generation: Generation::NONE,
            verdict: None,
            alert: Alert::new(Cause::Miscount, miscount.to_string()),
        });
    }

    /// Returns the next alert that is due, as an event; `None` when there is
    /// none. It is to be called again until then.
    pub fn next_alert(&mut self, sequence: SequenceNumber, now: Instant) -> Option<Event> {
        let boot_time_ns = clock::boot_time_ns();
        while self.alarms.is_empty()
            && let Some(key) = self.receipts.overdue(now)
        {
            let fate = Fate::of(key, self.enricher.procfs());
            let alarm = self.receipts.settle(key, fate, now, boot_time_ns);
            self.alarms.extend(alarm);
        }
        let Alarm {
            process,
            generation,
            verdict,
            alert,
        } = self.alarms.pop_front()?;
        self.counts.raised += 1;
        tracing::warn!(
            cause = alert.cause.as_str(),
            pid = process.tgid,
            policy = verdict.as_ref().map(|verdict| verdict.policy.as_str()),
            rule = verdict.as_ref().map(|verdict| verdict.rule.as_str()),
            "ALERT: {}",
            alert.reason
        );
        Some(Event {
            sequence,
            time_unix_ns: self.enricher.unix_ns(boot_time_ns),
            boot_time_ns,
            cpu: 0,
            cpu_sequence: 0,
            generation,
            process,
            verdict,
            fact: Fact::Alert(alert),
        })
    }

    /// Counts events that came out of the ring and go no further.
    pub fn leave_out(&mut self, count: u64) {
        self.counts.left_out += count;
    }

    /// Returns what became of events here.
    pub fn counts(&self) -> Counts {
        self.counts
    }
}
