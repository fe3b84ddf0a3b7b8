//! `shrike-agent run`: builds the agent, waits, stops it in order.

use std::{io, sync::Arc, time::Instant};

use ring::rand::{SecureRandom as _, SystemRandom};
use shrike_proto::{
    id::Epoch,
    telemetry::{self, TelemetryOptions},
    wire::ingest,
};
use tokio::{
    sync::{mpsc, watch},
    task::block_in_place,
};

use crate::{
    config::AgentConfig,
    control::{Applied, Control, ControlOptions},
    doctor::{self, Report},
    error::AgentError,
    hooks,
    kernel::{Attachment, Resumed, RingMark, Sensor, SensorOptions},
    node::NodeFacts,
    pipeline::{APPLY_REQUESTS_MAX, Intake, Pipeline, PipelineOptions},
    policy_store::{PolicyKeeper, PolicyStore},
    session::SessionOptions,
    shutdown::{Stage, stop_in_order},
    signals::Signals,
    spool::{Disk, Folder, Origin, Spool},
};

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// [`AgentError`], with the exit code that stands for it.
pub async fn run(config: AgentConfig) -> Result<(), AgentError> {
    let tls = config.identity()?;
    let telemetry = telemetry::init(&TelemetryOptions {
        service_name: "shrike-agent",
        instance: config.node.to_string(),
        otlp_endpoint: config.otlp_endpoint.clone(),
        default_filter: "info",
    })?;
    let mut signals = Signals::listen().map_err(AgentError::Signals)?;
    let facts = NodeFacts::read().map_err(AgentError::Facts)?;
    let store = PolicyStore::new(config.state.clone());
    let spool = open_spool(&config, &facts)?;
    let options = SensorOptions {
        ring_bytes: config.ring_bytes,
        priority_ring_bytes: config.priority_ring_bytes,
        opens: config.opens,
        processes: config.processes,
        exec_environment: config.exec_environment,
        attachment: config.attach,
        kills_per_minute: config.guard.kills_per_minute,
        never_kill: config.guard.never_kill.clone(),
        pin: config.pin.clone(),
    };
    let marks: Vec<RingMark> = spool.marks().into_iter().map(Into::into).collect();
    let mut sensor = load(&options, &marks)?;
    let resumed = resume(&mut sensor, &store)?;
    for line in hooks::lines(sensor.hooks()) {
        tracing::info!("{line}");
    }
    tracing::info!("{}", doctor::abilities(sensor.attachment()));
    let (report, bystanders) = doctor::self_test(&mut sensor).await?;
    for line in report.lines() {
        match &report {
            Report::Made(_) if report.failed() == 0 => tracing::info!("{line}"),
            Report::Made(_) => tracing::error!("{line}"),
            Report::Skipped(_) => tracing::warn!("{line}"),
        }
    }
    let now = Instant::now();
    let epoch = spool.epoch();
    let seed = random_epoch()?.0;
    let (low, high) = seed.split_at(8);
    let [low, high] =
        [low, high].map(|half| u64::from_le_bytes(half.try_into().expect("half of 16 bytes")));
    let info = node_info(&config, &facts, &sensor, &report);
    let (request, requests) = mpsc::channel(APPLY_REQUESTS_MAX);
    let (applied, in_force) = watch::channel(resumed);
    let (tell_info, told_info) = watch::channel(info.clone());
    let control = Control::new(
        ControlOptions {
            node: config.node.to_string(),
            boot_id: facts.boot_id.clone(),
            info: told_info,
            collectors: config.collectors.clone(),
            tls: tls.clone(),
            seed: high,
        },
        in_force,
        request,
    );
    let pipeline = Pipeline::new(
        PipelineOptions {
            sensor,
            intake: Intake::from_running_system(config.processes, now, config.guard.kill_patience),
            bystanders,
            session: SessionOptions {
                node: config.node.to_string(),
                info,
                collectors: config.collectors,
                seed: low,
            },
            spool,
            tls,
            requests,
            applied,
            store: PolicyKeeper::start(store).map_err(AgentError::Threads)?,
            info: tell_info,
        },
        now,
    );

    let stages = [Stage::new("control"), Stage::new("pipeline")];
    let [control_stage, pipeline_stage] = &stages;
    control_stage
        .tasks
        .spawn(control.run(control_stage.stop.clone()));
    let mut pipeline = pipeline_stage
        .tasks
        .spawn(pipeline.run(pipeline_stage.stop.clone()));
    tracing::info!(node = %config.node, %epoch, "ready");

    let mut early = None;
    tokio::select! {
        name = signals.next() => tracing::info!(signal = name, "stopping"),
        result = &mut pipeline => early = Some(result),
    }
    stop_in_order(&stages).await;
    let result = match early {
        Some(result) => result,
        // A stuck pipeline was reported already.
        None if !pipeline.is_finished() => Ok(Ok(())),
        None => pipeline.await,
    };
    block_in_place(|| telemetry.shutdown());
    match result {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// Loads the sensor, which reads the kernel's type information: some tenths
/// of a second.
pub(crate) fn load(options: &SensorOptions, marks: &[RingMark]) -> Result<Sensor, AgentError> {
    Ok(block_in_place(|| Sensor::load(options, marks))?)
}

/// Name of the spool's folder below the one that the configuration names.
pub(crate) const SPOOL: &str = "spool";

fn open_spool(config: &AgentConfig, facts: &NodeFacts) -> Result<Spool, AgentError> {
    let path = config.state.join(SPOOL);
    let folder = Folder::claim(path.clone()).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => AgentError::SpoolInUse { path },
        _ => AgentError::ClaimSpool { path, source },
    })?;
    let disk = Disk::threaded(Arc::new(folder)).map_err(AgentError::Threads)?;
    let spool = Spool::open(
        disk,
        config.spool,
        config.batch_events_max,
        &facts.boot_id,
        random_epoch()?,
    )?;
    let (epoch, waiting) = (spool.epoch(), spool.waiting());
    match spool.origin() {
        Origin::New => tracing::info!(%epoch, "a spool is made: an epoch begins"),
        Origin::Continued => tracing::info!(
            %epoch,
            next = %spool.next_number(),
            waiting,
            "the spool's epoch goes on"
        ),
        Origin::Begun(reason) => {
            tracing::warn!(
                reason,
                waiting,
                "an epoch begins: numbers of the last one could be given twice"
            );
        }
    }
    Ok(spool)
}

/// Goes on with the policy that is in force, or was when an agent ran last.
fn resume(sensor: &mut Sensor, store: &PolicyStore) -> Result<Option<Applied>, AgentError> {
    match block_in_place(|| sensor.resume(&store.read()))? {
        Resumed::Nothing => Ok(None),
        Resumed::InForce(applied, hash) => {
            tracing::info!(
                generation = %applied.generation,
                rules = applied.rules,
                "goes on with the policy kept here"
            );
            Ok(Some(Applied {
                generation: applied.generation,
                hash,
                map_digest: applied.digest,
            }))
        }
        Resumed::Unknown(reason) => {
            tracing::error!("{reason}");
            Ok(None)
        }
    }
}

/// Returns an epoch that no agent ever had.
pub(crate) fn random_epoch() -> Result<Epoch, AgentError> {
    let mut epoch = [0; 16];
    SystemRandom::new()
        .fill(&mut epoch)
        .map_err(|_| AgentError::Random)?;
    Ok(Epoch(epoch))
}

fn node_info(
    config: &AgentConfig,
    facts: &NodeFacts,
    sensor: &Sensor,
    report: &Report,
) -> ingest::NodeInfo {
    ingest::NodeInfo {
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel_release: facts.kernel_release.clone(),
        hostname: facts.hostname.clone(),
        labels: config.labels.clone(),
        hooks: hooks::to_wire(sensor.hooks()),
        enforcement: Some(ingest::Enforcement {
            attachment: sensor.attachment().as_str().to_owned(),
            denies: sensor.attachment() == Attachment::Lsm,
            abilities: doctor::abilities(sensor.attachment()).to_owned(),
        }),
        self_test: Some(report.into()),
        offsets: sensor
            .offsets()
            .map(|(field, offset)| ingest::FieldOffset { field, offset })
            .collect(),
    }
}
