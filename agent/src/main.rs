//! `shrike-agent`: parse, build, wait, drain.

use std::process::ExitCode;

use clap::Parser as _;
use shrike_agent::{
    args::{Args, Command, ConfigCommand, SpoolCommand},
    config::AgentConfig,
    counters::counters,
    detach::detach,
    doctor::doctor,
    error::{AgentError, EXIT_FAILED, chain},
    run::run,
    spool::inspect::{inspect, quarantine},
    watch::watch,
};

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        // One for the pipeline, one for the network: the node's work comes
        // first.
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            return ExitCode::from(EXIT_FAILED);
        }
    };
    match runtime.block_on(execute(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            error.exit_code()
        }
    }
}

async fn execute(args: Args) -> Result<(), AgentError> {
    match args.command {
        Command::Run(args) => {
            let config = AgentConfig::load(&args.config)?;
            Box::pin(run(config)).await
        }
        Command::Watch(args) => Box::pin(watch(args)).await,
        Command::Doctor(args) => Box::pin(doctor(args)).await,
        Command::Detach(args) => detach(&args),
        Command::Counters(args) => counters(&args),
        Command::Spool(SpoolCommand::Inspect(args)) => inspect(&args),
        Command::Spool(SpoolCommand::Quarantine(args)) => quarantine(&args),
        Command::Config(ConfigCommand::Check(args)) => {
            let config = AgentConfig::load(&args.config)?;
            config.identity()?;
            println!("{config}\nok");
            Ok(())
        }
    }
}
