//! One query over gRPC, in bounded chunks.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

use shrike_proto::{
    id::NodeId,
    ledger::LossReason,
    wire::{
        admin::{self, QueryEventsResponse, QuerySummary},
        event as event_wire,
    },
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::Status;

use super::{Filter, QueryStats, Search, run};
use crate::{
    chain::chain,
    chunk::Chunk,
    store::{Order, Store, StoreError},
};

/// Messages that wait for the reader: the query pauses when it is slow.
const CHUNKS_QUEUED: usize = 4;

/// Queries at once: each holds a blocking thread and some blocks in memory.
const QUERIES_MAX: usize = 16;

/// Admits queries.
#[derive(Debug, Clone)]
pub struct Queries {
    slots: Arc<Semaphore>,
}

impl Default for Queries {
    fn default() -> Self {
        Self {
            slots: Arc::new(Semaphore::new(QUERIES_MAX)),
        }
    }
}

impl Queries {
    /// Admits one more query.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` when too many run already.
    pub fn admit(&self) -> Result<OwnedSemaphorePermit, Status> {
        Arc::clone(&self.slots).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "{QUERIES_MAX} queries are running already; try again shortly"
            ))
        })
    }
}

/// Starts a query on a blocking thread.
pub fn serve(
    store: Arc<dyn Store>,
    filter: Filter,
    order: Order,
    limit: u64,
    slot: OwnedSemaphorePermit,
) -> mpsc::Receiver<Result<QueryEventsResponse, Status>> {
    let (sender, receiver) = mpsc::channel(CHUNKS_QUEUED);
    tokio::task::spawn_blocking(move || {
        let _slot = slot;
        let mut chunk = Chunk::default();
        let search = Search {
            filter: &filter,
            window: None,
            order,
            limit,
            is_abandoned: &|| sender.is_closed(),
        };
        let result = run(&*store, &search, |stored| match chunk.push(stored.into()) {
            Some(events) => send(&sender, events),
            None => ControlFlow::Continue(()),
        })
        .and_then(|stats| summary(&*store, &filter, stats));
        let last = match result {
            Ok(summary) => {
                if send(&sender, chunk.take()).is_break() {
                    return;
                }
                Ok(QueryEventsResponse {
                    events: Vec::new(),
                    summary: Some(summary),
                })
            }
            Err(error) => Err(status(&error)),
        };
        let _ = sender.blocking_send(last);
    });
    receiver
}

/// Says what a query did, and what is missing from its range.
///
/// # Errors
/// [`StoreError`] when the watermarks cannot be read.
pub fn summary(
    store: &dyn Store,
    filter: &Filter,
    stats: QueryStats,
) -> Result<QuerySummary, StoreError> {
    let mut losses: BTreeMap<NodeId, BTreeMap<LossReason, u64>> = BTreeMap::new();
    for (stream, mark) in store.watermarks()? {
        if filter.selects_node(&stream.node) {
            for (reason, count) in mark.losses() {
                let total = losses
                    .entry(stream.node.clone())
                    .or_default()
                    .entry(reason)
                    .or_default();
                *total = total.saturating_add(count);
            }
        }
    }
    Ok(QuerySummary {
        matched: stats.matched,
        blocks_read: stats.blocks_read,
        blocks_pruned: stats.blocks_pruned,
        damaged: (stats.damaged.blocks > 0).then_some(admin::DamagedBlocks {
            blocks: stats.damaged.blocks,
            events: stats.damaged.events,
            named: stats.damaged.named,
        }),
        losses: losses
            .into_iter()
            .map(|(node, lost)| admin::NodeLoss {
                node: node.to_string(),
                lost: lost
                    .into_iter()
                    .map(|(reason, count)| event_wire::LossCount {
                        reason: event_wire::LossReason::from(reason).into(),
                        count,
                    })
                    .collect(),
            })
            .collect(),
    })
}

/// Makes a query's failure a status, and logs it.
pub fn status(error: &StoreError) -> Status {
    let text = chain(error);
    tracing::error!(error = text, "a query failed");
    match error {
        StoreError::Recovering => Status::unavailable(text),
        StoreError::Damaged(_) | StoreError::Corrupt { .. } => Status::data_loss(text),
        StoreError::Folder { .. }
        | StoreError::InUse { .. }
        | StoreError::Open { .. }
        | StoreError::Format { .. }
        | StoreError::Backend { .. } => Status::internal(text),
    }
}

type Chunks = mpsc::Sender<Result<QueryEventsResponse, Status>>;

fn send(chunks: &Chunks, events: Vec<admin::StoredEvent>) -> ControlFlow<()> {
    if events.is_empty() {
        return ControlFlow::Continue(());
    }
    let message = QueryEventsResponse {
        events,
        summary: None,
    };
    match chunks.blocking_send(Ok(message)) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}
