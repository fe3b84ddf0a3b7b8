//! What a live read begins with: everything that was durable when it began.
//!
//! ```text
//! subscribe ──► marks ──► stored events up to the marks ──► arrivals above them
//! ```
//!
//! The subscription comes first, so nothing falls between; the marks divide
//! by sequence number, so nothing comes twice. A history that takes longer
//! than arrivals are kept is followed by another one, from the first marks
//! up to new ones: each is shorter, since it reads only what came meanwhile,
//! and a reader that is slower than that waits here without missing anything
//! and without slowing the writer.

use std::ops::ControlFlow;

use shrike_proto::{event::StoredEvent, wire::admin::TailEventsResponse};
use tokio::sync::mpsc;
use tonic::Status;

use crate::{
    chunk::Chunk,
    query::{self, Filter, QueryStats, Search, Window},
    store::{Order, Store, StoreError},
};

/// Messages on their way to a live reader.
pub(super) type Messages = mpsc::Sender<Result<TailEventsResponse, Status>>;

/// Sends the stored events of a window, oldest first, of which a limit that is
/// not 0 leaves the newest. Blocks.
pub(super) fn send(
    store: &dyn Store,
    filter: &Filter,
    window: &Window,
    limit: u64,
    messages: &Messages,
) -> Result<QueryStats, StoreError> {
    let begin = match limit {
        0 => None,
        limit => Some(find_newest(store, filter, window, limit, messages)?),
    };
    let filter = match &begin {
        Some(Some(begin)) => filter.clone().from_time(begin.event.time_unix_ns),
        Some(None) => return Ok(QueryStats::default()),
        None => filter.clone(),
    };
    let mut begin = begin.flatten();
    let mut chunk = Chunk::default();
    let search = Search {
        filter: &filter,
        window: Some(window),
        order: Order::OldestFirst,
        limit: 0,
        after: None,
        is_abandoned: &|| messages.is_closed(),
    };
    let stats = query::run(store, &search, |stored| {
        // Others may be of the same nanosecond.
        if begin.as_ref().is_some_and(|begin| !is_same(begin, &stored)) {
            return ControlFlow::Continue(());
        }
        begin = None;
        match chunk.push(stored.into()) {
            Some(events) => send_events(messages, events),
            None => ControlFlow::Continue(()),
        }
    })?;
    // A reader that left is noticed by whoever sends next.
    let _ = send_events(messages, chunk.take());
    Ok(stats)
}

/// Finds where the newest `limit` events begin, holding one of them at a time.
fn find_newest(
    store: &dyn Store,
    filter: &Filter,
    window: &Window,
    limit: u64,
    messages: &Messages,
) -> Result<Option<StoredEvent>, StoreError> {
    let search = Search {
        filter,
        window: Some(window),
        order: Order::NewestFirst,
        limit,
        after: None,
        is_abandoned: &|| messages.is_closed(),
    };
    let mut oldest = None;
    query::run(store, &search, |stored| {
        oldest = Some(stored);
        ControlFlow::Continue(())
    })?;
    Ok(oldest)
}

fn is_same(left: &StoredEvent, right: &StoredEvent) -> bool {
    left.event.sequence == right.event.sequence
        && left.epoch == right.epoch
        && left.node == right.node
}

fn send_events(
    messages: &Messages,
    events: Vec<shrike_proto::wire::admin::StoredEvent>,
) -> ControlFlow<()> {
    if events.is_empty() {
        return ControlFlow::Continue(());
    }
    let message = TailEventsResponse {
        events,
        ..TailEventsResponse::default()
    };
    match messages.blocking_send(Ok(message)) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}
