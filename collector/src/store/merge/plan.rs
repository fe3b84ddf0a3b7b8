//! Which blocks of a minute become one: it only chooses.

use crate::store::{
    Order, Store, StoreError,
    block::{BLOCK_RAW_BYTES_MAX, BLOCK_SPAN_NS_MAX, Footer},
    merge::loose::{Minute, is_loose},
    piece::BLOCK_EVENTS_MAX,
    succession::Extent,
};

/// Blocks in one merge: their removal is one commit, and no batch is
/// acknowledged while it is written.
pub const PARTS_MAX: usize = 1024;

/// Blocks that are looked at together. Of more in one minute, the others
/// follow.
const CANDIDATES_MAX: usize = 16_384;

/// Events from which on a block alone is written anew: columns are shorter
/// than rows.
const ALONE_EVENTS_MIN: u32 = 256;

/// A block that may be merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// What it holds.
    pub extent: Extent,
    count: u32,
    raw_bytes: u32,
    time_max_unix_ns: i64,
    is_merged: bool,
}

impl Candidate {
    fn of(key: crate::store::block::BlockKey, footer: &Footer) -> Self {
        Self {
            count: footer.count,
            raw_bytes: footer.raw_bytes,
            time_max_unix_ns: footer.time_max_unix_ns,
            is_merged: !footer.merged.is_empty(),
            extent: Extent::of(key, footer),
        }
    }

    fn place(&self) -> impl Ord + '_ {
        self.extent
            .runs
            .first()
            .map(|run| (&run.stream, run.first_sequence))
    }
}

/// What is to be done for a minute.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Blocks that become one, each time.
    pub groups: Vec<Vec<Extent>>,
    /// There is more than was looked at.
    pub is_partial: bool,
}

/// Plans the merges of a minute, without the blocks that `is_left_out`.
///
/// # Errors
/// [`StoreError`] when the store cannot be read. A footer that is damaged is
/// passed over.
pub fn plan(
    store: &dyn Store,
    minute: Minute,
    is_left_out: impl Fn(&Extent) -> bool,
) -> Result<Plan, StoreError> {
    let (from, until) = minute.bounds_unix_ns();
    let mut candidates = Vec::new();
    let mut is_partial = false;
    for entry in store.footers(from, until, Order::OldestFirst) {
        let (key, footer) = match entry {
            Ok(entry) => entry,
            Err(StoreError::Damaged(_)) => continue,
            Err(error) => return Err(error),
        };
        if is_loose(&footer) {
            let candidate = Candidate::of(key, &footer);
            if !is_left_out(&candidate.extent) {
                candidates.push(candidate);
            }
        }
        if candidates.len() == CANDIDATES_MAX {
            is_partial = true;
            break;
        }
    }
    Ok(Plan {
        groups: group(candidates),
        is_partial,
    })
}

/// Puts what one block can hold together, streams side by side.
fn group(mut candidates: Vec<Candidate>) -> Vec<Vec<Extent>> {
    candidates.sort_by(|left, right| left.place().cmp(&right.place()));
    let mut groups = Vec::new();
    let mut open: Vec<Candidate> = Vec::new();
    for candidate in candidates {
        if !fits(&open, &candidate) {
            close(&mut open, &mut groups);
        }
        open.push(candidate);
    }
    close(&mut open, &mut groups);
    groups
}

fn fits(open: &[Candidate], candidate: &Candidate) -> bool {
    let all = || open.iter().chain([candidate]);
    let events: u64 = all().map(|it| u64::from(it.count)).sum();
    let raw_bytes: u64 = all().map(|it| u64::from(it.raw_bytes)).sum();
    let oldest = all().map(|it| it.extent.key.time_min_unix_ns).min();
    let newest = all().map(|it| it.time_max_unix_ns).max();
    let span = oldest
        .zip(newest)
        .map_or(0, |(oldest, newest)| newest.saturating_sub(oldest));
    open.len() < PARTS_MAX
        && events <= BLOCK_EVENTS_MAX.into()
        && raw_bytes <= BLOCK_RAW_BYTES_MAX as u64
        && span <= BLOCK_SPAN_NS_MAX
}

/// Takes a group that is worth it.
fn close(open: &mut Vec<Candidate>, groups: &mut Vec<Vec<Extent>>) {
    let group = std::mem::take(open);
    let is_worth_it = match group.as_slice() {
        [] => false,
        [alone] => !alone.is_merged && alone.count >= ALONE_EVENTS_MIN,
        [_, _, ..] => true,
    };
    if is_worth_it {
        groups.push(group.into_iter().map(|it| it.extent).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        sample,
        store::{Commit, memory::MemoryStore, stream::StreamKey},
    };
    use shrike_proto::id::{Epoch, NodeId};

    fn stream(node: &str) -> StreamKey {
        StreamKey {
            node: NodeId::parse(node).unwrap(),
            epoch: Epoch([1; 16]),
        }
    }

    /// One block for each event.
    fn store(nodes: &[&str], events: u64) -> MemoryStore {
        let store = MemoryStore::default();
        for event in sample::events(1, events) {
            for node in nodes {
                let blocks = sample::blocks_of(&stream(node), std::slice::from_ref(&event));
                store
                    .commit(&Commit {
                        blocks,
                        ..Commit::default()
                    })
                    .unwrap();
            }
        }
        store
    }

    fn planned(store: &MemoryStore) -> Vec<Vec<Extent>> {
        let key = sample::block_key(&sample::events(1, 1));
        plan(store, Minute::of(&key), |_| false).unwrap().groups
    }

    #[test]
    fn small_blocks_of_all_nodes_become_one_with_streams_side_by_side() {
        let groups = planned(&store(&["a", "b", "c"], 20));
        assert_eq!(groups.len(), 1);
        let nodes: Vec<&str> = groups[0]
            .iter()
            .map(|extent| extent.key.node.as_str())
            .collect();
        assert_eq!(nodes.len(), 60);
        assert!(nodes.is_sorted());
    }

    #[test]
    fn group_ends_where_a_merge_would_take_too_long() {
        let groups = planned(&store(&["a", "b"], PARTS_MAX as u64));
        let sizes: Vec<usize> = groups.iter().map(Vec::len).collect();
        assert_eq!(sizes, [PARTS_MAX, PARTS_MAX]);
    }

    #[test]
    fn small_block_alone_and_a_large_merged_one_stay() {
        assert!(planned(&store(&["a"], 1)).is_empty());
        let events = sample::events(1, 300);
        let mut block = sample::blocks(&events).remove(0);
        let commit = |block: &crate::store::block::Block| {
            let store = MemoryStore::default();
            store
                .commit(&Commit {
                    blocks: vec![block.clone()],
                    ..Commit::default()
                })
                .unwrap();
            store
        };
        assert_eq!(planned(&commit(&block)).len(), 1, "rows become columns");
        block.footer.merged = block.footer.runs(&block.key).into_owned();
        assert!(planned(&commit(&block)).is_empty());
    }

    #[test]
    fn events_far_apart_are_not_merged() {
        let store = MemoryStore::default();
        let mut events = sample::events(1, 4);
        // Each spans 40 seconds, both together more than a block may.
        let (from, _) = Minute::of(&sample::block_key(&events)).bounds_unix_ns();
        for (event, seconds) in events.iter_mut().zip([0, 40, 30, 70]) {
            event.time_unix_ns = from + seconds * 1_000_000_000;
        }
        for pair in events.chunks(2) {
            store
                .commit(&Commit {
                    blocks: sample::blocks(pair),
                    ..Commit::default()
                })
                .unwrap();
        }
        assert!(planned(&store).is_empty());
    }
}
