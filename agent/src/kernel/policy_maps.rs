//! Putting a generation into the kernel: built in the slot that is not in
//! force, then one word flips.
//!
//! ```text
//! clear the old slot → write names, then the plan → read back → flip → wait
//! ```
//!
//! The wait is a grace period: when `apply` returns, no decision under the
//! generation before is still being made, so the next `apply` may clear it.

use std::{collections::BTreeMap, thread, time::Duration};

use aya::maps::{Array, HashMap, MapData, MapError};
use ring::{
    digest,
    rand::{SecureRandom as _, SystemRandom},
};
use shrike_agent_ebpf::{
    digest::{Key, Seed},
    plan::{Entry, InForce, Plan, RULE_WORDS, RuleSet},
};
use shrike_proto::{id::Generation, policy::PolicySet};

use super::{
    ApplyError, Attachment, RuleTable, SensorError,
    guard_rails::GuardRails,
    identity::identify,
    rules::{Compiled, Ground, compile},
    running::Maps,
    subvolumes,
};

/// A generation that is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppliedPolicy {
    /// Which.
    pub generation: Generation,
    /// SHA-256 over what the maps hold, read back from them. The same on
    /// every node with the same rules: the random seed is left out.
    pub digest: [u8; 32],
    /// Rules in force.
    pub rules: usize,
}

/// The maps that hold both generations.
pub struct PolicyMaps {
    attachment: Attachment,
    in_force: Array<MapData, InForce>,
    plans: Array<MapData, Plan>,
    names: HashMap<MapData, Key, Entry>,
    rails: GuardRails,
    subvolumes: subvolumes::Teller,
    held: Option<Held>,
}

/// Returns the generation that programs of another agent enforce; their maps
/// are not touched otherwise.
///
/// # Errors
/// When the maps are not there or cannot be read.
pub fn generation_in(maps: &mut Maps) -> Result<Generation, SensorError> {
    let error = |map| {
        move |source| SensorError::Map {
            map,
            source: Box::new(source),
        }
    };
    let in_force: Array<MapData, InForce> = maps.take(IN_FORCE)?;
    let plans: Array<MapData, Plan> = maps.take(PLANS)?;
    let slot = in_force.get(&0, 0).map_err(error(IN_FORCE))?.slot();
    let plan = plans.get(&slot, 0).map_err(error(PLANS))?;
    Ok(Generation(plan.generation))
}

/// What the maps are to hold.
struct Held {
    slot: u32,
    plan: Plan,
    entries: BTreeMap<Key, Entry>,
}

impl PolicyMaps {
    /// Takes over the maps; nothing is in force.
    pub fn new(
        attachment: Attachment,
        in_force: Array<MapData, InForce>,
        plans: Array<MapData, Plan>,
        names: HashMap<MapData, Key, Entry>,
        rails: GuardRails,
        subvolumes: subvolumes::Teller,
    ) -> Self {
        Self {
            attachment,
            in_force,
            plans,
            names,
            rails,
            subvolumes,
            held: None,
        }
    }

    /// Returns the generation in force; 0 before the first.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn generation(&self) -> Result<Generation, ApplyError> {
        let slot = self.slot()?;
        let plan = self
            .plans
            .get(&slot, 0)
            .map_err(|source| map_error("read", PLANS, source))?;
        Ok(Generation(plan.generation))
    }

    fn slot(&self) -> Result<u32, ApplyError> {
        Ok(self.in_force()?.slot())
    }

    fn in_force(&self) -> Result<InForce, ApplyError> {
        self.in_force
            .get(&0, 0)
            .map_err(|source| map_error("read", IN_FORCE, source))
    }

    /// Takes over what an agent before this one put in force, if it is this
    /// set; the maps are not written.
    ///
    /// # Errors
    /// [`ApplyError::ReadBack`] when the maps hold something else.
    pub fn adopt(&mut self, set: &PolicySet) -> Result<(AppliedPolicy, RuleTable), ApplyError> {
        let slot = self.slot()?;
        let (plan, entries) = self.read(slot)?;
        let compiled = compile(
            set,
            &Ground {
                slot,
                seed: plan.seed,
                attachment: self.attachment,
                identify: &identify,
            },
        )?;
        let digest = map_digest(&plan, &entries);
        let wanted = map_digest(&compiled.plan, &compiled.entries);
        if digest != wanted || plan.generation != set.generation.0 {
            return Err(ApplyError::ReadBack {
                written: hex(&wanted),
                read: hex(&digest),
            });
        }
        let applied = AppliedPolicy {
            generation: set.generation,
            digest,
            rules: compiled.table.len(),
        };
        self.held = Some(Held {
            slot,
            plan,
            entries,
        });
        Ok((applied, compiled.table))
    }

    /// Returns the names behind the rule numbers of a set.
    ///
    /// # Errors
    /// [`ApplyError`] when the node cannot carry the set out.
    pub fn table(&self, set: &PolicySet) -> Result<RuleTable, ApplyError> {
        let ground = Ground {
            slot: 0,
            seed: Seed::default(),
            attachment: self.attachment,
            identify: &|_| None,
        };
        Ok(compile(set, &ground)?.table)
    }

    /// Compares the maps with what was put into them, puts it back where
    /// somebody changed it, and returns what that was.
    ///
    /// The programs add files that get a protected name, and nothing else: an
    /// entry for an inode beyond those that were written is theirs.
    ///
    /// # Errors
    /// When the maps cannot be read or written.
    pub fn mend(&mut self) -> Result<Vec<String>, ApplyError> {
        let mut found = Vec::new();
        if self.tell_subvolumes()? {
            found.push("where btrfs keeps its subvolumes' devices was changed".to_owned());
        }
        let Some(held) = self.held.take() else {
            return Ok(found);
        };
        let result = self.mend_to(&held);
        self.held = Some(held);
        found.extend(result?);
        Ok(found)
    }

    /// Tells the programs how to tell subvolumes apart, once that is known.
    fn tell_subvolumes(&mut self) -> Result<bool, ApplyError> {
        self.subvolumes
            .tell()
            .map_err(|source| map_error("write", subvolumes::MAP, source))
    }

    fn mend_to(&mut self, held: &Held) -> Result<Vec<String>, ApplyError> {
        let mut found = Vec::new();
        let (plan, entries) = self.read(held.slot)?;
        let differing = held
            .entries
            .iter()
            .filter(|(key, entry)| entries.get(key) != Some(entry));
        let mut count = 0;
        for (key, entry) in differing {
            self.names
                .insert(key, entry, 0)
                .map_err(|source| map_error("write", NAMES, source))?;
            count += 1;
        }
        if count > 0 {
            found.push(format!(
                "{count} entries of the policy map were changed or removed"
            ));
        }
        let foreign = entries
            .keys()
            .filter(|key| !key.is_of_inode() && !held.entries.contains_key(key));
        let mut count = 0;
        for key in foreign {
            self.names
                .remove(key)
                .map_err(|source| map_error("clear", NAMES, source))?;
            count += 1;
        }
        if count > 0 {
            found.push(format!("{count} entries were added to the policy map"));
        }
        if !held.plan.is_within(&plan) {
            self.plans
                .set(held.slot, held.plan, 0)
                .map_err(|source| map_error("write", PLANS, source))?;
            found.push("the plan in force was changed".to_owned());
        }
        let in_force = InForce::new(held.slot, &held.plan);
        if self.in_force()? != in_force {
            self.in_force
                .set(0, in_force, 0)
                .map_err(|source| map_error("write", IN_FORCE, source))?;
            found.push("another plan was put in force".to_owned());
        }
        if self
            .rails
            .mend()
            .map_err(|source| map_error("write", "PROTECTED", source))?
        {
            found.push("the programs that are never killed were changed".to_owned());
        }
        Ok(found)
    }

    /// Swaps the generation in force for another one, whole. On an error the
    /// one before stays in force.
    ///
    /// # Errors
    /// [`ApplyError`] when the node cannot carry the set out, or the kernel
    /// refuses a map.
    pub fn apply(&mut self, set: &PolicySet) -> Result<(AppliedPolicy, RuleTable), ApplyError> {
        self.tell_subvolumes()?;
        let slot = self.slot()? ^ 1;
        let compiled = compile(
            set,
            &Ground {
                slot,
                seed: random_seed()?,
                attachment: self.attachment,
                identify: &identify,
            },
        )?;
        self.clear(slot)?;
        // A program that was upgraded is another file.
        self.rails
            .protect()
            .map_err(|source| map_error("write", "PROTECTED", source))?;
        self.rails
            .rearm(slot)
            .map_err(|source| map_error("clear", "KILLS", source))?;
        self.write(slot, &compiled)?;
        let written = map_digest(&compiled.plan, &compiled.entries);
        let read = self.read(slot)?;
        if read.0 != compiled.plan || read.1 != compiled.entries {
            return Err(ApplyError::ReadBack {
                written: hex(&written),
                read: hex(&map_digest(&read.0, &read.1)),
            });
        }
        self.in_force
            .set(0, InForce::new(slot, &compiled.plan), 0)
            .map_err(|source| map_error("write", IN_FORCE, source))?;
        wait_for_decisions();
        let applied = AppliedPolicy {
            generation: compiled.generation,
            digest: map_digest(&read.0, &read.1),
            rules: compiled.table.len(),
        };
        self.held = Some(Held {
            slot,
            plan: compiled.plan,
            entries: compiled.entries,
        });
        Ok((applied, compiled.table))
    }

    /// Puts nothing in force, as before the first generation.
    ///
    /// # Errors
    /// [`ApplyError::Map`] when the kernel refuses a map.
    pub fn withdraw(&mut self) -> Result<(), ApplyError> {
        self.held = None;
        let slot = self.slot()?;
        self.clear(slot ^ 1)?;
        self.in_force
            .set(0, InForce::new(slot ^ 1, &Plan::default()), 0)
            .map_err(|source| map_error("write", IN_FORCE, source))?;
        wait_for_decisions();
        self.clear(slot)
    }

    /// Removes what an earlier generation left in a slot.
    fn clear(&mut self, slot: u32) -> Result<(), ApplyError> {
        self.plans
            .set(slot, Plan::default(), 0)
            .map_err(|source| map_error("clear", PLANS, source))?;
        // Keys are collected first: removing while iterating starts over.
        let keys = self
            .names
            .keys()
            .collect::<Result<Vec<_>, _>>()
            .map_err(|source| map_error("read", NAMES, source))?;
        for key in keys.into_iter().filter(|key| key.slot == slot) {
            self.names
                .remove(&key)
                .map_err(|source| map_error("clear", NAMES, source))?;
        }
        Ok(())
    }

    fn write(&mut self, slot: u32, compiled: &Compiled) -> Result<(), ApplyError> {
        for (key, entry) in &compiled.entries {
            self.names
                .insert(key, entry, 0)
                .map_err(|source| map_error("write", NAMES, source))?;
        }
        self.plans
            .set(slot, compiled.plan, 0)
            .map_err(|source| map_error("write", PLANS, source))
    }

    fn read(&self, slot: u32) -> Result<(Plan, BTreeMap<Key, Entry>), ApplyError> {
        let plan = self
            .plans
            .get(&slot, 0)
            .map_err(|source| map_error("read", PLANS, source))?;
        let mut entries = BTreeMap::new();
        for item in self.names.iter() {
            let (key, entry) = item.map_err(|source| map_error("read", NAMES, source))?;
            if key.slot == slot {
                entries.insert(key, entry);
            }
        }
        Ok((plan, entries))
    }
}

/// The section that the loader makes a map of.
pub const IN_FORCE: &str = ".data.in_force";
const PLANS: &str = "PLANS";
const NAMES: &str = "POLICY";

fn map_error(operation: &'static str, map: &'static str, source: MapError) -> ApplyError {
    ApplyError::Map {
        operation,
        map,
        source: Box::new(source),
    }
}

fn random_seed() -> Result<Seed, ApplyError> {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| ApplyError::Random)?;
    let (a, b) = bytes.split_at(8);
    Ok([
        u64::from_ne_bytes(a.try_into().expect("half of 16")),
        u64::from_ne_bytes(b.try_into().expect("half of 16")),
    ])
}

/// Waits until every decision that began before has ended.
fn wait_for_decisions() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: membarrier takes two integers and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0) };
    if result != 0 {
        // Not on kernels with nohz_full. A decision takes microseconds.
        thread::sleep(Duration::from_millis(50));
    }
}

/// Digests what a slot holds, the seed and what depends on it left out, and
/// so are the node's own inode numbers.
fn map_digest(plan: &Plan, entries: &BTreeMap<Key, Entry>) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut sets = vec![plan.open, plan.exec, plan.read, plan.write, plan.excepted];
    sets.extend(plan.free);
    sets.extend(plan.excepted_free);
    sets.extend([plan.kill, plan.deny, plan.alert, plan.observe]);
    sets.extend([plan.unknown_deny, plan.unknown_kill]);
    for set in &sets {
        add_set(&mut context, set);
    }
    for depths in [
        plan.path_depths.exact,
        plan.path_depths.below,
        plan.exe_depths.exact,
        plan.exe_depths.below,
    ] {
        context.update(&depths.to_le_bytes());
    }
    // The digests of the names depend on the seed, so the entries are put in
    // an order that does not.
    let mut values: Vec<(u32, [u64; RULE_WORDS], [u64; RULE_WORDS])> = entries
        .iter()
        .filter(|(key, _)| !key.is_of_inode())
        .map(|(key, entry)| (key.dimension, entry.rules.0, entry.exceptions.0))
        .collect();
    values.sort_unstable();
    for (dimension, rules, exceptions) in values {
        context.update(&dimension.to_le_bytes());
        add_set(&mut context, &RuleSet(rules));
        add_set(&mut context, &RuleSet(exceptions));
    }
    context
        .finish()
        .as_ref()
        .try_into()
        .expect("SHA-256 has 32 bytes")
}

fn add_set(context: &mut digest::Context, set: &RuleSet) {
    for word in set.0 {
        context.update(&word.to_le_bytes());
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_does_not_depend_on_seed_or_slot() {
        use super::super::rules::Identity;
        use shrike_proto::{
            event::Action,
            id::{PolicyName, RuleName},
            policy::{Matcher, Mode, OnUnknown, PathPattern, Policy, Rule, Trigger},
        };
        let set = |paths: &[&str]| {
            PolicySet::new(
                Generation(1),
                vec![Policy {
                    name: PolicyName::parse("p").unwrap(),
                    mode: Mode::Enforce,
                    nodes: BTreeMap::new(),
                    rules: paths
                        .iter()
                        .enumerate()
                        .map(|(number, path)| Rule {
                            name: RuleName::parse(&format!("r{number}")).unwrap(),
                            trigger: Trigger::Open,
                            matcher: Matcher {
                                paths: vec![PathPattern::parse(path).unwrap()],
                                ..Matcher::default()
                            },
                            access: Vec::new(),
                            on_unknown: OnUnknown::Record,
                            unless: None,
                            action: Action::Kill,
                        })
                        .collect(),
                }],
            )
        };
        let digest = |paths: &[&str], slot, seed| {
            let ground = Ground {
                slot,
                seed,
                attachment: Attachment::Lsm,
                // Every node has other inodes.
                identify: &|pattern| {
                    Some(Identity {
                        device: slot,
                        inode: seed[0] * pattern.as_str().len() as u64,
                        generation: None,
                    })
                },
            };
            let compiled = compile(&set(paths), &ground).unwrap();
            map_digest(&compiled.plan, &compiled.entries)
        };
        let paths = ["/a", "/b/", "/c/d"];
        assert_eq!(digest(&paths, 0, [1, 2]), digest(&paths, 1, [3, 4]));
        assert_ne!(digest(&paths, 0, [1, 2]), digest(&paths[..2], 0, [1, 2]));
    }
}
