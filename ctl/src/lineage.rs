//! Processes of one node, put together from their events: who began whom,
//! what each ran, and how it ended.
//!
//! A process is its number and its start, so that a number that was used
//! again is another process. Nothing here asks anybody or prints anything.

use std::collections::{BTreeMap, BTreeSet};

use shrike_proto::event::{Action, Event, Fact, StoredEvent};

/// Nanoseconds of a clock tick. Of a process that ran before its agent /proc
/// tells no more (`USER_HZ` is 100), and no number is given away twice within
/// one.
const TICK_NS: u64 = 10_000_000;

/// A process of one node: its number, and the tick of its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ProcessKey {
    pub(crate) pid: u32,
    start_ticks: u64,
}

impl ProcessKey {
    pub(crate) fn new(pid: u32, start_boot_ns: u64) -> Self {
        Self {
            pid,
            start_ticks: start_boot_ns / TICK_NS,
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) code: u32,
    pub(crate) signal: u32,
    pub(crate) by_rule: bool,
}

/// What is known of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// As exactly as any event tells.
    pub(crate) start_boot_ns: u64,
    pub(crate) parent: Option<ProcessKey>,
    pub(crate) comm: Vec<u8>,
    pub(crate) exe: Vec<u8>,
    pub(crate) user: String,
    pub(crate) uid: Option<u32>,
    /// Of its last exec that worked.
    pub(crate) argv: Vec<Vec<u8>>,
    pub(crate) started_unix_ns: Option<i64>,
    pub(crate) end: Option<End>,
    /// The strongest action of a verdict about it.
    pub(crate) action: Option<Action>,
}

/// Processes and their parents.
#[derive(Debug, Default)]
pub(crate) struct Lineage {
    known: BTreeMap<ProcessKey, Known>,
}

impl Lineage {
    /// Takes an event into account. Events come oldest first.
    pub(crate) fn add(&mut self, stored: &StoredEvent) {
        let event = &stored.event;
        let process = &event.process;
        let key = ProcessKey::new(process.tgid, process.start_boot_ns);
        let parent = (process.parent_tgid != 0)
            .then(|| ProcessKey::new(process.parent_tgid, process.parent_start_boot_ns));
        let known = self.known.entry(key).or_default();
        known.parent = known.parent.or(parent);
        known.comm = process.comm.to_vec();
        if !process.exe.is_empty() {
            known.exe = process.exe.to_vec();
        }
        if !process.user.is_empty() {
            known.user = process.user.to_string();
        }
        known.uid = Some(process.uid);
        // The kernel's own number, where an ancestor's was /proc's.
        known.start_boot_ns = process.start_boot_ns;
        known.started_unix_ns = started(event, process.start_boot_ns);
        if let Some(verdict) = &event.verdict {
            known.action = known.action.max(Some(verdict.action));
        }
        match &event.fact {
            Fact::Exec(exec) if exec.result == 0 => known.argv.clone_from(&exec.argv),
            Fact::Exit(exit) => {
                known.end = Some(End {
                    code: exit.code,
                    signal: exit.signal,
                    by_rule: exit.receipt.as_ref().is_some_and(|it| it.died_by_it),
                });
            }
            Fact::Fork(fork) => {
                let child = ProcessKey::new(fork.child_tgid, fork.child_start_boot_ns);
                // A new thread is no process.
                if child != key {
                    let forked = Known {
                        start_boot_ns: fork.child_start_boot_ns,
                        parent: Some(key),
                        comm: fork.child_comm.to_vec(),
                        exe: process.exe.to_vec(),
                        user: process.user.to_string(),
                        uid: Some(process.uid),
                        started_unix_ns: started(event, fork.child_start_boot_ns),
                        ..Known::default()
                    };
                    self.known.entry(child).or_insert(forked);
                }
            }
            Fact::Exec(_) | Fact::Open(_) | Fact::Change(_) | Fact::Alert(_) => {}
        }
        self.add_ancestors(event);
    }

    fn add_ancestors(&mut self, event: &Event) {
        let ancestors = &event.process.ancestors;
        for (index, ancestor) in ancestors.iter().enumerate() {
            let key = ProcessKey::new(ancestor.tgid, ancestor.start_boot_ns);
            let parent = ancestors
                .get(index + 1)
                .map(|above| ProcessKey::new(above.tgid, above.start_boot_ns));
            let known = self.known.entry(key).or_insert_with(|| Known {
                start_boot_ns: ancestor.start_boot_ns,
                comm: ancestor.comm.to_vec(),
                exe: ancestor.exe.to_vec(),
                started_unix_ns: started(event, ancestor.start_boot_ns),
                ..Known::default()
            });
            known.parent = known.parent.or(parent);
        }
    }

    /// Returns how many processes there are.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    pub(crate) fn get(&self, key: ProcessKey) -> Option<&Known> {
        self.known.get(&key)
    }

    /// Returns the processes of that number, oldest first.
    pub(crate) fn of_pid(&self, pid: u32) -> impl Iterator<Item = (ProcessKey, &Known)> {
        let key = |start_ticks| ProcessKey { pid, start_ticks };
        self.known
            .range(key(0)..=key(u64::MAX))
            .map(|(key, known)| (*key, known))
    }

    /// Returns the processes above one, nearest first.
    pub(crate) fn ancestors(&self, key: ProcessKey) -> Vec<(ProcessKey, &Known)> {
        let mut above = Vec::new();
        // What nodes report may be wrong, and go round in a circle.
        let mut seen = BTreeSet::from([key]);
        let mut at = key;
        while let Some(parent) = self.known.get(&at).and_then(|known| known.parent)
            && seen.insert(parent)
            && let Some(known) = self.known.get(&parent)
        {
            above.push((parent, known));
            at = parent;
        }
        above
    }

    /// Returns who has whom below it, and who is below nobody that is known.
    pub(crate) fn children(&self) -> (BTreeMap<ProcessKey, Vec<ProcessKey>>, Vec<ProcessKey>) {
        let (mut below, mut roots) = (BTreeMap::<_, Vec<_>>::new(), Vec::new());
        for (key, known) in &self.known {
            match known
                .parent
                .filter(|parent| self.known.contains_key(parent))
            {
                Some(parent) if parent != *key => below.entry(parent).or_default().push(*key),
                Some(_) | None => roots.push(*key),
            }
        }
        for children in below.values_mut() {
            children.sort_by_key(|child| (child.start_ticks, child.pid));
        }
        roots.sort_by_key(|root| (root.start_ticks, root.pid));
        (below, roots)
    }
}

/// Wall-clock time of a process's start, by the event's own two clocks.
fn started(event: &Event, start_boot_ns: u64) -> Option<i64> {
    let before = i128::from(event.boot_time_ns) - i128::from(start_boot_ns);
    i64::try_from(i128::from(event.time_unix_ns) - before).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{self, BOOT_UNIX_NS};

    const SECOND: u64 = 1_000_000_000;

    fn key(pid: u32, start_boot_ns: u64) -> ProcessKey {
        ProcessKey::new(pid, start_boot_ns)
    }

    #[test]
    fn life_of_a_process_is_put_together() {
        let mut lineage = Lineage::default();
        lineage.add(&sample::fork("a", 10, 5, 20, SECOND));
        lineage.add(&sample::exec("a", 20, SECOND, 10, &["sh", "-c", "x"]));
        lineage.add(&sample::killed_open("a", 20, SECOND, "/etc/shadow"));
        lineage.add(&sample::exit("a", 20, SECOND, 3));
        let known = lineage.get(key(20, SECOND)).unwrap();
        assert_eq!(known.parent, Some(key(10, 5)));
        assert_eq!(known.argv.len(), 3);
        assert_eq!(known.end.unwrap().code, 3);
        assert_eq!(known.action, Some(Action::Kill));
        assert_eq!(
            known.started_unix_ns,
            Some(BOOT_UNIX_NS + SECOND.cast_signed())
        );
        let above: Vec<u32> = lineage
            .ancestors(key(20, SECOND))
            .iter()
            .map(|(key, _)| key.pid)
            .collect();
        assert_eq!(above, [10, 1]);
    }

    #[test]
    fn number_that_is_used_again_is_another_process() {
        let mut lineage = Lineage::default();
        lineage.add(&sample::exit("a", 20, 5, 0));
        lineage.add(&sample::exec("a", 20, 9 * SECOND, 1, &["x"]));
        let starts: Vec<u64> = lineage
            .of_pid(20)
            .map(|(_, known)| known.start_boot_ns)
            .collect();
        assert_eq!(starts, [5, 9 * SECOND]);
        assert_eq!(lineage.get(key(20, 9 * SECOND)).unwrap().end, None);
    }

    #[test]
    fn start_that_proc_told_is_the_same_process() {
        let mut lineage = Lineage::default();
        // Init's start as an ancestor is a whole tick.
        lineage.add(&sample::exec("a", 20, SECOND, 1, &["x"]));
        lineage.add(&sample::exec("a", 1, 4_321_987, 0, &["init"]));
        let starts: Vec<u64> = lineage
            .of_pid(1)
            .map(|(_, known)| known.start_boot_ns)
            .collect();
        assert_eq!(starts, [4_321_987]);
        assert_eq!(lineage.ancestors(key(20, SECOND)).len(), 1);
    }

    #[test]
    fn circle_of_parents_ends() {
        let mut lineage = Lineage::default();
        for (pid, parent) in [(20, 30), (30, 20)] {
            let mut event = sample::exec("a", pid, 5, parent, &["x"]);
            event.event.process.parent_start_boot_ns = 5;
            event.event.process.ancestors.clear();
            lineage.add(&event);
        }
        assert_eq!(lineage.ancestors(key(20, 5)).len(), 1);
        assert!(lineage.children().1.is_empty(), "both have a parent");
    }
}
