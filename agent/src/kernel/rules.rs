//! From a policy set to what goes into the maps. Pure: seed and slot come from
//! the caller.

use std::collections::{BTreeMap, BTreeSet};

use shrike_agent_ebpf::{
    digest::{Digest, Dimension, Key, Seed, components},
    plan::{
        ASKS_ABOUT_EXECS, ASKS_ABOUT_OPENS, DIRECTORIES_BY_IDENTITY, ENFORCES_EXECS,
        ENFORCES_OPENS, Entry, PathDepths, Plan, READS_WITHOUT_PATH, RULES_MAX,
        WRITES_WITHOUT_PATH, Word, depth_bit,
    },
};
use shrike_proto::{
    event::Action,
    id::{Generation, PolicyName, RuleName},
    policy::{
        Access, Matcher, Mode, OnUnknown, PathPattern, PolicyError, PolicySet, Rule, Trigger,
    },
};

use super::Attachment;

/// Values that rules may name, all policies of a node together: half of the
/// policy map, because two generations share it.
pub const VALUES_MAX: usize = 65_536;

/// A policy set that this node cannot carry out as written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// More rules than there are bits.
    #[error(
        "the policies for this node have {0} rules together; a node carries at most {RULES_MAX}"
    )]
    TooManyRules(usize),
    /// More values than the map has room for.
    #[error(
        "the policies for this node name {0} different paths, programs and command names; a node carries at most {VALUES_MAX}"
    )]
    TooManyValues(usize),
    /// A policy that does not hold together.
    #[error("policy {policy}: {source}")]
    Policy {
        /// The policy.
        policy: PolicyName,
        /// What is wrong with it.
        source: PolicyError,
    },
    /// Nothing can be refused here.
    #[error(
        "policy {policy}, rule {rule}: this node cannot deny: its hooks are attached as {attachment}, not as BPF LSM (see `shrike-agent doctor`)"
    )]
    CannotDeny {
        /// The policy.
        policy: PolicyName,
        /// The rule.
        rule: RuleName,
        /// How the hooks are attached.
        attachment: &'static str,
    },
    /// Generation 0 stands for "none".
    #[error("generation 0 stands for no policy: it cannot be applied")]
    NoGeneration,
}

/// The names behind the rule numbers of one generation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuleTable {
    rules: Vec<(PolicyName, RuleName)>,
}

impl RuleTable {
    /// Returns the policy and rule of a number.
    pub fn get(&self, rule: u16) -> Option<&(PolicyName, RuleName)> {
        self.rules.get(usize::from(rule))
    }

    /// Returns the number of rules.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Says whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

/// One generation, ready for the maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// Which generation.
    pub generation: Generation,
    /// What goes into the plan's slot.
    pub plan: Plan,
    /// What goes into the policy map, sorted by key.
    pub entries: BTreeMap<Key, Entry>,
    /// The names behind the numbers.
    pub table: RuleTable,
}

/// What the node that compiles can tell.
pub struct Ground<'a> {
    /// Slot of the maps.
    pub slot: u32,
    /// Random, and the node's secret.
    pub seed: Seed,
    /// How the decisions are attached.
    pub attachment: Attachment,
    /// Returns the file that a path of the node stands for.
    pub identify: &'a dyn Fn(&PathPattern) -> Option<Identity>,
}

/// A file or directory by its inode, as the kernel knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// Kernel device number.
    pub device: u32,
    /// Inode number.
    pub inode: u64,
    /// Tells the inode from others that had or will have the number; `None`
    /// where the file system does not say.
    pub generation: Option<u32>,
}

/// Compiles a policy set for a slot of the maps.
///
/// # Errors
/// [`CompileError`] when a node cannot carry it out as written.
pub fn compile(set: &PolicySet, ground: &Ground<'_>) -> Result<Compiled, CompileError> {
    if set.generation == Generation::NONE {
        return Err(CompileError::NoGeneration);
    }
    let count = set.policies.iter().map(|policy| policy.rules.len()).sum();
    if count > RULES_MAX {
        return Err(CompileError::TooManyRules(count));
    }
    let mut compiler = Compiler {
        ground,
        plan: Plan {
            generation: set.generation.0,
            seed: ground.seed,
            ..Plan::default()
        },
        entries: BTreeMap::new(),
    };
    let mut table = RuleTable::default();
    for policy in &set.policies {
        policy.check().map_err(|source| CompileError::Policy {
            policy: policy.name.clone(),
            source,
        })?;
        for rule in &policy.rules {
            let denies = rule.action == Action::Deny || rule.on_unknown == OnUnknown::Deny;
            if denies && ground.attachment != Attachment::Lsm {
                return Err(CompileError::CannotDeny {
                    policy: policy.name.clone(),
                    rule: rule.name.clone(),
                    attachment: ground.attachment.as_str(),
                });
            }
            let number = table.rules.len();
            compiler.add(number, rule, policy.mode);
            table.rules.push((policy.name.clone(), rule.name.clone()));
        }
    }
    if compiler.entries.len() > VALUES_MAX {
        return Err(CompileError::TooManyValues(compiler.entries.len()));
    }
    Ok(Compiled {
        generation: set.generation,
        plan: compiler.plan,
        entries: compiler.entries,
        table,
    })
}

struct Compiler<'a> {
    ground: &'a Ground<'a>,
    plan: Plan,
    entries: BTreeMap<Key, Entry>,
}

/// Where a value stands.
#[derive(Clone, Copy)]
enum Place {
    Rule,
    Exception,
}

impl Compiler<'_> {
    fn add(&mut self, number: usize, rule: &Rule, mode: Mode) {
        match rule.trigger {
            Trigger::Open => {
                self.plan.flags |= ASKS_ABOUT_OPENS;
                self.plan.open.insert(number);
            }
            Trigger::Exec => {
                self.plan.flags |= ASKS_ABOUT_EXECS;
                self.plan.exec.insert(number);
            }
        }
        let access: BTreeSet<Access> = rule.access.iter().copied().collect();
        if access.is_empty() || access.contains(&Access::Read) {
            self.plan.read.insert(number);
        }
        if access.is_empty() || access.contains(&Access::Write) {
            self.plan.write.insert(number);
        }
        self.plan.flags |= shortcuts(rule, mode);
        match rule.action {
            Action::Kill => self.plan.kill.insert(number),
            Action::Deny => self.plan.deny.insert(number),
            Action::Alert => self.plan.alert.insert(number),
            Action::Ignore => self.plan.ignore.insert(number),
            Action::Record => {}
        }
        match rule.on_unknown {
            OnUnknown::Record => {}
            OnUnknown::Deny => self.plan.unknown_deny.insert(number),
            OnUnknown::Kill => self.plan.unknown_kill.insert(number),
        }
        match mode {
            Mode::Observe => self.plan.observe.insert(number),
            Mode::Enforce => {}
        }
        for word in free_words(&rule.matcher) {
            self.plan.free[word as usize].insert(number);
        }
        self.add_values(number, &rule.matcher, Place::Rule);
        if let Some(unless) = &rule.unless {
            self.plan.excepted.insert(number);
            for word in free_words(unless) {
                self.plan.excepted_free[word as usize].insert(number);
            }
            self.add_values(number, unless, Place::Exception);
        }
    }

    fn add_values(&mut self, number: usize, matcher: &Matcher, place: Place) {
        let seed = self.plan.seed;
        for pattern in &matcher.paths {
            note_depth(&mut self.plan.path_depths, pattern);
            self.add_path(
                number,
                pattern,
                place,
                Dimension::PathExact,
                Dimension::PathBelow,
            );
            self.add_parent(pattern);
            self.add_identity(number, pattern, place);
        }
        for pattern in &matcher.exe {
            note_depth(&mut self.plan.exe_depths, pattern);
            self.add_path(
                number,
                pattern,
                place,
                Dimension::ExeExact,
                Dimension::ExeBelow,
            );
        }
        for comm in &matcher.comm {
            let digest = Digest::component(seed, comm.as_str().as_bytes());
            self.add_value(number, place, Dimension::Comm, digest);
        }
    }

    fn add_path(
        &mut self,
        number: usize,
        pattern: &PathPattern,
        place: Place,
        exact: Dimension,
        below: Dimension,
    ) {
        let digest = Digest::path(self.plan.seed, pattern.as_str().as_bytes());
        let dimension = if pattern.is_directory() { below } else { exact };
        self.add_value(number, place, dimension, digest);
    }

    /// Marks the directory of a file that a rule names.
    fn add_parent(&mut self, pattern: &PathPattern) {
        if pattern.is_directory() {
            return;
        }
        let parts: Vec<_> = components(pattern.as_str().as_bytes()).collect();
        let Some((_, parent)) = parts.split_last() else {
            return;
        };
        let seed = self.ground.seed;
        let digest = parent.iter().fold(Digest::start(seed), |digest, name| {
            digest.join(Digest::component(seed, name))
        });
        let key = Key::new(self.ground.slot, Dimension::Parent, digest);
        self.entries.entry(key).or_default();
    }

    /// Adds the file that the path stands for, whatever its other names.
    fn add_identity(&mut self, number: usize, pattern: &PathPattern, place: Place) {
        let Some(identity) = (self.ground.identify)(pattern) else {
            return;
        };
        let dimension = match (pattern.is_directory(), identity.generation) {
            (false, Some(_)) => Dimension::Identity,
            (false, None) => Dimension::IdentityAny,
            (true, Some(_)) => Dimension::IdentityBelow,
            (true, None) => Dimension::IdentityBelowAny,
        };
        if pattern.is_directory() {
            self.plan.flags |= DIRECTORIES_BY_IDENTITY;
        }
        self.plan.identities.insert(identity.inode);
        let key = Key::of_inode(
            self.ground.slot,
            dimension as u32,
            identity.device,
            identity.inode,
            identity.generation.unwrap_or(0),
        );
        self.add_entry(number, place, key);
    }

    fn add_value(&mut self, number: usize, place: Place, dimension: Dimension, digest: Digest) {
        self.add_entry(number, place, Key::new(self.ground.slot, dimension, digest));
    }

    fn add_entry(&mut self, number: usize, place: Place, key: Key) {
        let entry = self.entries.entry(key).or_default();
        match place {
            Place::Rule => entry.rules.insert(number),
            Place::Exception => entry.exceptions.insert(number),
        }
    }
}

/// Returns the flags by which decisions know what they may leave out.
fn shortcuts(rule: &Rule, mode: Mode) -> u64 {
    let mut flags = 0;
    let asks_for = |access| rule.access.is_empty() || rule.access.contains(&access);
    let enforces = match (mode, rule.action, rule.on_unknown) {
        (Mode::Observe, _, _) => false,
        (Mode::Enforce, Action::Deny | Action::Kill, _) => true,
        (Mode::Enforce, _, OnUnknown::Deny | OnUnknown::Kill) => true,
        (Mode::Enforce, Action::Ignore | Action::Record | Action::Alert, OnUnknown::Record) => {
            false
        }
    };
    match rule.trigger {
        Trigger::Open => {
            if rule.matcher.paths.is_empty() {
                if asks_for(Access::Read) {
                    flags |= READS_WITHOUT_PATH;
                }
                if asks_for(Access::Write) {
                    flags |= WRITES_WITHOUT_PATH;
                }
            }
            if enforces {
                flags |= ENFORCES_OPENS;
            }
        }
        Trigger::Exec if enforces => flags |= ENFORCES_EXECS,
        Trigger::Exec => {}
    }
    flags
}

/// Returns the words that a matcher does not give.
fn free_words(matcher: &Matcher) -> impl Iterator<Item = Word> {
    [
        (Word::Comm, matcher.comm.is_empty()),
        (Word::Path, matcher.paths.is_empty()),
        (Word::Exe, matcher.exe.is_empty()),
    ]
    .into_iter()
    .filter_map(|(word, free)| free.then_some(word))
}

fn note_depth(depths: &mut PathDepths, pattern: &PathPattern) {
    let depth = components(pattern.as_str().as_bytes()).count();
    let bit = depth_bit(u32::try_from(depth).expect("a path has at most 256 components"));
    if pattern.is_directory() {
        depths.below |= bit;
    } else {
        depths.exact |= bit;
    }
}

#[cfg(test)]
mod tests;
