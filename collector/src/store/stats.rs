//! What a store holds, in figures.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;
use shrike_proto::id::NodeId;

use super::{Order, Store, StoreError, block::Footer, merge::loose::is_loose};

const DAY_NS: i64 = 86_400_000_000_000;

/// Figures of some blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// Blocks; one that was merged counts with each of its nodes.
    pub blocks: u64,
    /// Events in them.
    pub events: u64,
    /// Bytes of their payloads; of a merged block, in proportion to events.
    pub payload_bytes: u64,
}

impl Figures {
    fn add(&mut self, events: u64, payload_bytes: u64) {
        self.blocks += 1;
        self.events += events;
        self.payload_bytes += payload_bytes;
    }
}

/// What a store holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// The store's format.
    pub format: &'static str,
    /// All blocks.
    pub total: Figures,
    /// Blocks that were merged already.
    pub merged: Figures,
    /// Blocks that are to be merged.
    pub loose: Figures,
    /// Bytes of the store's files.
    pub disk_bytes: u64,
    /// Streams, each one node's events under one epoch.
    pub streams: u64,
    /// Events that are lost, under all reasons, of all streams.
    pub lost: u64,
    /// Events that retention removed.
    pub removed: u64,
    /// Oldest event, Unix nanoseconds; absent without events.
    pub oldest_unix_ns: Option<i64>,
    /// Newest event.
    pub newest_unix_ns: Option<i64>,
    /// By node.
    pub nodes: BTreeMap<NodeName, Figures>,
    /// By day in UTC, of a block's oldest event.
    pub days: BTreeMap<String, Figures>,
}

/// A node's name, as text.
pub type NodeName = String;

impl Stats {
    /// Gathers a store's figures.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be read, or is damaged.
    pub fn gather(store: &dyn Store) -> Result<Self, StoreError> {
        let mut stats = Self {
            format: super::layout::FORMAT,
            disk_bytes: store.size_bytes()?,
            ..Self::default()
        };
        for entry in store.footers(i64::MIN, i64::MAX, Order::OldestFirst) {
            let (key, footer) = entry?;
            let (events, bytes) = (u64::from(footer.count), u64::from(footer.payload_bytes));
            stats.total.add(events, bytes);
            if !footer.merged.is_empty() {
                stats.merged.add(events, bytes);
            }
            if is_loose(&footer) {
                stats.loose.add(events, bytes);
            }
            stats.time(key.time_min_unix_ns, &footer);
            let day = day(key.time_min_unix_ns);
            stats.days.entry(day).or_default().add(events, bytes);
            let mut by_node: BTreeMap<NodeId, u64> = BTreeMap::new();
            for run in footer.runs(&key).iter() {
                *by_node.entry(run.stream.node.clone()).or_default() += u64::from(run.count);
            }
            for (node, of_node) in by_node {
                let share = (bytes * of_node).checked_div(events).unwrap_or_default();
                let figures = stats.nodes.entry(node.to_string()).or_default();
                figures.add(of_node, share);
            }
        }
        for (_, mark) in store.watermarks()? {
            stats.streams += 1;
            stats.removed += mark.removed;
            stats.lost += mark.losses().values().sum::<u64>();
        }
        Ok(stats)
    }

    fn time(&mut self, oldest: i64, footer: &Footer) {
        let newest = footer.time_max_unix_ns;
        self.oldest_unix_ns = Some(self.oldest_unix_ns.map_or(oldest, |it| it.min(oldest)));
        self.newest_unix_ns = Some(self.newest_unix_ns.map_or(newest, |it| it.max(newest)));
    }
}

fn timestamp(unix_ns: i64) -> String {
    jiff::Timestamp::from_nanosecond(unix_ns.into())
        .map_or_else(|_| unix_ns.to_string(), |time| format!("{time:.0}"))
}

fn day(unix_ns: i64) -> String {
    timestamp(unix_ns.div_euclid(DAY_NS).saturating_mul(DAY_NS))
        .chars()
        .take(10)
        .collect()
}

/// Rows of a table that people read; `--json` has all of them.
const ROWS_MAX: usize = 40;

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            total,
            merged,
            loose,
            ..
        } = self;
        let line = |f: &mut fmt::Formatter<'_>, name: &str, value: String| {
            writeln!(f, "{name:<16}{value}")
        };
        line(f, "format", self.format.to_owned())?;
        line(f, "on disk", size(self.disk_bytes))?;
        line(
            f,
            "compressed",
            format!(
                "{} of events, {:.1} bytes each",
                size(total.payload_bytes),
                total.payload_bytes as f64 / total.events.max(1) as f64
            ),
        )?;
        line(f, "events", total.events.to_string())?;
        line(
            f,
            "blocks",
            format!(
                "{}, of which {} merged and {} to be merged ({} of the events)",
                total.blocks,
                merged.blocks,
                loose.blocks,
                percent(loose.events, total.events)
            ),
        )?;
        line(f, "streams", self.streams.to_string())?;
        line(f, "lost", self.lost.to_string())?;
        line(f, "removed", self.removed.to_string())?;
        if let Some((oldest, newest)) = self.oldest_unix_ns.zip(self.newest_unix_ns) {
            line(f, "oldest", timestamp(oldest))?;
            line(f, "newest", timestamp(newest))?;
        }
        table(f, "node", &self.nodes)?;
        table(f, "day", &self.days)
    }
}

fn table(f: &mut fmt::Formatter<'_>, name: &str, rows: &BTreeMap<String, Figures>) -> fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    let width = rows.keys().map(String::len).max().unwrap_or(0).max(4);
    writeln!(
        f,
        "\n{name:<width$}  {:>12}  {:>8}  {:>10}",
        "events", "blocks", "compressed"
    )?;
    for (row, figures) in rows.iter().take(ROWS_MAX) {
        let bytes = size(figures.payload_bytes);
        writeln!(
            f,
            "{row:<width$}  {:>12}  {:>8}  {bytes:>10}",
            figures.events, figures.blocks
        )?;
    }
    match rows.len().saturating_sub(ROWS_MAX) {
        0 => Ok(()),
        more => writeln!(f, "and {more} more: --json has all of them"),
    }
}

/// Writes bytes for people.
pub fn size(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, "B");
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    match unit {
        "B" => format!("{bytes} B"),
        _ => format!("{value:.1} {unit}"),
    }
}

fn percent(part: u64, whole: u64) -> String {
    format!("{:.0} %", 100.0 * part as f64 / whole.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        sample,
        store::{Commit, memory::MemoryStore, stream::Watermark},
    };

    #[test]
    fn figures_are_those_of_all_blocks_by_node_and_day() {
        let store = MemoryStore::default();
        let mut events = sample::events(1, 30);
        for event in &mut events[20..] {
            event.time_unix_ns += DAY_NS;
        }
        let blocks: Vec<_> = events.chunks(10).flat_map(sample::blocks).collect();
        let bytes: u64 = blocks.iter().map(|block| block.payload.len() as u64).sum();
        store
            .commit(&Commit {
                blocks,
                watermarks: vec![(
                    sample::stream(),
                    Watermark {
                        stored: 35,
                        removed: 5,
                        ..Watermark::default()
                    },
                )],
                ..Commit::default()
            })
            .unwrap();
        let stats = Stats::gather(&store).unwrap();
        assert_eq!(
            stats.total,
            Figures {
                blocks: 3,
                events: 30,
                payload_bytes: bytes
            }
        );
        assert_eq!(stats.loose, stats.total);
        assert_eq!(stats.nodes["node-a"].events, 30);
        let days: Vec<_> = stats
            .days
            .iter()
            .map(|(day, figures)| (day.as_str(), figures.events))
            .collect();
        assert_eq!(days, [("2025-01-01", 20), ("2025-01-02", 10)]);
        assert_eq!((stats.streams, stats.removed), (1, 5));
        let text = stats.to_string();
        assert!(text.contains("2025-01-02T00:00:00Z"), "{text}");
    }

    #[test]
    fn bytes_are_written_for_people() {
        let check = |bytes, expect: &str| assert_eq!(size(bytes), expect);
        check(0, "0 B");
        check(1023, "1023 B");
        check(1536, "1.5 KiB");
        check(5 << 30, "5.0 GiB");
    }
}
