//! A child that opens and executes private files, and what is seen of it.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        process::ExitStatusExt as _,
    },
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use shrike_proto::{
    event::{Action, Fact, Verdict},
    id::{Generation, PolicyName, RuleName},
    policy::{Comm, Matcher, Mode, OnUnknown, PathPattern, Policy, PolicySet, Rule, Trigger},
};
use tokio::time::{Instant, timeout_at};

use super::Bystanders;
use crate::{
    error::AgentError,
    kernel::{Processes, Sensor},
};

/// How long an event may take to come out of the ring.
const SIGHTING_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a child may take. It opens or executes one file, on a machine
/// that may be busy booting.
const CHILD_TIMEOUT: Duration = Duration::from_secs(3);

/// Between two looks at a child.
const CHILD_LOOK: Duration = Duration::from_millis(2);

/// The child's command name: nothing else has it, so that nobody who comes
/// across the private files is taken for it.
const COMM: &str = "shrike-canary";

const SIGKILL: i32 = 9;

/// One attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trial {
    /// An open that is only observed.
    ObservedOpen,
    /// An exec that is only observed.
    ObservedExec,
    /// An open that kills.
    KilledOpen,
    /// An exec that kills.
    KilledExec,
}

impl Trial {
    /// Every attempt, the harmless ones first.
    pub const ALL: [Self; 4] = [
        Self::ObservedOpen,
        Self::ObservedExec,
        Self::KilledOpen,
        Self::KilledExec,
    ];

    /// Says whether it is to end badly.
    pub fn is_armed(self) -> bool {
        match self {
            Self::ObservedOpen | Self::ObservedExec => false,
            Self::KilledOpen | Self::KilledExec => true,
        }
    }

    fn trigger(self) -> Trigger {
        match self {
            Self::ObservedOpen | Self::KilledOpen => Trigger::Open,
            Self::ObservedExec | Self::KilledExec => Trigger::Exec,
        }
    }
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::ObservedOpen => "open of a private file, seen",
            Self::ObservedExec => "exec of a private file, seen",
            Self::KilledOpen => "open of a private file, killed",
            Self::KilledExec => "exec of a private file, killed",
        })
    }
}

/// How the child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With exit code 0.
    Well,
    /// By SIGKILL.
    Killed,
    /// Otherwise.
    Otherwise,
}

/// What was seen of an attempt.
#[derive(Debug)]
pub struct Sighting {
    /// The verdict about it, if it was seen.
    pub verdict: Option<Verdict>,
    /// How the child ended.
    pub ended: Ended,
    /// Its exit was seen, too, or is no event.
    pub exit_seen: bool,
}

/// The private files. Dropping it removes them.
pub struct Canary {
    folder: PathBuf,
    file: PathBuf,
    /// Opens files, under the child's command name.
    opener: PathBuf,
    program: PathBuf,
}

impl Canary {
    /// Makes the files.
    ///
    /// # Errors
    /// When there is no place for them.
    pub fn new() -> io::Result<Self> {
        let name = format!("shrike-doctor-{}", std::process::id());
        let folder = std::env::temp_dir().canonicalize()?.join(name);
        fs::create_dir(&folder)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        let canary = Self {
            file: folder.join("file"),
            opener: folder.join("open").join(COMM),
            program: folder.join(COMM),
            folder,
        };
        fs::write(&canary.file, "canary\n")?;
        fs::create_dir(canary.folder.join("open"))?;
        symlink("/bin/cat", &canary.opener)?;
        fs::write(&canary.program, "#!/bin/sh\nexit 0\n")?;
        fs::set_permissions(&canary.program, fs::Permissions::from_mode(0o700))?;
        Ok(canary)
    }

    /// Returns the policy for an attempt.
    pub fn policy(&self, trial: Trial) -> PolicySet {
        let path = match trial.trigger() {
            Trigger::Open => &self.file,
            Trigger::Exec => &self.program,
        };
        let pattern = PathPattern::parse(&path.to_string_lossy()).expect("a canonical path");
        let rule = Rule {
            name: RuleName::parse("canary").expect("a valid name"),
            trigger: trial.trigger(),
            matcher: Matcher {
                paths: vec![pattern],
                comm: vec![Comm::parse(COMM).expect("a valid name")],
                ..Matcher::default()
            },
            access: Vec::new(),
            unless: None,
            action: Action::Kill,
            on_unknown: OnUnknown::Record,
        };
        PolicySet::new(
            Generation(1),
            vec![Policy {
                name: PolicyName::parse("doctor").expect("a valid name"),
                mode: if trial.is_armed() {
                    Mode::Enforce
                } else {
                    Mode::Observe
                },
                nodes: BTreeMap::new(),
                rules: vec![rule],
            }],
        )
    }

    /// Lets a child do it. Returns its process ID and how it ended.
    ///
    /// # Errors
    /// When there can be no child.
    pub fn attempt(&self, trial: Trial) -> io::Result<(u32, Ended)> {
        let (program, argument) = match trial.trigger() {
            Trigger::Open => (self.opener.clone(), Some(&self.file)),
            // A shell that executes it: one that is refused has a process ID
            // all the same.
            Trigger::Exec => (PathBuf::from("sh"), None),
        };
        let mut command = Command::new(program);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        match argument {
            Some(file) => command.arg(file),
            None => command.arg("-c").arg("exec \"$0\"").arg(&self.program),
        };
        let mut child = command.spawn()?;
        let pid = child.id();
        let until = std::time::Instant::now() + CHILD_TIMEOUT;
        while std::time::Instant::now() < until {
            if let Some(status) = child.try_wait()? {
                let ended = match (status.code(), status.signal()) {
                    (Some(0), _) => Ended::Well,
                    (_, Some(SIGKILL)) => Ended::Killed,
                    _ => Ended::Otherwise,
                };
                return Ok((pid, ended));
            }
            thread::sleep(CHILD_LOOK);
        }
        // It may have ended in between, which is as good.
        let _ = child.kill();
        child.wait()?;
        Ok((pid, Ended::Otherwise))
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        // What cannot be removed is two small files in a temporary folder.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Waits for the events of a child's attempt: its verdict and its exit.
///
/// # Errors
/// [`AgentError::Ring`] when the ring cannot be read.
pub async fn watch_for(
    sensor: &mut Sensor,
    trial: Trial,
    pid: u32,
    ended: Ended,
    bystanders: &mut Bystanders,
) -> Result<Sighting, AgentError> {
    let until = Instant::now() + SIGHTING_TIMEOUT;
    let mut sighting = Sighting {
        verdict: None,
        ended,
        exit_seen: sensor.processes() == Processes::Matched && !trial.is_armed(),
    };
    while let Ok(read) = timeout_at(until, sensor.wait()).await {
        read.map_err(AgentError::Ring)?;
        for event in bystanders.take(sensor, pid) {
            sighting.exit_seen |= matches!(event.fact, Fact::Exit(_));
            if event.verdict.is_some() {
                sighting.verdict = event.verdict;
            }
        }
        if sighting.verdict.is_some() && sighting.exit_seen || bystanders.is_full() {
            break;
        }
    }
    Ok(sighting)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canary_is_gone_afterwards() {
        let canary = Canary::new().unwrap();
        let folder = canary.folder.clone();
        for trial in [Trial::ObservedOpen, Trial::ObservedExec] {
            assert_eq!(canary.attempt(trial).unwrap().1, Ended::Well);
            assert_eq!(canary.policy(trial).policies.len(), 1);
        }
        drop(canary);
        assert!(!folder.exists());
    }
}
