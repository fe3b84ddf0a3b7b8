//! `shrike-agent doctor`: what this kernel gives, and whether it works.
//!
//! It loads a sensor of its own beside a running agent's, tries it on a child
//! and two private files, and leaves nothing behind. A hook that attaches and
//! is never called shows here.

mod canary;

use std::fmt::Write as _;

use shrike_proto::event::Outcome;
use tokio::task::block_in_place;

use self::canary::{Canary, Ended, Sighting, Trial};
use crate::{
    args::DoctorArgs,
    error::AgentError,
    hooks,
    kernel::{Attachment, Opens, Sensor, SensorOptions},
    node::NodeFacts,
    run::load,
};

/// Examines this machine and prints what it found.
///
/// # Errors
/// [`AgentError::Unwell`] when something that should work does not; else what
/// kept the sensor from being loaded.
pub async fn doctor(args: DoctorArgs) -> Result<(), AgentError> {
    let facts = NodeFacts::read().map_err(AgentError::Facts)?;
    println!("kernel {}", facts.kernel_release);
    let mut sensor = load(&SensorOptions {
        opens: Opens::First,
        attachment: args.attach.map(Into::into),
        ..SensorOptions::default()
    })?;
    for line in hooks::lines(sensor.hooks()) {
        println!("{line}");
    }
    if args.offsets {
        for (field, offset) in sensor.offsets() {
            match offset {
                Some(offset) => println!("offset {field}  {offset}"),
                None => println!("offset {field}  not in this kernel"),
            }
        }
    }
    if args.programs {
        for (program, instructions) in sensor.verified_instructions() {
            println!("program {program}  {instructions}");
        }
    }
    println!("{}", abilities(sensor.attachment()));
    let canary = Canary::new().map_err(AgentError::Canary)?;
    let mut failed = 0;
    for trial in Trial::ALL {
        let sighting = try_once(&mut sensor, &canary, trial).await?;
        let verdict = judge(trial, sensor.attachment(), &sighting);
        println!(
            "self-test {trial:<28} {}",
            verdict.as_deref().unwrap_or("ok")
        );
        failed += usize::from(verdict.is_some());
    }
    if failed == 0 {
        println!("doctor: ok");
        return Ok(());
    }
    Err(AgentError::Unwell(failed))
}

/// Says what can and cannot be enforced.
fn abilities(attachment: Attachment) -> &'static str {
    match attachment {
        Attachment::Lsm => {
            "enforces kill and deny: what a rule forbids is refused before it happens"
        }
        Attachment::Fentry | Attachment::Kprobe => {
            "enforces kill, not deny: a killed process may still have created or cut the file"
        }
    }
}

async fn try_once(
    sensor: &mut Sensor,
    canary: &Canary,
    trial: Trial,
) -> Result<Sighting, AgentError> {
    let set = canary.policy(trial);
    block_in_place(|| sensor.apply(&set))?;
    let (pid, ended) = block_in_place(|| canary.attempt(trial)).map_err(AgentError::Canary)?;
    canary::watch_for(sensor, pid, ended).await
}

/// Returns what is wrong, `None` for nothing.
fn judge(trial: Trial, attachment: Attachment, sighting: &Sighting) -> Option<String> {
    let mut wrong = String::new();
    let mut complain = |text: &str| {
        let comma = if wrong.is_empty() { "" } else { ", " };
        write!(wrong, "{comma}{text}").expect("strings take everything");
    };
    let Some(verdict) = &sighting.verdict else {
        return Some("FAILED: the attempt was not seen".to_owned());
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
    (!wrong.is_empty()).then(|| format!("FAILED: {wrong}"))
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
        };
        assert_eq!(judge(trial, Attachment::Lsm, &sighting).as_deref(), expect);
    }

    #[test]
    fn what_does_not_work_is_named() {
        use Ended::{Killed, Well};
        let sent = Some((Outcome::SignalSent, true));
        check(Trial::KilledOpen, sent, Killed, None);
        check(
            Trial::KilledOpen,
            sent,
            Well,
            Some("FAILED: the process lives"),
        );
        check(
            Trial::KilledExec,
            Some((Outcome::SignalSent, false)),
            Killed,
            Some("FAILED: it was not refused"),
        );
        check(
            Trial::ObservedOpen,
            None,
            Well,
            Some("FAILED: the attempt was not seen"),
        );
        check(
            Trial::ObservedExec,
            Some((Outcome::Observed, false)),
            Well,
            None,
        );
    }
}
