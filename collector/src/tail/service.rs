//! One live read over gRPC.

use std::{sync::Arc, time::Duration};

use shrike_proto::{
    event::StoredEvent,
    wire::admin::{self, TailEventsResponse},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{Arrival, Tail};
use crate::{chunk::Chunk, query::Filter};

/// Messages that wait for the reader; beyond them, events wait in the tail
/// and are missed when it has no more room either.
const CHUNKS_QUEUED: usize = 4;

/// A missed count is told within this long, even when nothing matches.
const MISSED_NOTICE: Duration = Duration::from_secs(1);

/// Starts a live read; the stream ends when the caller leaves or `stop` is
/// cancelled.
pub fn serve(
    tail: &Tail,
    filter: Filter,
    stop: CancellationToken,
) -> mpsc::Receiver<Result<TailEventsResponse, Status>> {
    let mut reader = tail.subscribe();
    let filter = Arc::new(filter);
    let (sender, receiver) = mpsc::channel(CHUNKS_QUEUED);
    tokio::spawn(async move {
        let mut missed = 0;
        loop {
            let next = tokio::select! {
                next = timeout(MISSED_NOTICE, reader.next()) => next,
                () = sender.closed() => return,
                () = stop.cancelled() => {
                    let _ = sender.send(Err(Status::unavailable("the collector is stopping"))).await;
                    return;
                }
            };
            let messages = match next {
                Ok(None) => return,
                Ok(Some((missed_before, arrival))) => {
                    missed += missed_before;
                    let filter = Arc::clone(&filter);
                    // Building the events may take milliseconds.
                    let matched =
                        tokio::task::spawn_blocking(move || matching(&filter, &arrival)).await;
                    let Ok(matched) = matched else { return };
                    matched
                        .into_iter()
                        .map(|events| TailEventsResponse {
                            events,
                            skipped: std::mem::take(&mut missed),
                        })
                        .collect()
                }
                Err(_) if missed > 0 => vec![TailEventsResponse {
                    events: Vec::new(),
                    skipped: std::mem::take(&mut missed),
                }],
                Err(_) => Vec::new(),
            };
            for message in messages {
                if sender.send(Ok(message)).await.is_err() {
                    return;
                }
            }
        }
    });
    receiver
}

/// Returns the events that are asked for, cut into messages.
fn matching(filter: &Filter, arrival: &Arrival) -> Vec<Vec<admin::StoredEvent>> {
    let stream = arrival.stream();
    if !filter.selects_node(&stream.node) {
        return Vec::new();
    }
    let mut chunk = Chunk::default();
    let mut chunks: Vec<_> = arrival
        .events()
        .iter()
        .filter(|event| filter.matches(&stream.node, event))
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
