//! How a command ends: exit codes, and what a failure tells its reader.

use std::{fmt, process::ExitCode};

use shrike_proto::{escape::Terminal, transport::DialError};
use tonic::{Code, Status};

use crate::output::Output;

/// How the program ends. The numbers are documented in `--help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0
    Ok,
    /// 1: it failed at run time.
    Failed,
    /// 2: usage, configuration, policy or certificate.
    Input,
    /// 3: a node rejected a policy or did not confirm it in time.
    Incomplete,
    /// 4: no collector.
    Unreachable,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Ok => 0,
            Exit::Failed => 1,
            Exit::Input => 2,
            Exit::Incomplete => 3,
            Exit::Unreachable => 4,
        })
    }
}

/// A command that failed: the error with its sources, and how to go on.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    error: anyhow::Error,
    hint: Option<String>,
}

impl Failure {
    pub(crate) fn failed(error: impl Into<anyhow::Error>) -> Self {
        Self::new(Exit::Failed, error)
    }

    pub(crate) fn input(error: impl Into<anyhow::Error>) -> Self {
        Self::new(Exit::Input, error)
    }

    fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self {
            exit,
            error: error.into(),
            hint: None,
        }
    }

    /// Says what was being done.
    pub(crate) fn doing(self, what: impl fmt::Display + Send + Sync + 'static) -> Self {
        Self {
            error: self.error.context(what),
            ..self
        }
    }

    /// Says how to go on.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// Says whether stdout's reader went away.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        self.error
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    }

    /// Prints the error, its sources and the hint. A reader that went away
    /// is no error: whoever closes the pipe has seen enough.
    pub(crate) fn report(self, output: &Output) -> Exit {
        if self.is_closed_pipe() {
            return Exit::Ok;
        }
        let mut message = String::new();
        let mut last = String::new();
        for source in self.error.chain() {
            let text = Terminal::text(&source.to_string()).to_string();
            // Transparent errors repeat what they wrap.
            if text == last {
                continue;
            }
            if !message.is_empty() {
                message.push_str(": ");
            }
            message.push_str(&text);
            last = text;
        }
        output.error(&message);
        if let Some(hint) = &self.hint {
            output.hint(hint);
        }
        self.exit
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::failed(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::failed(error)
    }
}

impl From<DialError> for Failure {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Address(_) => Self::input(error),
            DialError::Connect { .. } => Self::new(Exit::Unreachable, error).hint(
                "is shrike-collector running there, and do both sides' certificates come from the same CA?",
            ),
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        // Only what our own side of the connection reports has a source.
        // TLS 1.3 tells a client that its certificate was refused after the
        // handshake, so that arrives here, too.
        if std::error::Error::source(&status).is_some() {
            return Self::new(Exit::Unreachable, BrokenConnection(status)).hint(
                "is the collector still running, and does it trust the CA of this certificate?",
            );
        }
        let message = if status.message().is_empty() {
            status.code().description()
        } else {
            status.message()
        };
        let (exit, hint) = match status.code() {
            Code::InvalidArgument => (Exit::Input, None),
            Code::Unauthenticated | Code::PermissionDenied => (
                Exit::Failed,
                Some(
                    "this command needs an admin certificate: `shrikectl pki issue --dir DIR admin NAME` makes one",
                ),
            ),
            Code::Unimplemented => (
                Exit::Failed,
                Some("the collector is of another version than shrikectl"),
            ),
            _ => (Exit::Failed, None),
        };
        Self {
            exit,
            error: anyhow::anyhow!("the collector answered: {message}"),
            hint: hint.map(str::to_owned),
        }
    }
}

/// A status that tells of the connection and not of the collector.
#[derive(Debug)]
struct BrokenConnection(Status);

impl fmt::Display for BrokenConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection to the collector broke")
    }
}

impl std::error::Error for BrokenConnection {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_broken_connections_are_told_apart() {
        let check = |status: Status, expect: Exit| {
            assert_eq!(Failure::from(status).exit, expect);
        };
        check(Status::invalid_argument("x"), Exit::Input);
        check(Status::aborted("x"), Exit::Failed);
        check(Status::permission_denied("x"), Exit::Failed);
        check(Status::unavailable("stopping"), Exit::Failed);
        let mut broken = Status::unknown("x");
        broken.set_source(std::sync::Arc::new(std::io::Error::other("reset")));
        check(broken, Exit::Unreachable);
    }
}
