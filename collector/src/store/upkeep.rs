//! What the store needs beside being written: old blocks removed, small ones
//! merged. One after the other, so that nobody merges a block that somebody
//! else removes.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Store,
    merge::Merger,
    retention::{self, Retention},
    writer::{State, Writer},
};
use crate::chain::chain;

/// How often retention looks.
const RETENTION_INTERVAL: Duration = Duration::from_secs(10);

/// How often a minute to merge is looked for.
const MERGE_INTERVAL: Duration = Duration::from_secs(1);

/// Keeps the store in order, for as long as the collector runs.
pub async fn run(
    store: Arc<dyn Store>,
    writer: Writer,
    retention: Retention,
    stop: CancellationToken,
) {
    let mut merger = Merger::new(Arc::clone(&store), writer.clone(), stop.clone());
    let mut retention_due = Instant::now() + RETENTION_INTERVAL;
    let mut is_idle = true;
    loop {
        if is_idle {
            tokio::select! {
                () = tokio::time::sleep(MERGE_INTERVAL) => {}
                () = stop.cancelled() => return,
            }
        }
        if stop.is_cancelled() {
            return;
        }
        if Instant::now() >= retention_due {
            if *writer.state().borrow() != State::Healthy {
                // An empty change makes the writer look at its disk again.
                let _ = writer.remove(Vec::new(), Vec::new()).await;
            }
            if let Err(error) = retention::round(&store, &writer, retention).await {
                tracing::error!(error = chain(&*error), "retention cannot remove anything");
            }
            retention_due = Instant::now() + RETENTION_INTERVAL;
        }
        is_idle = !merger.merge_minute().await;
    }
}
