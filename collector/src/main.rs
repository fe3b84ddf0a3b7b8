//! `shrike-collector`: parse, build, wait, drain.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Parser as _;
use shrike_collector::{
    args::{
        Arguments, BackupFile, Command, ConfigCommand, ConfigFile, StatsOptions, StoreCommand,
        StoreFolder,
    },
    chain::chain,
    config::{CollectorConfig, ConfigError},
    run::{Collector, StartError},
    store::{
        backup::{self, Progress},
        export::{self, ExportError},
        sled::{Existing, SledStore},
        stats::{Stats, size},
    },
};
use shrike_proto::{
    telemetry::{self, TelemetryError, TelemetryOptions},
    tls::{self, TlsError, TlsFiles},
};
use tokio::signal::unix::{SignalKind, signal};

const FAILED: u8 = 1;
const BAD_INPUT: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Command::Run(file) => run(&file),
        Command::Config(ConfigCommand::Check(file)) => check(&file),
        Command::Store(StoreCommand::Verify(folder)) => verify(folder),
        Command::Store(StoreCommand::Export(folder)) => export(folder),
        Command::Store(StoreCommand::Stats(options)) => stats(options),
        Command::Store(StoreCommand::Backup(backup)) => back_up(backup),
        Command::Store(StoreCommand::Restore(backup)) => restore(backup),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", chain(&*error));
            ExitCode::from(exit_code(&error))
        }
    }
}

/// Bad input is told apart from what fails at run time.
fn exit_code(error: &anyhow::Error) -> u8 {
    let bad_input = error.is::<ConfigError>()
        || error.is::<TlsError>()
        || error.is::<TelemetryError>()
        || matches!(error.downcast_ref(), Some(StartError::Tls(_)));
    if bad_input { BAD_INPUT } else { FAILED }
}

fn run(file: &ConfigFile) -> anyhow::Result<ExitCode> {
    let config = CollectorConfig::load(&file.config)?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(serve(&config))
}

async fn serve(config: &CollectorConfig) -> anyhow::Result<ExitCode> {
    let (_, identity) = tls::server_config(&TlsFiles::from(&config.tls))?;
    let telemetry = telemetry::init(&TelemetryOptions {
        service_name: "shrike-collector",
        instance: identity.id().to_owned(),
        otlp_endpoint: config.otlp_endpoint.clone(),
        default_filter: "info",
    })?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let collector = Collector::start(config).await?;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
    }
    collector.stop().await;
    // The exporter blocks while it sends what is queued.
    tokio::task::spawn_blocking(move || telemetry.shutdown())
        .await
        .context("cannot flush telemetry")?;
    Ok(ExitCode::SUCCESS)
}

fn check(file: &ConfigFile) -> anyhow::Result<ExitCode> {
    let config = CollectorConfig::load(&file.config)?;
    let (_, identity) = tls::server_config(&TlsFiles::from(&config.tls))?;
    print(&format!(
        "{}\n# identity: {identity}\n# ok\n",
        config.to_toml()
    ))
}

fn data_dir(folder: StoreFolder) -> anyhow::Result<PathBuf> {
    match folder.data_dir {
        Some(data_dir) => Ok(data_dir),
        None => Ok(CollectorConfig::load(&folder.config)?.data_dir),
    }
}

fn verify(folder: StoreFolder) -> anyhow::Result<ExitCode> {
    let data_dir = data_dir(folder)?;
    let (_, verification) = export::check(&data_dir, Existing::Only)?;
    for damage in &verification.damages {
        eprintln!("damaged: {damage}");
    }
    let listed = verification.damages.len() as u64;
    if verification.damaged > listed {
        eprintln!("and {} more", verification.damaged - listed);
    }
    print(&format!(
        "{}: {} whole blocks, {} events, {} damages\n",
        data_dir.display(),
        verification.blocks,
        verification.events,
        verification.damaged
    ))?;
    Ok(if verification.is_whole() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILED)
    })
}

fn export(folder: StoreFolder) -> anyhow::Result<ExitCode> {
    let data_dir = data_dir(folder)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let exported = match export::export(&data_dir, &mut out) {
        // Whoever read has seen enough.
        Err(ExportError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            return Ok(ExitCode::SUCCESS);
        }
        exported => exported?,
    };
    for damage in &exported.damages {
        eprintln!("damaged: {damage}");
    }
    eprintln!(
        "exported {} events of {} blocks, {} damages",
        exported.events,
        exported.blocks,
        exported.damages.len()
    );
    Ok(if exported.damages.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILED)
    })
}

fn stats(options: StatsOptions) -> anyhow::Result<ExitCode> {
    let data_dir = data_dir(options.folder)?;
    let store = SledStore::open(&data_dir, Existing::Only)?;
    let stats = Stats::gather(&store)?;
    if options.json {
        let json = serde_json::to_string_pretty(&stats).context("cannot write JSON")?;
        print(&format!("{json}\n"))
    } else {
        print(&stats.to_string())
    }
}

fn back_up(options: BackupFile) -> anyhow::Result<ExitCode> {
    let data_dir = data_dir(options.folder)?;
    let summary = backup::backup(&data_dir, &options.file, tell)?;
    print(&format!(
        "{}: {} blocks, {} events, {}\n",
        options.file.display(),
        summary.blocks,
        summary.events,
        size(summary.bytes)
    ))
}

fn restore(options: BackupFile) -> anyhow::Result<ExitCode> {
    let data_dir = data_dir(options.folder)?;
    let summary = backup::restore(&options.file, &data_dir, tell)?;
    print(&format!(
        "{}: {} blocks, {} events, checked\n",
        data_dir.display(),
        summary.blocks,
        summary.events
    ))
}

fn tell(progress: Progress) {
    eprintln!("{} entries, {}", progress.entries, size(progress.bytes));
}

fn print(text: &str) -> anyhow::Result<ExitCode> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        Ok(()) | Err(_) => Ok(ExitCode::SUCCESS),
    }
}
