//! The sensor: the loaded programs and everything that belongs to them.

use std::{
    collections::{BTreeMap, VecDeque},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, Instant},
};

use aya::{Btf, EbpfLoader};
use ring::{
    digest,
    rand::{SecureRandom as _, SystemRandom},
};
use shrike_agent_ebpf::{HASH_WORDS, guard_rail::Agent};
use shrike_proto::{
    event::{Event, Verdict},
    id::{Generation, SequenceNumber},
    policy::{PolicyHash, PolicySet},
};

use super::{
    AppliedPolicy, ApplyError, Attachment, DecodeError, HookCounters, HookState, KernelCounters,
    Miscount, RuleTable, Sample, SensorError,
    continuity::Continuity,
    decode,
    guard_rails::GuardRails,
    hooks::{self, Attached},
    object, offsets,
    options::{Processes, SensorOptions},
    overlap::Overlap,
    pins::{self, Guard, PinError, Pins, Place},
    policy_maps::{self, PolicyMaps},
    programs::{Asked, Programs},
    release,
    rings::RECORDS_PER_CALL_MAX,
    running::{Maps, RingMark, Running},
    subvolumes,
};
use crate::error::chain;

/// Generations whose rule names are kept: those of records that may still be
/// in the ring.
const TABLES_MAX: usize = 16;

/// Programs that are detached may run on for a moment: the kernel lets go of
/// a link that was pinned when it comes to it.
const LEAVING: Duration = Duration::from_millis(500);

/// The maps that a successor needs.
const PINNED_MAPS: [&str; 10] = [
    "COUNTERS",
    "EVENTS",
    "KILLS",
    "PLANS",
    "POLICY",
    "PRIORITY",
    "PROTECTED",
    ".data.agent",
    policy_maps::IN_FORCE,
    subvolumes::MAP,
];

/// The programs in the kernel, their rings and their maps.
///
/// Dropping it detaches and unloads everything that is not pinned.
pub struct Sensor {
    running: Running,
    /// Programs of an agent before, which are to be replaced.
    before: Vec<Before>,
    /// Folders of such programs that cannot be opened.
    strays: Vec<Place>,
    /// Since when the programs before are leaving.
    leaving: Option<Instant>,
    overlap: Option<Overlap>,
    /// What programs counted that are gone.
    gone: KernelCounters,
    policy: PolicyMaps,
    tables: VecDeque<(Generation, RuleTable)>,
    applied: Option<AppliedPolicy>,
    /// What the rules in force may ask about.
    asked: Asked,
    attachment: Attachment,
    processes: Processes,
    offsets: offsets::Table,
    hooks: Vec<HookState>,
    undecodable: u64,
    /// `None` where records of two sets of programs came out, each with its
    /// own numbers.
    continuity: Option<Continuity>,
    behind: bool,
    agent: Agent,
    guard: Option<Guard>,
    _pins: Option<Pins>,
}

/// Programs of an agent before, and the generation that they enforce.
struct Before {
    running: Running,
    generation: Generation,
}

/// What became of the policy of an agent before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resumed {
    /// There was none.
    Nothing,
    /// This one is in force, as it was.
    InForce(AppliedPolicy, PolicyHash),
    /// Rules are in force whose names nobody knows, or they are enforced by
    /// the programs before; the reason, for a person.
    Unknown(String),
}

impl Sensor {
    /// Looks up the kernel's offsets, loads the programs and attaches them,
    /// or takes over those of an agent before that are the same. `marks` is how
    /// far that agent had read their rings by what it left; beyond what the
    /// rings themselves say. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// [`SensorError`] says in one line what this kernel lacks, or what the
    /// agent may not do.
    pub fn load(options: &SensorOptions, marks: &[RingMark]) -> Result<Self, SensorError> {
        options.check()?;
        check_pid_namespace()?;
        let table = offsets::resolve()?;
        check_kprobes()?;
        let agent = this_process()?;
        let digest = build_digest(&table, options);
        let pins = options.pin.as_deref().map(Pins::own).transpose()?;
        let mut own = None;
        let mut before = Vec::new();
        let mut strays = Vec::new();
        let places = match &pins {
            Some(pins) => pins.places()?,
            None => Vec::new(),
        };
        for place in places {
            match open(&place, agent) {
                Ok((running, maps)) if place.digest == digest && running.is_whole() => {
                    own = Some((running, maps, place.attachment));
                }
                Ok((running, mut maps)) => {
                    if place.digest == digest {
                        tracing::error!(at = %place.path.display(), "somebody detached programs while no agent ran: all of them are replaced");
                    }
                    before.push(Before {
                        generation: policy_maps::generation_in(&mut maps)?,
                        running,
                    });
                }
                Err(error) => {
                    tracing::error!(at = %place.path.display(), error = chain(&error), "the programs of an agent before cannot be opened: they are replaced, and what their rings hold is lost");
                    strays.push(place);
                }
            }
        }
        let continuity = match (&own, before.is_empty()) {
            (None, true) => Some(Continuity::default()),
            (Some(_), true) => Some(Continuity::joining()),
            (_, false) => None,
        };
        let (running, mut maps, attachment, hooks) = match own {
            Some((mut running, maps, attachment)) => {
                running.skip(marks);
                running.resume()?;
                let hooks = hooks::adopted(attachment, options, &running.programs);
                tracing::info!("took over the programs of the agent before");
                (running, maps, attachment, hooks)
            }
            None => start(&table, options, agent, pins.as_ref(), &digest)?,
        };
        for one in &mut before {
            one.running.skip(marks);
            one.running.resume()?;
        }
        let in_force = maps.take(policy_maps::IN_FORCE)?;
        let plans = maps.take("PLANS")?;
        let names = maps.take("POLICY")?;
        let mut rails = GuardRails::new(
            maps.take("PROTECTED")?,
            maps.take("KILLS")?,
            options.never_kill.clone(),
        );
        rails.protect().map_err(|source| SensorError::Map {
            map: "PROTECTED",
            source: Box::new(source),
        })?;
        let subvolumes = subvolumes::Teller::new(maps.take(subvolumes::MAP)?);
        let guard = running.place.as_ref().map(Place::guard).transpose()?;
        let asked = running.asked();
        return_memory();
        Ok(Self {
            running,
            before,
            strays,
            leaving: None,
            overlap: None,
            gone: KernelCounters::default(),
            policy: PolicyMaps::new(attachment, in_force, plans, names, rails, subvolumes),
            tables: VecDeque::new(),
            applied: None,
            asked,
            attachment,
            processes: options.processes,
            offsets: table,
            hooks,
            undecodable: 0,
            continuity,
            behind: false,
            agent,
            guard,
            _pins: pins,
        })
    }

    /// Returns what is attached where, and what is not.
    pub fn hooks(&self) -> &[HookState] {
        &self.hooks
    }

    /// Returns each field that the programs read, and where this kernel keeps
    /// it in bytes; `None`: it has no such field.
    pub fn offsets(&self) -> impl Iterator<Item = (String, Option<u32>)> {
        self.offsets.iter()
    }

    /// Returns how the decisions are attached.
    pub fn attachment(&self) -> Attachment {
        self.attachment
    }

    /// Returns which execs, forks and exits are events.
    pub fn processes(&self) -> Processes {
        self.processes
    }

    /// Says whether the programs outlive this process.
    pub fn is_pinned(&self) -> bool {
        self.running.place.is_some()
    }

    /// Goes on with the policy of an agent before, given the sets that are
    /// kept on this machine: leaves it in force where it is, puts it into new
    /// programs, and learns the names of the rules.
    ///
    /// # Errors
    /// When the kernel refuses a map.
    pub fn resume(&mut self, sets: &[PolicySet]) -> Result<Resumed, ApplyError> {
        for set in sets {
            match self.policy.table(set) {
                Ok(table) => self.remember(set.generation, table),
                Err(error) => {
                    tracing::error!(generation = %set.generation, error = chain(&error), "a policy that is kept here cannot be used")
                }
            }
        }
        let adopted = self.policy.generation()?;
        let before = self
            .before
            .iter()
            .map(|before| before.generation)
            .max()
            .unwrap_or_default();
        let wanted = match (adopted, before) {
            (Generation::NONE, Generation::NONE) => sets.iter().map(|set| set.generation).max(),
            (Generation::NONE, before) => Some(before),
            (adopted, _) => Some(adopted),
        };
        let Some(wanted) = wanted else {
            self.replace(boot_time_ns());
            return Ok(Resumed::Nothing);
        };
        let Some(set) = sets.iter().find(|set| set.generation == wanted) else {
            return Ok(Resumed::Unknown(format!(
                "generation {wanted} is in force, and this machine does not keep its policies: its rules have no names until a collector sends them"
            )));
        };
        if adopted == wanted {
            match self.policy.adopt(set) {
                Ok((applied, table)) => {
                    self.asked = Asked::by(set);
                    self.remember(applied.generation, table);
                    self.applied = Some(applied);
                    self.replace(boot_time_ns());
                    return Ok(Resumed::InForce(applied, set.hash()));
                }
                Err(error) => tracing::error!(
                    error = chain(&error),
                    "somebody changed the policy maps while no agent ran: they are written again"
                ),
            }
        }
        Ok(match self.apply(set) {
            Ok(applied) => Resumed::InForce(applied, set.hash()),
            Err(error) => Resumed::Unknown(format!(
                "generation {wanted} cannot be put into these programs: {}",
                chain(&error)
            )),
        })
    }

    /// Waits until it is time to [`drain`](Self::drain). Cancelling it loses
    /// nothing.
    ///
    /// # Errors
    /// When the ring cannot be polled.
    pub async fn wait(&mut self) -> io::Result<()> {
        // A ring that was emptied is left to fill: taking records out one by
        // one would cost more than they do.
        if !self.behind {
            self.running.rings.wait().await?;
        }
        Ok(())
    }

    /// Waits for events and appends them to `out`: for whoever wants few. May
    /// return without any. Cancelling it loses nothing.
    ///
    /// # Errors
    /// When the ring cannot be polled.
    pub async fn next(&mut self, out: &mut Vec<Event>) -> io::Result<()> {
        self.wait().await?;
        self.drain(|event| out.push(event));
        Ok(())
    }

    /// Hands over what is in the ring, a bounded number of events, without
    /// waiting. Returns how many records were taken; 0: the ring is empty.
    ///
    /// Sequence number and wall-clock time are 0: they are the agent's to
    /// give.
    pub fn drain(&mut self, take: impl FnMut(Event)) -> usize {
        let taken = self.drain_held(take);
        self.release();
        taken
    }

    /// The same, but what was taken stays in the rings for a successor until
    /// it is released.
    pub fn drain_held(&mut self, mut take: impl FnMut(Event)) -> usize {
        let taken = if self.before.is_empty() {
            self.drain_own(&mut take)
        } else {
            self.drain_before(&mut take)
        };
        self.behind = taken >= RECORDS_PER_CALL_MAX;
        taken
    }

    /// Gives up what was taken out of the rings: somebody keeps it.
    pub fn release(&mut self) {
        self.running.rings.release();
        for before in &mut self.before {
            before.running.rings.release();
        }
    }

    /// Gives up what was taken out of the rings before these marks were made.
    pub fn release_to(&mut self, marks: &[RingMark]) {
        self.running.release_to(marks);
        for before in &mut self.before {
            before.running.release_to(marks);
        }
    }

    /// Marks how far the rings were read, so that this much can be
    /// [released](Self::release_to).
    pub fn mark(&mut self) -> Vec<RingMark> {
        self.before
            .iter_mut()
            .map(|before| &mut before.running)
            .chain([&mut self.running])
            .map(Running::mark)
            .collect()
    }

    fn drain_own(&mut self, take: &mut impl FnMut(Event)) -> usize {
        let tables = &self.tables;
        let undecodable = &mut self.undecodable;
        let Some(overlap) = &mut self.overlap else {
            // One event at a time goes all the way: its memory is in the cache
            // and is used again for the next one.
            let continuity = &mut self.continuity;
            return self.running.rings.drain(|record| {
                let event = event_of(record, tables, undecodable);
                if let Some(continuity) = continuity {
                    match &event {
                        Some(event) => continuity.receive(event.cpu, event.cpu_sequence),
                        None => continuity.receive_undecodable(),
                    }
                }
                if let Some(event) = event {
                    take(event);
                }
            });
        };
        let began = boot_time_ns();
        let taken = self.running.rings.drain(|record| {
            let event = event_of(record, tables, undecodable);
            if let Some(event) = event.and_then(|event| overlap.new_one(event)) {
                take(event);
            }
        });
        if taken < RECORDS_PER_CALL_MAX && overlap.is_over(began) {
            overlap.rest().into_iter().for_each(take);
            self.gone.add(&doubles(overlap));
            self.overlap = None;
        }
        taken
    }

    /// Takes out what the programs before have recorded: it is older than
    /// what the new ones have.
    fn drain_before(&mut self, take: &mut impl FnMut(Event)) -> usize {
        let tables = &self.tables;
        let undecodable = &mut self.undecodable;
        let overlap = &mut self.overlap;
        let mut taken = 0;
        for before in &mut self.before {
            let readable = before.running.is_readable();
            taken += before.running.rings.drain(|record| {
                if !readable {
                    *undecodable += 1;
                    return;
                }
                let event = event_of(record, tables, undecodable);
                let event = match overlap {
                    Some(overlap) => event.and_then(|event| overlap.old(event)),
                    None => event,
                };
                if let Some(event) = event {
                    take(event);
                }
            });
        }
        match self.leaving {
            // They still decide, so what they record counts.
            None => {
                self.running.rings.drain(|_| {});
            }
            Some(since)
                if taken == 0
                    && since.elapsed() >= LEAVING
                    && self
                        .before
                        .iter()
                        .all(|before| before.running.rings.are_released()) =>
            {
                self.forget_before();
            }
            Some(_) => {}
        }
        taken
    }

    fn forget_before(&mut self) {
        if let Some(overlap) = &mut self.overlap {
            overlap.extend(boot_time_ns());
        }
        for before in self.before.drain(..) {
            match before.running.counters() {
                Ok(counters) => self.gone.add(&counters),
                Err(error) => {
                    tracing::error!(error = chain(&error), "cannot read the counters of before");
                }
            }
            if let Some(place) = &before.running.place
                && let Err(error) = place.remove()
            {
                tracing::error!(error = chain(&error), "the pins of before stay behind");
            }
        }
        tracing::info!("the programs of the agent before are replaced");
    }

    /// Swaps the rules in force, whole. On an error the ones before stay.
    /// Blocks for some milliseconds.
    ///
    /// # Errors
    /// [`ApplyError`] when the node cannot carry the set out as written.
    pub fn apply(&mut self, set: &PolicySet) -> Result<AppliedPolicy, ApplyError> {
        let asked = Asked::by(set);
        self.arm(asked)?;
        let cut = boot_time_ns();
        let (applied, table) = self.policy.apply(set)?;
        self.asked = asked;
        self.remember(applied.generation, table);
        self.applied = Some(applied);
        self.replace(cut);
        Ok(applied)
    }

    /// Puts nothing in force, as before the first generation. Blocks for some
    /// milliseconds.
    ///
    /// # Errors
    /// [`ApplyError`] when the kernel refuses a map.
    pub fn withdraw(&mut self) -> Result<(), ApplyError> {
        self.policy.withdraw()?;
        self.applied = None;
        self.asked = Asked::default();
        Ok(())
    }

    /// Attaches what judges what rules will ask about.
    fn arm(&mut self, asked: Asked) -> Result<(), ApplyError> {
        if self.running.arm(asked)? {
            self.hold_pins()?;
        }
        Ok(())
    }

    /// Looks after the pins as they are now.
    fn hold_pins(&mut self) -> Result<(), ApplyError> {
        self.guard = self.running.place.as_ref().map(Place::guard).transpose()?;
        Ok(())
    }

    /// Says whether rules are in force, or programs of an agent before are
    /// being replaced: no time to try other rules.
    pub fn is_in_use(&self) -> bool {
        let none = Generation::NONE;
        !self.before.is_empty()
            || self.overlap.is_some()
            || self
                .policy
                .generation()
                .map_or(true, |generation| generation != none)
    }

    fn remember(&mut self, generation: Generation, table: RuleTable) {
        self.tables.retain(|(known, _)| *known != generation);
        self.tables.truncate(TABLES_MAX - 1);
        self.tables.push_front((generation, table));
    }

    /// Detaches the programs of an agent before: the new ones decide alone.
    /// What was recorded up to the cut is theirs to tell.
    fn replace(&mut self, cut: u64) {
        for place in self.strays.drain(..) {
            if let Err(error) = place.remove() {
                tracing::error!(error = chain(&error), "programs of before stay attached");
            }
        }
        if self.before.is_empty() || self.leaving.is_some() {
            return;
        }
        if let Err(error) = self.running.begin_again() {
            tracing::error!(error = chain(&error), "cannot read the counters");
        }
        for before in &mut self.before {
            if let Some(place) = &before.running.place
                && let Err(error) = place.remove_links()
            {
                tracing::error!(error = chain(&error), "programs of before stay attached");
            }
        }
        pins::wait_for_pins();
        for before in &mut self.before {
            before.running.detach();
        }
        self.overlap = Some(Overlap::new(cut, boot_time_ns()));
        self.leaving = Some(Instant::now());
    }

    /// Returns the generation in force.
    pub fn applied(&self) -> Option<AppliedPolicy> {
        self.applied
    }

    /// Returns what the hooks counted since the start, and what they counted
    /// before it that no agent reported.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn counters(&self) -> Result<KernelCounters, SensorError> {
        let mut counters = self.gone.clone();
        for before in &self.before {
            counters.add(&before.running.counters()?);
        }
        if self.before.is_empty() || self.leaving.is_some() {
            counters.add(&self.running.counters()?);
        }
        if let Some(overlap) = &self.overlap {
            counters.add(&doubles(overlap));
        }
        Ok(counters)
    }

    /// Compares the numbers of the records that came out of the ring with what
    /// the hooks counted before and after it was emptied. Returns a
    /// disagreement that has lasted; `None` also while the ring holds more.
    pub fn check(&mut self, before: &KernelCounters, after: &KernelCounters) -> Option<Miscount> {
        if self.behind {
            return None;
        }
        let continuity = self.continuity.as_mut()?;
        continuity.check(before.counted(), after.counted())
    }

    /// Compares what is in the kernel with what was put there, mends what
    /// somebody changed, and returns what that was, for people. Detaches what
    /// no rule asks for any more.
    ///
    /// # Errors
    /// When the kernel refuses a map.
    pub fn mend(&mut self) -> Result<Vec<String>, ApplyError> {
        let mut found = self.policy.mend()?;
        if self.running.own(self.agent).unwrap_or_default() {
            found.push("another process was made the agent".to_owned());
        }
        found.extend(self.guard.as_ref().and_then(Guard::mend));
        if self.running.disarm(self.asked)? {
            self.hold_pins()?;
        }
        Ok(found)
    }

    /// Takes the hooks out of the kernel: nothing is recorded or decided from
    /// here on. What is in the ring stays there to be drained, and the counts
    /// are final. Blocks until no hook runs any more.
    pub fn detach(&mut self) {
        self.running.detach();
    }

    /// Returns how many records were not of their form.
    pub fn undecodable(&self) -> u64 {
        self.undecodable
    }

    /// Says whether this kernel tells how often it left out a kprobe, which it
    /// does while it handles another one; `None` when no kprobe is attached.
    pub fn tells_probe_misses(&self) -> Option<bool> {
        let has_probes = self.hooks.iter().any(|hook| hook.attached_as == "kprobe");
        has_probes.then(|| self.running.programs.tell_probe_misses())
    }

    /// Returns each program's name and how many instructions the verifier
    /// looked at.
    pub fn verified_instructions(&self) -> Vec<(String, u32)> {
        self.running.programs.verified_instructions()
    }
}

/// Opens the programs that are pinned at a place, and makes them ours.
fn open(place: &Place, agent: Agent) -> Result<(Running, Maps), SensorError> {
    let pinned = place.open()?;
    let mut maps = Maps(pinned.maps);
    let mut running = Running::new(&mut maps, pinned.programs, Some(place.clone()))?;
    running.own(agent)?;
    Ok((running, maps))
}

type Started = (Running, Maps, Attachment, Vec<HookState>);

/// Loads and attaches new programs, and pins them.
fn start(
    table: &offsets::Table,
    options: &SensorOptions,
    agent: Agent,
    pins: Option<&Pins>,
    digest: &str,
) -> Result<Started, SensorError> {
    let btf = Btf::from_sys_fs().map_err(|error| SensorError::UnreadableBtf(error.to_string()))?;
    let offsets = table.offsets();
    let record_opens = options.opens.number();
    let record_processes = options.processes.number();
    let hash_keys = random_odd_words()?;
    let exec_environment = options.exec_environment.number();
    let uname = rustix::system::uname();
    let boxed_files = u32::from(release::boxes_overlay_files(
        &uname.release().to_string_lossy(),
    ));
    let mut ebpf = EbpfLoader::new()
        .btf(Some(&btf))
        .override_global("OFFSETS", &offsets, true)
        .override_global("RECORD_OPENS", &record_opens, true)
        .override_global("RECORD_PROCESSES", &record_processes, true)
        .override_global("EXEC_ENVIRONMENT", &exec_environment, true)
        .override_global("OVERLAY_FILES_ARE_BOXED", &boxed_files, true)
        .override_global("KILLS_PER_MINUTE", &options.kills_per_minute, true)
        .override_global("HASH_KEYS", &hash_keys[..], true)
        .override_global("AGENT", &agent, true)
        .map_max_entries("EVENTS", options.ring_bytes)
        .map_max_entries("PRIORITY", options.priority_ring_bytes)
        .load(&object::relocate(table.values())?)
        .map_err(load_error)?;
    let Attached {
        attachment,
        hooks,
        mut programs,
    } = hooks::attach(&mut ebpf, &btf, options)?;
    let mut maps = Maps(Vec::new());
    for name in PINNED_MAPS {
        let map = ebpf.take_map(name).ok_or(SensorError::ObjectPart(name))?;
        maps.0.push((name.to_owned(), map));
    }
    let place = match pins {
        Some(pins) => pin(pins, digest, attachment, &mut programs, &maps)?,
        None => None,
    };
    let mut running = Running::new(&mut maps, programs, place)?;
    let [instance, ..] = random_odd_words()?;
    running.begin(instance)?;
    Ok((running, maps, attachment, hooks))
}

/// Pins what was attached. That a kernel cannot is no reason not to run.
fn pin(
    pins: &Pins,
    digest: &str,
    attachment: Attachment,
    programs: &mut Programs,
    maps: &Maps,
) -> Result<Option<Place>, SensorError> {
    let maps = maps.0.iter().map(|(name, map)| (name.as_str(), map));
    match pins.pin(digest, attachment, programs, maps) {
        Ok(place) => Ok(Some(place)),
        Err(error @ PinError::NotPinnable) => {
            tracing::error!("{error}");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Returns what tells programs from others that are not the same: the object
/// and everything that is compiled into it.
fn build_digest(table: &offsets::Table, options: &SensorOptions) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(object::OBJECT);
    for (field, offset) in table.iter() {
        context.update(format!("{field} {offset:?};").as_bytes());
    }
    let SensorOptions {
        ring_bytes,
        priority_ring_bytes,
        opens,
        processes,
        exec_environment,
        attachment,
        kills_per_minute,
        // These can be changed while the programs run.
        never_kill: _,
        pin: _,
    } = options;
    context.update(
        format!(
            "{ring_bytes} {priority_ring_bytes} {opens:?} {processes:?} {exec_environment:?} {attachment:?} {kills_per_minute}"
        )
        .as_bytes(),
    );
    let digest = context.finish();
    digest.as_ref()[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Returns this process, as the programs know the agent.
fn this_process() -> Result<Agent, SensorError> {
    let stat = fs::read_to_string("/proc/self/stat").map_err(SensorError::Proc)?;
    // Behind the name, which may hold anything: the start is field 22.
    let start = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(19))
        .and_then(|ticks| ticks.parse().ok())
        .ok_or_else(|| SensorError::Proc(io::ErrorKind::InvalidData.into()))?;
    Ok(Agent {
        tgid: std::process::id().into(),
        start_ticks: start,
    })
}

fn boot_time_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn doubles(overlap: &Overlap) -> KernelCounters {
    let counters = HookCounters {
        filtered_repeated: overlap.doubles(),
        ..HookCounters::default()
    };
    KernelCounters {
        hooks: BTreeMap::from([("overlap", counters)]),
    }
}

fn event_of(
    record: &[u8],
    tables: &VecDeque<(Generation, RuleTable)>,
    undecodable: &mut u64,
) -> Option<Event> {
    match decode(record) {
        Ok(sample) => Some(name_rule(sample, tables)),
        Err(error) => {
            *undecodable += 1;
            report_undecodable(*undecodable, &error);
            None
        }
    }
}

/// Draws the multipliers of the programs' hashes.
fn random_odd_words() -> Result<[u64; HASH_WORDS], SensorError> {
    let mut words = [0; HASH_WORDS];
    for word in &mut words {
        let mut bytes = [0; 8];
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| SensorError::Random)?;
        *word = u64::from_ne_bytes(bytes) | 1;
    }
    Ok(words)
}

/// Gives back what the kernel's type information took: tens of megabytes that
/// are never needed again, and that glibc would keep. Nor is the object.
fn return_memory() {
    object::let_go();
    #[cfg(target_env = "gnu")]
    // SAFETY: no precondition.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The programs know the agent by its process ID in the first PID namespace.
fn check_pid_namespace() -> Result<(), SensorError> {
    /// `PROC_PID_INIT_INO`, include/linux/proc_ns.h.
    const FIRST_PID_NAMESPACE: u64 = 0xeffffffc;
    match fs::metadata("/proc/self/ns/pid") {
        Ok(namespace) if namespace.ino() != FIRST_PID_NAMESPACE => Err(SensorError::PidNamespace),
        // A kernel without PID namespaces has only the first one.
        Ok(_) | Err(_) => Ok(()),
    }
}

fn check_kprobes() -> Result<(), SensorError> {
    if Path::new("/sys/bus/event_source/devices/kprobe/type").exists() {
        return Ok(());
    }
    Err(SensorError::NoKprobes)
}

fn load_error(error: aya::EbpfError) -> SensorError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<io::Error>()
            && io.kind() == io::ErrorKind::PermissionDenied
        {
            return SensorError::NotPermitted {
                operation: "creating maps".to_owned(),
                source: Box::new(error),
            };
        }
        cause = inner.source();
    }
    SensorError::LoadObject(Box::new(error))
}

/// Puts names in the place of the rule's number.
fn name_rule(sample: Sample, tables: &VecDeque<(Generation, RuleTable)>) -> Event {
    let generation = Generation(sample.generation);
    let verdict = sample.verdict.and_then(|verdict| {
        let Some((policy, rule)) = tables
            .iter()
            .find(|(number, _)| *number == generation)
            .and_then(|(_, table)| table.get(verdict.rule))
        else {
            tracing::error!(%generation, rule = verdict.rule, "a verdict names an unknown rule");
            return None;
        };
        Some(Verdict {
            action: verdict.action,
            policy: policy.clone(),
            rule: rule.clone(),
            outcome: verdict.outcome,
            denied: verdict.denied,
        })
    });
    Event {
        sequence: SequenceNumber(0),
        time_unix_ns: 0,
        boot_time_ns: sample.boot_time_ns,
        cpu: sample.cpu,
        cpu_sequence: sample.cpu_sequence,
        generation,
        process: sample.process,
        verdict,
        fact: sample.fact,
    }
}

/// Logs the first undecodable record, and then each power of two.
fn report_undecodable(count: u64, error: &DecodeError) {
    if count.is_power_of_two() {
        tracing::error!(count, %error, "cannot decode a record");
    }
}
