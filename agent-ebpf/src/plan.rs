//! A generation of rules as the kernel holds it: sets of rule numbers.
//!
//! A node carries at most [`RULES_MAX`] rules, numbered in the order of their
//! policies. Whatever can be said of a rule ahead of time is a set in the
//! [`Plan`]; what depends on a name is an [`Entry`] of the policy map, under
//! the name's digest. There are two plans and one word that says which of
//! them is in force.

use crate::digest::Seed;

/// Rules that one node can carry.
pub const RULES_MAX: usize = 256;

/// Words of a [`RuleSet`].
pub const RULE_WORDS: usize = RULES_MAX / 64;

/// Rule numbers, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct RuleSet(pub [u64; RULE_WORDS]);

impl RuleSet {
    /// No rule.
    pub const EMPTY: Self = Self([0; RULE_WORDS]);

    /// Adds a rule.
    ///
    /// # Panics
    /// When the number is not below [`RULES_MAX`].
    pub fn insert(&mut self, rule: usize) {
        self.0[rule / 64] |= 1 << (rule % 64);
    }

    /// Says whether a rule is in the set.
    ///
    /// # Panics
    /// When the number is not below [`RULES_MAX`].
    pub fn contains(&self, rule: usize) -> bool {
        self.0[rule / 64] & 1 << (rule % 64) != 0
    }

    /// Says whether there is no rule in the set.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.0[0] | self.0[1] | self.0[2] | self.0[3] == 0
    }

    /// Returns the lowest rule number.
    #[inline(always)]
    pub fn first(&self) -> Option<u32> {
        let mut index = 0;
        while index < RULE_WORDS {
            if self.0[index] != 0 {
                return Some(index as u32 * 64 + lowest_bit(self.0[index]));
            }
            index += 1;
        }
        None
    }

    /// Returns the rules that are not in another set.
    #[inline(always)]
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut rest = *self;
        let mut index = 0;
        while index < RULE_WORDS {
            rest.0[index] &= !other.0[index];
            index += 1;
        }
        rest
    }

    /// Adds every rule of another set.
    #[inline(always)]
    pub fn add(&mut self, other: &Self) {
        let mut index = 0;
        while index < RULE_WORDS {
            self.0[index] |= other.0[index];
            index += 1;
        }
    }

    /// Returns the rules in both sets.
    #[inline(always)]
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let mut both = Self::EMPTY;
        let mut index = 0;
        while index < RULE_WORDS {
            both.0[index] = self.0[index] & other.0[index];
            index += 1;
        }
        both
    }
}

/// Returns the number of the lowest bit set. eBPF counts no zeroes, and
/// LLVM's replacement is a table in memory that programs may not index.
#[inline(always)]
fn lowest_bit(word: u64) -> u32 {
    let mut rest = word;
    let mut position = 0;
    let mut width = 32;
    while width > 0 {
        if rest & ((1 << width) - 1) == 0 {
            rest >>= width;
            position += width;
        }
        width /= 2;
    }
    position
}

/// The words that a rule and its exception look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Word {
    /// The command name: cheapest, so looked at first.
    Comm = 0,
    /// The file opened or executed.
    Path = 1,
    /// The executable of the acting process.
    Exe = 2,
}

/// Number of words.
pub const WORDS: usize = 3;

/// Depths of paths that rules name, one bit each; the last bit stands for
/// that depth and every deeper one.
pub type Depths = u64;

/// Returns the bit of a depth.
#[inline(always)]
pub fn depth_bit(depth: u32) -> Depths {
    1 << if depth > 63 { 63 } else { depth }
}

/// Depths at which it is worth asking the policy map about a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct PathDepths {
    /// Of whole paths.
    pub exact: Depths,
    /// Of directories.
    pub below: Depths,
}

/// There are rules about opens.
pub const ASKS_ABOUT_OPENS: u64 = 1 << 0;
/// Some rule about opens for reading gives no path: that a path concerns no
/// rule does not settle such an open.
pub const READS_WITHOUT_PATH: u64 = 1 << 1;
/// The same for writing.
pub const WRITES_WITHOUT_PATH: u64 = 1 << 2;
/// Some rule names a directory that is known by its inode.
pub const DIRECTORIES_BY_IDENTITY: u64 = 1 << 3;
/// There are rules about execs.
pub const ASKS_ABOUT_EXECS: u64 = 1 << 4;
/// Some rule about opens denies or kills.
pub const ENFORCES_OPENS: u64 = 1 << 5;
/// The same about execs.
pub const ENFORCES_EXECS: u64 = 1 << 6;

/// Which plan is in force, and what it asks about: one word, so that a
/// decision reads both at once.
///
/// ```text
/// flags << 1 | slot
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct InForce(pub u64);

impl InForce {
    /// Says that a plan is in force.
    pub fn new(slot: u32, plan: &Plan) -> Self {
        Self(plan.flags << 1 | u64::from(slot & 1))
    }

    /// Returns the plan's slot: 0 or 1.
    #[inline(always)]
    pub fn slot(self) -> u32 {
        self.0 as u32 & 1
    }

    /// Says whether one of the flags is set.
    #[inline(always)]
    pub fn has(self, flags: u64) -> bool {
        self.0 & flags << 1 != 0
    }
}

/// Bits of a plan's [`Identities`]: a hundred rules leave one look-up in ten
/// to a map that has the answer.
pub const IDENTITY_BITS: usize = 1024;

/// Inode numbers of the files and directories that rules name, as a Bloom
/// filter with one function, their low bits: a number that is not in it needs
/// no look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Identities(pub [u64; IDENTITY_BITS / 64]);

impl Identities {
    /// Adds an inode number.
    pub fn insert(&mut self, inode: u64) {
        let bit = Self::bit(inode);
        self.0[bit / 64] |= 1 << (bit % 64);
    }

    /// Says whether an inode number may have been added.
    #[inline(always)]
    pub fn may_contain(&self, inode: u64) -> bool {
        let bit = Self::bit(inode);
        self.0[bit / 64] >> (bit % 64) & 1 != 0
    }

    /// Returns the bit of an inode number.
    #[inline(always)]
    pub fn bit(inode: u64) -> usize {
        inode as usize & (IDENTITY_BITS - 1)
    }
}

/// One generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Plan {
    /// 0: nothing was ever loaded.
    pub generation: u64,
    /// [`ASKS_ABOUT_OPENS`] and its like.
    pub flags: u64,
    /// Seed of the digests in this slot.
    pub seed: Seed,
    /// Rules about opens.
    pub open: RuleSet,
    /// Rules about execs.
    pub exec: RuleSet,
    /// Rules that count opens for reading.
    pub read: RuleSet,
    /// Rules that count opens for writing.
    pub write: RuleSet,
    /// For each word, the rules that do not give it.
    pub free: [RuleSet; WORDS],
    /// Rules with an exception.
    pub excepted: RuleSet,
    /// For each word, the rules whose exception does not give it.
    pub excepted_free: [RuleSet; WORDS],
    /// Rules that ask for a kill.
    pub kill: RuleSet,
    /// Rules that ask for a refusal.
    pub deny: RuleSet,
    /// Rules that ask for an alert.
    pub alert: RuleSet,
    /// Rules that leave events out.
    pub ignore: RuleSet,
    /// Rules in observe mode.
    pub observe: RuleSet,
    /// Rules that refuse a path that cannot be resolved.
    pub unknown_deny: RuleSet,
    /// Rules that kill for a path that cannot be resolved.
    pub unknown_kill: RuleSet,
    /// Files and directories known by their inodes.
    pub identities: Identities,
    /// Depths of the files that rules name.
    pub path_depths: PathDepths,
    /// Depths of the executables that rules name.
    pub exe_depths: PathDepths,
}

impl Plan {
    /// Says whether another plan is this one, but for identities that the
    /// programs added.
    pub fn is_within(&self, other: &Self) -> bool {
        let grown = self
            .identities
            .0
            .iter()
            .zip(other.identities.0)
            .all(|(mine, other)| mine & other == *mine);
        let rest = Self {
            identities: self.identities,
            ..*other
        };
        grown && rest == *self
    }
}

const _: () = assert!(size_of::<Plan>() == 32 + 18 * size_of::<RuleSet>() + IDENTITY_BITS / 8 + 32);

/// Rules that name one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Entry {
    /// In the rule itself.
    pub rules: RuleSet,
    /// In the rule's exception.
    pub exceptions: RuleSet,
}

const _: () = assert!(size_of::<Entry>() == 64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_is_the_lowest_rule_number() {
        let check = |rules: &[usize], first: Option<u32>| {
            let mut set = RuleSet::EMPTY;
            rules.iter().for_each(|rule| set.insert(*rule));
            assert_eq!(set.first(), first, "{rules:?}");
            assert_eq!(set.is_empty(), first.is_none());
        };
        check(&[], None);
        check(&[0], Some(0));
        check(&[63, 64], Some(63));
        check(&[255], Some(255));
        for rule in 0..RULES_MAX {
            check(&[rule, 255], Some(rule as u32));
        }
    }

    #[test]
    fn identities_that_were_added_are_found() {
        let mut identities = Identities::default();
        for inode in [1, 77, 1 << 41 | 5] {
            assert!(!identities.may_contain(inode), "{inode}");
            identities.insert(inode);
            assert!(identities.may_contain(inode), "{inode}");
        }
    }

    #[test]
    fn the_word_in_force_keeps_slot_and_flags_apart() {
        let plan = Plan {
            flags: ASKS_ABOUT_OPENS | ENFORCES_EXECS,
            ..Plan::default()
        };
        for slot in [0, 1] {
            let in_force = InForce::new(slot, &plan);
            assert_eq!(in_force.slot(), slot);
            assert!(in_force.has(ASKS_ABOUT_OPENS));
            assert!(in_force.has(ENFORCES_EXECS | ASKS_ABOUT_EXECS));
            assert!(!in_force.has(READS_WITHOUT_PATH | ASKS_ABOUT_EXECS));
        }
    }

    #[test]
    fn plan_may_learn_identities_and_nothing_else() {
        let mut plan = Plan {
            generation: 3,
            ..Plan::default()
        };
        plan.identities.insert(7);
        let mut learned = plan;
        learned.identities.insert(8);
        assert!(plan.is_within(&plan) && plan.is_within(&learned));
        assert!(!learned.is_within(&plan), "one was removed");
        learned.kill.insert(1);
        assert!(!plan.is_within(&learned));
        assert!(!plan.is_within(&Plan::default()));
    }

    #[test]
    fn depths_past_the_last_bit_share_it() {
        assert_eq!(depth_bit(0), 1);
        assert_eq!(depth_bit(63), depth_bit(64));
        assert_eq!(depth_bit(62) << 1, depth_bit(256));
    }
}
