//! The one task that owns the sensor and all that follows from it.
//!
//! ```text
//!            ApplyRequest                       Report
//! control ───────────────→ ┌──────────┐ ←───────────── link ← collector
//!         ←─── Applied ─── │ pipeline │
//!                          └──────────┘ ─── batches ──→ link → collector
//!                 sensor → intake → spool → session
//! ```
//!
//! Nobody else touches the state, so nothing is locked. It waits for the
//! kernel, the collector and the control stream at once, does what is due,
//! and never waits for any of them alone.

mod intake;
mod ledger;
mod tampering;

pub use intake::{Counts, Intake};
pub(crate) use ledger::{ledger, onto};
use tampering::Tampering;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::ClientConfig;
use shrike_proto::{
    event::Event,
    id::SequenceNumber,
    ledger::{Hour, Ledger},
    wire::ingest,
};
use tokio::{
    sync::{mpsc, watch},
    task::block_in_place,
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    control::{Applied, ApplyRequest},
    doctor::Bystanders,
    error::{AgentError, chain},
    kernel::{RingMark, Sensor},
    policy_store::PolicyKeeper,
    run::random_epoch,
    session::{Attempt, Command, LINK_REPORTS_MAX, Link, Report, Session, SessionOptions},
    spool::{Class, Mark, Spool},
};

/// Policy sets that wait to be applied: the control stream waits for each
/// answer, so there is never a second one.
pub const APPLY_REQUESTS_MAX: usize = 1;

/// The kernel's counters are read this often: as often as a ledger goes out
/// on its own.
const LEDGER_INTERVAL: Duration = Duration::from_secs(1);

/// What is in force is compared with what was put there this often: some
/// hundred calls into the kernel.
const INSPECT_INTERVAL: Duration = Duration::from_secs(3);

/// Longest time for the spool to empty when the agent stops.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time for the network to take what it was handed at the end.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest time for taking out what is left in the ring when the agent stops:
/// a full one of the default size takes less.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// What the pipeline is built from.
pub struct PipelineOptions {
    /// The loaded sensor.
    pub sensor: Sensor,
    /// Made after the sensor was loaded.
    pub intake: Intake,
    /// What came out of the sensor's ring before.
    pub bystanders: Bystanders,
    /// For the session.
    pub session: SessionOptions,
    /// Where events wait.
    pub spool: Spool,
    /// How to speak to collectors.
    pub tls: Arc<ClientConfig>,
    /// Where policy sets come from.
    pub requests: mpsc::Receiver<ApplyRequest>,
    /// Where the generation in force is told.
    pub applied: watch::Sender<Option<Applied>>,
    /// Where policy sets are kept.
    pub store: PolicyKeeper,
    /// Where the node's state is told.
    pub info: watch::Sender<ingest::NodeInfo>,
}

/// The task that owns the sensor, the process table, the spool and the
/// session.
pub struct Pipeline {
    sensor: Sensor,
    intake: Intake,
    session: Session,
    link: Option<(Attempt, Link)>,
    tls: Arc<ClientConfig>,
    requests: mpsc::Receiver<ApplyRequest>,
    applied: watch::Sender<Option<Applied>>,
    reports: mpsc::Receiver<(Attempt, Report)>,
    report: mpsc::Sender<(Attempt, Report)>,
    ledger_after: Instant,
    store: PolicyKeeper,
    info: watch::Sender<ingest::NodeInfo>,
    inspect_after: Instant,
    tampering: Tampering,
    /// What the agents before counted in the spool's epoch, and the number
    /// that this one's first event got.
    counted: (Ledger, SequenceNumber),
    /// Events of this agent's life that an epoch before this one has got.
    delivered_before: u64,
    /// Changes when the disk has done something.
    disk: watch::Receiver<u64>,
}

impl Pipeline {
    /// Builds the task; nothing happens before [`run`](Self::run).
    pub fn new(options: PipelineOptions, now: Instant) -> Self {
        let (report, reports) = mpsc::channel(LINK_REPORTS_MAX);
        let (mut sensor, mut intake, mut spool) = (options.sensor, options.intake, options.spool);
        let counted = (spool.kept_ledger().clone(), spool.next_number());
        intake.leave_out(options.bystanders.left_out);
        for event in options.bystanders.events {
            take(event, &mut intake, &mut spool, now);
        }
        spool.commit(&to_disk(sensor.mark()));
        let disk = spool.progress();
        let session = Session::new(options.session, spool, now);
        Self {
            sensor,
            intake,
            session,
            link: None,
            tls: options.tls,
            requests: options.requests,
            applied: options.applied,
            reports,
            report,
            ledger_after: now,
            store: options.store,
            info: options.info,
            inspect_after: now + INSPECT_INTERVAL,
            tampering: Tampering::default(),
            counted,
            delivered_before: 0,
            disk,
        }
    }

    /// Runs until `stop`, then takes out what the ring holds and delivers
    /// what the spool holds, for as long as that may take.
    ///
    /// # Errors
    /// [`AgentError::Ring`] when the kernel's events cannot be read.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), AgentError> {
        loop {
            let deadline = self.session.next_deadline().unwrap_or(self.ledger_after);
            tokio::select! {
                // Small and rare things first: the ring always has more.
                biased;
                () = stop.cancelled() => break,
                Some(request) = self.requests.recv() => self.apply(request).await,
                Some((attempt, report)) = self.reports.recv() => self.hear(attempt, report),
                Ok(()) = self.disk.changed() => {}
                // Without memory for more, records wait where they are.
                result = self.sensor.wait(), if self.session.spool().has_room() => {
                    result.map_err(AgentError::Ring)?;
                    self.take_in(Instant::now());
                }
                () = tokio::time::sleep_until(deadline.min(self.ledger_after).into()) => {}
            }
            self.advance(Instant::now());
        }
        self.finish().await;
        Ok(())
    }

    /// Takes out what the ring holds, or a part of it, if there is memory for
    /// that. Returns how many records that were.
    fn take_in(&mut self, now: Instant) -> usize {
        let (intake, spool) = (&mut self.intake, self.session.spool_mut());
        let taken = match spool.has_room() {
            true => self
                .sensor
                .drain_held(|event| take(event, intake, spool, now)),
            false => 0,
        };
        self.commit(now);
        taken
    }

    /// Gives what was taken in to the spool, with the alerts that came of it;
    /// it stays in the rings until the disk has it.
    fn commit(&mut self, now: Instant) {
        let spool = self.session.spool_mut();
        while let Some(alert) = self.intake.next_alert(spool.next_verdict_number(), now) {
            spool.push(&alert);
        }
        spool.commit(&to_disk(self.sensor.mark()));
    }

    /// Does what follows from what the disk has done.
    fn settle(&mut self, now: Instant) {
        if let Some(marks) = self.session.spool_mut().settle(now) {
            let marks: Vec<RingMark> = marks.into_iter().map(Into::into).collect();
            self.sensor.release_to(&marks);
        }
    }

    fn advance(&mut self, now: Instant) {
        if now >= self.ledger_after {
            self.ledger_after = now + LEDGER_INTERVAL;
            self.audit(now);
            self.commit(now);
            self.count();
        }
        if now >= self.inspect_after {
            self.inspect(now);
            self.inspect_after = now + INSPECT_INTERVAL;
        }
        self.settle(now);
        let commands = self.session.advance(now);
        self.execute(commands, now);
    }

    /// Compares what the hooks counted with what came out of the ring.
    fn audit(&mut self, now: Instant) {
        if !self.session.spool().has_room() {
            // Records stay in the ring on purpose.
            return;
        }
        let Ok(before) = self.sensor.counters() else {
            // Counting says so.
            return;
        };
        self.take_in(now);
        let Ok(after) = self.sensor.counters() else {
            return;
        };
        if let Some(miscount) = self.sensor.check(&before, &after) {
            self.intake.raise_miscount(&miscount);
        }
    }

    /// Looks whether everything in the kernel is as it was left, and tells
    /// the collector where it is not.
    fn inspect(&mut self, now: Instant) {
        let found = match block_in_place(|| self.sensor.mend()) {
            Ok(found) => found,
            Err(error) => vec![format!(
                "what is in force cannot be read: {}",
                chain(&error)
            )],
        };
        if !self.tampering.note(&found) {
            return;
        }
        for what in &found {
            tracing::error!(what, "somebody tampers with the enforcement");
        }
        self.info
            .send_modify(|info| self.tampering.tell(&mut info.hooks));
        let info = self.info.borrow().clone();
        let commands = self.session.set_info(info, now);
        self.execute(commands, now);
    }

    fn count(&mut self) {
        match self.sensor.counters() {
            Ok(counters) => {
                let spool = self.session.spool();
                let mut own = ledger(
                    &counters,
                    self.intake.counts(),
                    self.sensor.undecodable(),
                    spool.lost(),
                    spool.next_number(),
                );
                own.seen = own.seen.saturating_sub(self.delivered_before);
                let (before, began_at) = &mut self.counted;
                before.forget_hours(self.session.hours_told());
                let mut ledger = onto(before, *began_at, own);
                ledger.note_hour(Hour::of(clock::unix_ns()));
                before.hours.clone_from(&ledger.hours);
                self.session.spool_mut().keep_ledger(&ledger);
                self.session.set_ledger(ledger);
            }
            Err(error) => tracing::error!(error = chain(&error), "cannot read the counters"),
        }
    }

    fn hear(&mut self, attempt: Attempt, report: Report) {
        let now = Instant::now();
        let commands = match report {
            Report::Welcome(welcome) => self.session.handle_welcome(attempt, &welcome, now),
            Report::Ack(ack) => self.session.handle_ack(attempt, &ack, now),
            Report::Nack(nack) => self.session.handle_nack(attempt, &nack, now),
            Report::Closed(reason) => {
                self.link.take_if(|(present, _)| *present == attempt);
                self.session.handle_closed(attempt, &reason, now)
            }
        };
        self.execute(commands, now);
    }

    fn execute(&mut self, commands: Vec<Command>, now: Instant) {
        for command in commands {
            match command {
                Command::Open {
                    attempt,
                    address,
                    hello,
                } => {
                    let tls = Arc::clone(&self.tls);
                    let link = Link::open(attempt, address, tls, *hello, self.report.clone());
                    if let Some((_, old)) = self.link.replace((attempt, link)) {
                        old.close();
                    }
                }
                Command::Send(batch) => {
                    let Some((attempt, link)) = &mut self.link else {
                        continue;
                    };
                    let attempt = *attempt;
                    if let Err(error) = link.send(*batch) {
                        if let Some((_, link)) = self.link.take() {
                            link.close();
                        }
                        // Waiting for the next attempt asks for nothing.
                        self.session.handle_closed(attempt, &error.to_string(), now);
                    }
                }
                Command::Settled(durable) => {
                    if let Some((_, link)) = &mut self.link {
                        link.settle(durable);
                    }
                }
                Command::BeginAnew => {
                    match random_epoch() {
                        Ok(epoch) => {
                            let inheritance = block_in_place(|| self.session.begin_anew(epoch));
                            self.delivered_before += inheritance.delivered;
                            // All else that the new epoch has is of this life.
                            let others = SequenceNumber(1 + inheritance.of_others);
                            self.counted = (Ledger::default(), others);
                        }
                        Err(error) => tracing::error!(error = chain(&error), "no epoch begins"),
                    }
                }
                Command::Close => {
                    if let Some((_, link)) = self.link.take() {
                        link.close();
                    }
                }
            }
        }
    }

    async fn apply(&mut self, request: ApplyRequest) {
        // First onto the disk: what is in force is always among what is kept.
        if let Err(error) = self.store.keep(request.set.clone()).await {
            tracing::error!(
                %error,
                "the policy cannot be kept: the next agent will not know its rules' names"
            );
        }
        let hash = request.set.hash();
        let result = {
            let _span = tracing::info_span!(
                parent: &request.span,
                "policy.map_update",
                generation = request.set.generation.0,
                policies = request.set.policies.len(),
            )
            .entered();
            // Some milliseconds of map writes, which nothing here can outrun.
            block_in_place(|| self.sensor.apply(&request.set))
        };
        let result = match result {
            Ok(applied) => {
                let applied = Applied {
                    generation: applied.generation,
                    hash,
                    map_digest: applied.digest,
                };
                self.store.forget_but(applied.generation);
                self.applied.send_replace(Some(applied));
                Ok(applied)
            }
            Err(error) => Err(chain(&error)),
        };
        // Nobody waits when the control stream broke: its next hello tells.
        let _ = request.reply.send(result);
    }

    /// Takes out what the ring holds, delivers what the spool holds.
    async fn finish(mut self) {
        if self.sensor.is_pinned() {
            // The hooks stay, and what is in the ring is the successor's.
            tracing::info!("enforcement goes on without the agent");
        } else {
            self.drain_ring();
        }
        let now = Instant::now();
        self.count();
        self.settle(now);
        let commands = self.session.handle_stop(now);
        self.execute(commands, now);
        let until = now + FLUSH_TIMEOUT;
        // Without a connection there is nothing to wait for: what is in the
        // spool is the successor's.
        while self.session.is_at_work() && !self.session.is_drained() && Instant::now() < until {
            let deadline = self
                .session
                .next_deadline()
                .map_or(until, |deadline| deadline.min(until));
            tokio::select! {
                Some((attempt, report)) = self.reports.recv() => self.hear(attempt, report),
                Ok(()) = self.disk.changed() => {}
                () = tokio::time::sleep_until(deadline.into()) => {}
            }
            let now = Instant::now();
            self.settle(now);
            let commands = self.session.advance(now);
            self.execute(commands, now);
        }
        block_in_place(|| self.session.spool_mut().finish());
        self.settle(Instant::now());
        let waiting = self.session.spool().waiting();
        if waiting > 0 {
            tracing::info!(
                waiting,
                "stopping with events that no collector has acknowledged: they stay in the spool"
            );
        }
        if let Some((_, link)) = self.link.take() {
            // Reports are not read any longer, so a link that has some ends
            // by the time-out at the latest.
            self.reports.close();
            let _ = tokio::time::timeout(FINISH_TIMEOUT, link.finish()).await;
        }
    }

    fn drain_ring(&mut self) {
        block_in_place(|| self.sensor.detach());
        let until = Instant::now() + DRAIN_TIMEOUT;
        while self.take_in(Instant::now()) > 0 && Instant::now() < until {}
    }
}

/// Completes an event and puts it into the spool, which gives it its number
/// with the next commit.
fn take(mut event: Event, intake: &mut Intake, spool: &mut Spool, now: Instant) {
    // Those that have a verdict are told their number at once: what becomes of
    // it refers to that.
    intake.complete(&mut event, spool.next_verdict_number(), now);
    if Class::of(&event) != Class::Verdicts {
        event.sequence = SequenceNumber(0);
    }
    spool.push(&event);
}

fn to_disk(marks: Vec<RingMark>) -> Vec<Mark> {
    marks.into_iter().map(Into::into).collect()
}
