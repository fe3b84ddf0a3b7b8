//! The sensor: the loaded programs and everything that belongs to them.

use std::{collections::VecDeque, fs, io, os::unix::fs::MetadataExt as _, path::Path};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, PerCpuArray},
};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use shrike_agent_ebpf::{HASH_WORDS, counter::Counters};
use shrike_proto::{
    event::{Event, Verdict},
    id::{Generation, SequenceNumber},
    policy::{PathPattern, PolicySet},
};

use super::{
    AppliedPolicy, ApplyError, Attachment, DecodeError, HookState, KernelCounters, Miscount,
    RuleTable, Sample, SensorError,
    continuity::Continuity,
    counters, decode,
    guard_rails::GuardRails,
    hooks::{self, Attached},
    object, offsets,
    policy_maps::{self, PolicyMaps},
    rings::{RECORDS_PER_CALL_MAX, Rings},
};

/// Which opens are events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Opens {
    /// Those that a rule matches.
    Matched,
    /// The first of each process, file and access; repeats are counted.
    First,
    /// Every one.
    All,
}

impl Opens {
    /// Returns the programs' number for it.
    fn number(self) -> u32 {
        match self {
            Self::Matched => 0,
            Self::All => 1,
            Self::First => 2,
        }
    }
}

/// What is read of a new image's environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ExecEnvironment {
    /// Nothing.
    #[default]
    None,
    /// The names of the variables, never their values.
    Keys,
}

impl ExecEnvironment {
    /// Returns the programs' number for it.
    fn number(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Keys => 1,
        }
    }
}

/// How the sensor is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SensorOptions {
    /// Bytes of the ring of opens that no rule matched: a power of two from
    /// 64 KiB to 1 GiB.
    pub ring_bytes: u32,
    /// Bytes of the ring of everything else, likewise.
    pub priority_ring_bytes: u32,
    /// Which opens are events.
    pub opens: Opens,
    /// What is read of a new image's environment.
    pub exec_environment: ExecEnvironment,
    /// How the decisions are attached; `None`: the best way there is.
    pub attachment: Option<Attachment>,
    /// Kills of one rule within a minute before it is only observed; 0: no
    /// limit.
    pub kills_per_minute: u32,
    /// Programs that are never killed.
    pub never_kill: Vec<PathPattern>,
}

/// 16 MiB: some 50,000 opens, about a second of the busiest node.
pub const RING_BYTES_DEFAULT: u32 = 16 << 20;

/// 2 MiB: some 6,000 execs, forks and exits, more than two processors make in
/// a second.
pub const PRIORITY_RING_BYTES_DEFAULT: u32 = 2 << 20;

/// What a mistaken rule may kill before it is stopped.
pub const KILLS_PER_MINUTE_DEFAULT: u32 = 60;

/// Returns the programs that are never killed unless the operator says
/// otherwise: the way into the machine, and the collector.
pub fn never_kill_default() -> Vec<PathPattern> {
    ["/usr/sbin/sshd", "/usr/bin/shrike-collector"]
        .map(|path| PathPattern::parse(path).expect("a path"))
        .into()
}

impl Default for SensorOptions {
    fn default() -> Self {
        Self {
            ring_bytes: RING_BYTES_DEFAULT,
            priority_ring_bytes: PRIORITY_RING_BYTES_DEFAULT,
            opens: Opens::First,
            exec_environment: ExecEnvironment::None,
            attachment: None,
            kills_per_minute: KILLS_PER_MINUTE_DEFAULT,
            never_kill: never_kill_default(),
        }
    }
}

/// Generations whose rule names are kept: those of records that may still be
/// in the ring.
const TABLES_MAX: usize = 16;

/// The programs in the kernel, their rings and their maps.
///
/// Dropping it detaches and unloads everything.
pub struct Sensor {
    rings: Rings,
    counters: PerCpuArray<MapData, Counters>,
    policy: PolicyMaps,
    tables: VecDeque<(Generation, RuleTable)>,
    applied: Option<AppliedPolicy>,
    attachment: Attachment,
    offsets: offsets::Table,
    hooks: Vec<HookState>,
    undecodable: u64,
    continuity: Continuity,
    behind: bool,
    /// What was counted before every hook was in place: operations of which
    /// only the end was seen.
    halves: KernelCounters,
    detached: bool,
    missed: u64,
    ebpf: Ebpf,
}

impl Sensor {
    /// Looks up the kernel's offsets, loads the programs and attaches them.
    /// Must be called on a tokio runtime.
    ///
    /// # Errors
    /// [`SensorError`] says in one line what this kernel lacks, or what the
    /// agent may not do.
    pub fn load(options: &SensorOptions) -> Result<Self, SensorError> {
        check_ring_size(options.ring_bytes)?;
        check_ring_size(options.priority_ring_bytes)?;
        check_pid_namespace()?;
        let table = offsets::resolve()?;
        let offsets = table.offsets();
        check_kprobes()?;
        let btf =
            Btf::from_sys_fs().map_err(|error| SensorError::UnreadableBtf(error.to_string()))?;
        let agent = std::process::id();
        let record_opens = options.opens.number();
        let hash_keys = random_odd_words()?;
        let exec_environment = options.exec_environment.number();
        let mut ebpf = EbpfLoader::new()
            .btf(Some(&btf))
            .override_global("OFFSETS", &offsets, true)
            .override_global("AGENT_TGID", &agent, true)
            .override_global("RECORD_OPENS", &record_opens, true)
            .override_global("EXEC_ENVIRONMENT", &exec_environment, true)
            .override_global("KILLS_PER_MINUTE", &options.kills_per_minute, true)
            .override_global("HASH_KEYS", &hash_keys[..], true)
            .map_max_entries("EVENTS", options.ring_bytes)
            .map_max_entries("PRIORITY", options.priority_ring_bytes)
            .load(&object::relocate(table.values())?)
            .map_err(load_error)?;
        let rings = Rings::open(
            (ring(&ebpf, "PRIORITY")?, options.priority_ring_bytes),
            (ring(&ebpf, "EVENTS")?, options.ring_bytes),
        )
        .map_err(SensorError::Poll)?;
        let counters: PerCpuArray<MapData, Counters> = take(&mut ebpf, "COUNTERS")?;
        let in_force: Array<MapData, _> = take(&mut ebpf, policy_maps::IN_FORCE)?;
        let plans: Array<MapData, _> = take(&mut ebpf, "PLANS")?;
        let names: HashMap<MapData, _, _> = take(&mut ebpf, "POLICY")?;
        let kills: Array<MapData, _> = take(&mut ebpf, "KILLS")?;
        let mut rails = GuardRails::new(
            take(&mut ebpf, "PROTECTED")?,
            kills,
            options.never_kill.clone(),
        );
        rails.protect().map_err(|source| SensorError::Map {
            map: "PROTECTED",
            source: Box::new(source),
        })?;
        let Attached { attachment, hooks } =
            hooks::attach(&mut ebpf, &btf, options.opens, options.attachment)?;
        let halves = read_counters(&counters)?;
        drop(btf);
        return_memory();
        Ok(Self {
            rings,
            counters,
            policy: PolicyMaps::new(attachment, in_force, plans, names, rails),
            tables: VecDeque::new(),
            applied: None,
            attachment,
            offsets: table,
            hooks,
            undecodable: 0,
            continuity: Continuity::default(),
            behind: false,
            halves,
            detached: false,
            missed: 0,
            ebpf,
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

    /// Waits until it is time to [`drain`](Self::drain). Cancelling it loses
    /// nothing.
    ///
    /// # Errors
    /// When the ring cannot be polled.
    pub async fn wait(&mut self) -> io::Result<()> {
        // A ring that was emptied is left to fill: taking records out one by
        // one would cost more than they do.
        if !self.behind {
            self.rings.wait().await?;
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
    pub fn drain(&mut self, mut take: impl FnMut(Event)) -> usize {
        let tables = &self.tables;
        let undecodable = &mut self.undecodable;
        let continuity = &mut self.continuity;
        // One event at a time goes all the way: its memory is in the cache and
        // is used again for the next one.
        let taken = self.rings.drain(|record| match decode(record) {
            Ok(sample) => {
                continuity.receive(sample.cpu, sample.cpu_sequence);
                take(name_rule(sample, tables));
            }
            Err(error) => {
                continuity.receive_undecodable();
                *undecodable += 1;
                report_undecodable(*undecodable, &error);
            }
        });
        self.behind = taken == RECORDS_PER_CALL_MAX;
        taken
    }

    /// Swaps the rules in force, whole. On an error the ones before stay.
    /// Blocks for some milliseconds.
    ///
    /// # Errors
    /// [`ApplyError`] when the node cannot carry the set out as written.
    pub fn apply(&mut self, set: &PolicySet) -> Result<AppliedPolicy, ApplyError> {
        let (applied, table) = self.policy.apply(set)?;
        if self.tables.len() == TABLES_MAX {
            self.tables.pop_back();
        }
        self.tables.push_front((applied.generation, table));
        self.applied = Some(applied);
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
        Ok(())
    }

    /// Returns the generation in force.
    pub fn applied(&self) -> Option<AppliedPolicy> {
        self.applied
    }

    /// Returns what the hooks counted since the start.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn counters(&self) -> Result<KernelCounters, SensorError> {
        let mut counters = read_counters(&self.counters)?;
        counters.forget_halves(&self.halves);
        let misses = if self.detached {
            self.missed
        } else {
            hooks::recursion_misses(&self.ebpf)
        };
        if misses > 0 {
            counters.hooks.entry("probes").or_default().missed = misses;
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
        self.continuity.check(before.counted(), after.counted())
    }

    /// Takes the hooks out of the kernel: nothing is recorded or decided from
    /// here on. What is in the ring stays there to be drained, and the counts
    /// are final. Blocks until no hook runs any more.
    pub fn detach(&mut self) {
        self.missed = hooks::recursion_misses(&self.ebpf);
        hooks::detach(&mut self.ebpf);
        self.detached = true;
    }

    /// Returns how many records were not of their form.
    pub fn undecodable(&self) -> u64 {
        self.undecodable
    }

    /// Returns each program's name and how many instructions the verifier
    /// looked at.
    pub fn verified_instructions(&self) -> Vec<(String, u32)> {
        hooks::verified_instructions(&self.ebpf)
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
/// are never needed again, and that glibc would keep.
fn return_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no precondition.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn read_counters(map: &PerCpuArray<MapData, Counters>) -> Result<KernelCounters, SensorError> {
    counters::read(map).map_err(|source| SensorError::Map {
        map: "COUNTERS",
        source: Box::new(source),
    })
}

fn check_ring_size(bytes: u32) -> Result<(), SensorError> {
    if bytes.is_power_of_two() && (1 << 16..=1 << 30).contains(&bytes) {
        return Ok(());
    }
    Err(SensorError::RingSize(bytes))
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

fn take<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, SensorError>
where
    T: TryFrom<Map, Error = aya::maps::MapError>,
{
    let map = ebpf.take_map(name).ok_or(SensorError::ObjectPart(name))?;
    T::try_from(map).map_err(|source| SensorError::Map {
        map: name,
        source: Box::new(source),
    })
}

fn ring<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<&'a MapData, SensorError> {
    match ebpf.map(name) {
        Some(Map::RingBuf(map)) => Ok(map),
        _ => Err(SensorError::ObjectPart(name)),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_size_is_a_power_of_two_within_bounds() {
        let check = |bytes: u32, fine: bool| {
            assert_eq!(check_ring_size(bytes).is_ok(), fine, "{bytes}");
        };
        check(1 << 16, true);
        check(16 << 20, true);
        check(1 << 30, true);
        check(1 << 15, false);
        check((16 << 20) + 4096, false);
        check(0, false);
    }
}
