use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use super::*;
use crate::{
    sample,
    store::{
        Collection, Commit, Order, Page, Record,
        block::{self},
        listing::Listing,
        memory::MemoryStore,
        piece,
        stream::Watermark,
        succession::Succession,
        verify::Verification,
    },
};

/// A store that counts commits, waits when told to, and fails when told to.
#[derive(Debug, Default)]
struct Testing {
    inner: MemoryStore,
    commits: AtomicUsize,
    failing: AtomicBool,
    recoveries: AtomicUsize,
    held: AtomicBool,
}

impl Store for Testing {
    fn commit(&self, commit: &Commit) -> Result<(), StoreError> {
        while self.held.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        if self.failing.load(Ordering::SeqCst) {
            return Err(StoreError::Recovering);
        }
        self.commits.fetch_add(1, Ordering::SeqCst);
        self.inner.commit(commit)
    }

    fn recover(&self) -> Result<(), StoreError> {
        self.recoveries.fetch_add(1, Ordering::SeqCst);
        if self.failing.load(Ordering::SeqCst) {
            return Err(StoreError::Recovering);
        }
        Ok(())
    }

    fn watermarks(&self) -> Result<Vec<(StreamKey, Watermark)>, StoreError> {
        self.inner.watermarks()
    }

    fn page(&self, listing: &mut Listing) -> Page {
        self.inner.page(listing)
    }

    fn succession(&self) -> &Succession {
        self.inner.succession()
    }

    fn payload(&self, key: &block::BlockKey) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.payload(key)
    }

    fn records(&self, collection: Collection) -> Result<Vec<Record>, StoreError> {
        self.inner.records(collection)
    }

    fn record(&self, collection: Collection, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.record(collection, key)
    }

    fn records_between(
        &self,
        collection: Collection,
        from: &[u8],
        until: &[u8],
    ) -> Result<Vec<Record>, StoreError> {
        self.inner.records_between(collection, from, until)
    }

    fn size_bytes(&self) -> Result<u64, StoreError> {
        self.inner.size_bytes()
    }

    fn verify(&self) -> Result<Verification, StoreError> {
        self.inner.verify()
    }
}

struct World {
    store: Arc<Testing>,
    writer: Writer,
    free_bytes: Arc<AtomicU64>,
    outcomes: mpsc::Receiver<Outcome>,
    sender: mpsc::Sender<Outcome>,
}

fn world() -> World {
    let store = Arc::new(Testing::default());
    let free_bytes = Arc::new(AtomicU64::new(u64::MAX / 2));
    let measured = Arc::clone(&free_bytes);
    let disk = Disk::measured_by(Box::new(move || Ok(measured.load(Ordering::SeqCst))), 1000);
    let (writer, _) = Writer::start(
        Arc::clone(&store) as Arc<dyn Store>,
        disk,
        Tail::default(),
        0,
    )
    .unwrap();
    let (sender, outcomes) = mpsc::channel(64);
    World {
        store,
        writer,
        free_bytes,
        outcomes,
        sender,
    }
}

impl World {
    async fn append(&self, parent: u64, count: u64) {
        let events = sample::events(parent + 1, count);
        let stream = sample::stream();
        let append = Append {
            stream,
            parent: SequenceNumber(parent),
            next: SequenceNumber(parent + count),
            lost: Vec::new(),
            ledger: None,
            pieces: piece::cut(&events, 0).unwrap(),
            events: Encoded::default(),
            span: Span::none(),
            share: None,
        };
        self.writer
            .append(append, self.sender.clone())
            .await
            .unwrap();
    }

    async fn outcome(&mut self) -> Outcome {
        self.outcomes.recv().await.unwrap()
    }

    fn stored(&self) -> Vec<u64> {
        self.store
            .footers(i64::MIN, i64::MAX, Order::OldestFirst)
            .flat_map(|entry| {
                let (key, footer) = entry.unwrap();
                let payload = self.store.payload(&key).unwrap().unwrap();
                block::decode_payload(&key, &footer, &payload).unwrap()
            })
            .map(|event| event.sequence.0)
            .collect()
    }
}

#[tokio::test]
async fn what_waits_during_a_flush_shares_the_next_commit_and_one_block() {
    let mut world = world();
    world.store.held.store(true, Ordering::SeqCst);
    for index in 0..20 {
        world.append(index * 10, 10).await;
    }
    // The first commit may have begun; everything else gathers behind it.
    world.store.held.store(false, Ordering::SeqCst);
    for _ in 0..20 {
        assert_eq!(world.outcome().await, Outcome::Durable);
    }
    assert!(world.store.commits.load(Ordering::SeqCst) <= 2);
    let blocks = world
        .store
        .footers(i64::MIN, i64::MAX, Order::OldestFirst)
        .count();
    assert!(blocks <= 2, "{blocks} blocks");
    assert!(world.stored().into_iter().eq(1..=200));
    assert_eq!(
        world.writer.mark(sample::stream()).await,
        Ok(Known {
            durable: SequenceNumber(200),
            sequenced: 0,
        })
    );
}

#[tokio::test]
async fn batch_that_does_not_follow_is_superseded() {
    let mut world = world();
    world.append(0, 10).await;
    assert_eq!(world.outcome().await, Outcome::Durable);
    world.append(0, 10).await;
    let durable = SequenceNumber(10);
    assert_eq!(world.outcome().await, Outcome::Superseded { durable });
    assert!(world.stored().into_iter().eq(1..=10));
}

#[tokio::test]
async fn without_room_nothing_is_stored_until_there_is_some() {
    let mut world = world();
    world.free_bytes.store(500, Ordering::SeqCst);
    world.append(0, 10).await;
    assert_eq!(world.outcome().await, Outcome::Later);
    assert_eq!(
        *world.writer.state().borrow(),
        State::NoRoom {
            free_bytes: 500,
            limit_bytes: 1000
        }
    );
    assert_eq!(world.store.commits.load(Ordering::SeqCst), 0);
    world.free_bytes.store(1 << 30, Ordering::SeqCst);
    world.append(0, 10).await;
    assert_eq!(world.outcome().await, Outcome::Durable);
    assert_eq!(*world.writer.state().borrow(), State::Healthy);
}

#[tokio::test]
async fn failed_store_is_recovered_and_nothing_was_acknowledged_meanwhile() {
    let mut world = world();
    world.store.failing.store(true, Ordering::SeqCst);
    world.append(0, 10).await;
    assert_eq!(world.outcome().await, Outcome::Later);
    assert!(matches!(*world.writer.state().borrow(), State::Failed(_)));
    world.store.failing.store(false, Ordering::SeqCst);
    world.append(0, 10).await;
    // The commit that found it failed recovers it and is refused itself.
    assert_eq!(world.outcome().await, Outcome::Later);
    assert_eq!(world.store.recoveries.load(Ordering::SeqCst), 1);
    world.append(0, 10).await;
    assert_eq!(world.outcome().await, Outcome::Durable);
    assert!(world.stored().into_iter().eq(1..=10));
}

#[tokio::test]
async fn stopped_writer_commits_what_was_queued_before() {
    let mut world = world();
    world.append(0, 10).await;
    world.writer.stop().await;
    assert_eq!(world.outcome().await, Outcome::Durable);
    assert!(world.stored().into_iter().eq(1..=10));
}

#[tokio::test]
async fn removed_blocks_are_counted_in_their_stream() {
    let mut world = world();
    world.append(0, 10).await;
    assert_eq!(world.outcome().await, Outcome::Durable);
    let bytes = world.writer.payload_bytes();
    assert!(bytes > 0);
    let block = sample::blocks(&sample::events(1, 10)).remove(0);
    let block = Extent::of(block.key, &block.footer);
    assert_eq!(block.payload_bytes, bytes);
    world.writer.remove(vec![block], Vec::new()).await.unwrap();
    assert_eq!(world.writer.payload_bytes(), 0);
    let marks = world.store.watermarks().unwrap();
    assert_eq!((marks[0].1.stored, marks[0].1.removed), (10, 10));
}
