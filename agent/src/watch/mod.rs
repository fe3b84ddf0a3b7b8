//! `shrike-agent watch`: the whole kernel side on one machine, without a
//! collector.
//!
//! Events go to standard output and nothing else does. Nothing is pinned or
//! written anywhere, so nothing is left behind.

mod output;
mod page;
mod policies;
mod summary;

pub use page::{Form, Page, Writer};

use std::time::{Duration, Instant};

use shrike_proto::{
    event::compact::Colour,
    id::{NodeId, SequenceNumber},
    telemetry::{self, TelemetryOptions},
};
use tokio::{task::block_in_place, time::timeout_at};

use self::{
    output::{FINISH_TIMEOUT, Output, wants_colour},
    summary::Summary,
};
use crate::{
    args::{self, WatchArgs},
    error::AgentError,
    hooks,
    kernel::{Sensor, SensorOptions},
    node,
    pipeline::{Intake, ledger},
    receipts::PATIENCE_DEFAULT,
    run::{load, random_epoch},
    signals::Signals,
};

/// Shows this machine's events until a signal, the end of the duration, or
/// nobody reads any more.
///
/// # Errors
/// [`AgentError`], with the exit code that stands for it.
pub async fn watch(args: WatchArgs) -> Result<(), AgentError> {
    let set = policies::read(&args.policy)?;
    let _telemetry = telemetry::init(&TelemetryOptions {
        service_name: "shrike-agent",
        instance: String::new(),
        otlp_endpoint: None,
        default_filter: "warn",
    })?;
    let mut signals = Signals::listen().map_err(AgentError::Signals)?;
    let mut sensor = load(
        &SensorOptions {
            ring_bytes: args.ring_bytes,
            priority_ring_bytes: args.priority_ring_bytes,
            opens: args.opens.into(),
            processes: args.processes.into(),
            exec_environment: args.exec_environment.into(),
            attachment: args.attach.map(Into::into),
            kills_per_minute: args.kills_per_minute,
            ..SensorOptions::default()
        },
        &[],
    )?;
    if let Some(set) = &set {
        let applied = block_in_place(|| sensor.apply(set))?;
        eprintln!("policy: {} rules in force", applied.rules);
    }
    for line in hooks::lines(sensor.hooks()) {
        eprintln!("{line}");
    }
    let form = match args.output {
        args::Output::Compact if wants_colour() => Form::Compact(Colour::Ansi),
        args::Output::Compact => Form::Compact(Colour::Plain),
        args::Output::Json => Form::Json,
    };
    let writer = Writer::new(form, node_id(), random_epoch()?);
    let mut output = Output::start().map_err(AgentError::Output)?;
    let mut watch = Watch {
        sensor,
        writer,
        intake: Intake::from_running_system(
            args.processes.into(),
            Instant::now(),
            PATIENCE_DEFAULT,
        ),
        sequence: SequenceNumber(0),
    };
    eprintln!("ready");

    let end = async {
        match args.duration {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds.get())).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        result = watch.run(&mut output) => result?,
        _ = signals.next() => {}
        () = end => {}
    }
    let result = watch.finish(output).await;
    result.map(|summary| eprintln!("{summary}"))
}

struct Watch {
    sensor: Sensor,
    intake: Intake,
    writer: Writer,
    sequence: SequenceNumber,
}

impl Watch {
    /// Prints until nobody reads any more. Cancelling it loses nothing.
    async fn run(&mut self, output: &mut Output) -> Result<(), AgentError> {
        let pages = output.pages.clone();
        let mut page = output.empty_page();
        // Room first, events second: what is taken out of the ring has a
        // place to go.
        while let Ok(room) = pages.reserve().await {
            self.sensor.wait().await.map_err(AgentError::Ring)?;
            if self.fill(&mut page) > 0 {
                room.send(std::mem::replace(&mut page, output.empty_page()));
            }
        }
        Ok(())
    }

    /// Detaches the hooks, prints what the ring still holds, and counts.
    async fn finish(mut self, mut output: Output) -> Result<Summary, AgentError> {
        block_in_place(|| self.sensor.detach());
        let until = Instant::now() + FINISH_TIMEOUT;
        loop {
            let mut page = output.empty_page();
            if self.fill(&mut page) == 0 {
                break;
            }
            // When nobody reads any more, the summary says how many that
            // were.
            let _ = timeout_at(until.into(), output.pages.send(page)).await;
        }
        let counters = self.sensor.counters()?;
        let printed = output.finish(until).await.map_err(AgentError::Output)?;
        Ok(Summary {
            ledger: ledger(
                &counters,
                self.intake.counts(),
                self.sensor.undecodable(),
                Default::default(),
                SequenceNumber(self.sequence.0 + 1),
            ),
            printed,
        })
    }

    /// Writes what is in the ring, or a part of it, and alerts. Returns how
    /// many events that were.
    fn fill(&mut self, page: &mut Page) -> usize {
        let now = Instant::now();
        let Self {
            sensor,
            intake,
            writer,
            sequence,
        } = self;
        let taken = sensor.drain(|mut event| {
            sequence.0 += 1;
            intake.complete(&mut event, *sequence, now);
            writer.write(page, &event);
        });
        let mut written = taken;
        while let Some(alert) = intake.next_alert(SequenceNumber(sequence.0 + 1), now) {
            sequence.0 += 1;
            writer.write(page, &alert);
            written += 1;
        }
        written
    }
}

/// Returns the node's name in the events: the host's, where it is one.
fn node_id() -> NodeId {
    NodeId::parse(&node::hostname().to_lowercase())
        .unwrap_or_else(|_| NodeId::parse("localhost").expect("a valid name"))
}
