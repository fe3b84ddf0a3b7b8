//! Who is whose child, and what each process runs.
//!
//! Forks, execs and exits keep the table; /proc fills it at the start and
//! where a record was lost. A process that exited stays for a while, because
//! its children still name it. An entry's key is its thread group and its
//! start in clock ticks: /proc tells no more, and a thread group's number is
//! never given away twice within one tick.

use std::collections::{HashMap, VecDeque};

use shrike_proto::event::{Ancestor, Event, Fact, Process};

use super::procfs::{ProcEntry, Procfs};

/// Nanoseconds of a clock tick in /proc (`USER_HZ` is 100 on every
/// architecture that Shrike runs on).
pub(super) const TICK_NS: u64 = 10_000_000;

/// Most ancestors of an event.
const ANCESTORS_MAX: usize = 16;

/// Most processes: twice the threads that systemd lets a default system have
/// at once. About 20 MB.
const PROCESSES_MAX: usize = 65_536;

/// Processes that exited and are remembered for their children and for
/// records of theirs that another CPU delivers late.
const EXITED_MAX: usize = 8192;

/// Identity of a process on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessKey {
    tgid: u32,
    start_ticks: u64,
}

impl ProcessKey {
    /// Returns the key of a process by its start in boot nanoseconds.
    pub fn new(tgid: u32, start_boot_ns: u64) -> Self {
        Self {
            tgid,
            start_ticks: start_boot_ns / TICK_NS,
        }
    }

    /// Returns the key of the process that acted.
    pub fn of(process: &Process) -> Self {
        Self::new(process.tgid, process.start_boot_ns)
    }
}

#[derive(Debug, Clone)]
struct Entry {
    start_boot_ns: u64,
    parent: ProcessKey,
    comm: Vec<u8>,
    exe: Vec<u8>,
    from_proc: bool,
    /// An event of this process has told its ancestors.
    lineage_told: bool,
}

/// The processes of this machine.
#[derive(Debug, Default)]
pub struct ProcessTable {
    entries: HashMap<ProcessKey, Entry>,
    alive: HashMap<u32, ProcessKey>,
    exited: VecDeque<ProcessKey>,
}

impl ProcessTable {
    /// Takes in processes that run already.
    pub fn adopt(&mut self, running: Vec<ProcEntry>) {
        let keys: HashMap<u32, ProcessKey> = running
            .iter()
            .map(|entry| (entry.tgid, entry.key()))
            .collect();
        for entry in running {
            let parent = keys
                .get(&entry.parent_tgid)
                .copied()
                .unwrap_or(ProcessKey::new(entry.parent_tgid, 0));
            self.insert(entry.key(), from_proc(entry, parent), &|_| true);
        }
    }

    /// Learns from an event and fills in its process: executable, ancestors,
    /// and whether it is known from /proc only.
    ///
    /// Ancestors are part of a process's first event, and of every one but
    /// opens that no rule matched: repeating them on each of a thousand opens
    /// would be most of the event.
    pub fn observe(&mut self, event: &mut Event, procfs: &Procfs) {
        let key = ProcessKey::of(&event.process);
        if !self.entries.contains_key(&key) {
            self.discover(key, &event.process, procfs);
        }
        self.update(key, event);
        let mut tell_lineage = event.verdict.is_some() || !matches!(event.fact, Fact::Open(_));
        if let Some(entry) = self.entries.get_mut(&key) {
            if event.process.exe.is_empty() {
                event.process.exe.clone_from(&entry.exe);
            }
            event.process.from_proc = entry.from_proc;
            tell_lineage |= !entry.lineage_told;
            entry.lineage_told = true;
        }
        if tell_lineage {
            event.process.ancestors = self.ancestors(&event.process);
        }
        match &event.fact {
            Fact::Fork(fork) if fork.child_tgid != event.process.tgid => {
                let child = Entry {
                    start_boot_ns: fork.child_start_boot_ns,
                    parent: key,
                    comm: fork.child_comm.clone(),
                    exe: event.process.exe.clone(),
                    from_proc: false,
                    lineage_told: false,
                };
                self.insert(
                    ProcessKey::new(fork.child_tgid, fork.child_start_boot_ns),
                    child,
                    &|tgid| procfs.exists(tgid),
                );
            }
            Fact::Exit(_) => self.exit(key),
            Fact::Fork(_) | Fact::Exec(_) | Fact::Open(_) => {}
        }
    }

    /// Returns how many processes are known.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Says whether no process is known.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a process that acted before the table heard of it: its fork was
    /// lost, or it came between the scan of /proc and the hooks.
    fn discover(&mut self, key: ProcessKey, process: &Process, procfs: &Procfs) {
        let parent = ProcessKey::new(process.parent_tgid, process.parent_start_boot_ns);
        let entry = match procfs.read(key.tgid) {
            Some(entry) if entry.key() == key => from_proc(entry, parent),
            Some(_) | None => Entry {
                start_boot_ns: process.start_boot_ns,
                parent,
                comm: process.comm.clone(),
                exe: Vec::new(),
                from_proc: false,
                lineage_told: false,
            },
        };
        self.insert(key, entry, &|tgid| procfs.exists(tgid));
    }

    fn update(&mut self, key: ProcessKey, event: &Event) {
        let process = &event.process;
        if let Some(parent) = self.entries.get_mut(&ProcessKey::new(
            process.parent_tgid,
            process.parent_start_boot_ns,
        )) {
            // /proc only told the tick.
            parent.start_boot_ns = process.parent_start_boot_ns;
        }
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        entry.start_boot_ns = process.start_boot_ns;
        if process.parent_tgid != 0 {
            entry.parent = ProcessKey::new(process.parent_tgid, process.parent_start_boot_ns);
        }
        if entry.comm != process.comm && process.tid == process.tgid {
            entry.comm.clone_from(&process.comm);
        }
        if let Fact::Exec(exec) = &event.fact
            && exec.result == 0
        {
            entry.from_proc = false;
            entry.exe = match &exec.file {
                Some(file) if !file.path.is_empty() => file.path.clone(),
                // Better unknown than the image that is gone.
                Some(_) | None => Vec::new(),
            };
        }
    }

    fn ancestors(&self, process: &Process) -> Vec<Ancestor> {
        let mut ancestors = Vec::new();
        let mut key = ProcessKey::new(process.parent_tgid, process.parent_start_boot_ns);
        while ancestors.len() < ANCESTORS_MAX
            && key.tgid != 0
            && let Some(entry) = self.entries.get(&key)
        {
            ancestors.push(Ancestor {
                tgid: key.tgid,
                start_boot_ns: entry.start_boot_ns,
                comm: entry.comm.clone(),
                exe: entry.exe.clone(),
            });
            if entry.parent == key {
                break;
            }
            key = entry.parent;
        }
        ancestors
    }

    fn insert(&mut self, key: ProcessKey, entry: Entry, is_alive: &dyn Fn(u32) -> bool) {
        if let Some(previous) = self.alive.insert(key.tgid, key)
            && previous != key
        {
            // Its exit was lost: the number belongs to somebody else.
            self.retire(previous);
        }
        self.entries.insert(key, entry);
        if self.entries.len() > PROCESSES_MAX {
            self.make_room(is_alive);
        }
    }

    fn exit(&mut self, key: ProcessKey) {
        if self.alive.get(&key.tgid) == Some(&key) {
            self.alive.remove(&key.tgid);
            self.retire(key);
        }
    }

    fn retire(&mut self, key: ProcessKey) {
        self.exited.push_back(key);
        if self.exited.len() > EXITED_MAX
            && let Some(oldest) = self.exited.pop_front()
        {
            self.entries.remove(&oldest);
        }
    }

    /// Removes first who exited, then who is gone though no exit was seen.
    fn make_room(&mut self, is_alive: &dyn Fn(u32) -> bool) {
        for key in self.exited.drain(..) {
            self.entries.remove(&key);
        }
        if self.entries.len() <= PROCESSES_MAX {
            return;
        }
        let entries = &mut self.entries;
        self.alive.retain(|tgid, key| {
            let keep = is_alive(*tgid);
            if !keep {
                entries.remove(key);
            }
            keep
        });
        if entries.len() > PROCESSES_MAX {
            // That many processes are alive. Lineage starts afresh, because a
            // sweep for each fork would cost more than it is worth.
            entries.clear();
            self.alive.clear();
        }
    }
}

fn from_proc(entry: ProcEntry, parent: ProcessKey) -> Entry {
    Entry {
        start_boot_ns: entry.start_ticks * TICK_NS,
        parent,
        comm: entry.comm,
        exe: entry.exe,
        from_proc: true,
        lineage_told: false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shrike_proto::{
        event::{Action, Exec, Exit, Fork, Open, Outcome, ResolvedPath, Verdict},
        id::{Generation, PolicyName, RuleName, SequenceNumber},
    };

    use super::*;

    fn nothing() -> Procfs {
        Procfs::at("/nonexistent")
    }

    /// A process whose start follows from its number.
    fn process(tgid: u32, parent: u32) -> Process {
        Process {
            tgid,
            tid: tgid,
            start_boot_ns: u64::from(tgid) * 1_000_000_000 + 123,
            parent_tgid: parent,
            parent_start_boot_ns: u64::from(parent) * 1_000_000_000 + 123,
            comm: format!("c{tgid}").into_bytes(),
            ..Process::default()
        }
    }

    fn event(process: Process, fact: Fact) -> Event {
        Event {
            sequence: SequenceNumber(0),
            time_unix_ns: 0,
            boot_time_ns: 0,
            cpu: 0,
            cpu_sequence: 0,
            generation: Generation::NONE,
            process,
            verdict: None,
            fact,
        }
    }

    fn fork(parent: &Process, child: u32) -> Event {
        let of = process(child, parent.tgid);
        event(
            parent.clone(),
            Fact::Fork(Fork {
                child_tgid: child,
                child_tid: child,
                child_start_boot_ns: of.start_boot_ns,
                child_comm: of.comm,
            }),
        )
    }

    fn exec(process: Process, path: &str, result: i32) -> Event {
        event(
            process,
            Fact::Exec(Exec {
                result,
                file: Some(ResolvedPath {
                    path: path.as_bytes().to_vec(),
                    ..ResolvedPath::default()
                }),
                ..Exec::default()
            }),
        )
    }

    fn running(tgid: u32, parent_tgid: u32, exe: &str) -> ProcEntry {
        ProcEntry {
            tgid,
            parent_tgid,
            start_ticks: process(tgid, parent_tgid).start_boot_ns / TICK_NS,
            comm: format!("c{tgid}").into_bytes(),
            exe: exe.as_bytes().to_vec(),
        }
    }

    #[test]
    fn lineage_goes_from_parent_to_init() {
        let mut table = ProcessTable::default();
        table.adopt(vec![
            running(10, 1, "/bin/bash"),
            running(1, 0, "/sbin/init"),
        ]);
        table.observe(&mut fork(&process(10, 1), 11), &nothing());
        let mut opened = event(process(11, 10), Fact::Open(Open::default()));
        table.observe(&mut opened, &nothing());
        let ancestors: Vec<_> = opened
            .process
            .ancestors
            .iter()
            .map(|ancestor| (ancestor.tgid, ancestor.exe.as_slice()))
            .collect();
        assert_eq!(
            ancestors,
            [(10, b"/bin/bash".as_slice()), (1, b"/sbin/init")]
        );
        assert_eq!(opened.process.exe, b"/bin/bash");
        assert!(!opened.process.from_proc);
        assert_eq!(
            opened.process.ancestors[0].start_boot_ns,
            process(10, 1).start_boot_ns
        );
    }

    #[test]
    fn opens_that_no_rule_matched_tell_ancestors_once() {
        let mut table = ProcessTable::default();
        table.adopt(vec![running(1, 0, "/sbin/init")]);
        let open = || event(process(10, 1), Fact::Open(Open::default()));
        let mut told = |mut event: Event| {
            table.observe(&mut event, &nothing());
            event.process.ancestors.len()
        };
        assert_eq!(told(open()), 1);
        assert_eq!(told(open()), 0);
        assert_eq!(told(exec(process(10, 1), "/bin/x", 0)), 1);
        let matched = Event {
            verdict: Some(Verdict {
                action: Action::Alert,
                policy: PolicyName::parse("p").unwrap(),
                rule: RuleName::parse("r").unwrap(),
                outcome: Outcome::Noted,
            }),
            ..open()
        };
        assert_eq!(told(matched), 1);
        assert_eq!(told(event(process(10, 1), Fact::Exit(Exit::default()))), 1);
    }

    #[test]
    fn process_from_proc_is_marked_until_it_executes() {
        let mut table = ProcessTable::default();
        table.adopt(vec![running(10, 1, "/bin/bash")]);
        let mut opened = event(process(10, 1), Fact::Open(Open::default()));
        table.observe(&mut opened, &nothing());
        assert!(opened.process.from_proc);
        let mut executed = exec(process(10, 1), "/bin/ls", 0);
        table.observe(&mut executed, &nothing());
        assert!(!executed.process.from_proc);
    }

    #[test]
    fn failed_exec_keeps_the_image() {
        let mut table = ProcessTable::default();
        table.adopt(vec![running(10, 1, "/bin/bash")]);
        let mut failed = exec(process(10, 1), "/bin/nothing", -2);
        table.observe(&mut failed, &nothing());
        assert_eq!(failed.process.exe, b"/bin/bash");
    }

    #[test]
    fn exited_parent_is_still_an_ancestor() {
        let mut table = ProcessTable::default();
        table.observe(&mut fork(&process(10, 1), 11), &nothing());
        table.observe(
            &mut event(process(10, 1), Fact::Exit(Exit::default())),
            &nothing(),
        );
        let mut opened = event(process(11, 10), Fact::Open(Open::default()));
        table.observe(&mut opened, &nothing());
        assert_eq!(opened.process.ancestors[0].tgid, 10);
    }

    #[test]
    fn reused_number_is_another_process() {
        let mut table = ProcessTable::default();
        table.observe(&mut exec(process(10, 1), "/bin/old", 0), &nothing());
        let reborn = Process {
            start_boot_ns: 99_000_000_000,
            ..process(10, 1)
        };
        let mut opened = event(reborn, Fact::Open(Open::default()));
        table.observe(&mut opened, &nothing());
        assert_eq!(opened.process.exe, b"");
    }

    #[test]
    fn thread_is_no_child() {
        let mut table = ProcessTable::default();
        let parent = process(10, 1);
        let mut thread = fork(&parent, 10);
        table.observe(&mut exec(parent, "/bin/server", 0), &nothing());
        table.observe(&mut thread, &nothing());
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn exited_processes_are_bounded() {
        let mut table = ProcessTable::default();
        for tgid in 2..20_000 {
            table.observe(
                &mut event(process(tgid, 1), Fact::Exit(Exit::default())),
                &nothing(),
            );
        }
        assert!(table.len() <= EXITED_MAX);
    }

    #[test]
    fn lost_exits_do_not_fill_the_table() {
        let mut table = ProcessTable::default();
        for tgid in 2..150_000 {
            table.observe(
                &mut event(process(tgid, 1), Fact::Open(Open::default())),
                &nothing(),
            );
            assert!(table.len() <= PROCESSES_MAX);
        }
    }

    proptest! {
        #[test]
        fn any_history_keeps_lineage_short_and_bounded(
            steps in prop::collection::vec((1..12_u32, 0..12_u32, 0..4_u8), 0..200)
        ) {
            let mut table = ProcessTable::default();
            for (tgid, parent, what) in steps {
                let mut event = match what {
                    0 => fork(&process(tgid, parent), tgid + 1),
                    1 => exec(process(tgid, parent), "/bin/x", 0),
                    2 => event(process(tgid, parent), Fact::Exit(Exit::default())),
                    _ => event(process(tgid, parent), Fact::Open(Open::default())),
                };
                table.observe(&mut event, &nothing());
                // A cycle of parents, which no kernel makes, must end too.
                prop_assert!(event.process.ancestors.len() <= ANCESTORS_MAX);
                prop_assert!(table.len() <= 13);
            }
        }
    }
}
