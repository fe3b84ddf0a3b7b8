//! Why the agent ends other than by being asked to, and with which exit code.

use std::{error::Error, io, path::PathBuf, process::ExitCode};

use shrike_proto::telemetry::TelemetryError;

use crate::{
    config::ConfigError,
    kernel::{ApplyError, SensorError},
    spool::SpoolError,
};

/// Failed while running.
pub const EXIT_FAILED: u8 = 1;

/// Bad input: arguments, configuration, certificate or policy.
pub const EXIT_INPUT: u8 = 2;

/// This machine lacks something that the agent needs.
pub const EXIT_MACHINE: u8 = 5;

/// Why the agent ends.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Logs or traces cannot be set up.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// A policy file cannot be read.
    #[error("cannot read the policy file {}", path.display())]
    ReadPolicy {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Policy files have mistakes: one a line, each with its place.
    #[error("{0}")]
    Policy(String),
    /// The kernel does not take the policies.
    #[error("cannot put the policies into the kernel")]
    Apply(#[from] ApplyError),
    /// This machine lacks something.
    #[error(transparent)]
    Sensor(#[from] SensorError),
    /// This machine has no /proc.
    #[error("cannot read the facts about this machine: is /proc mounted?")]
    Facts(#[source] io::Error),
    /// The kernel's ring failed.
    #[error("cannot read the kernel's events")]
    Ring(#[source] io::Error),
    /// There are no programs of an agent's in the kernel.
    #[error(
        "no agent's programs are pinned at {}: does an agent run, and does it pin there?",
        .0.display()
    )]
    NothingPinned(PathBuf),
    /// The self-test could not be made.
    #[error("cannot make the self-test's files or child")]
    Canary(#[source] io::Error),
    /// Something that should work does not.
    #[error("doctor: {0} of the self-tests failed")]
    Unwell(usize),
    /// Signals cannot be waited for.
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
    /// Events cannot be printed.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    /// Another agent runs.
    #[error("another agent uses the spool in {}: stop it first", path.display())]
    SpoolInUse {
        /// Where.
        path: PathBuf,
    },
    /// The spool's folder cannot be made.
    #[error("cannot make or lock the spool's folder {}", path.display())]
    ClaimSpool {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no thread to write with.
    #[error("cannot start the threads that write spool and policies")]
    Threads(#[source] io::Error),
    /// There is no spool.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// No random numbers.
    #[error("the system has no random numbers")]
    Random,
}

impl AgentError {
    /// Returns the exit code that stands for the error.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Config(_)
            | Self::Telemetry(_)
            | Self::ReadPolicy { .. }
            | Self::Policy(_)
            | Self::Apply(ApplyError::Compile(_))
            | Self::Sensor(SensorError::RingSize(_)) => EXIT_INPUT,
            Self::Sensor(_) | Self::Facts(_) | Self::Unwell(_) | Self::SpoolInUse { .. } => {
                EXIT_MACHINE
            }
            Self::Apply(_)
            | Self::Canary(_)
            | Self::NothingPinned(_)
            | Self::Ring(_)
            | Self::Signals(_)
            | Self::Output(_)
            | Self::Spool(_)
            | Self::ClaimSpool { .. }
            | Self::Threads(_)
            | Self::Random => EXIT_FAILED,
        })
    }
}

/// Returns an error and its sources in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        // Wrappers that only repeat what was said add nothing.
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    #[test]
    fn chain_says_everything_once() {
        let layer = |text, source: Option<Layer>| Layer {
            text,
            source: source.map(Box::new),
        };
        let error = layer(
            "cannot connect",
            Some(layer(
                "transport error",
                Some(layer("transport error", Some(layer("refused", None)))),
            )),
        );
        assert_eq!(chain(&error), "cannot connect: transport error: refused");
    }

    #[test]
    fn exit_codes_tell_input_from_machine() {
        let code = |error: AgentError| format!("{:?}", error.exit_code());
        let expect = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!(code(AgentError::Policy(String::new())), expect(EXIT_INPUT));
        let no_kprobes = AgentError::Sensor(SensorError::NoKprobes);
        assert_eq!(code(no_kprobes), expect(EXIT_MACHINE));
        let ring_size = AgentError::Sensor(SensorError::RingSize(1));
        assert_eq!(code(ring_size), expect(EXIT_INPUT));
        assert_eq!(code(AgentError::Random), expect(EXIT_FAILED));
    }
}
