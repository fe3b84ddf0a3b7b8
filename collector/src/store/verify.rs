//! What a check of the whole store found.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Damage,
    block::{BlockKey, Footer, Run},
    layout::Space,
    merge::loose::{Minute, is_loose},
    stream::{StreamKey, Watermark},
};

/// Damages that are listed one by one; further ones are only counted.
pub const DAMAGES_LISTED: usize = 100;

/// Damaged blocks that are kept apart from each other; with more of them it is
/// the store that is damaged.
pub const BROKEN_MAX: usize = 10_000;

/// A block that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Where its footer and payload lie.
    pub spaces: (Space, Space),
    /// Its key as it lies in the store, without the first byte.
    pub stored_key: Vec<u8>,
    /// The same, where it is one.
    pub key: Option<BlockKey>,
    /// Its footer, where that is whole.
    pub footer: Option<Footer>,
    /// What is wrong with it.
    pub why: String,
}

impl Broken {
    /// Names the block.
    pub fn name(&self) -> String {
        match &self.key {
            Some(key) => key.to_string(),
            None => "a block whose key cannot be read".to_owned(),
        }
    }
}

/// The result of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verification {
    /// Whole blocks.
    pub blocks: u64,
    /// Events in them, by their footers.
    pub events: u64,
    /// Bytes of their payloads.
    pub payload_bytes: u64,
    /// The minutes of those that are to be merged.
    pub loose: BTreeSet<Minute>,
    /// Blocks that are damaged, at most [`BROKEN_MAX`]: a collector can go on
    /// without them.
    pub broken: Vec<Broken>,
    /// Events that the watermarks promise and no block's footer tells of.
    pub missing: BTreeMap<StreamKey, u64>,
    /// Damages of what nothing can stand in for: watermarks, records, pages.
    pub vital: u64,
    /// The first damages, at most [`DAMAGES_LISTED`].
    pub damages: Vec<Damage>,
    /// All damages.
    pub damaged: u64,
}

impl Verification {
    /// Says whether everything is whole.
    pub fn is_whole(&self) -> bool {
        self.damaged == 0
    }

    /// Says whether whatever is not whole can be set aside.
    pub fn is_mendable(&self) -> bool {
        self.vital == 0
    }

    /// Takes a damaged block into account.
    pub fn broken(&mut self, broken: Broken) {
        if self.broken.len() == BROKEN_MAX {
            return self.vital(broken.name(), broken.why);
        }
        self.damage(broken.name(), broken.why.clone());
        self.broken.push(broken);
    }

    /// Takes a damage into account that nothing can stand in for.
    pub fn vital(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.vital += 1;
        self.damage(what, why);
    }

    /// Takes a damage into account.
    pub fn damage(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.damaged += 1;
        if self.damages.len() < DAMAGES_LISTED {
            self.damages.push(Damage {
                what: what.into(),
                why: why.into(),
            });
        }
    }

    /// Takes a whole block into account.
    pub fn block(&mut self, key: &BlockKey, footer: &Footer) {
        if is_loose(footer) {
            self.loose.insert(Minute::of(key));
        }
        self.blocks += 1;
        self.events += u64::from(footer.count);
        self.payload_bytes += u64::from(footer.payload_bytes);
    }
}

/// Compares what the streams' watermarks promise with the blocks that are
/// there: a block that vanished without a trace shows up here.
#[derive(Debug, Default)]
pub struct Balance {
    events: BTreeMap<StreamKey, u64>,
}

impl Balance {
    /// Takes a block into account, whole or not.
    pub fn block(&mut self, runs: &[Run]) {
        for run in runs {
            *self.events.entry(run.stream.clone()).or_default() += u64::from(run.count);
        }
    }

    /// Reports every stream whose blocks are fewer or more than promised.
    pub fn settle(
        mut self,
        watermarks: &[(StreamKey, Watermark)],
        verification: &mut Verification,
    ) {
        for (stream, mark) in watermarks {
            let promised = mark.stored.saturating_sub(mark.removed);
            let found = self.events.remove(stream).unwrap_or_default();
            let what = format!("stream of node {} epoch {}", stream.node, stream.epoch);
            let why = format!("its blocks hold {found} events, its watermark promises {promised}");
            if found < promised {
                verification.damage(what, why);
                let missing = promised - found;
                verification.missing.insert(stream.clone(), missing);
            } else if found > promised {
                verification.vital(what, why);
            }
        }
        for (stream, found) in self.events {
            verification.vital(
                format!("stream of node {} epoch {}", stream.node, stream.epoch),
                format!("its blocks hold {found} events, but it has no watermark"),
            );
        }
    }
}
