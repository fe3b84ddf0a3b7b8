//! A set of programs with its rings and its counts, whoever loaded it.
//!
//! The ledger of an agent counts from its own start. So what the agent before
//! it took out of the rings or reported is left out here, and what happened
//! while none ran is not:
//!
//! ```text
//! filtered, lost    since the last ledger of the agent before
//! seen              those, and every record that it did not take
//! ```
//!
//! Both are known from the ring: how many records were taken, and the notes
//! with each ledger's counts.

use aya::maps::{Array, Map, MapData, PerCpuArray};
use shrike_agent_ebpf::{counter::Counters, guard_rail::Agent};

use super::{
    HookCounters, KernelCounters, SensorError, counters,
    pins::{PinError, Place},
    programs::{Asked, Programs},
    ring_memory::NOTES,
    rings::Rings,
};

/// The layout of records and notes. A successor of another layout cannot read
/// what its predecessor left in the rings, and counts it as lost: raise it
/// with every change of `shrike_agent_ebpf::record` or of the notes below.
const LAYOUT: u64 = 3;

const NOTE_LAYOUT: usize = 0;
const NOTE_PROGRAMS: usize = 1;
/// What the rules in force may ask about: 1 for opens, 2 for execs.
const NOTE_ASKED: usize = 2;
/// A random number, drawn when the programs were loaded.
const NOTE_INSTANCE: usize = 3;
/// Seven words for each hook: own, repeated, ring full, oversize, pending full,
/// unreadable, missed.
const NOTE_HOOKS: usize = 8;
const WORDS: usize = 7;

/// Where records are counted that an earlier agent left in the rings, and the
/// misses that the kernel counts itself.
const LEFT: &str = "left-by-predecessor";
const PROBES: &str = "probes";

/// The hooks in the order of their notes.
const NOTED: [&str; 8] = [
    PROBES,
    "file-open",
    "other-open",
    "open-call",
    "exec-call",
    "process-exec",
    "process-fork",
    "process-exit",
];

const _: () = assert!(NOTE_HOOKS + WORDS * NOTED.len() <= NOTES);

/// Maps by name.
pub struct Maps(pub Vec<(String, Map)>);

impl Maps {
    /// Takes a map out.
    ///
    /// # Errors
    /// When it is not there, or of another type.
    pub fn take<T>(&mut self, name: &'static str) -> Result<T, SensorError>
    where
        T: TryFrom<Map, Error = aya::maps::MapError>,
    {
        let pinned = name.replace('.', "-");
        let index = self
            .0
            .iter()
            .position(|(found, _)| *found == name || *found == pinned)
            .ok_or(SensorError::ObjectPart(name))?;
        T::try_from(self.0.swap_remove(index).1).map_err(|source| SensorError::Map {
            map: name,
            source: Box::new(source),
        })
    }

    fn take_ring(&mut self, name: &'static str) -> Result<(MapData, u32), SensorError> {
        let index = self.0.iter().position(|(found, _)| found == name);
        let Some(Map::RingBuf(map)) = index.map(|index| self.0.swap_remove(index).1) else {
            return Err(SensorError::ObjectPart(name));
        };
        let info = map.info().map_err(|source| SensorError::Map {
            map: name,
            source: Box::new(source),
        })?;
        Ok((map, info.max_entries()))
    }
}

/// How many records were taken out of the rings of a set of programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingMark {
    /// Which set: a random number.
    pub instance: u64,
    /// Out of the ring of what is worth most.
    pub priority: u64,
    /// Out of the ring of opens.
    pub opens: u64,
}

/// Programs that run.
pub struct Running {
    /// Their rings.
    pub rings: Rings,
    /// What attaches them.
    pub programs: Programs,
    /// Where they are pinned.
    pub place: Option<Place>,
    agent: Array<MapData, Agent>,
    counters: PerCpuArray<MapData, Counters>,
    base: KernelCounters,
    left: u64,
    /// The kernel's own count of misses, once the programs are gone.
    missed: Option<u64>,
    readable: bool,
}

impl Running {
    /// Takes over programs that this agent has loaded, or another one.
    ///
    /// # Errors
    /// When a map is missing or cannot be used.
    pub fn new(
        maps: &mut Maps,
        programs: Programs,
        place: Option<Place>,
    ) -> Result<Self, SensorError> {
        let (priority, priority_bytes) = maps.take_ring("PRIORITY")?;
        let (opens, opens_bytes) = maps.take_ring("EVENTS")?;
        let rings = Rings::open((&priority, priority_bytes), (&opens, opens_bytes))
            .map_err(SensorError::Poll)?;
        let readable = place.is_none() || rings.notes().note(NOTE_LAYOUT) == LAYOUT;
        Ok(Self {
            rings,
            programs,
            place,
            agent: maps.take(".data.agent")?,
            counters: maps.take("COUNTERS")?,
            base: KernelCounters::default(),
            left: 0,
            missed: None,
            readable,
        })
    }

    /// Marks how far its rings were read, so that this much can be released.
    pub fn mark(&mut self) -> RingMark {
        let (priority, opens) = self.rings.mark();
        RingMark {
            instance: self.rings.notes().note(NOTE_INSTANCE),
            priority,
            opens,
        }
    }

    /// Gives up what was taken out of its rings before one of these marks was
    /// made.
    pub fn release_to(&mut self, marks: &[RingMark]) {
        if let Some(mark) = self.own_of(marks) {
            self.rings.release_to(mark.priority, mark.opens);
        }
    }

    fn own_of(&self, marks: &[RingMark]) -> Option<RingMark> {
        let instance = self.rings.notes().note(NOTE_INSTANCE);
        marks.iter().copied().find(|mark| mark.instance == instance)
    }

    /// Passes what is in the rings, and was taken out already by these marks:
    /// the agent before died before it could say so.
    pub fn skip(&mut self, marks: &[RingMark]) {
        if let Some(mark) = self.own_of(marks) {
            self.rings.skip_to(mark.priority, mark.opens);
        }
    }

    /// Says whether this agent can read the records.
    pub fn is_readable(&self) -> bool {
        self.readable
    }

    /// Says whether every program is there that was pinned, and attached if
    /// rules may ask for it.
    pub fn is_whole(&self) -> bool {
        self.rings.notes().note(NOTE_PROGRAMS) == self.programs.iter().count() as u64
            && self.programs.are_armed(self.asked())
    }

    /// Returns what the rules in force may ask about.
    pub fn asked(&self) -> Asked {
        let noted = self.rings.notes().note(NOTE_ASKED);
        Asked {
            opens: noted & 1 != 0,
            execs: noted & 2 != 0,
        }
    }

    fn note_asked(&self, asked: Asked) {
        let note = u64::from(asked.opens) | u64::from(asked.execs) << 1;
        self.rings.notes().set_note(NOTE_ASKED, note);
    }

    /// Attaches what judges what rules will ask about, before they are in
    /// force. Returns whether there was anything to do.
    ///
    /// # Errors
    /// When a program cannot be attached or its link not be pinned.
    pub fn arm(&mut self, asked: Asked) -> Result<bool, PinError> {
        let changed = self.programs.arm(asked, self.place.as_ref())?;
        // A predecessor that died in between has attached more than it said.
        self.note_asked(self.asked().and(asked));
        Ok(changed)
    }

    /// Detaches what judges only what the rules in force do not ask about.
    /// Returns whether there was anything to do.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn disarm(&mut self, asked: Asked) -> Result<bool, PinError> {
        self.note_asked(asked);
        self.programs.disarm(asked, self.place.as_ref())
    }

    /// Tells the programs which process the agent is. Returns whether they
    /// had to be told.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn own(&mut self, agent: Agent) -> Result<bool, SensorError> {
        let error = |source| SensorError::Map {
            map: ".data.agent",
            source: Box::new(source),
        };
        if self.agent.get(&0, 0).map_err(error)? == agent {
            return Ok(false);
        }
        self.agent.set(0, agent, 0).map_err(error)?;
        Ok(true)
    }

    /// Begins the count of programs that were attached just before: the end of
    /// an operation that began unseen is nothing that they set out to record.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn begin(&mut self, instance: u64) -> Result<(), SensorError> {
        let halves = self.count()?;
        for (name, counters) in halves.hooks {
            let base = self.base.hooks.entry(name).or_default();
            base.lost_pending_full = counters.lost_pending_full;
        }
        let notes = self.rings.notes();
        notes.set_note(NOTE_LAYOUT, LAYOUT);
        notes.set_note(NOTE_INSTANCE, instance);
        notes.set_note(NOTE_PROGRAMS, self.programs.iter().count() as u64);
        self.note(&self.base.clone());
        Ok(())
    }

    /// Goes on with the count where the agent before ended.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn resume(&mut self) -> Result<(), SensorError> {
        let noted = self.noted();
        self.count_from(noted)
    }

    /// Counts from here on only; what is in the rings is still to come.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn begin_again(&mut self) -> Result<(), SensorError> {
        let all = self.count()?;
        self.count_from(all)
    }

    fn count_from(&mut self, mut base: KernelCounters) -> Result<(), SensorError> {
        let all = self.count()?;
        for (name, counters) in &all.hooks {
            base.hooks.entry(name).or_default().submitted = counters.submitted;
        }
        self.left = all.total().submitted.saturating_sub(self.rings.taken());
        self.base = base;
        Ok(())
    }

    /// Returns what is this agent's to report.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn counters(&self) -> Result<KernelCounters, SensorError> {
        let mut counters = self.count()?;
        self.note(&counters);
        counters.forget(&self.base);
        if self.left > 0 {
            let left = counters.hooks.entry(LEFT).or_default();
            left.seen = self.left;
            left.submitted = self.left;
        }
        Ok(counters)
    }

    /// Returns everything that was ever counted.
    fn count(&self) -> Result<KernelCounters, SensorError> {
        let mut all = counters::read(&self.counters).map_err(|source| SensorError::Map {
            map: "COUNTERS",
            source: Box::new(source),
        })?;
        let missed = self.missed.unwrap_or_else(|| self.programs.misses());
        if missed > 0 {
            all.hooks.entry(PROBES).or_default().missed = missed;
        }
        Ok(all)
    }

    fn note(&self, counters: &KernelCounters) {
        let notes = self.rings.notes();
        for (index, name) in NOTED.iter().enumerate() {
            let Some(hook) = counters.hooks.get(name) else {
                continue;
            };
            let words: [u64; WORDS] = [
                hook.filtered_own,
                hook.filtered_repeated,
                hook.lost_ring_full,
                hook.lost_oversize,
                hook.lost_pending_full,
                hook.lost_unreadable,
                hook.missed,
            ];
            for (word, value) in words.into_iter().enumerate() {
                notes.set_note(NOTE_HOOKS + WORDS * index + word, value);
            }
        }
    }

    fn noted(&self) -> KernelCounters {
        let notes = self.rings.notes();
        let hooks = NOTED.iter().enumerate().map(|(index, name)| {
            let word = |word: usize| notes.note(NOTE_HOOKS + WORDS * index + word);
            let counters = HookCounters {
                filtered_own: word(0),
                filtered_repeated: word(1),
                lost_ring_full: word(2),
                lost_oversize: word(3),
                lost_pending_full: word(4),
                lost_unreadable: word(5),
                missed: word(6),
                ..HookCounters::default()
            };
            (*name, counters)
        });
        KernelCounters {
            hooks: hooks.collect(),
        }
    }

    /// Detaches the programs. What is in the rings stays there, and the
    /// counts are final soon after.
    pub fn detach(&mut self) {
        self.missed = Some(self.programs.misses());
        self.programs.detach();
    }
}
