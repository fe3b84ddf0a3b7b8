//! What is missing from a range: what its nodes lost in its hours, and what is
//! still on its way.

use std::collections::BTreeMap;

use shrike_proto::{
    id::NodeId,
    ledger::{Hour, LossReason, losses_to_wire},
    wire::admin,
};

use super::Filter;
use crate::store::{
    Store, StoreError,
    hours::{self, add_losses},
    stream::StreamKey,
};

/// What a range lacks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Completeness {
    /// Losses by node; nodes without one are left out.
    pub losses: BTreeMap<NodeId, BTreeMap<LossReason, u64>>,
    /// Events that are not durable yet.
    pub in_flight: u64,
}

impl Completeness {
    /// Finds out what the range of a filter lacks. Hours that lie in it in part
    /// count whole.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub fn of(store: &dyn Store, filter: &Filter) -> Result<Self, StoreError> {
        let first = Hour::of(filter.since_unix_ns);
        let last = Hour::of(filter.until_unix_ns.saturating_sub(1));
        let mut found = Self::default();
        let selects = |stream: &StreamKey| filter.selects_node(&stream.node);
        for hour in hours::list(store, first, last, selects)? {
            found.lose(&hour.stream.node, &hour.counts.lost);
            found.in_flight = found.in_flight.saturating_add(hour.counts.in_flight);
        }
        for (stream, mark) in store.watermarks()? {
            // An agent of an earlier version tells no hours.
            if mark.hours.is_empty() && selects(&stream) {
                found.lose(&stream.node, &mark.losses());
            }
        }
        Ok(found)
    }

    fn lose(&mut self, node: &NodeId, lost: &BTreeMap<LossReason, u64>) {
        if !lost.is_empty() {
            add_losses(self.losses.entry(node.clone()).or_default(), lost);
        }
    }

    /// Converts the losses for the wire.
    pub fn losses_to_wire(self) -> Vec<admin::NodeLoss> {
        self.losses
            .into_iter()
            .map(|(node, lost)| admin::NodeLoss {
                node: node.to_string(),
                lost: losses_to_wire(lost),
            })
            .collect()
    }
}
