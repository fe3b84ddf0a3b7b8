//! What every store has to do, run against each implementation.

use shrike_proto::{
    event::Event,
    id::{Epoch, NodeId, SequenceNumber},
};

use super::{
    Collection, Commit, Order, RecordChange, Store,
    block::{self, Block, BlockKey},
    memory::MemoryStore,
    sled::{Existing, SledStore},
    stream::{StreamKey, Watermark},
};
use crate::sample;

/// Runs one case against both stores; the sled one is opened anew for each
/// call of the closure that it is given.
fn check(case: impl Fn(&dyn Fn() -> std::sync::Arc<dyn Store>)) {
    let memory: std::sync::Arc<dyn Store> = std::sync::Arc::new(MemoryStore::default());
    case(&|| std::sync::Arc::clone(&memory));
    let folder = tempfile::tempdir().unwrap();
    case(&|| {
        std::sync::Arc::new(SledStore::open(&folder.path().join("store"), Existing::OrNew).unwrap())
    });
}

fn add(store: &dyn Store, stream: &StreamKey, events: &[Event]) -> Vec<Block> {
    let blocks = sample::blocks_of(stream, events);
    let mut mark = store
        .watermarks()
        .unwrap()
        .into_iter()
        .find(|(key, _)| key == stream)
        .map(|(_, mark)| mark)
        .unwrap_or_default();
    mark.durable = events.last().unwrap().sequence;
    mark.stored += events.len() as u64;
    store
        .commit(&Commit {
            blocks: blocks.clone(),
            watermarks: vec![(stream.clone(), mark)],
            ..Commit::default()
        })
        .unwrap();
    blocks
}

fn keys(store: &dyn Store, from: i64, until: i64, order: Order) -> Vec<BlockKey> {
    store
        .footers(from, until, order)
        .map(|entry| entry.unwrap().0)
        .collect()
}

#[test]
fn committed_blocks_are_there_after_opening_again() {
    check(|open| {
        let events = sample::events(1, 50);
        let blocks = add(&*open(), &sample::stream(), &events);
        let store = open();
        for block in &blocks {
            let payload = store.payload(&block.key).unwrap().unwrap();
            assert_eq!(payload, block.payload);
            assert_eq!(
                block::decode_payload(&block.key, &block.footer, &payload).unwrap(),
                events
            );
        }
        let found: Vec<_> = store
            .footers(i64::MIN, i64::MAX, Order::OldestFirst)
            .map(Result::unwrap)
            .collect();
        assert_eq!(
            found,
            blocks
                .into_iter()
                .map(|block| (block.key, block.footer))
                .collect::<Vec<_>>()
        );
        assert!(store.verify().unwrap().is_whole());
    });
}

#[test]
fn blocks_are_listed_by_time_both_ways() {
    check(|open| {
        let store = open();
        for first in [201, 1, 101] {
            add(&*store, &sample::stream(), &sample::events(first, 10));
        }
        let oldest = keys(&*store, i64::MIN, i64::MAX, Order::OldestFirst);
        assert!(oldest.is_sorted());
        assert_eq!(oldest.len(), 3);
        let mut newest = keys(&*store, i64::MIN, i64::MAX, Order::NewestFirst);
        newest.reverse();
        assert_eq!(oldest, newest);
        let middle = oldest[1].time_min_unix_ns;
        assert_eq!(
            keys(&*store, middle, middle + 1, Order::OldestFirst),
            [oldest[1].clone()]
        );
        assert_eq!(
            keys(&*store, i64::MIN, middle, Order::NewestFirst),
            [oldest[0].clone()]
        );
    });
}

#[test]
fn times_before_1970_are_kept_in_order() {
    check(|open| {
        let store = open();
        let mut events = sample::events(1, 1);
        for time in [5, -5, 0] {
            events[0].time_unix_ns = time;
            events[0].sequence = SequenceNumber(events[0].sequence.0 + 1);
            add(&*store, &sample::stream(), &events);
        }
        let times: Vec<i64> = keys(&*store, i64::MIN, i64::MAX, Order::OldestFirst)
            .iter()
            .map(|key| key.time_min_unix_ns)
            .collect();
        assert_eq!(times, [-5, 0, 5]);
    });
}

#[test]
fn blocks_of_two_nodes_at_one_instant_do_not_collide() {
    check(|open| {
        let store = open();
        let events = sample::events(1, 5);
        for node in ["a", "b"] {
            let stream = StreamKey {
                node: NodeId::parse(node).unwrap(),
                epoch: Epoch([1; 16]),
            };
            add(&*store, &stream, &events);
        }
        assert_eq!(
            keys(&*store, i64::MIN, i64::MAX, Order::OldestFirst).len(),
            2
        );
        assert!(store.verify().unwrap().is_whole());
    });
}

#[test]
fn removed_blocks_are_gone() {
    check(|open| {
        let store = open();
        let blocks = add(&*store, &sample::stream(), &sample::events(1, 5));
        add(&*store, &sample::stream(), &sample::events(6, 5));
        store
            .commit(&Commit {
                removed: vec![blocks[0].key.clone()],
                watermarks: vec![(
                    sample::stream(),
                    Watermark {
                        durable: SequenceNumber(10),
                        stored: 10,
                        removed: 5,
                        ..Watermark::default()
                    },
                )],
                ..Commit::default()
            })
            .unwrap();
        drop(store);
        let store = open();
        assert_eq!(store.payload(&blocks[0].key).unwrap(), None);
        assert_eq!(
            keys(&*store, i64::MIN, i64::MAX, Order::OldestFirst).len(),
            1
        );
        assert!(store.verify().unwrap().is_whole());
    });
}

#[test]
fn watermarks_are_set_and_forgotten() {
    check(|open| {
        let mark = Watermark {
            durable: SequenceNumber(9),
            ..Watermark::default()
        };
        open()
            .commit(&Commit {
                watermarks: vec![(sample::stream(), mark.clone())],
                ..Commit::default()
            })
            .unwrap();
        assert_eq!(open().watermarks().unwrap(), [(sample::stream(), mark)]);
        open()
            .commit(&Commit {
                forgotten: vec![sample::stream()],
                ..Commit::default()
            })
            .unwrap();
        assert_eq!(open().watermarks().unwrap(), []);
    });
}

#[test]
fn records_are_sorted_and_kept_apart() {
    check(|open| {
        let change = |collection, key: &[u8], value: Option<&[u8]>| RecordChange {
            collection,
            key: key.to_vec(),
            value: value.map(<[u8]>::to_vec),
        };
        open()
            .commit(&Commit {
                records: vec![
                    change(Collection::Policies, b"b", Some(b"2")),
                    change(Collection::Policies, b"a", Some(b"1")),
                    change(Collection::Nodes, b"a", Some(b"node")),
                    change(Collection::Generations, b"a", Some(b"gone")),
                ],
                ..Commit::default()
            })
            .unwrap();
        open()
            .commit(&Commit {
                records: vec![change(Collection::Generations, b"a", None)],
                ..Commit::default()
            })
            .unwrap();
        let store = open();
        assert_eq!(
            store.records(Collection::Policies).unwrap(),
            [
                (b"a".to_vec(), b"1".to_vec()),
                (b"b".to_vec(), b"2".to_vec())
            ]
        );
        assert_eq!(
            store.records(Collection::Nodes).unwrap(),
            [(b"a".to_vec(), b"node".to_vec())]
        );
        assert_eq!(store.records(Collection::Generations).unwrap(), []);
        let one = |key: &[u8]| store.record(Collection::Policies, key).unwrap();
        assert_eq!((one(b"b"), one(b"c")), (Some(b"2".to_vec()), None));
        let between = |from: &[u8], until: &[u8]| -> Vec<Vec<u8>> {
            let records = store.records_between(Collection::Policies, from, until);
            records.unwrap().into_iter().map(|(key, _)| key).collect()
        };
        assert_eq!(between(b"", b"b"), [b"a"]);
        assert_eq!(between(b"a", b"c"), [b"a", b"b"]);
        assert!(between(b"b0", b"z").is_empty());
    });
}

#[test]
fn recovered_store_has_what_was_committed() {
    check(|open| {
        let store = open();
        add(&*store, &sample::stream(), &sample::events(1, 5));
        store.recover().unwrap();
        assert_eq!(
            keys(&*store, i64::MIN, i64::MAX, Order::OldestFirst).len(),
            1
        );
        add(&*store, &sample::stream(), &sample::events(6, 5));
        assert!(store.verify().unwrap().is_whole());
    });
}
