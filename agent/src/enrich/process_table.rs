//! Who is whose child, and what each process runs.
//!
//! Forks, execs and exits keep the table; /proc fills it at the start and
//! where a record was lost. A process that exited stays for a while, because
//! its children still name it. An entry's key is its thread group and its
//! start in clock ticks: /proc tells no more, and a thread group's number is
//! never given away twice within one tick.

use std::{collections::VecDeque, sync::Arc};

use foldhash::HashMap;
use shrike_proto::event::{Ancestor, Comm, Event, Fact, Process};

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

    /// Returns the thread group.
    pub fn tgid(self) -> u32 {
        self.tgid
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
    /// The parent's start as an event of this process last told it; 0 before.
    parent_start_boot_ns: u64,
    comm: Comm,
    exe: Arc<[u8]>,
    from_proc: bool,
    /// An event of this process has told its ancestors.
    lineage_told: bool,
}

impl Entry {
    /// Says whether an event only repeats what is known of its process: an
    /// open by one that opened before. Those are most of all events.
    fn has_nothing_to_learn(&self, event: &Event) -> bool {
        let process = &event.process;
        matches!(event.fact, Fact::Open(_))
            && event.verdict.is_none()
            && self.lineage_told
            && self.start_boot_ns == process.start_boot_ns
            && self.parent_start_boot_ns == process.parent_start_boot_ns
            && self.parent.tgid == process.parent_tgid
            && (self.comm == process.comm || process.tid != process.tgid)
    }

    fn fill_in(&self, process: &mut Process) {
        if process.exe.is_empty() {
            process.exe.clone_from(&self.exe);
        }
        process.from_proc = self.from_proc;
    }
}

/// The processes of this machine.
#[derive(Debug, Default)]
pub struct ProcessTable {
    /// Forks, execs and exits are no events.
    untold: bool,
    entries: HashMap<ProcessKey, Entry>,
    alive: HashMap<u32, ProcessKey>,
    exited: VecDeque<ProcessKey>,
}

impl ProcessTable {
    /// Makes a table for events that tell no forks, execs and exits: lineage
    /// is read from /proc for each event, and what a process runs is part of
    /// it.
    pub fn without_history() -> Self {
        Self {
            untold: true,
            ..Self::default()
        }
    }

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
        if let Some(entry) = self.entries.get_mut(&key)
            && entry.has_nothing_to_learn(event)
        {
            entry.fill_in(&mut event.process);
            return;
        }
        if !self.entries.contains_key(&key) {
            self.discover(key, &event.process, procfs);
        }
        self.update(key, event);
        let mut tell_lineage = event.verdict.is_some() || !matches!(event.fact, Fact::Open(_));
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.fill_in(&mut event.process);
            tell_lineage |= !entry.lineage_told;
            entry.lineage_told = true;
        }
        if tell_lineage && self.untold {
            self.look_up_ancestors(&event.process, procfs);
        }
        if tell_lineage {
            event.process.ancestors = self.ancestors(&event.process);
        }
        match &event.fact {
            Fact::Fork(fork) if fork.child_tgid != event.process.tgid => {
                let child = Entry {
                    start_boot_ns: fork.child_start_boot_ns,
                    parent: key,
                    parent_start_boot_ns: 0,
                    comm: Comm::from_slice(&fork.child_comm),
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
            Fact::Fork(_) | Fact::Exec(_) | Fact::Open(_) | Fact::Change(_) | Fact::Alert(_) => {}
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
                parent_start_boot_ns: 0,
                comm: Comm::from_slice(&process.comm),
                exe: Arc::default(),
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
        entry.parent_start_boot_ns = process.parent_start_boot_ns;
        if process.parent_tgid != 0 {
            entry.parent = ProcessKey::new(process.parent_tgid, process.parent_start_boot_ns);
        }
        if entry.comm != process.comm && process.tid == process.tgid {
            entry.comm = Comm::from_slice(&process.comm);
        }
        if !process.exe.is_empty() {
            entry.from_proc = false;
            entry.exe.clone_from(&process.exe);
        }
        if let Fact::Exec(exec) = &event.fact
            && exec.result == 0
        {
            entry.from_proc = false;
            entry.exe = match &exec.file {
                Some(file) if !file.path.is_empty() => file.path.as_slice().into(),
                // Better unknown than the image that is gone.
                Some(_) | None => Arc::default(),
            };
        }
    }

    /// Reads the ancestors of a process as they are now.
    fn look_up_ancestors(&mut self, process: &Process, procfs: &Procfs) {
        let parent = ProcessKey::new(process.parent_tgid, process.parent_start_boot_ns);
        let mut found = Vec::new();
        let mut next = process.parent_tgid;
        while next != 0
            && found.len() < ANCESTORS_MAX
            && let Some(entry) = procfs.read(next)
        {
            if found.is_empty() && entry.key() != parent {
                // It is gone, and somebody else has its number.
                return;
            }
            next = entry.parent_tgid;
            found.push(entry);
        }
        self.adopt(found);
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
                // A copy in one piece, which a clone is not.
                comm: Comm::from_slice(&entry.comm),
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
        parent_start_boot_ns: 0,
        comm: Comm::from_vec(entry.comm),
        exe: entry.exe.into(),
        from_proc: true,
        lineage_told: false,
    }
}

#[cfg(test)]
mod tests;
