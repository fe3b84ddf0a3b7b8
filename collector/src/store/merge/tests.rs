use std::{cell::Cell, collections::BTreeSet, ops::ControlFlow};

use proptest::prelude::*;
use shrike_proto::{
    event::StoredEvent,
    id::{Epoch, NodeId, SequenceNumber},
};

use super::*;
use crate::{
    query::{self, Filter, Marks, Search, Window},
    sample,
    store::{
        Commit, Order,
        block::{self, Block, Footer},
        disk::Disk,
        memory::MemoryStore,
        sled::{Existing, SledStore},
        stream::{StreamKey, Watermark},
        succession::Merge,
    },
    tail::Tail,
};

fn stream(node: usize) -> StreamKey {
    StreamKey {
        node: NodeId::parse(&format!("node-{node}")).unwrap(),
        epoch: Epoch([7; 16]),
    }
}

/// Blocks of a few events each, of several nodes.
fn blocks(nodes: usize, events: u64, in_block: usize) -> Vec<Block> {
    (0..nodes)
        .flat_map(|node| {
            let all = sample::events(1, events);
            all.chunks(in_block)
                .flat_map(|chunk| sample::blocks_of(&stream(node), chunk))
                .collect::<Vec<_>>()
        })
        .collect()
}

fn fill(store: &dyn Store, blocks: &[Block]) {
    let mut marks: std::collections::BTreeMap<StreamKey, Watermark> = Default::default();
    for block in blocks {
        let mark = marks.entry(block.key.stream()).or_default();
        mark.stored += u64::from(block.footer.count);
        mark.durable = SequenceNumber(mark.stored);
    }
    store
        .commit(&Commit {
            blocks: blocks.to_vec(),
            watermarks: marks.into_iter().collect(),
            ..Commit::default()
        })
        .unwrap();
}

fn place(stored: &StoredEvent) -> (String, u64) {
    (stored.node.to_string(), stored.event.sequence.0)
}

fn extents(store: &dyn Store) -> Vec<Extent> {
    store
        .footers(i64::MIN, i64::MAX, Order::OldestFirst)
        .map(|entry| {
            let (key, footer) = entry.unwrap();
            Extent::of(key, &footer)
        })
        .collect()
}

/// Merges `count` blocks from `from` on.
fn merge(store: &dyn Store, from: usize, count: usize) {
    let extents = extents(store);
    let from = from % extents.len();
    let parts: Vec<Extent> = extents.into_iter().skip(from).take(count).collect();
    if parts.len() > 1 {
        let merges = pack::pack(store, parts).unwrap();
        store
            .commit(&Commit {
                merges,
                ..Commit::default()
            })
            .unwrap();
    }
}

/// Everything that a query gives, with `meanwhile` called whenever it does not
/// read.
fn ask(
    store: &dyn Store,
    order: Order,
    window: Option<&Window>,
    meanwhile: &dyn Fn(),
) -> Vec<StoredEvent> {
    let mut found = Vec::new();
    let search = Search {
        filter: &Filter::default(),
        window,
        order,
        limit: 0,
        after: None,
        is_abandoned: &|| {
            meanwhile();
            false
        },
    };
    let stats = query::run(store, &search, |stored| {
        meanwhile();
        found.push(stored);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(stats.damaged.blocks, 0);
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn query_meets_each_event_once_while_blocks_are_merged(
        nodes in 1..5_usize,
        in_block in 1..7_usize,
        merges in prop::collection::vec((0..1000_usize, 2..12_usize), 0..40),
        every in 1..20_usize,
        newest: bool,
        in_window: bool,
    ) {
        let store = MemoryStore::default();
        fill(&store, &blocks(nodes, 60, in_block));
        let window = Window {
            above: Marks::default(),
            up_to: Marks::read(&store).unwrap(),
        };
        let (calls, done) = (Cell::new(0), Cell::new(0));
        let order = if newest { Order::NewestFirst } else { Order::OldestFirst };
        let found = ask(&store, order, in_window.then_some(&window), &|| {
            calls.set(calls.get() + 1);
            if calls.get() % every == 0 && let Some((from, count)) = merges.get(done.get()) {
                done.set(done.get() + 1);
                merge(&store, *from, *count);
            }
        });
        let places: BTreeSet<_> = found.iter().map(place).collect();
        prop_assert_eq!(places.len(), nodes * 60, "none is missing");
        prop_assert_eq!(found.len(), nodes * 60, "none comes twice");
        let times: Vec<i64> = found.iter().map(|stored| stored.event.time_unix_ns).collect();
        let in_order = match order {
            Order::OldestFirst => times.is_sorted(),
            Order::NewestFirst => times.iter().rev().is_sorted(),
        };
        prop_assert!(in_order);
    }
}

#[test]
fn long_listing_meets_each_event_once_when_everything_is_merged_under_it() {
    for order in [Order::OldestFirst, Order::NewestFirst] {
        let store = MemoryStore::default();
        // Some pages of footers.
        fill(&store, &blocks(8, 150, 1));
        let calls = Cell::new(0);
        let found = ask(&store, order, None, &|| {
            calls.set(calls.get() + 1);
            if calls.get() % 400 == 0 {
                for from in 0..20 {
                    merge(&store, from * 31, 40);
                }
            }
        });
        let places: BTreeSet<_> = found.iter().map(place).collect();
        assert_eq!((places.len(), found.len()), (1200, 1200));
    }
}

#[test]
fn merged_block_holds_what_its_parts_held_byte_for_byte() {
    let store = MemoryStore::default();
    let before = blocks(3, 200, 7);
    fill(&store, &before);
    let merges = pack::pack(&store, extents(&store)).unwrap();
    assert_eq!(merges.len(), 1);
    let Merge { parts, block } = &merges[0];
    assert_eq!(parts.len(), before.len());
    assert_eq!(block.footer.merged.len(), 3, "one run for each stream");
    assert_eq!(block.footer.count, 600);
    let events = block::decode_payload(&block.key, &block.footer, &block.payload).unwrap();
    let expected: Vec<_> = (0..3).flat_map(|_| sample::events(1, 200)).collect();
    assert_eq!(events, expected);
    let small: usize = before.iter().map(|block| block.payload.len()).sum();
    assert!(block.payload.len() * 4 < small, "{}", block.payload.len());
}

/// What version 2 of the store wrote first: a store that is older than this
/// collector stays readable.
#[test]
fn merged_block_is_read_as_version_2_wrote_it() {
    let payload = include_bytes!("fixtures/merged-payload-2.bin");
    let footer = Footer::decode(include_bytes!("fixtures/merged-footer-2.bin")).unwrap();
    let mut key = sample::block_key(&sample::events(1, 1));
    (key.node, key.epoch) = (stream(0).node, stream(0).epoch);
    let events = block::decode_payload(&key, &footer, payload).unwrap();
    let expected: Vec<_> = (0..2).flat_map(|_| sample::events(1, 30)).collect();
    assert_eq!(events, expected);
    let streams: Vec<_> = footer.merged.iter().map(|run| run.stream.clone()).collect();
    assert_eq!(streams, [stream(0), stream(1)]);
}

#[test]
fn merge_that_would_be_too_long_becomes_several() {
    let store = MemoryStore::default();
    let mut all = Vec::new();
    for first in 0..12 {
        let mut events = sample::events(1 + first * 10, 10);
        for event in &mut events {
            event.process.exe = sample::noise(event.sequence.0, 4000).into();
        }
        all.extend(sample::blocks(&events));
    }
    fill(&store, &all);
    let merges = pack::pack(&store, extents(&store)).unwrap();
    assert!(merges.len() > 1);
    let events: u64 = merges.iter().map(|merge| merge.parts.len() as u64).sum();
    assert_eq!(events, 12);
    assert!(
        merges
            .iter()
            .all(|merge| merge.block.payload.len() <= block::BLOCK_BYTES_MAX)
    );
}

#[test]
fn queries_beside_merges_of_a_store_on_disk_meet_each_event_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path(), Existing::OrNew).unwrap();
    fill(&store, &blocks(6, 300, 2));
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut asked = 0;
            let mut order = Order::OldestFirst;
            while !over.load(std::sync::atomic::Ordering::SeqCst) || asked < 4 {
                let found = ask(&store, order, None, &|| {});
                let places: BTreeSet<_> = found.iter().map(place).collect();
                assert_eq!((places.len(), found.len()), (1800, 1800));
                let times = found.iter().map(|stored| stored.event.time_unix_ns);
                assert!(match order {
                    Order::OldestFirst => times.is_sorted(),
                    Order::NewestFirst => times.rev().is_sorted(),
                });
                asked += 1;
                order = match order {
                    Order::OldestFirst => Order::NewestFirst,
                    Order::NewestFirst => Order::OldestFirst,
                };
            }
        });
        for round in 0..120 {
            merge(&store, round * 37, 9);
        }
        over.store(true, std::sync::atomic::Ordering::SeqCst);
        asking.join().unwrap();
    });
    let verification = store.verify().unwrap();
    assert!(verification.is_whole(), "{:?}", verification.damages);
    assert_eq!(verification.events, 1800);
}

async fn merge_all(merger: &mut Merger) {
    while merger.merge_minute().await {}
}

fn merger(store: &Arc<dyn Store>) -> (Merger, Writer) {
    let disk = Disk::measured_by(Box::new(|| Ok(u64::MAX / 2)), 0);
    let (writer, _) = Writer::start(Arc::clone(store), disk, Tail::default(), 1 << 30).unwrap();
    let merger = Merger::new(Arc::clone(store), writer.clone(), CancellationToken::new());
    (merger, writer)
}

#[tokio::test]
async fn quiet_minute_becomes_one_block_and_its_watermarks_stay() {
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(SledStore::open(folder.path(), Existing::OrNew).unwrap());
    let all = blocks(5, 300, 1);
    fill(&*store, &all);
    let marks = store.watermarks().unwrap();
    let (mut merger, writer) = merger(&store);
    let before = writer.payload_bytes();
    writer.loose().found(Minute::of(&all[0].key));
    merge_all(&mut merger).await;
    assert_eq!(extents(&*store).len(), 1);
    assert_eq!(ask(&*store, Order::OldestFirst, None, &|| {}).len(), 1500);
    assert_eq!(store.watermarks().unwrap(), marks);
    assert!(store.verify().unwrap().is_whole());
    let held: u64 = extents(&*store).iter().map(|it| it.payload_bytes).sum();
    let small: u64 = all.iter().map(|block| block.payload.len() as u64).sum();
    assert_eq!(before - writer.payload_bytes(), small - held);
}

#[tokio::test]
async fn damaged_part_stays_and_the_others_are_merged() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let mut all = blocks(2, 20, 1);
    all[3].payload.pop();
    fill(&*store, &all);
    let (mut merger, writer) = merger(&store);
    writer.loose().found(Minute::of(&all[0].key));
    merge_all(&mut merger).await;
    let left = extents(&*store);
    assert_eq!(left.len(), 2);
    assert!(left.iter().any(|extent| extent.key == all[3].key));
}

#[tokio::test]
async fn retention_removes_merged_blocks_from_each_stream() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let all = blocks(3, 40, 2);
    fill(&*store, &all);
    let (mut merger, writer) = merger(&store);
    writer.loose().found(Minute::of(&all[0].key));
    merge_all(&mut merger).await;
    let merged = extents(&*store);
    assert_eq!(merged.len(), 1);
    writer.remove(merged, Vec::new()).await.unwrap();
    assert!(extents(&*store).is_empty());
    for (_, mark) in store.watermarks().unwrap() {
        assert_eq!((mark.stored, mark.removed), (40, 40));
    }
}

#[test]
fn merging_rests_longer_while_many_events_come() {
    let begin = Instant::now();
    let second = Duration::from_secs(1);
    let rest = |events: u64| {
        let mut pace = Pace {
            events: 0,
            ended: begin,
        };
        pace.rest(begin + second * 9 / 10, begin + second, events)
    };
    assert_eq!(rest(0), Duration::from_millis(100));
    assert_eq!(rest(9_000), Duration::from_millis(100));
    assert_eq!(rest(200_000), Duration::from_millis(900));
}
