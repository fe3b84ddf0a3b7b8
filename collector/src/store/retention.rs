//! Retention: which blocks are old enough, or too many, to keep.
//!
//! It only chooses; the writer removes. Blocks go oldest first, by the time
//! of their oldest event, and a stream that has no block left is forgotten
//! once a younger epoch of its node exists.

use std::{collections::BTreeMap, sync::Arc};

use shrike_proto::ledger::Hour;

use super::{
    Order, RecordChange, Store, StoreError, hours, stream::StreamKey, succession::Extent,
    writer::Writer,
};
use crate::clock::now_unix_ns;

/// Blocks removed in one commit: it must not hold up the batches that wait.
const REMOVED_AT_ONCE: usize = 500;

const DAY_NS: i64 = 86_400_000_000_000;

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Events younger than this many days; 0 keeps all.
    pub days: u32,
    /// At most this many bytes of compressed events; 0 keeps all.
    pub bytes_max: u64,
}

/// Removes what is not kept.
///
/// # Errors
/// When the store cannot be read, or takes nothing.
pub async fn round(
    store: &Arc<dyn Store>,
    writer: &Writer,
    retention: Retention,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    loop {
        let (store, bytes) = (Arc::clone(store), writer.payload_bytes());
        let chosen =
            tokio::task::spawn_blocking(move || choose(&*store, retention, bytes, now_unix_ns()))
                .await??;
        if chosen.blocks.is_empty() && chosen.streams.is_empty() {
            return if chosen.hours.is_empty() {
                Ok(())
            } else {
                Ok(writer.records(chosen.hours).await?)
            };
        }
        let events: u64 = chosen.blocks.iter().map(Extent::events).sum();
        tracing::info!(blocks = chosen.blocks.len(), events, "retention removes");
        writer.remove(chosen.blocks, chosen.streams).await?;
    }
}

/// What is to be removed in one commit.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// Blocks.
    pub blocks: Vec<Extent>,
    /// Streams that are over.
    pub streams: Vec<StreamKey>,
    /// Ledgers of hours that are over, to be removed; chosen when there is
    /// nothing else.
    pub hours: Vec<RecordChange>,
}

/// Hours whose ledgers are kept where events are kept whatever their age: more
/// than a year.
const HOURS_KEPT: i64 = 400 * 24;

/// Chooses at most one commit's worth.
///
/// # Errors
/// [`StoreError`] when the store cannot be read.
pub fn choose(
    store: &dyn Store,
    retention: Retention,
    payload_bytes: u64,
    now_unix_ns: i64,
) -> Result<Chosen, StoreError> {
    let cutoff = match retention.days {
        0 => i64::MIN,
        days => now_unix_ns.saturating_sub(i64::from(days).saturating_mul(DAY_NS)),
    };
    let mut excess = match retention.bytes_max {
        0 => 0,
        limit => payload_bytes.saturating_sub(limit),
    };
    let mut chosen = Chosen::default();
    for entry in store.footers(i64::MIN, i64::MAX, Order::OldestFirst) {
        let (key, footer) = entry?;
        let old = footer.time_max_unix_ns < cutoff;
        if (!old && excess == 0) || chosen.blocks.len() == REMOVED_AT_ONCE {
            break;
        }
        excess = excess.saturating_sub(footer.payload_bytes.into());
        chosen.blocks.push(Extent::of(key, &footer));
    }
    if chosen.blocks.is_empty() {
        chosen.streams = streams_over(store, cutoff)?;
        let hours = match retention.days {
            0 => HOURS_KEPT,
            days => i64::from(days) * 24,
        };
        let before = Hour(Hour::of(now_unix_ns).0.saturating_sub(hours));
        chosen.hours = hours::removals(store, before, REMOVED_AT_ONCE)?;
    }
    Ok(chosen)
}

/// Streams without a block, whose node has a younger one, and that were quiet
/// for as long as events are kept.
fn streams_over(store: &dyn Store, cutoff: i64) -> Result<Vec<StreamKey>, StoreError> {
    let marks = store.watermarks()?;
    let mut youngest: BTreeMap<_, i64> = BTreeMap::new();
    for (stream, mark) in &marks {
        let entry = youngest.entry(stream.node.clone()).or_insert(i64::MIN);
        *entry = (*entry).max(mark.opened_unix_ns);
    }
    Ok(marks
        .into_iter()
        .filter(|(stream, mark)| {
            mark.stored == mark.removed
                && mark.committed_unix_ns < cutoff
                && mark.opened_unix_ns < youngest[&stream.node]
        })
        .map(|(stream, _)| stream)
        .take(REMOVED_AT_ONCE)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        sample,
        store::{Commit, memory::MemoryStore},
    };

    fn store() -> MemoryStore {
        let store = MemoryStore::default();
        for day in 0..10 {
            let mut events = sample::events(1 + day * 10, 10);
            for event in &mut events {
                event.time_unix_ns += day.cast_signed() * DAY_NS;
            }
            store
                .commit(&Commit {
                    blocks: sample::blocks(&events),
                    ..Commit::default()
                })
                .unwrap();
        }
        store
    }

    fn check(retention: Retention, bytes: u64, expect: usize) {
        let now = sample::START_UNIX_NS + 10 * DAY_NS;
        let chosen = choose(&store(), retention, bytes, now).unwrap();
        assert_eq!(chosen.blocks.len(), expect, "{retention:?}");
        assert!(
            chosen
                .blocks
                .is_sorted_by_key(|block| block.key.time_min_unix_ns)
        );
    }

    #[test]
    fn old_blocks_go_and_young_ones_stay() {
        check(
            Retention {
                days: 0,
                bytes_max: 0,
            },
            1 << 40,
            0,
        );
        check(
            Retention {
                days: 11,
                bytes_max: 0,
            },
            0,
            0,
        );
        check(
            Retention {
                days: 4,
                bytes_max: 0,
            },
            0,
            6,
        );
        check(
            Retention {
                days: 1,
                bytes_max: 0,
            },
            0,
            9,
        );
    }

    #[test]
    fn too_many_bytes_make_the_oldest_go() {
        let total = store().size_bytes().unwrap();
        check(
            Retention {
                days: 0,
                bytes_max: total,
            },
            total,
            0,
        );
        check(
            Retention {
                days: 0,
                bytes_max: total - 1,
            },
            total,
            1,
        );
        check(
            Retention {
                days: 0,
                bytes_max: 1,
            },
            total,
            10,
        );
    }
}
