use std::collections::BTreeSet;

use tokio::sync::Semaphore;

use super::*;
use crate::{
    query::Queries,
    sample,
    store::{Commit, memory::MemoryStore, stream::Watermark},
    tail::tests::arrival,
};
use shrike_proto::{id::SequenceNumber, wire::admin::EventFilter};

/// A collector as far as readers see it.
#[derive(Clone, Default)]
struct Collector {
    store: Arc<MemoryStore>,
    tail: Tail,
}

impl Collector {
    /// Makes events durable, and then shows them, as the writer does.
    fn take(&self, first: u64, count: u64) {
        let mark = Watermark {
            durable: SequenceNumber(first + count - 1),
            ..Watermark::default()
        };
        self.store
            .commit(&Commit {
                blocks: sample::blocks(&sample::events(first, count)),
                watermarks: vec![(sample::stream(), mark)],
                ..Commit::default()
            })
            .unwrap();
        self.tail.publish(arrival(first, count));
    }

    async fn read(&self, filter: EventFilter, limit: u64) -> Reader {
        let history = History {
            limit,
            slot: Queries::default().admit().unwrap(),
        };
        self.serve(filter, Some(history)).await
    }

    async fn serve(&self, filter: EventFilter, history: Option<History>) -> Reader {
        let filter = Filter::try_from(filter).unwrap();
        let store = Arc::clone(&self.store) as Arc<dyn Store>;
        let stop = CancellationToken::new();
        let messages = serve(&self.tail, store, filter, history, stop).await;
        Reader(messages.unwrap())
    }
}

struct Reader(mpsc::Receiver<Result<TailEventsResponse, Status>>);

impl Reader {
    async fn next(&mut self) -> TailEventsResponse {
        timeout(Duration::from_secs(60), self.0.recv())
            .await
            .expect("in time")
            .expect("the stream goes on")
            .unwrap()
    }

    /// Reads until it has seen `last`; returns every sequence number in order,
    /// what was skipped, and how many events came before the summary.
    async fn until(&mut self, last: u64) -> (Vec<u64>, u64, Option<usize>) {
        let (mut seen, mut skipped, mut history) = (Vec::new(), 0, None);
        while seen.last() != Some(&last) {
            let message = self.next().await;
            skipped += message.skipped;
            if message.history.is_some() {
                assert_eq!(history, None, "the summary comes once");
                history = Some(seen.len());
            }
            seen.extend(
                message
                    .events
                    .into_iter()
                    .map(|it| it.event.unwrap().sequence),
            );
        }
        (seen, skipped, history)
    }
}

#[tokio::test]
async fn history_comes_first_and_nothing_comes_twice() {
    let collector = Collector::default();
    collector.take(1, 700);
    let mut reader = collector.read(EventFilter::default(), 0).await;
    let (seen, _, _) = reader.until(700).await;
    assert!(seen.into_iter().eq(1..=700));
    collector.take(701, 10);
    let (seen, skipped, history) = reader.until(710).await;
    assert!(seen.into_iter().eq(701..=710));
    assert_eq!((skipped, history), (0, Some(0)));
}

#[tokio::test]
async fn newest_few_begin_a_live_read() {
    let collector = Collector::default();
    collector.take(1, 100);
    let mut reader = collector.read(EventFilter::default(), 3).await;
    collector.take(101, 2);
    let (seen, _, _) = reader.until(102).await;
    let first = seen[0];
    assert!(
        first == 98 || first == 100,
        "the newest three of what was stored: {seen:?}"
    );
    assert!(seen.into_iter().eq(first..=102));
    let mut none = collector
        .read(
            EventFilter {
                r#where: r#"exe == "/nowhere""#.to_owned(),
                ..EventFilter::default()
            },
            3,
        )
        .await;
    assert_eq!(none.next().await.history.unwrap().matched, 0);
}

/// Far more arrives while the history is read than the tail keeps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reader_that_begins_in_a_storm_misses_nothing() {
    const BATCHES: u64 = 400;
    const EACH: u64 = 40;
    let collector = Collector::default();
    collector.take(1, 4000);
    let mut reader = collector.read(EventFilter::default(), 0).await;
    let storm = collector.clone();
    // The reader takes nothing meanwhile.
    tokio::task::spawn_blocking(move || {
        for batch in 0..BATCHES {
            storm.take(4001 + batch * EACH, EACH);
        }
    })
    .await
    .unwrap();
    let last = 4000 + BATCHES * EACH;
    let mut all = Vec::new();
    let (seen, skipped, _) = reader.until(last).await;
    all.extend(seen);
    assert_eq!(skipped, 0);
    assert_eq!(all.len() as u64, last, "nothing twice");
    let distinct: BTreeSet<u64> = all.into_iter().collect();
    assert!(distinct.into_iter().eq(1..=last), "nothing missing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_arrivals_come_once_through_a_filter() {
    let collector = Collector::default();
    collector.take(1, 500);
    let writer = collector.clone();
    let writing = tokio::task::spawn_blocking(move || {
        // As many as are kept for a slow reader.
        for batch in 0..60 {
            writer.take(501 + batch * 25, 25);
        }
    });
    let mut reader = collector
        .read(
            EventFilter {
                r#where: r#"kind == "exec" && argv.size() > 0"#.to_owned(),
                ..EventFilter::default()
            },
            0,
        )
        .await;
    let (seen, skipped, _) = reader.until(2000).await;
    writing.await.unwrap();
    assert_eq!(skipped, 0);
    assert!(seen.into_iter().eq((1..=400).map(|n| n * 5)));
}

#[tokio::test]
async fn what_was_durable_before_is_not_shown_as_live() {
    let collector = Collector::default();
    collector.take(1, 10);
    let mut reader = collector.serve(EventFilter::default(), None).await;
    // Shown late, as the writer may.
    collector.tail.publish(arrival(1, 10));
    collector.take(11, 1);
    assert_eq!(reader.until(11).await.0, [11]);
}

#[tokio::test]
async fn slow_reader_never_holds_the_writer_up() {
    let collector = Collector::default();
    collector.take(1, 5000);
    let _idle = collector.read(EventFilter::default(), 0).await;
    let mut late = collector.serve(EventFilter::default(), None).await;
    tokio::task::yield_now().await;
    let begun = std::time::Instant::now();
    let writer = collector.clone();
    tokio::task::spawn_blocking(move || {
        for batch in 0..1000 {
            writer.take(5001 + batch * 10, 10);
        }
    })
    .await
    .unwrap();
    assert!(begun.elapsed() < Duration::from_secs(30));
    let (seen, skipped, _) = late.until(15_000).await;
    assert_eq!(seen.len() as u64 + skipped, 10_000);
    assert!(skipped > 0);
}

#[test]
fn history_holds_a_slot_while_it_is_read() {
    let slots = Arc::new(Semaphore::new(1));
    let slot = Arc::clone(&slots).try_acquire_owned().unwrap();
    let collector = Collector::default();
    collector.take(1, 10);
    let history = History { limit: 0, slot };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let filter = EventFilter::default();
        let mut reader = collector.serve(filter, Some(history)).await;
        assert_eq!(slots.available_permits(), 0);
        let (_, _, history) = reader.until(10).await;
        while history.is_none() && reader.next().await.history.is_none() {}
        assert_eq!(slots.available_permits(), 1);
    });
}
