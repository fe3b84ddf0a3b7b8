//! `shrike.admin.v1.NodeService`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use shrike_proto::{
    id::{Epoch, NodeId},
    ledger::{Hour, losses_to_wire},
    wire::admin::{
        self, ForgetNodeRequest, ForgetNodeResponse, ListHoursRequest, ListHoursResponse,
        ListNodesRequest, ListNodesResponse, node_service_server::NodeService,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::status;
use crate::{
    chain::chain,
    fleet::{Fleet, NodeView},
    listen::peer,
    store::{
        Store,
        hours::{self, StreamHour},
        stream::Watermark,
    },
};

/// Lists and forgets nodes.
#[derive(Clone)]
pub struct NodeAdmin {
    fleet: Fleet,
    store: Arc<dyn Store>,
}

impl std::fmt::Debug for NodeAdmin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeAdmin").finish_non_exhaustive()
    }
}

impl NodeAdmin {
    /// Builds the service.
    pub fn new(fleet: Fleet, store: Arc<dyn Store>) -> Self {
        Self { fleet, store }
    }
}

#[tonic::async_trait]
impl NodeService for NodeAdmin {
    async fn list_nodes(
        &self,
        request: Request<ListNodesRequest>,
    ) -> Result<Response<ListNodesResponse>, Status> {
        let only = request.into_inner().node;
        let (generation, nodes) = self.fleet.nodes().await.map_err(status)?;
        let store = Arc::clone(&self.store);
        let marks = tokio::task::spawn_blocking(move || store.watermarks())
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(|error| Status::unavailable(chain(&error)))?;
        let mut by_node: BTreeMap<NodeId, Vec<(Epoch, Watermark)>> = BTreeMap::new();
        for (stream, mark) in marks {
            by_node
                .entry(stream.node)
                .or_default()
                .push((stream.epoch, mark));
        }
        Ok(Response::new(ListNodesResponse {
            nodes: nodes
                .into_iter()
                .filter(|view| only.is_empty() || view.node.name.as_str() == only)
                .map(|mut view| {
                    if only.is_empty() {
                        // Thousands of nodes with some kilobytes each would
                        // not fit into one message.
                        view.node.info.offsets.clear();
                    }
                    let marks = by_node.remove(&view.node.name).unwrap_or_default();
                    wire(view, marks)
                })
                .collect(),
            policy_generation: generation.0,
        }))
    }

    type ListHoursStream = ReceiverStream<Result<ListHoursResponse, Status>>;

    async fn list_hours(
        &self,
        request: Request<ListHoursRequest>,
    ) -> Result<Response<Self::ListHoursStream>, Status> {
        let ListHoursRequest {
            nodes,
            since_unix_ns,
            until_unix_ns,
        } = request.into_inner();
        let until = match until_unix_ns {
            0 => i64::MAX,
            until => until,
        };
        let first = match since_unix_ns {
            0 => Hour(i64::MIN),
            since => Hour::of(since),
        };
        if until <= since_unix_ns {
            return Err(Status::invalid_argument("`since` is not before `until`"));
        }
        let wanted = nodes
            .iter()
            .map(|node| NodeId::parse(node))
            .collect::<Result<BTreeSet<_>, _>>()
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let store = Arc::clone(&self.store);
        let hours = tokio::task::spawn_blocking(move || {
            hours::list(&*store, first, Hour::of(until - 1), |stream| {
                wanted.is_empty() || wanted.contains(&stream.node)
            })
        })
        .await
        .map_err(|error| Status::internal(error.to_string()))?
        .map_err(|error| Status::unavailable(chain(&error)))?;
        let (sender, receiver) = mpsc::channel(HOUR_CHUNKS_QUEUED);
        tokio::spawn(async move {
            for chunk in hours.chunks(HOURS_IN_MESSAGE) {
                let hours = chunk.iter().cloned().map(hour_to_wire).collect();
                if sender.send(Ok(ListHoursResponse { hours })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn forget_node(
        &self,
        request: Request<ForgetNodeRequest>,
    ) -> Result<Response<ForgetNodeResponse>, Status> {
        let by = peer::identity(&request)?.to_string();
        let node = NodeId::parse(&request.into_inner().node)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.fleet.forget(node.clone()).await.map_err(status)?;
        tracing::info!(%node, by, "a node is forgotten");
        Ok(Response::new(ForgetNodeResponse {}))
    }
}

/// Hours in one message: some hundred kilobytes.
const HOURS_IN_MESSAGE: usize = 2048;

/// Messages that wait for the reader.
const HOUR_CHUNKS_QUEUED: usize = 2;

fn hour_to_wire(hour: StreamHour) -> admin::NodeHour {
    let counts = hour.counts;
    admin::NodeHour {
        hour: hour.hour.0,
        node: hour.stream.node.to_string(),
        epoch: hour.stream.epoch.0.to_vec(),
        seen: counts.seen,
        filtered: counts.filtered,
        sequenced: counts.sequenced,
        stored: counts.stored(),
        in_flight: counts.in_flight,
        unaccounted: counts.unaccounted,
        lost: losses_to_wire(counts.lost),
    }
}

fn wire(view: NodeView, marks: Vec<(Epoch, Watermark)>) -> admin::Node {
    let node = view.node;
    let (state, reason) = node.state_of(view.desired);
    // Before its first batch a new epoch has no watermark: then it has
    // nothing, and the one before is not shown in its place.
    let (epoch, mark) = match node.epoch {
        Some(epoch) => {
            let mark = marks.into_iter().find(|(of, _)| *of == epoch);
            (Some(epoch), mark.map(|(_, mark)| mark).unwrap_or_default())
        }
        None => marks
            .into_iter()
            .max_by_key(|(_, mark)| mark.opened_unix_ns)
            .map_or_else(Default::default, |(epoch, mark)| (Some(epoch), mark)),
    };
    admin::Node {
        events_connected: view.events_connected,
        control_connected: view.control_connected,
        last_seen_unix_ns: node.last_seen_unix_ns.max(mark.committed_unix_ns),
        desired_generation: view.desired.0,
        applied_generation: node.applied.generation.0,
        policy_state: state.into(),
        policy_reason: reason.to_owned(),
        epoch: epoch.map(|epoch| epoch.0.to_vec()).unwrap_or_default(),
        durable_sequence: mark.durable.0,
        stored: mark.stored,
        ledger: mark.ledger.map(Into::into),
        lost: mark.lost_ranges.into_iter().map(Into::into).collect(),
        boot_id: node.boot_id,
        name: node.name.to_string(),
        info: Some(node.info),
    }
}
