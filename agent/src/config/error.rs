//! A configuration that cannot be used: what, where, and how to mend it.

use std::{io, path::PathBuf};

use shrike_proto::{id::IdError, tls::TlsError, transport::AddressError};

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A program that is never killed is not named by a path.
    #[error("guard.never_kill: each program is an absolute path, as in [\"/usr/sbin/sshd\"]")]
    NeverKill {
        /// What is wrong with it.
        source: shrike_proto::policy::MatcherError,
    },
    /// The file cannot be read.
    #[error("cannot read the configuration {}: check the path and its permissions, or name another with --config", path.display())]
    Read {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not of its form.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Parse {
        /// Where.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong there.
        message: String,
    },
    /// An environment variable is not of its form.
    #[error("{variable}={value:?}: {message}")]
    Environment {
        /// Its name.
        variable: String,
        /// Its value.
        value: String,
        /// What is wrong with it.
        message: String,
    },
    /// An environment variable that looks meant for the agent and is not.
    #[error("{variable} is not a setting of the agent; did you mean {closest}?")]
    UnknownVariable {
        /// Its name.
        variable: String,
        /// The setting with the most similar name.
        closest: &'static str,
    },
    /// A field that must be set is not.
    #[error("{field} is missing: set it in {} or as {variable}", path.display())]
    Missing {
        /// The field.
        field: &'static str,
        /// The variable that sets it too.
        variable: &'static str,
        /// The configuration file.
        path: PathBuf,
    },
    /// The node's name is not one.
    #[error("node: {source}")]
    Node {
        /// What is wrong with it.
        source: IdError,
    },
    /// A collector's address is not one.
    #[error("collectors: {source}")]
    Collector {
        /// What is wrong with it.
        source: AddressError,
    },
    /// A value outside of its range.
    #[error("{field} = {value} is out of range: {range}")]
    Range {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What it may be.
        range: &'static str,
    },
    /// A field whose value cannot mean anything.
    #[error("{field} = {value:?}: {message}")]
    Value {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        message: &'static str,
    },
    /// The key files cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The certificate speaks for another node.
    #[error("node is {node:?}, but the certificate {} is for {certified:?}: set node = {certified:?} or issue a certificate for {node:?}", path.display())]
    OtherNode {
        /// In the configuration.
        node: String,
        /// In the certificate.
        certified: String,
        /// The certificate.
        path: PathBuf,
    },
}
