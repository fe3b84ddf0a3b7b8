//! Shrike's command line.
//!
//! Each command is a module: it takes its arguments, asks the collector and
//! prints. Data goes to stdout, everything else to stderr. Nothing that comes
//! from a node, and nothing that a process chose, reaches a terminal without
//! [`escape`](shrike_proto::escape).

pub mod args;
mod connection;
mod context;
mod events;
mod export;
mod failure;
mod ledger;
mod lineage;
mod nodes;
mod output;
mod pki;
mod policy;
mod processes;
#[cfg(test)]
mod sample;
mod table;
mod time;
mod tree;

use clap::CommandFactory as _;
use shrike_proto::{
    identity::Role,
    telemetry::{self, Telemetry, TelemetryError, TelemetryOptions},
    tls::client_config,
};

use args::{Args, Command, ContextCommand, NodesCommand, PkiCommand};
pub use failure::Exit;
use failure::Failure;
use output::Output;

/// Runs one command to its end and reports a failure on stderr.
pub fn run(args: Args) -> Exit {
    let output = Output::new(args.global.color);
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return Failure::failed(error).report(&output),
    };
    let result = runtime.block_on(async {
        let telemetry = start_telemetry(&args, &output)?;
        // Futures of commands are large; one allocation for each run.
        let result = Box::pin(command(args, &output)).await;
        // Flushing blocks, for at most the export time-out.
        let _ = tokio::task::spawn_blocking(|| telemetry.shutdown()).await;
        result
    });
    // A resolver thread that still waits must not hold up the exit.
    runtime.shutdown_background();
    match result {
        Ok(exit) => exit,
        Err(failure) => failure.report(&output),
    }
}

fn start_telemetry(args: &Args, output: &Output) -> Result<Telemetry, Failure> {
    let otlp_endpoint = args
        .global
        .otlp_endpoint
        .clone()
        .filter(|endpoint| !endpoint.is_empty());
    // Spans name the person; whatever is wrong with the certificate is for
    // the command itself to report, if it needs one.
    let instance = otlp_endpoint
        .as_ref()
        .and_then(|_| context::resolve(&args.global).ok())
        .and_then(|target| client_config(&target.files, &[Role::Admin]).ok())
        .map_or_else(String::new, |(_, identity)| identity.id().to_owned());
    let mut options = TelemetryOptions {
        service_name: "shrikectl",
        instance,
        otlp_endpoint,
        default_filter: "warn,opentelemetry=off,opentelemetry_sdk=off",
    };
    let started = match telemetry::init(&options) {
        // The variable is often set for other programs, and traces are no
        // reason to refuse a push.
        Err(error @ TelemetryError::Endpoint { .. }) => {
            output.warning(&format!("traces are not exported: {error}"));
            options.otlp_endpoint = None;
            telemetry::init(&options)
        }
        started => started,
    };
    started.map_err(Failure::input)
}

async fn command(args: Args, output: &Output) -> Result<Exit, Failure> {
    let Args { global, command } = args;
    match command {
        Command::Nodes(nodes) => match nodes.command {
            None => nodes::list(&global, nodes.output, output).await,
            Some(NodesCommand::Show(show)) => nodes::show(&global, show, output).await,
            Some(NodesCommand::Forget(forget)) => nodes::forget(&global, forget, output).await,
        },
        Command::Ledger(args) => ledger::run(&global, args, output).await,
        Command::Events(events) => events::run(&global, *events, output).await,
        Command::Processes(processes) => processes::run(&global, processes, output).await,
        Command::Tree(tree) => tree::run(&global, tree, output).await,
        Command::Export(export) => export::run(&global, export, output).await,
        Command::Policy { command } => policy::run(&global, command, output).await,
        Command::Context { command } => match command {
            ContextCommand::Set { name } => context::set(&global, &name, output),
            ContextCommand::Use { name } => context::use_(&global, &name, output),
            ContextCommand::List => context::list(&global, output),
            ContextCommand::Delete { name } => context::delete(&global, &name, output),
        },
        Command::Pki { command } => match command {
            PkiCommand::Init(init) => pki::init(&init, output),
            PkiCommand::Issue(issue) => pki::issue(&issue, output),
        },
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "shrikectl", &mut script);
            output.write(&script)?;
            Ok(Exit::Ok)
        }
    }
}
