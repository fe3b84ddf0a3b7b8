//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::DEFAULT_PATH;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed while running (also: the store is damaged)
  2  bad usage, configuration, certificate or key

Every field of the configuration can be overridden by the environment:
SHRIKE_COLLECTOR_LISTEN, SHRIKE_COLLECTOR_DATA_DIR,
SHRIKE_COLLECTOR_RETENTION_DAYS and so on. SHRIKE_LOG sets the log filter,
for example SHRIKE_LOG=debug.";

/// Collects security events from Shrike's agents and hands out policies.
#[derive(Debug, Parser)]
#[command(name = "shrike-collector", version, after_help = EXIT_CODES)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the collector.
    Run(ConfigFile),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look at the store, while no collector runs on it.
    #[command(subcommand)]
    Store(StoreCommand),
}

/// Looks at the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check the configuration and its certificates, and print what is in
    /// effect.
    Check(ConfigFile),
}

/// Looks at the store.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Check every block and record, and name what is not whole.
    Verify(StoreFolder),
    /// Write every event of every whole block as JSON, one object a line;
    /// works on a damaged store.
    Export(StoreFolder),
    /// Show what it holds: blocks, events and bytes, by node and day.
    Stats(StatsOptions),
    /// Write all of it, with checksums, into one file.
    Backup(BackupFile),
    /// Make a store of a backup, in an empty folder.
    Restore(BackupFile),
}

/// What figures are shown.
#[derive(Debug, Args)]
pub struct StatsOptions {
    /// The store.
    #[command(flatten)]
    pub folder: StoreFolder,
    /// Write JSON.
    #[arg(long)]
    pub json: bool,
}

/// A backup and its store.
#[derive(Debug, Args)]
pub struct BackupFile {
    /// The backup.
    #[arg(value_name = "BACKUP")]
    pub file: PathBuf,
    /// The store.
    #[command(flatten)]
    pub folder: StoreFolder,
}

/// Where the configuration lies.
#[derive(Debug, Args)]
pub struct ConfigFile {
    /// Configuration file.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    pub config: PathBuf,
}

/// Where the store lies.
#[derive(Debug, Args)]
pub struct StoreFolder {
    /// Folder of the store; without it, the configuration says.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Configuration file.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    pub config: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
