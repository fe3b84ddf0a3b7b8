//! What is typed on the command line.

use std::{num::NonZeroU64, path::PathBuf};

use clap::{Parser, Subcommand, ValueEnum};

use crate::{
    config::{CONFIG_PATH, STATE},
    kernel::{
        Attachment, ExecEnvironment, KILLS_PER_MINUTE_DEFAULT, Opens, PINS,
        PRIORITY_RING_BYTES_DEFAULT, Processes, RING_BYTES_DEFAULT,
    },
};

const EXIT_CODES: &str = "\
Exit codes:
  0  success
  1  failed while running
  2  bad input: arguments, configuration, certificate or policy
  5  this machine lacks something that the agent needs: the message names it

Logs go to stderr; SHRIKE_LOG sets their filter (default: info).";

/// Shrike's agent: sees every exec and open on this machine, enforces
/// policies inside the kernel, and delivers the events to a collector.
#[derive(Debug, Parser)]
#[command(name = "shrike-agent", version, after_help = EXIT_CODES)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run as this node's agent, connected to a collector
    Run(ConfigArgs),
    /// Show this machine's events without a collector, until interrupted
    Watch(WatchArgs),
    /// Say what this machine can record and enforce, and try it on a child
    Doctor(DoctorArgs),
    /// Remove what a stopped agent left in the kernel: nothing is recorded or
    /// enforced any more
    Detach(DetachArgs),
    /// Say what each hook counted on each CPU since it was attached
    Counters(CountersArgs),
    /// Look at the events that wait on this machine's disk
    #[command(subcommand)]
    Spool(SpoolCommand),
    /// Look after the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// What to look at.
#[derive(Debug, Subcommand)]
pub enum SpoolCommand {
    /// Say what waits, what was lost, and what is in the way; also while an
    /// agent runs
    Inspect(InspectArgs),
    /// Show the batches that the collector refused, and why
    Quarantine(InspectArgs),
}

/// Which spool.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct InspectArgs {
    /// The agent's state folder, as in its configuration
    #[arg(long, value_name = "FOLDER", default_value = STATE)]
    pub state: PathBuf,
    /// Print the events, too, one a line
    #[arg(long)]
    pub events: bool,
    /// How events are printed
    #[arg(short, long, value_enum, default_value_t = Output::Compact)]
    pub output: Output,
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check the configuration and its key files, and print what holds after
    /// the environment's overrides
    Check(ConfigArgs),
}

/// Where the configuration is.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct ConfigArgs {
    /// Configuration file; SHRIKE_AGENT_<FIELD> variables override its fields
    #[arg(long, value_name = "FILE", default_value = CONFIG_PATH)]
    pub config: PathBuf,
}

/// What to examine.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct DoctorArgs {
    /// How to attach the decisions; without it, the best way there is
    #[arg(long, value_enum)]
    pub attach: Option<AttachArg>,
    /// Which execs, forks and exits are events, as in the agent's configuration
    #[arg(long, value_enum, default_value_t = ProcessesArg::All)]
    pub processes: ProcessesArg,
    /// Print where this kernel keeps each field that is read
    #[arg(long)]
    pub offsets: bool,
    /// Print how many instructions of each program the verifier looked at
    #[arg(long)]
    pub programs: bool,
}

/// What to remove.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct DetachArgs {
    /// Where the agent pins, as in its configuration
    #[arg(long, value_name = "FOLDER", default_value = PINS)]
    pub pin: PathBuf,
}

/// Whose counts, and how to print them.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct CountersArgs {
    /// Where the agent pins, as in its configuration
    #[arg(long, value_name = "FOLDER", default_value = PINS)]
    pub pin: PathBuf,
    /// Print one JSON object for each hook and CPU, a line each
    #[arg(long)]
    pub json: bool,
}

/// What to show, and how.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct WatchArgs {
    /// Policy file to enforce while watching, whatever nodes it selects; may
    /// be given several times
    #[arg(long, value_name = "FILE")]
    pub policy: Vec<PathBuf>,
    /// Which opens to show
    #[arg(long, value_enum, default_value_t = OpensArg::First)]
    pub opens: OpensArg,
    /// Which execs, forks and exits to show
    #[arg(long, value_enum, default_value_t = ProcessesArg::All)]
    pub processes: ProcessesArg,
    /// What to read of the environment of programs that are executed
    #[arg(long, value_enum, default_value_t = EnvironmentArg::None)]
    pub exec_environment: EnvironmentArg,
    /// How to attach the decisions; without it, the best way there is
    #[arg(long, value_enum)]
    pub attach: Option<AttachArg>,
    /// Kills of one rule within a minute before it is only observed; 0: no
    /// limit
    #[arg(long, value_name = "KILLS", default_value_t = KILLS_PER_MINUTE_DEFAULT)]
    pub kills_per_minute: u32,
    /// How to print events
    #[arg(short, long, value_enum, default_value_t = Output::Compact)]
    pub output: Output,
    /// Stop after this many seconds
    #[arg(long, value_name = "SECONDS")]
    pub duration: Option<NonZeroU64>,
    /// Size of the kernel's ring buffer of opens that no rule matched: a power
    /// of two
    #[arg(long, value_name = "BYTES", default_value_t = RING_BYTES_DEFAULT)]
    pub ring_bytes: u32,
    /// Size of the kernel's ring buffer of everything else
    #[arg(long, value_name = "BYTES", default_value_t = PRIORITY_RING_BYTES_DEFAULT)]
    pub priority_ring_bytes: u32,
}

/// Which opens are events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OpensArg {
    /// Only those that a rule matches
    Matched,
    /// The first of each process, file and access; repeats are counted
    First,
    /// Every one
    All,
}

impl From<OpensArg> for Opens {
    fn from(opens: OpensArg) -> Self {
        match opens {
            OpensArg::Matched => Self::Matched,
            OpensArg::First => Self::First,
            OpensArg::All => Self::All,
        }
    }
}

/// Which execs, forks and exits are events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProcessesArg {
    /// Only execs that a rule matches, and exits of processes that a rule
    /// ended
    Matched,
    /// Every one
    All,
}

impl From<ProcessesArg> for Processes {
    fn from(processes: ProcessesArg) -> Self {
        match processes {
            ProcessesArg::Matched => Self::Matched,
            ProcessesArg::All => Self::All,
        }
    }
}

/// What is read of a new image's environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EnvironmentArg {
    /// Nothing
    None,
    /// The names of the variables, never their values
    Keys,
}

impl From<EnvironmentArg> for ExecEnvironment {
    fn from(environment: EnvironmentArg) -> Self {
        match environment {
            EnvironmentArg::None => Self::None,
            EnvironmentArg::Keys => Self::Keys,
        }
    }
}

/// How the decisions are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AttachArg {
    /// BPF LSM: what a rule forbids is refused
    Lsm,
    /// fentry: processes can be killed, nothing can be refused
    Fentry,
    /// kprobes: the same, at a higher price
    Kprobe,
}

impl From<AttachArg> for Attachment {
    fn from(attach: AttachArg) -> Self {
        match attach {
            AttachArg::Lsm => Self::Lsm,
            AttachArg::Fentry => Self::Fentry,
            AttachArg::Kprobe => Self::Kprobe,
        }
    }
}

/// How to print events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A line for people, coloured on a terminal
    Compact,
    /// One JSON object a line
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
