//! Whether the hooks do what they are attached for: a child that opens and
//! executes private files must be seen, and killed where it is to be.
//!
//! It runs with the very programs that record and decide afterwards, before
//! any policy is in force, and under rules that nothing but the child can
//! meet: they name private files by path, and the child's own command name.
//! Whatever else happens on the machine meanwhile is handed on; the child's
//! own events are nobody's business and are counted as left out.

use std::fmt::Write as _;

use shrike_proto::{
    event::{Event, Outcome},
    id::Generation,
    wire::ingest,
};
use tokio::task::block_in_place;

use super::canary::{Canary, Ended, Sighting, Trial, watch_for};
use crate::{
    error::{AgentError, chain},
    kernel::{Attachment, Sensor},
};

/// What came of a self-test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// It was not made.
    Skipped(String),
    /// Each trial, and what is wrong; `None` for nothing.
    Made(Vec<(Trial, Option<String>)>),
}

impl Report {
    /// Returns how many trials failed.
    pub fn failed(&self) -> usize {
        match self {
            Self::Skipped(_) => 0,
            Self::Made(trials) => trials.iter().filter(|(_, wrong)| wrong.is_some()).count(),
        }
    }

    /// Returns one line for each trial.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Skipped(reason) => vec![format!("self-test not made: {reason}")],
            Self::Made(trials) => trials
                .iter()
                .map(|(trial, wrong)| {
                    let result = match wrong {
                        Some(wrong) => format!("FAILED: {wrong}"),
                        None => "ok".to_owned(),
                    };
                    format!("self-test {trial:<28} {result}")
                })
                .collect(),
        }
    }
}

impl From<&Report> for ingest::SelfTest {
    fn from(report: &Report) -> Self {
        match report {
            Report::Skipped(reason) => Self {
                skipped: reason.clone(),
                trials: Vec::new(),
            },
            Report::Made(trials) => Self {
                skipped: String::new(),
                trials: trials
                    .iter()
                    .map(|(trial, wrong)| ingest::Trial {
                        name: trial.to_string(),
                        problem: wrong.clone().unwrap_or_default(),
                    })
                    .collect(),
            },
        }
    }
}

/// What else came out of the ring during a self-test.
#[derive(Debug, Default)]
pub struct Bystanders {
    /// Events of everybody else, in order.
    pub events: Vec<Event>,
    /// Events of the test's own children.
    pub left_out: u64,
}

/// Makes every trial, each bounded in time.
///
/// # Errors
/// When the ring cannot be read, or the kernel does not take the trials'
/// rules: then it would take no others either.
pub async fn self_test(sensor: &mut Sensor) -> Result<(Report, Bystanders), AgentError> {
    let mut bystanders = Bystanders::default();
    // The rules in force would have to be taken away for the test.
    if sensor.is_in_use() {
        let reason = "a policy is in force already".to_owned();
        return Ok((Report::Skipped(reason), bystanders));
    }
    let report = match Canary::new() {
        Ok(canary) => make_trials(sensor, &canary, &mut bystanders).await,
        Err(error) => Err(AgentError::Canary(error)),
    };
    let report = match report {
        Err(error @ AgentError::Canary(_)) => Report::Skipped(chain(&error)),
        Ok(_) if bystanders.is_full() => {
            Report::Skipped("too much else happened meanwhile".to_owned())
        }
        other => other?,
    };
    // What the ring holds of before was judged under the trials' rules, which
    // matched none of it.
    block_in_place(|| sensor.withdraw())?;
    while !bystanders.is_full() && bystanders.take_all(sensor) > 0 {}
    for event in &mut bystanders.events {
        event.generation = Generation::NONE;
    }
    Ok((report, bystanders))
}

async fn make_trials(
    sensor: &mut Sensor,
    canary: &Canary,
    bystanders: &mut Bystanders,
) -> Result<Report, AgentError> {
    let mut trials = Vec::new();
    for trial in Trial::ALL {
        let set = canary.policy(trial);
        block_in_place(|| sensor.apply(&set))?;
        let (pid, ended) = block_in_place(|| canary.attempt(trial)).map_err(AgentError::Canary)?;
        let sighting = watch_for(sensor, trial, pid, ended, bystanders).await?;
        trials.push((trial, judge(trial, sensor.attachment(), &sighting)));
    }
    Ok(Report::Made(trials))
}

/// Events that are kept for the pipeline: some seconds of a busy node. With
/// more the test is given up, and the ring keeps the rest.
const BYSTANDERS_MAX: usize = 100_000;

impl Bystanders {
    pub(super) fn is_full(&self) -> bool {
        self.events.len() >= BYSTANDERS_MAX
    }

    /// Takes out what the ring holds, or a part of it. Returns how many records
    /// that were.
    fn take_all(&mut self, sensor: &mut Sensor) -> usize {
        sensor.drain(|event| self.events.push(event))
    }

    /// Takes out what the ring holds, or a part of it, and returns the events of
    /// one process.
    pub(super) fn take(&mut self, sensor: &mut Sensor, pid: u32) -> Vec<Event> {
        let mut own = Vec::new();
        sensor.drain(|event| {
            if event.process.tgid == pid {
                own.push(event);
            } else {
                self.events.push(event);
            }
        });
        self.left_out += own.len() as u64;
        own
    }
}

/// Returns what is wrong, `None` for nothing.
fn judge(trial: Trial, attachment: Attachment, sighting: &Sighting) -> Option<String> {
    let mut wrong = String::new();
    let mut complain = |text: &str| {
        let comma = if wrong.is_empty() { "" } else { ", " };
        write!(wrong, "{comma}{text}").expect("strings take everything");
    };
    let Some(verdict) = &sighting.verdict else {
        return Some("the attempt was not seen".to_owned());
    };
    if trial.is_armed() {
        if verdict.outcome != Outcome::SignalSent {
            complain("no signal was sent");
        }
        if verdict.denied != (attachment == Attachment::Lsm) {
            complain("it was not refused");
        }
        if sighting.ended != Ended::Killed {
            complain("the process lives");
        }
    } else {
        if verdict.outcome != Outcome::Observed {
            complain("it was not observed");
        }
        if sighting.ended != Ended::Well {
            complain("the process did not end well");
        }
    }
    if !sighting.exit_seen {
        complain("its exit was not seen");
    }
    (!wrong.is_empty()).then_some(wrong)
}

#[cfg(test)]
mod tests {
    use shrike_proto::{
        event::{Action, Verdict},
        id::{PolicyName, RuleName},
    };

    use super::*;

    fn check(trial: Trial, seen: Option<(Outcome, bool)>, ended: Ended, expect: Option<&str>) {
        let sighting = Sighting {
            verdict: seen.map(|(outcome, denied)| Verdict {
                action: Action::Kill,
                policy: PolicyName::parse("p").unwrap(),
                rule: RuleName::parse("r").unwrap(),
                outcome,
                denied,
            }),
            ended,
            exit_seen: ended != Ended::Otherwise,
        };
        assert_eq!(judge(trial, Attachment::Lsm, &sighting).as_deref(), expect);
    }

    #[test]
    fn what_does_not_work_is_named() {
        use Ended::{Killed, Otherwise, Well};
        let sent = Some((Outcome::SignalSent, true));
        check(Trial::KilledOpen, sent, Killed, None);
        check(Trial::KilledOpen, sent, Well, Some("the process lives"));
        check(
            Trial::KilledExec,
            Some((Outcome::SignalSent, false)),
            Killed,
            Some("it was not refused"),
        );
        check(
            Trial::ObservedOpen,
            None,
            Well,
            Some("the attempt was not seen"),
        );
        let observed = Some((Outcome::Observed, false));
        check(Trial::ObservedExec, observed, Well, None);
        check(
            Trial::ObservedExec,
            observed,
            Otherwise,
            Some("the process did not end well, its exit was not seen"),
        );
    }

    #[test]
    fn failures_are_counted_and_loud() {
        let report = Report::Made(vec![
            (Trial::ObservedOpen, None),
            (Trial::KilledOpen, Some("the process lives".to_owned())),
        ]);
        assert_eq!(report.failed(), 1);
        assert!(report.lines()[1].ends_with("FAILED: the process lives"));
        let skipped = Report::Skipped("no room".to_owned());
        assert_eq!(skipped.failed(), 0);
        assert_eq!(skipped.lines(), ["self-test not made: no room"]);
    }
}
