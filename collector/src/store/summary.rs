//! What a run of events mentions, gathered while they are decoded anyway and
//! turned into a block's footer.

use std::{
    collections::{BTreeSet, HashSet},
    hash::{BuildHasherDefault, Hasher},
};

use shrike_proto::event::{Event, Mention};

use super::{
    block::{FOOTER_UIDS_MAX, Footer, action_bit, kind_bit},
    bloom::{self, Bloom, Tag},
};

/// Takes hashes as they are: they are mixed already.
#[derive(Debug, Clone, Copy, Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only whole hashes are kept");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// Gathered over events, mergeable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Events gathered.
    pub count: u32,
    /// Unix nanoseconds of the oldest event.
    pub time_min_unix_ns: i64,
    /// Unix nanoseconds of the newest event.
    pub time_max_unix_ns: i64,
    /// Bytes of the events before compression.
    pub raw_bytes: usize,
    kinds: u32,
    actions: u32,
    /// One more than a footer lists is enough to know that it lists none.
    uids: BTreeSet<u32>,
    hashes: HashSet<u64, BuildHasherDefault<AsIs>>,
}

impl Summary {
    /// Begins with nothing, for events that take `raw_bytes` when encoded.
    pub fn new(raw_bytes: usize) -> Self {
        Self {
            count: 0,
            time_min_unix_ns: i64::MAX,
            time_max_unix_ns: i64::MIN,
            raw_bytes,
            kinds: 0,
            actions: 0,
            uids: BTreeSet::new(),
            hashes: HashSet::default(),
        }
    }

    /// Gathers over events that take `raw_bytes` when encoded.
    ///
    /// # Panics
    /// Without events: there is no empty block.
    pub fn gather(events: &[Event], raw_bytes: usize) -> Self {
        assert!(!events.is_empty(), "a block has events");
        let mut summary = Self::new(raw_bytes);
        for event in events {
            summary.add(&Mention::from(event));
        }
        summary
    }

    /// Takes an event into account.
    pub fn add(&mut self, event: &Mention<'_>) {
        self.count += 1;
        self.time_min_unix_ns = self.time_min_unix_ns.min(event.time_unix_ns);
        self.time_max_unix_ns = self.time_max_unix_ns.max(event.time_unix_ns);
        self.kinds |= kind_bit(event.kind);
        self.actions |= event.action.map_or(0, action_bit);
        self.add_uid(event.uid);
        let hashes = &mut self.hashes;
        hashes.insert(bloom::hash(Tag::Tgid, &event.tgid.to_le_bytes()));
        hashes.insert(bloom::hash(Tag::Executable, event.exe));
        if let Some(path) = event.path {
            bloom::hash_directories(path, |hash| {
                hashes.insert(hash);
            });
        }
    }

    fn add_uid(&mut self, uid: u32) {
        if self.uids.len() <= FOOTER_UIDS_MAX {
            self.uids.insert(uid);
        }
    }

    /// Returns the time between the oldest and the newest event of both.
    pub fn span_with(&self, other: &Self) -> i64 {
        self.time_max_unix_ns
            .max(other.time_max_unix_ns)
            .saturating_sub(self.time_min_unix_ns.min(other.time_min_unix_ns))
    }

    /// Takes in what another one gathered over the events that follow.
    pub fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.time_min_unix_ns = self.time_min_unix_ns.min(other.time_min_unix_ns);
        self.time_max_unix_ns = self.time_max_unix_ns.max(other.time_max_unix_ns);
        self.raw_bytes += other.raw_bytes;
        self.kinds |= other.kinds;
        self.actions |= other.actions;
        other.uids.iter().for_each(|uid| self.add_uid(*uid));
        self.hashes.extend(other.hashes);
    }

    /// Makes the footer of a block with this payload.
    pub fn footer(&self, payload_bytes: usize) -> Footer {
        let mut hashes: Vec<u64> = self.hashes.iter().copied().collect();
        hashes.sort_unstable();
        Footer {
            count: self.count,
            time_max_unix_ns: self.time_max_unix_ns,
            payload_bytes: u32::try_from(payload_bytes).expect("a block is bounded"),
            raw_bytes: u32::try_from(self.raw_bytes).expect("a block is bounded"),
            kinds: self.kinds,
            actions: self.actions,
            uids: (self.uids.len() <= FOOTER_UIDS_MAX).then(|| self.uids.iter().copied().collect()),
            bloom: Bloom::build(&hashes),
            merged: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn merged_summary_is_that_of_all_events() {
        let events = sample::events(1, 40);
        let (left, right) = events.split_at(15);
        let mut merged = Summary::gather(left, 10);
        merged.merge(Summary::gather(right, 20));
        assert_eq!(merged, Summary::gather(&events, 30));
        assert_eq!(merged.footer(5), Summary::gather(&events, 30).footer(5));
    }

    #[test]
    fn many_users_become_any() {
        let events: Vec<_> = sample::events(1, 100)
            .into_iter()
            .zip(0..)
            .map(|(mut event, uid)| {
                event.process.uid = uid;
                event
            })
            .collect();
        assert_eq!(Summary::gather(&events, 1).footer(1).uids, None);
        assert_eq!(
            Summary::gather(&events[..3], 1).footer(1).uids,
            Some(vec![0, 1, 2])
        );
    }
}
