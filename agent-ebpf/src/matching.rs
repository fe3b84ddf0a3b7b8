//! The matching engine: which rule decides about one open or exec.
//!
//! An [`Evaluation`] starts with every rule about the hook and loses rules
//! word by word; the caller looks a word up only while some rule still needs
//! it, because reading an executable's path is what costs. The strongest
//! action of the rules left wins, the lowest number breaks ties.
//!
//! ```text
//! begin(hook, access) → narrow(comm) → narrow(path) → narrow(exe) → decide
//! ```
//!
//! A rule matches when every word that it gives has the value, and it has no
//! exception of which every word has the value.

use crate::{
    digest::{Digest, Dimension, Key},
    plan::{Depths, Entry, Plan, RuleSet, Word, depth_bit},
};

/// The hook that asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Trigger {
    /// An open.
    Open = 0,
    /// An exec.
    Exec = 1,
}

/// The open reads.
pub const ACCESS_READ: u32 = 1;

/// The open writes or truncates.
pub const ACCESS_WRITE: u32 = 2;

/// Rules that still match, and those whose exception still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Evaluation {
    /// Every word looked at so far has the value.
    pub left: RuleSet,
    /// Every word of the exception looked at so far has the value.
    pub excepted: RuleSet,
    /// Of the rules left, those whose path could not be resolved.
    pub doubted: RuleSet,
}

impl Evaluation {
    /// Starts with every rule that is about this hook and access.
    #[inline(always)]
    pub fn begin(plan: &Plan, trigger: u32, access: u32) -> Self {
        let left = if trigger == Trigger::Open as u32 {
            let mut counted = RuleSet::EMPTY;
            if access & ACCESS_READ != 0 {
                counted.add(&plan.read);
            }
            if access & ACCESS_WRITE != 0 {
                counted.add(&plan.write);
            }
            if access == 0 {
                // Neither: ioctl-only descriptors. Rules about either count.
                counted.add(&plan.read);
                counted.add(&plan.write);
            }
            plan.open.and(&counted)
        } else {
            plan.exec
        };
        let excepted = left.and(&plan.excepted);
        Self {
            left,
            excepted,
            doubted: RuleSet::EMPTY,
        }
    }

    /// Says whether no rule is left.
    #[inline(always)]
    pub fn is_over(&self) -> bool {
        self.left.is_empty()
    }

    /// Says whether a rule that is left, or its exception, gives this word.
    #[inline(always)]
    pub fn needs(&self, plan: &Plan, word: Word) -> bool {
        let free = &plan.free[word as usize].0;
        let excepted_free = &plan.excepted_free[word as usize].0;
        let mut needed = 0;
        let mut index = 0;
        while index < free.len() {
            let left = self.left.0[index];
            needed |= left & !free[index];
            needed |= left & self.excepted.0[index] & !excepted_free[index];
            index += 1;
        }
        needed != 0
    }

    /// Keeps the rules that a word's value satisfies: those among `hits`, and
    /// those that do not give the word.
    #[inline(always)]
    pub fn narrow(&mut self, plan: &Plan, word: Word, hits: &Entry) {
        let free = &plan.free[word as usize].0;
        let excepted_free = &plan.excepted_free[word as usize].0;
        let mut index = 0;
        while index < free.len() {
            self.left.0[index] &= hits.rules.0[index] | free[index];
            self.excepted.0[index] &= hits.exceptions.0[index] | excepted_free[index];
            index += 1;
        }
    }

    /// Keeps, of the rules that give a path, those that say what happens when
    /// there is none to be had. An exception that gives a path does not hold.
    #[inline(always)]
    pub fn doubt_path(&mut self, plan: &Plan) {
        let free = &plan.free[Word::Path as usize].0;
        let excepted_free = &plan.excepted_free[Word::Path as usize].0;
        let mut index = 0;
        while index < free.len() {
            let asked = self.left.0[index] & !free[index];
            let answer = plan.unknown_deny.0[index] | plan.unknown_kill.0[index];
            self.doubted.0[index] = asked & answer;
            self.left.0[index] &= free[index] | answer;
            self.excepted.0[index] &= excepted_free[index];
            index += 1;
        }
    }

    /// Returns the winner.
    #[inline(always)]
    pub fn decide(&self, plan: &Plan) -> Option<Decision> {
        let mut matched = self.left;
        let mut kill = RuleSet::EMPTY;
        let mut deny = RuleSet::EMPTY;
        let mut index = 0;
        while index < matched.0.len() {
            matched.0[index] &= !self.excepted.0[index];
            let sure = matched.0[index] & !self.doubted.0[index];
            let doubted = matched.0[index] & self.doubted.0[index];
            kill.0[index] = sure & plan.kill.0[index] | doubted & plan.unknown_kill.0[index];
            deny.0[index] = sure & plan.deny.0[index] | doubted & plan.unknown_deny.0[index];
            index += 1;
        }
        let (rule, action) = if let Some(rule) = kill.first() {
            (rule, Action::Kill)
        } else if let Some(rule) = deny.first() {
            (rule, Action::Deny)
        } else if let Some(rule) = matched.and(&plan.alert).first() {
            (rule, Action::Alert)
        } else if let Some(rule) = matched.without(&plan.ignore).first() {
            (rule, Action::Record)
        } else {
            (matched.first()?, Action::Ignore)
        };
        let word = plan.observe.0[(rule / 64) as usize & (plan.observe.0.len() - 1)];
        Some(Decision {
            rule,
            action: action as u32,
            observe: (word >> (rule % 64) & 1) as u32,
        })
    }
}

/// What a rule asks for, as records carry it. Ordered by strength.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Action {
    /// Leave the event out.
    Ignore = 1,
    /// Mark the event.
    Record = 2,
    /// Mark it for a person.
    Alert = 3,
    /// Refuse the operation.
    Deny = 4,
    /// Refuse the operation where that can be done, and end the process.
    Kill = 5,
}

/// The winning rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Its number.
    pub rule: u32,
    /// An [`Action`].
    pub action: u32,
    /// 1 when its policy is in observe mode.
    pub observe: u32,
}

/// One path on its way from the root to the leaf, gathering the rules that
/// name it or a directory above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descent {
    digest: Digest,
    depth: u32,
}

impl Descent {
    /// Stands at the root.
    #[inline(always)]
    pub fn at_root(plan: &Plan) -> Self {
        Self::at(Digest::start(plan.seed), 0)
    }

    /// Stands somewhere on the way.
    #[inline(always)]
    pub fn at(digest: Digest, depth: u32) -> Self {
        Self { digest, depth }
    }

    /// Returns the digest of the path so far.
    #[inline(always)]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns the key to ask about this directory before going below it, if
    /// any rule names a directory of this depth.
    #[inline(always)]
    pub fn below(&self, slot: u32, depths: Depths, dimension: Dimension) -> Option<Key> {
        (depths & depth_bit(self.depth) != 0).then(|| Key::new(slot, dimension, self.digest))
    }

    /// Goes down into a component.
    #[inline(always)]
    pub fn enter(&mut self, component: Digest) {
        self.digest = self.digest.join(component);
        self.depth += 1;
    }

    /// Returns the key to ask about the whole path, if any rule names a path
    /// of this depth.
    #[inline(always)]
    pub fn exact(&self, slot: u32, depths: Depths, dimension: Dimension) -> Option<Key> {
        (depths & depth_bit(self.depth) != 0).then(|| Key::new(slot, dimension, self.digest))
    }
}

impl Entry {
    /// Adds the rules of another entry.
    #[inline(always)]
    pub fn add(&mut self, other: &Self) {
        self.rules.add(&other.rules);
        self.exceptions.add(&other.exceptions);
    }
}
