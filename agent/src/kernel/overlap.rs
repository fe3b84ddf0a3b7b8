//! The moment in which two sets of programs run: the new ones decide already,
//! the old ones are not detached yet, and both record.
//!
//! ```text
//!            cut                     end
//!  old ───────┼─────────────────────┐          until they are detached
//!  new   ┌────┼─────────────────────┼───────   from their attachment on
//!        └ before the new policy    └ the old programs are gone
//! ```
//!
//! Up to the cut the old programs' events count, from the end on there are
//! only the new ones'. Between them an event may come twice, a few
//! microseconds apart: the first to come waits for its twin. Of the two the
//! one with a verdict is kept, since an operation that one program refuses is
//! not judged by the next; else the old one, which knows the process's
//! repeats. An event that straddles the cut is told by its twin as well, so
//! none is lost and none is told twice.

use std::collections::HashMap;

use shrike_proto::event::{Event, Fact};

/// How far apart both programs may see one event: they run one after the
/// other in the same call, but a task can lose its processor in between.
const APART_NS: u64 = 50_000_000;

/// Sorts out who saw what.
#[derive(Debug)]
pub struct Overlap {
    cut: u64,
    end: u64,
    /// Events before the cut that were handed over, and could have a twin
    /// behind it.
    told: HashMap<String, Vec<u64>>,
    /// The old programs' events behind the cut.
    late: HashMap<String, Vec<Event>>,
    doubles: u64,
}

impl Overlap {
    /// Begins with the times of the cut and of the end, boot nanoseconds.
    pub fn new(cut: u64, end: u64) -> Self {
        Self {
            cut,
            end,
            told: HashMap::new(),
            late: HashMap::new(),
            doubles: 0,
        }
    }

    /// Moves the end: the old programs ran on for longer.
    pub fn extend(&mut self, end: u64) {
        self.end = self.end.max(end);
    }

    /// Takes an event of the old programs; returns it when it can be handed
    /// over at once. All of them come before the first new one.
    pub fn old(&mut self, event: Event) -> Option<Event> {
        if event.boot_time_ns >= self.cut {
            self.late.entry(key(&event)).or_default().push(event);
            return None;
        }
        if event.boot_time_ns + APART_NS >= self.cut {
            let times = self.told.entry(key(&event)).or_default();
            times.push(event.boot_time_ns);
        }
        Some(event)
    }

    /// Takes an event of the new programs; returns what is to be handed over.
    pub fn new_one(&mut self, event: Event) -> Option<Event> {
        if event.boot_time_ns < self.cut {
            self.doubles += 1;
            return None;
        }
        if self.is_over(event.boot_time_ns) {
            return Some(event);
        }
        let key = key(&event);
        let time = event.boot_time_ns;
        if let Some(late) = self.late.get_mut(&key)
            && let Some(index) = nearest(time, late.iter().map(|old| old.boot_time_ns))
        {
            let twin = late.remove(index);
            self.doubles += 1;
            return Some(if event.verdict.is_some() { event } else { twin });
        }
        // At the cut the new programs had no policy, so what they judged is
        // none of these.
        if event.verdict.is_none()
            && let Some(told) = self.told.get_mut(&key)
            && let Some(index) = nearest(time, told.iter().copied())
        {
            told.remove(index);
            self.doubles += 1;
            return None;
        }
        Some(event)
    }

    /// Says whether an event of this time has no twin any more.
    pub fn is_over(&self, boot_time_ns: u64) -> bool {
        boot_time_ns > self.end + APART_NS
    }

    /// Returns the old programs' events that only they saw, in order.
    pub fn rest(&mut self) -> Vec<Event> {
        let mut rest: Vec<Event> = self.late.drain().flat_map(|(_, events)| events).collect();
        rest.sort_by_key(|event| event.boot_time_ns);
        rest
    }

    /// Returns how many events were left out because they came twice.
    pub fn doubles(&self) -> u64 {
        self.doubles
    }
}

/// Returns which of the times is nearest, if one is near enough.
fn nearest(time: u64, times: impl Iterator<Item = u64>) -> Option<usize> {
    times
        .map(|other| other.abs_diff(time))
        .enumerate()
        .filter(|(_, apart)| *apart <= APART_NS)
        .min_by_key(|(_, apart)| *apart)
        .map(|(index, _)| index)
}

/// What both programs say of one event.
fn key(event: &Event) -> String {
    let process = &event.process;
    let fact = match &event.fact {
        // Each set of programs counts its own repeats.
        Fact::Exit(exit) => format!("exit {} {}", exit.code, exit.signal),
        Fact::Exec(exec) => format!("{exec:?}"),
        Fact::Open(open) => format!("{open:?}"),
        Fact::Fork(fork) => format!("{fork:?}"),
        Fact::Change(change) => format!("{change:?}"),
        // The agent's own; none comes out of a ring.
        Fact::Alert(alert) => format!("{alert:?}"),
    };
    format!(
        "{} {} {} {fact}",
        process.tgid, process.tid, process.start_boot_ns
    )
}

#[cfg(test)]
mod tests {
    use shrike_proto::{
        event::{Action, Fork, Outcome, Process, Verdict},
        id::{Generation, PolicyName, RuleName, SequenceNumber},
    };

    use super::*;

    const CUT: u64 = 10_000_000_000;
    const END: u64 = CUT + 50_000_000;

    fn event(tid: u32, time: u64) -> Event {
        Event {
            sequence: SequenceNumber(0),
            time_unix_ns: 0,
            boot_time_ns: time,
            cpu: 0,
            cpu_sequence: 0,
            generation: Generation(3),
            process: Process {
                tid,
                ..Process::default()
            },
            verdict: None,
            fact: Fact::Fork(Fork::default()),
        }
    }

    fn judged() -> Event {
        Event {
            verdict: Some(Verdict {
                action: Action::Kill,
                policy: PolicyName::parse("p").unwrap(),
                rule: RuleName::parse("r").unwrap(),
                outcome: Outcome::SignalSent,
                denied: true,
            }),
            ..event(1, CUT + 1)
        }
    }

    /// Returns what comes out: thread and whether it was judged.
    fn told(old: &[Event], new: &[Event]) -> (Vec<(u32, bool)>, u64) {
        let mut overlap = Overlap::new(CUT, END);
        let mut out: Vec<Event> = Vec::new();
        out.extend(old.iter().cloned().filter_map(|event| overlap.old(event)));
        out.extend(
            new.iter()
                .cloned()
                .filter_map(|event| overlap.new_one(event)),
        );
        out.extend(overlap.rest());
        let mut told: Vec<_> = out
            .iter()
            .map(|event| (event.process.tid, event.verdict.is_some()))
            .collect();
        told.sort_unstable();
        assert_eq!(
            told.len() as u64 + overlap.doubles(),
            (old.len() + new.len()) as u64,
            "each is told or counted"
        );
        (told, overlap.doubles())
    }

    #[test]
    fn every_event_is_told_once() {
        let check = |old: &[(u32, u64)], new: &[(u32, u64)]| {
            let events = |list: &[(u32, u64)]| -> Vec<Event> {
                list.iter().map(|(tid, time)| event(*tid, *time)).collect()
            };
            let (told, _) = told(&events(old), &events(new));
            let mut wanted: Vec<u32> = old.iter().chain(new).map(|(tid, _)| *tid).collect();
            wanted.sort_unstable();
            wanted.dedup();
            let told: Vec<u32> = told.into_iter().map(|(tid, _)| tid).collect();
            assert_eq!(told, wanted, "{old:?} {new:?}");
        };
        // Well before, well behind.
        check(&[(1, CUT - 5)], &[(1, CUT - 4)]);
        check(&[], &[(1, END + 2 * APART_NS)]);
        // Both in between, whoever is first.
        check(&[(1, CUT + 1)], &[(1, CUT + 2)]);
        check(&[(1, CUT + 2)], &[(1, CUT + 1)]);
        // On both sides of the cut.
        check(&[(1, CUT - 1)], &[(1, CUT + 1)]);
        check(&[(1, CUT + 1)], &[(1, CUT - 1)]);
        // Only one of them saw it.
        check(&[(1, CUT + 1)], &[]);
        check(&[], &[(1, CUT + 1)]);
        check(&[(1, CUT - 9)], &[(2, CUT + 9)]);
    }

    #[test]
    fn same_event_twice_in_both_is_told_twice() {
        let both = [event(1, CUT + 1), event(1, CUT + 2)];
        let (told, doubles) = told(&both, &both);
        assert_eq!((told.len(), doubles), (2, 2));
    }

    #[test]
    fn thread_that_does_the_same_again_is_told_again() {
        // Refused by the old programs before the cut, by the new ones behind
        // it, where the old ones were not asked.
        let judged = |time| Event {
            verdict: judged().verdict,
            ..event(1, time)
        };
        let (events, doubles) = told(&[judged(CUT - 1)], &[judged(CUT + 1)]);
        assert_eq!((events.len(), doubles), (2, 0));
        // The twin is the nearest one, not the first one.
        let times = |times: [u64; 2]| times.map(|time| event(1, CUT + time));
        let near = APART_NS / 4;
        let (events, doubles) = told(&times([0, near]), &times([near + 1, 2 * near]));
        assert_eq!((events.len(), doubles), (2, 2));
    }

    #[test]
    fn verdict_is_kept_whoever_saw_it() {
        let (plain, judged) = (event(1, CUT + 1), judged());
        for (old, new) in [(&plain, &judged), (&judged, &plain)] {
            let (told, _) = told(std::slice::from_ref(old), std::slice::from_ref(new));
            assert_eq!(told, [(1, true)]);
        }
    }
}
