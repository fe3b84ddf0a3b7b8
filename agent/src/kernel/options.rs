//! How the sensor is set up.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use shrike_proto::policy::PathPattern;

use super::{Attachment, SensorError};

/// Which opens are events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Opens {
    /// Those that a rule matches.
    Matched,
    /// The first of each process, file and access; repeats are counted.
    First,
    /// Every one.
    All,
}

impl Opens {
    /// Returns the programs' number for it.
    pub(super) fn number(self) -> u32 {
        match self {
            Self::Matched => 0,
            Self::All => 1,
            Self::First => 2,
        }
    }
}

/// Which execs, forks and exits are events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Processes {
    /// Execs that a rule matches, and exits of processes that a rule ended.
    Matched,
    /// Every one.
    #[default]
    All,
}

impl Processes {
    /// Returns the programs' number for it.
    pub(super) fn number(self) -> u32 {
        match self {
            Self::Matched => 0,
            Self::All => 1,
        }
    }
}

/// What is read of a new image's environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ExecEnvironment {
    /// Nothing.
    #[default]
    None,
    /// The names of the variables, never their values.
    Keys,
}

impl ExecEnvironment {
    /// Returns the programs' number for it.
    pub(super) fn number(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Keys => 1,
        }
    }
}

/// How the sensor is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SensorOptions {
    /// Bytes of the ring of opens that no rule matched: a power of two from
    /// 64 KiB to 1 GiB.
    pub ring_bytes: u32,
    /// Bytes of the ring of everything else, likewise.
    pub priority_ring_bytes: u32,
    /// Which opens are events.
    pub opens: Opens,
    /// Which execs, forks and exits are events.
    pub processes: Processes,
    /// What is read of a new image's environment.
    pub exec_environment: ExecEnvironment,
    /// How the decisions are attached; `None`: the best way there is.
    pub attachment: Option<Attachment>,
    /// Kills of one rule within a minute before it is only observed; 0: no
    /// limit.
    pub kills_per_minute: u32,
    /// Programs that are never killed.
    pub never_kill: Vec<PathPattern>,
    /// Where everything is pinned, so that it outlives this process; `None`:
    /// nowhere.
    pub pin: Option<PathBuf>,
}

/// 16 MiB: some 50,000 opens, about a second of the busiest node.
pub const RING_BYTES_DEFAULT: u32 = 16 << 20;

/// 2 MiB: some 6,000 execs, forks and exits, more than two processors make in
/// a second.
pub const PRIORITY_RING_BYTES_DEFAULT: u32 = 2 << 20;

/// What a mistaken rule may kill before it is stopped.
pub const KILLS_PER_MINUTE_DEFAULT: u32 = 60;

/// Returns the programs that are never killed unless the operator says
/// otherwise: the way into the machine, and the collector.
pub fn never_kill_default() -> Vec<PathPattern> {
    ["/usr/sbin/sshd", "/usr/bin/shrike-collector"]
        .map(|path| PathPattern::parse(path).expect("a path"))
        .into()
}

impl Default for SensorOptions {
    fn default() -> Self {
        Self {
            ring_bytes: RING_BYTES_DEFAULT,
            priority_ring_bytes: PRIORITY_RING_BYTES_DEFAULT,
            opens: Opens::First,
            processes: Processes::All,
            exec_environment: ExecEnvironment::None,
            attachment: None,
            kills_per_minute: KILLS_PER_MINUTE_DEFAULT,
            never_kill: never_kill_default(),
            pin: None,
        }
    }
}

impl SensorOptions {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// [`SensorError::RingSize`] for the first ring that cannot be.
    pub(super) fn check(&self) -> Result<(), SensorError> {
        check_ring_size(self.ring_bytes)?;
        check_ring_size(self.priority_ring_bytes)
    }
}

fn check_ring_size(bytes: u32) -> Result<(), SensorError> {
    if bytes.is_power_of_two() && (1 << 16..=1 << 30).contains(&bytes) {
        return Ok(());
    }
    Err(SensorError::RingSize(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_size_is_a_power_of_two_within_bounds() {
        let check = |bytes: u32, fine: bool| {
            assert_eq!(check_ring_size(bytes).is_ok(), fine, "{bytes}");
        };
        check(1 << 16, true);
        check(16 << 20, true);
        check(1 << 30, true);
        check(1 << 15, false);
        check((16 << 20) + 4096, false);
        check(0, false);
    }
}
