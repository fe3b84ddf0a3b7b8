//! `shrike-agent watch`: the whole kernel side on one machine, without a
//! collector.
//!
//! Events go to standard output and nothing else does. Nothing is pinned or
//! written anywhere, so nothing is left behind.

mod output;
mod policies;
mod summary;

use std::time::{Duration, Instant};

use shrike_proto::{
    event::Event,
    id::{NodeId, SequenceNumber},
    telemetry::{self, TelemetryOptions},
};
use tokio::{task::block_in_place, time::timeout_at};

use self::{
    output::{FINISH_TIMEOUT, Output},
    summary::Summary,
};
use crate::{
    args::WatchArgs,
    error::AgentError,
    hooks,
    kernel::{Sensor, SensorOptions},
    node,
    pipeline::{Intake, ledger},
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
    let mut sensor = load(&SensorOptions {
        ring_bytes: args.ring_bytes,
        opens: args.opens.into(),
        attachment: args.attach.map(Into::into),
    })?;
    if let Some(set) = &set {
        let applied = block_in_place(|| sensor.apply(set))?;
        eprintln!("policy: {} rules in force", applied.rules);
    }
    for line in hooks::lines(sensor.hooks()) {
        eprintln!("{line}");
    }
    let output =
        Output::start(args.output, node_id(), random_epoch()?).map_err(AgentError::Output)?;
    let mut watch = Watch {
        sensor,
        intake: Intake::from_running_system(Instant::now()),
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
        result = watch.run(&output) => result?,
        _ = signals.next() => {}
        () = end => {}
    }
    let result = watch.finish(output).await;
    result.map(|summary| eprintln!("{summary}"))
}

struct Watch {
    sensor: Sensor,
    intake: Intake,
    sequence: SequenceNumber,
}

impl Watch {
    /// Prints until nobody reads any more. Cancelling it loses nothing.
    async fn run(&mut self, output: &Output) -> Result<(), AgentError> {
        let mut events = Vec::new();
        // Room first, events second: what is taken out of the ring has a
        // place to go.
        while let Ok(room) = output.events.reserve().await {
            self.sensor
                .next(&mut events)
                .await
                .map_err(AgentError::Ring)?;
            if !events.is_empty() {
                room.send(self.complete(std::mem::take(&mut events)));
            }
        }
        Ok(())
    }

    /// Detaches the hooks, prints what the ring still holds, and counts.
    async fn finish(mut self, output: Output) -> Result<Summary, AgentError> {
        block_in_place(|| self.sensor.detach());
        let mut events = Vec::new();
        let until = Instant::now() + FINISH_TIMEOUT;
        while self.sensor.drain(&mut events) > 0 {
            let completed = self.complete(std::mem::take(&mut events));
            // When nobody reads any more, the summary says how many that
            // were.
            let _ = timeout_at(until.into(), output.events.send(completed)).await;
        }
        let counters = self.sensor.counters()?;
        let printed = output.finish(until).await.map_err(AgentError::Output)?;
        Ok(Summary {
            ledger: ledger(
                &counters,
                self.sensor.undecodable(),
                Default::default(),
                SequenceNumber(self.sequence.0 + 1),
            ),
            printed,
        })
    }

    fn complete(&mut self, mut events: Vec<Event>) -> Vec<Event> {
        let now = Instant::now();
        for event in &mut events {
            self.sequence.0 += 1;
            self.intake.complete(event, self.sequence, now);
        }
        events
    }
}

/// Returns the node's name in the events: the host's, where it is one.
fn node_id() -> NodeId {
    NodeId::parse(&node::hostname().to_lowercase())
        .unwrap_or_else(|_| NodeId::parse("localhost").expect("a valid name"))
}
