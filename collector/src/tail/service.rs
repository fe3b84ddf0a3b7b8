//! One live read over gRPC, from what is stored on if it is asked to.

use std::{sync::Arc, time::Duration};

use shrike_proto::{
    event::StoredEvent,
    wire::admin::{self, TailEventsResponse},
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    Arrival, Tail, TailReader,
    history::{self, Messages},
};
use crate::{
    chunk::Chunk,
    query::{self, Filter, Marks, QueryStats, Window},
    store::{Store, StoreError},
};

/// Messages that wait for the reader; beyond them, events wait in the tail
/// and are missed when it has no more room either.
const CHUNKS_QUEUED: usize = 4;

/// A missed count is told within this long, even when nothing matches.
const MISSED_NOTICE: Duration = Duration::from_secs(1);

/// What a live read begins with.
pub struct History {
    /// Only the newest so many; 0 for all.
    pub limit: u64,
    /// Held while it is read: it costs as much as a query.
    pub slot: OwnedSemaphorePermit,
}

impl std::fmt::Debug for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("History").finish_non_exhaustive()
    }
}

/// Starts a live read; the stream ends when the caller leaves or `stop` is
/// cancelled. What becomes durable after this returns is delivered, and what
/// was durable before it was called comes with the history or not at all.
///
/// # Errors
/// A status when the store cannot be read.
pub async fn serve(
    tail: &Tail,
    store: Arc<dyn Store>,
    filter: Filter,
    history: Option<History>,
    stop: CancellationToken,
) -> Result<mpsc::Receiver<Result<TailEventsResponse, Status>>, Status> {
    let (sender, receiver) = mpsc::channel(CHUNKS_QUEUED);
    // Before anything else: what arrives from here on is seen.
    let reader = tail.subscribe();
    // Events are acknowledged a moment before they are shown here.
    let marks = {
        let store = Arc::clone(&store);
        blocking(move || Marks::read(&*store)).await?
    };
    let tail = tail.clone();
    tokio::spawn(async move {
        let begin = match history {
            None => Ok(Some((reader, marks))),
            Some(history) => {
                let replay = Replay {
                    store,
                    tail,
                    filter: filter.clone(),
                    messages: sender.clone(),
                };
                tokio::select! {
                    begin = replay.run(reader, marks, history) => begin,
                    () = stop.cancelled() => Err(stopping()),
                }
            }
        };
        let live = Arc::new(filter.from_any_time());
        let end = match begin {
            Ok(Some((reader, marks))) => {
                tokio::select! {
                    () = follow(reader, live, marks, &sender) => None,
                    () = stop.cancelled() => Some(stopping()),
                }
            }
            Ok(None) => None,
            Err(status) => Some(status),
        };
        if let Some(status) = end {
            let _ = sender.send(Err(status)).await;
        }
    });
    Ok(receiver)
}

fn stopping() -> Status {
    Status::unavailable("the collector is stopping")
}

/// Sends what is stored.
struct Replay {
    store: Arc<dyn Store>,
    tail: Tail,
    filter: Filter,
    messages: Messages,
}

impl Replay {
    /// Returns what to go on with: the reader, and the marks that its events
    /// lie above. `None` when the caller left.
    async fn run(
        self,
        mut reader: TailReader,
        marks: Marks,
        history: History,
    ) -> Result<Option<(TailReader, Marks)>, Status> {
        let Self {
            store,
            tail,
            mut filter,
            messages,
        } = self;
        let mut limit = history.limit;
        let mut slot = Some(history.slot);
        let mut window = Window {
            above: Marks::default(),
            up_to: marks,
        };
        let mut total = QueryStats::default();
        loop {
            let (stats, read) = {
                let (store, filter) = (Arc::clone(&store), filter.clone());
                let messages = messages.clone();
                blocking(move || {
                    let stats = history::send(&*store, &filter, &window, limit, &messages)?;
                    Ok((stats, window.up_to))
                })
                .await?
            };
            total.matched += stats.matched;
            total.blocks_read += stats.blocks_read;
            total.blocks_pruned += stats.blocks_pruned;
            total.damaged.extend(stats.damaged);
            if messages.is_closed() {
                return Ok(None);
            }
            // Told once, and before the last look at what went by: it may wait.
            if !reader.has_missed() && slot.take().is_some() {
                let (store, filter) = (Arc::clone(&store), filter.clone());
                let total = total.clone();
                let summary = blocking(move || query::summary(&*store, &filter, total));
                let message = TailEventsResponse {
                    history: Some(summary.await?),
                    ..TailEventsResponse::default()
                };
                if messages.send(Ok(message)).await.is_err() {
                    return Ok(None);
                }
            }
            if !reader.has_missed() {
                return Ok(Some((reader, read)));
            }
            // Arrivals went by while stored events were sent; they are stored
            // themselves by then, and belong to the live part whatever their
            // time.
            reader = tail.subscribe();
            filter = filter.from_any_time();
            limit = 0;
            let store = Arc::clone(&store);
            window = Window {
                above: read,
                up_to: blocking(move || Marks::read(&*store)).await?,
            };
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Status> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Status::internal(error.to_string()))?
        .map_err(|error| query::status(&error))
}

/// Sends what arrives above the marks, until the caller leaves or the tail
/// ends.
async fn follow(mut reader: TailReader, filter: Arc<Filter>, marks: Marks, messages: &Messages) {
    let marks = Arc::new(marks);
    let mut missed = 0;
    loop {
        let next = tokio::select! {
            next = timeout(MISSED_NOTICE, reader.next()) => next,
            () = messages.closed() => return,
        };
        let responses = match next {
            Ok(None) => return,
            Ok(Some((missed_before, arrival))) => {
                missed += missed_before;
                let (filter, marks) = (Arc::clone(&filter), Arc::clone(&marks));
                // Building the events may take milliseconds.
                let matched =
                    tokio::task::spawn_blocking(move || matching(&filter, &marks, &arrival)).await;
                let Ok(matched) = matched else { return };
                matched
                    .into_iter()
                    .map(|events| TailEventsResponse {
                        events,
                        skipped: std::mem::take(&mut missed),
                        history: None,
                    })
                    .collect()
            }
            Err(_) if missed > 0 => vec![TailEventsResponse {
                skipped: std::mem::take(&mut missed),
                ..TailEventsResponse::default()
            }],
            Err(_) => Vec::new(),
        };
        for response in responses {
            if messages.send(Ok(response)).await.is_err() {
                return;
            }
        }
    }
}

/// Returns the events that are asked for, cut into messages.
fn matching(filter: &Filter, marks: &Marks, arrival: &Arrival) -> Vec<Vec<admin::StoredEvent>> {
    let stream = arrival.stream();
    if !filter.selects_node(&stream.node) {
        return Vec::new();
    }
    let above = marks.of(stream);
    let mut chunk = Chunk::default();
    let mut chunks: Vec<_> = arrival
        .events()
        .iter()
        .filter(|event| event.sequence > above)
        .filter(|event| filter.matches(&stream.node, stream.epoch, event))
        .filter_map(|event| {
            let stored = StoredEvent {
                node: stream.node.clone(),
                epoch: stream.epoch,
                event: event.clone(),
            };
            chunk.push(stored.into())
        })
        .collect();
    chunks.push(chunk.take());
    chunks.retain(|events| !events.is_empty());
    chunks
}

#[cfg(test)]
mod tests;
