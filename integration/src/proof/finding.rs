//! What did happen in one attempt: its own words, its files and its events,
//! put together.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use super::attempt::{Attempt, Ended, Scene};
use super::case::{Case, Class, Ending, Setting};
use super::cases;

const KILL: i32 = 9;
const EPERM: i64 = 1;

/// Everything that was said in one run of all attempts.
pub struct Run {
    /// The files before.
    pub before: Vec<Scene>,
    /// The attempts.
    pub attempts: Vec<Attempt>,
    /// The files after.
    pub after: Vec<Scene>,
    /// The agent's events.
    pub events: Vec<Value>,
}

/// What came of one attempt.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// Which one.
    pub case: &'static str,
    /// How it ended.
    pub ending: Ending,
    /// What differs in the files, in words.
    pub changes: Vec<&'static str>,
    /// What is wrong with what was said about it, whatever the ending.
    pub complaints: Vec<String>,
}

impl Run {
    /// Puts it all together, a finding for each case.
    ///
    /// # Errors
    /// When a case is missing from what was said.
    pub fn findings(&self, setting: Setting) -> Result<Vec<Finding>> {
        let before = by_case(&self.before, |scene| &scene.case);
        let after = by_case(&self.after, |scene| &scene.case);
        let attempts = by_case(&self.attempts, |attempt| &attempt.case);
        let mut judged: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
        for event in &self.events {
            if let Some(rule) = event["verdict"]["rule"].as_str() {
                judged.entry(rule).or_default().push(event);
            }
        }
        cases::all()
            .map(|case| {
                let said = |what: &str| format!("nothing was said about {} ({what})", case.name);
                let look = Look {
                    case,
                    setting,
                    before: before.get(case.name).with_context(|| said("before"))?,
                    after: after.get(case.name).with_context(|| said("after"))?,
                    attempt: attempts.get(case.name).with_context(|| said("attempt"))?,
                    judged: judged.get(case.name).map_or(&[], Vec::as_slice),
                    events: &self.events,
                };
                Ok(look.finding())
            })
            .collect()
    }
}

fn by_case<T>(all: &[T], case: impl Fn(&T) -> &str) -> BTreeMap<&str, &T>
where
    for<'a> &'a T: Sized,
{
    all.iter().map(|one| (case(one), one)).collect()
}

/// All that there is about one case.
struct Look<'a> {
    case: &'static Case,
    setting: Setting,
    before: &'a Scene,
    after: &'a Scene,
    attempt: &'a Attempt,
    judged: &'a [&'a Value],
    events: &'a [Value],
}

impl Look<'_> {
    fn finding(&self) -> Finding {
        let mut complaints = Vec::new();
        if let Some(broken) = &self.attempt.broken {
            complaints.push(format!("the attempt could not be made: {broken}"));
        }
        let (ours, others): (Vec<&Value>, Vec<&Value>) =
            self.judged.iter().partition(|event| self.is_ours(event));
        for other in others {
            complaints.push(format!("a bystander was judged: {other}"));
        }
        for event in &ours {
            self.check_event(event, &mut complaints);
        }
        let changes = self.before.changes(self.after);
        let ending = Ending {
            seen: !ours.is_empty(),
            denied: self.attempt.result.as_deref() == Some("EPERM")
                || ours.iter().any(|event| is_refusal(event)),
            killed: match self.attempt.actor {
                Some(_) => self.attempt.ended == Some(Ended::Signal(KILL)),
                // Nobody's child: the exit event is all that tells.
                None => self.has_receipt(),
            },
            done: self.attempt.leaked
                || self.attempt.ran
                || match self.case.class {
                    Class::Changes => !changes.is_empty(),
                    Class::Names
                    | Class::Places
                    | Class::Entries
                    | Class::Processes
                    | Class::Programs
                    | Class::Limits
                    | Class::Bystanders => !self.is_untouched(),
                },
        };
        if ending.killed && !self.has_receipt() {
            complaints.push("it was killed, and its exit has no receipt that says so".to_owned());
        }
        Finding {
            case: self.case.name,
            ending,
            changes,
            complaints,
        }
    }

    /// A helper that the kernel starts is nobody's child, and says nothing.
    fn is_ours(&self, event: &Value) -> bool {
        let Some(pid) = event["process"]["pid"].as_u64() else {
            return false;
        };
        self.attempt.actor.is_none()
            || self
                .attempt
                .processes
                .iter()
                .any(|&ours| u64::from(ours) == pid)
    }

    /// Replacing the file may be part of an attempt; changing what is in it
    /// never is.
    fn is_untouched(&self) -> bool {
        self.attempt.another_file || self.before.keeps_contents(self.after)
    }

    fn check_event(&self, event: &Value, complaints: &mut Vec<String>) {
        let action = event["verdict"]["action"].as_str();
        if action != Some(self.setting.action().word()) {
            complaints.push(format!("its verdict asks for {action:?}: {event}"));
        }
        if let Some(operation) = self.case.operation
            && event["change"]["operation"].as_str() != Some(operation)
        {
            complaints.push(format!("its event is no change by {operation}: {event}"));
        }
        let Some(file) = file_of(event) else {
            // A name that was to be created has no file yet.
            return;
        };
        let target = self.case.target();
        let path = self.attempt.named.as_deref().unwrap_or(&target);
        if !self.attempt.nameless && file["path"].as_str() != Some(path) {
            complaints.push(format!(
                "its event has the path {}, not {path}",
                file["path"]
            ));
        }
        if let Some(state) = &self.before.target
            && !self.attempt.another_file
            && !file["inode"].is_null()
            && (file["inode"].as_u64(), file["device"].as_str())
                != (Some(state.inode), Some(&*state.device))
        {
            complaints.push(format!(
                "its event has the inode {} on {}, not {} on {}",
                file["inode"], file["device"], state.inode, state.device
            ));
        }
    }

    fn has_receipt(&self) -> bool {
        // One that shares its parent's number in a namespace is found by the
        // processes that took part.
        self.events.iter().any(|event| {
            self.is_ours(event)
                && event["exit"]["receipt"]["died_by_it"] == true
                && event["exit"]["receipt"]["rule"] == self.case.name
        })
    }
}

/// The file that an event is about.
fn file_of(event: &Value) -> Option<&Value> {
    let kind = event["kind"].as_str()?;
    Some(&event[kind]["file"]).filter(|file| file.is_object())
}

/// Whether the event says that the call was refused.
fn is_refusal(event: &Value) -> bool {
    let Some(kind) = event["kind"].as_str() else {
        return false;
    };
    event[kind]["result"].as_i64() == Some(-EPERM)
}

/// What differs from what must be, in lines that a person can read.
pub fn differences(findings: &[Finding], setting: Setting) -> Vec<String> {
    let mut lines = Vec::new();
    for finding in findings {
        let case = cases::find(finding.case).expect("findings are about cases");
        let (must, _) = case.must(setting);
        if !must.holds(finding.ending) {
            let changes = match &finding.changes[..] {
                [] => String::new(),
                changes => format!(" ({})", changes.join(", ")),
            };
            lines.push(format!(
                "{}: {}{changes}; it must be: {must}",
                case.name, finding.ending
            ));
        }
        for complaint in &finding.complaints {
            lines.push(format!("{}: {complaint}", case.name));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::proof::attempt::State;

    fn scene(case: &str) -> Scene {
        Scene {
            case: case.to_owned(),
            target: Some(State {
                device: "8:1".to_owned(),
                inode: 7,
                links: 1,
                mode: 0o100_644,
                uid: 0,
                size: 3,
                contents: Some("abc".to_owned()),
                attribute: false,
            }),
            entries: ["secret".to_owned()].into(),
        }
    }

    fn killed(case: &str) -> Attempt {
        Attempt {
            case: case.to_owned(),
            actor: Some(5),
            ended: Some(Ended::Signal(KILL)),
            processes: [5].into(),
            ..Attempt::default()
        }
    }

    fn events(case: &str, path: &str) -> Vec<Value> {
        vec![
            json!({
                "kind": "open", "process": {"pid": 5},
                "verdict": {"rule": case, "action": "kill"},
                "open": {"result": 3, "file": {"path": path, "inode": 7, "device": "8:1"}},
            }),
            json!({
                "kind": "exit", "process": {"pid": 5}, "verdict": null,
                "exit": {"receipt": {"rule": case, "died_by_it": true}},
            }),
        ]
    }

    fn finding(attempt: &Attempt, events: &[Value]) -> Finding {
        let (before, after) = (scene(&attempt.case), scene(&attempt.case));
        let judged: Vec<&Value> = events
            .iter()
            .filter(|event| event["verdict"].is_object())
            .collect();
        Look {
            case: cases::find(&attempt.case).expect("a case"),
            setting: Setting::KprobeKill,
            before: &before,
            after: &after,
            attempt,
            judged: &judged,
            events,
        }
        .finding()
    }

    #[test]
    fn a_proven_kill_is_seen_and_killed() {
        let path = "/srv/proof/own-name/secret";
        let found = finding(&killed("own-name"), &events("own-name", path));
        assert_eq!(found.ending, crate::proof::case::BY_SIGNAL);
        assert_eq!(found.complaints, [] as [String; 0]);
        assert_eq!(
            differences(&[found], Setting::KprobeKill),
            [] as [String; 0]
        );
    }

    #[test]
    fn a_leak_is_a_difference_even_when_it_was_killed() {
        let path = "/srv/proof/own-name/secret";
        let attempt = Attempt {
            leaked: true,
            ..killed("own-name")
        };
        let found = finding(&attempt, &events("own-name", path));
        assert_eq!(
            differences(&[found], Setting::KprobeKill),
            ["own-name: seen, killed, done; it must be: seen, killed"]
        );
    }

    #[test]
    fn a_kill_without_receipt_and_a_wrong_path_are_complained_about() {
        let found = finding(&killed("own-name"), &events("own-name", "/else")[..1]);
        assert_eq!(found.complaints.len(), 2, "{:?}", found.complaints);
    }

    #[test]
    fn a_change_that_is_told_as_something_else_is_complained_about() {
        let path = "/srv/proof/unlink/secret";
        let mut events = events("unlink", path);
        let complaints = |events: &[Value]| finding(&killed("unlink"), events).complaints.len();
        assert_eq!(complaints(&events), 1);
        let file = events[0]["open"]["file"].take();
        events[0]["kind"] = "change".into();
        events[0]["change"] = json!({"operation": "rename", "file": file});
        assert_eq!(complaints(&events), 1);
        events[0]["change"]["operation"] = "unlink".into();
        assert_eq!(complaints(&events), 0);
    }

    #[test]
    fn a_verdict_about_a_bystander_is_complained_about() {
        let mut events = events("own-name", "/srv/proof/own-name/secret");
        events[0]["process"]["pid"] = 6.into();
        let found = finding(&killed("own-name"), &events);
        assert!(!found.ending.seen);
        assert!(found.complaints[0].contains("bystander"));
    }
}
