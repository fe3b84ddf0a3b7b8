//! What a person must see and no hook reported: the agent found it out.
//!
//! An alert about a kill carries the verdict that it is about, so that a
//! filter for verdicts finds it too.

use super::{Receipt, WireError};
use crate::wire::event as wire;

/// Longest reason. It names what /proc tells of one process.
pub const REASON_BYTES_MAX: usize = 512;

/// Something that a person must see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// What is wrong.
    pub cause: Cause,
    /// The same for a person, in one sentence; at most [`REASON_BYTES_MAX`]
    /// bytes.
    pub reason: String,
}

impl Alert {
    /// Builds an alert; a longer reason is cut.
    pub fn new(cause: Cause, mut reason: String) -> Self {
        reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
        Self { cause, reason }
    }

    /// Returns the kill that it is about.
    pub fn receipt(&self) -> Option<&Receipt> {
        match &self.cause {
            Cause::SignalFailed(receipt)
            | Cause::KillSurvived { receipt, .. }
            | Cause::KillUnproven(receipt) => Some(receipt),
            Cause::Miscount => None,
        }
    }
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// A kill's signal could not be sent.
    SignalFailed(Receipt),
    /// A process lives on although its kill's signal was sent.
    KillSurvived {
        /// The kill.
        receipt: Receipt,
        /// What keeps the process alive.
        obstacle: Obstacle,
    },
    /// A process whose kill's signal was sent is gone, and its exit was never
    /// seen.
    KillUnproven(Receipt),
    /// What the hooks counted and what came out of the ring disagree.
    Miscount,
}

impl Cause {
    /// Returns the name that people see.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::SignalFailed(_) => "signal-failed",
            Self::KillSurvived { .. } => "kill-survived",
            Self::KillUnproven(_) => "kill-unproven",
            Self::Miscount => "miscount",
        }
    }
}

/// What keeps a process alive that was sent SIGKILL, as far as /proc tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// A thread waits in the kernel and takes no signal (state D).
    Uninterruptible,
    /// Its tracer holds it (state t).
    Traced,
    /// It is stopped (state T).
    Stopped,
    /// Its cgroup is frozen.
    Frozen,
    /// It writes a core dump.
    CoreDump,
    /// It is PID 1 of a PID namespace, and waits for the processes in it.
    NamespaceInit,
    /// Its first thread is gone, other threads run.
    LeaderGone,
    /// It runs in the kernel, or has not been scheduled since.
    Running,
    /// It sleeps as if it had got no signal.
    Sleeping,
    /// /proc does not tell.
    Unknown,
}

impl Obstacle {
    /// Every obstacle.
    pub const ALL: [Self; 10] = [
        Self::Uninterruptible,
        Self::Traced,
        Self::Stopped,
        Self::Frozen,
        Self::CoreDump,
        Self::NamespaceInit,
        Self::LeaderGone,
        Self::Running,
        Self::Sleeping,
        Self::Unknown,
    ];

    /// Returns the name that people see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Uninterruptible => "uninterruptible",
            Self::Traced => "traced",
            Self::Stopped => "stopped",
            Self::Frozen => "frozen",
            Self::CoreDump => "core-dump",
            Self::NamespaceInit => "namespace-init",
            Self::LeaderGone => "leader-gone",
            Self::Running => "running",
            Self::Sleeping => "sleeping",
            Self::Unknown => "unknown",
        }
    }
}

impl From<Obstacle> for wire::Obstacle {
    fn from(obstacle: Obstacle) -> Self {
        match obstacle {
            Obstacle::Uninterruptible => Self::Uninterruptible,
            Obstacle::Traced => Self::Traced,
            Obstacle::Stopped => Self::Stopped,
            Obstacle::Frozen => Self::Frozen,
            Obstacle::CoreDump => Self::CoreDump,
            Obstacle::NamespaceInit => Self::NamespaceInit,
            Obstacle::LeaderGone => Self::LeaderGone,
            Obstacle::Running => Self::Running,
            Obstacle::Sleeping => Self::Sleeping,
            Obstacle::Unknown => Self::Unknown,
        }
    }
}

impl TryFrom<wire::Obstacle> for Obstacle {
    type Error = WireError;

    fn try_from(obstacle: wire::Obstacle) -> Result<Self, WireError> {
        Ok(match obstacle {
            wire::Obstacle::Unspecified => return Err(WireError::Missing("alert.obstacle")),
            wire::Obstacle::Uninterruptible => Self::Uninterruptible,
            wire::Obstacle::Traced => Self::Traced,
            wire::Obstacle::Stopped => Self::Stopped,
            wire::Obstacle::Frozen => Self::Frozen,
            wire::Obstacle::CoreDump => Self::CoreDump,
            wire::Obstacle::NamespaceInit => Self::NamespaceInit,
            wire::Obstacle::LeaderGone => Self::LeaderGone,
            wire::Obstacle::Running => Self::Running,
            wire::Obstacle::Sleeping => Self::Sleeping,
            wire::Obstacle::Unknown => Self::Unknown,
        })
    }
}

impl From<Alert> for wire::Alert {
    fn from(Alert { cause, reason }: Alert) -> Self {
        let (cause, receipt, obstacle) = match cause {
            Cause::SignalFailed(receipt) => (wire::Cause::SignalFailed, Some(receipt), None),
            Cause::KillSurvived { receipt, obstacle } => {
                (wire::Cause::KillSurvived, Some(receipt), Some(obstacle))
            }
            Cause::KillUnproven(receipt) => (wire::Cause::KillUnproven, Some(receipt), None),
            Cause::Miscount => (wire::Cause::Miscount, None, None),
        };
        Self {
            cause: cause.into(),
            reason,
            receipt: receipt.map(Into::into),
            obstacle: obstacle
                .map_or(wire::Obstacle::Unspecified, Into::into)
                .into(),
        }
    }
}

impl TryFrom<wire::Alert> for Alert {
    type Error = WireError;

    fn try_from(alert: wire::Alert) -> Result<Self, WireError> {
        let unknown = |field, value| WireError::UnknownValue { field, value };
        let receipt = || {
            let receipt = alert.receipt.clone();
            Receipt::try_from(receipt.ok_or(WireError::Missing("alert.receipt"))?)
        };
        let cause = match wire::Cause::try_from(alert.cause)
            .map_err(|_| unknown("alert.cause", alert.cause))?
        {
            wire::Cause::Unspecified => return Err(unknown("alert.cause", alert.cause)),
            wire::Cause::SignalFailed => Cause::SignalFailed(receipt()?),
            wire::Cause::KillSurvived => Cause::KillSurvived {
                receipt: receipt()?,
                obstacle: wire::Obstacle::try_from(alert.obstacle)
                    .map_err(|_| unknown("alert.obstacle", alert.obstacle))?
                    .try_into()?,
            },
            wire::Cause::KillUnproven => Cause::KillUnproven(receipt()?),
            wire::Cause::Miscount => Cause::Miscount,
        };
        Ok(Self {
            cause,
            reason: alert.reason,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_reason_is_cut_between_characters() {
        let alert = Alert::new(Cause::Miscount, "é".repeat(REASON_BYTES_MAX));
        assert_eq!(alert.reason, "é".repeat(REASON_BYTES_MAX / 2));
    }

    #[test]
    fn alert_without_what_it_is_about_is_refused() {
        let check = |cause: wire::Cause, error: WireError| {
            let alert = wire::Alert {
                cause: cause.into(),
                ..wire::Alert::default()
            };
            assert_eq!(Alert::try_from(alert), Err(error));
        };
        check(
            wire::Cause::KillSurvived,
            WireError::Missing("alert.receipt"),
        );
        check(
            wire::Cause::Unspecified,
            WireError::UnknownValue {
                field: "alert.cause",
                value: 0,
            },
        );
    }
}
