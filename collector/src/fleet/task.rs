//! The task that owns the fleet.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use shrike_proto::{
    id::{Epoch, Generation, NodeId},
    wire::{control::PolicyState, ingest::NodeInfo},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{
    handle::{
        ControlLease, EventsLease, Fleet, FleetError, Lease, NodeView, Offer, PolicyBookView,
        Pushed, Request, Session, Status,
    },
    node::{Answer, Applied, Node, Rollout},
};
use crate::{
    chain::chain,
    clock::now_unix_ns,
    ingest::session::Hello,
    policy::{Book, Change, GenerationRecord, Origin},
    store::writer::Writer,
};

/// Questions that wait: each caller has one at a time.
const QUEUE_MAX: usize = 256;

/// Nodes' records that changed are stored together this often: nothing
/// depends on them but what a restarted collector shows.
const RECORDS_INTERVAL: Duration = Duration::from_millis(500);

/// Nodes that are known; each needs a certificate of its own.
const NODES_MAX: usize = 50_000;

/// Starts the task. It ends, with every node's record stored, once `stop` is
/// cancelled.
pub fn start(
    nodes: Vec<Node>,
    book: Book,
    writer: Writer,
    stop: CancellationToken,
) -> (Fleet, tokio::task::JoinHandle<()>) {
    let (requests, queue) = mpsc::channel(QUEUE_MAX);
    let (changed, changes) = watch::channel(0);
    let task = Task {
        nodes: nodes
            .into_iter()
            .map(|node| (node.name.clone(), node))
            .collect(),
        book,
        writer,
        requests: requests.downgrade(),
        events: BTreeMap::new(),
        controls: BTreeMap::new(),
        dirty: BTreeSet::new(),
        traceparent: None,
        next_id: 0,
        changed,
    };
    let handle = tokio::spawn(task.run(queue, stop));
    (Fleet { requests, changes }, handle)
}

struct Open {
    id: u64,
    replaced: CancellationToken,
}

struct Control {
    open: Open,
    offers: watch::Sender<Option<Offer>>,
}

struct Task {
    nodes: BTreeMap<NodeId, Node>,
    book: Book,
    writer: Writer,
    /// For leases; weak, so that the task does not keep itself alive.
    requests: mpsc::WeakSender<Request>,
    events: BTreeMap<NodeId, Open>,
    controls: BTreeMap<NodeId, Control>,
    /// Nodes whose records changed since they were stored.
    dirty: BTreeSet<NodeId>,
    /// Trace of the newest push. Not stored: a trace does not outlive a
    /// restart.
    traceparent: Option<(Generation, String)>,
    next_id: u64,
    changed: watch::Sender<u64>,
}

impl Task {
    async fn run(mut self, mut queue: mpsc::Receiver<Request>, stop: CancellationToken) {
        let mut records = interval(RECORDS_INTERVAL);
        records.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                request = queue.recv() => match request {
                    Some(request) => self.handle(request).await,
                    None => break,
                },
                _ = records.tick() => self.store_nodes().await,
                () = stop.cancelled() => break,
            }
        }
        self.store_nodes().await;
    }

    async fn handle(&mut self, request: Request) {
        match request {
            Request::EventsOpened { hello, lease } => self.events_opened(*hello, lease),
            Request::ControlOpened {
                node,
                boot_id,
                info,
                applied,
                lease,
            } => self.control_opened(node, boot_id, info.map(|info| *info), applied, lease),
            Request::Closed { session, node, id } => self.closed(session, &node, id),
            Request::Status(status) => self.status(status),
            Request::Change {
                parent,
                change,
                by,
                dry_run,
                traceparent,
                reply,
            } => {
                let result = self.change(parent, change, by, dry_run, traceparent).await;
                let _ = reply.send(result);
            }
            Request::Forget(node, reply) => {
                let _ = reply.send(self.forget(node).await);
            }
            Request::Policies(reply) => {
                let _ = reply.send(PolicyBookView {
                    generation: self.book.generation(),
                    documents: self.book.documents().cloned().collect(),
                });
            }
            Request::Policy(name, reply) => {
                let document = self.book.document(&name).cloned().map(Box::new);
                let _ = reply.send((self.book.generation(), document));
            }
            Request::Nodes(reply) => {
                let _ = reply.send((self.book.generation(), self.views()));
            }
            Request::Rollout(generation, reply) => {
                let _ = reply.send(self.rollout(generation));
            }
        }
    }

    fn events_opened(&mut self, hello: Hello, reply: oneshot::Sender<EventsLease>) {
        let name = hello.stream.node;
        if let Some(old) = self.events.remove(&name) {
            tracing::info!(node = %name, "an older event session is replaced");
            old.replaced.cancel();
        }
        let Some(lease) = self.lease(Session::Events, name.clone()) else {
            return;
        };
        let open = Open {
            id: lease.id,
            replaced: lease.replaced.clone(),
        };
        self.events.insert(name.clone(), open);
        self.met(
            &name,
            hello.boot_id,
            Some(hello.info),
            Some(hello.stream.epoch),
        );
        // A caller that left meanwhile must not keep the place.
        if let Err(unused) = reply.send(EventsLease { lease }) {
            self.closed(Session::Events, &name, unused.lease.id);
        }
    }

    fn control_opened(
        &mut self,
        name: NodeId,
        boot_id: String,
        info: Option<NodeInfo>,
        applied: Applied,
        reply: oneshot::Sender<ControlLease>,
    ) {
        if let Some(old) = self.controls.remove(&name) {
            tracing::info!(node = %name, "an older policy session is replaced");
            old.open.replaced.cancel();
        }
        let Some(lease) = self.lease(Session::Control, name.clone()) else {
            return;
        };
        let (offers, receiver) = watch::channel(None);
        self.controls.insert(
            name.clone(),
            Control {
                open: Open {
                    id: lease.id,
                    replaced: lease.replaced.clone(),
                },
                offers,
            },
        );
        self.met(&name, boot_id, info, None);
        if let Some(node) = self.nodes.get_mut(&name) {
            node.applied = applied;
        }
        self.offer(&name);
        let lease = ControlLease {
            lease,
            offers: receiver,
        };
        if let Err(unused) = reply.send(lease) {
            self.closed(Session::Control, &name, unused.lease.id);
        }
    }

    fn lease(&mut self, session: Session, node: NodeId) -> Option<Lease> {
        if !self.nodes.contains_key(&node) && self.nodes.len() >= NODES_MAX {
            tracing::error!(%node, NODES_MAX, "a node is refused: too many are known");
            return None;
        }
        self.next_id += 1;
        Some(Lease {
            // Gone only when everybody who could ask is gone as well.
            requests: self.requests.upgrade()?,
            session,
            node,
            id: self.next_id,
            replaced: CancellationToken::new(),
        })
    }

    /// Takes what an agent says of its node; new labels may mean another
    /// policy set.
    fn met(
        &mut self,
        name: &NodeId,
        boot_id: String,
        info: Option<NodeInfo>,
        epoch: Option<Epoch>,
    ) {
        let node = self
            .nodes
            .entry(name.clone())
            .or_insert_with(|| Node::new(name.clone()));
        node.last_seen_unix_ns = now_unix_ns();
        node.boot_id = boot_id;
        let mut relabelled = false;
        if let Some(info) = info {
            relabelled = node.info.labels != info.labels;
            node.info = info;
        }
        if epoch.is_some() {
            node.epoch = epoch;
        }
        self.touch(name);
        if relabelled {
            self.offer(name);
        }
    }

    fn closed(&mut self, session: Session, name: &NodeId, id: u64) {
        let is_this = |open: &Open| open.id == id;
        match session {
            Session::Events if self.events.get(name).is_some_and(is_this) => {
                self.events.remove(name);
            }
            Session::Control
                if self
                    .controls
                    .get(name)
                    .is_some_and(|control| is_this(&control.open)) =>
            {
                self.controls.remove(name);
            }
            // Replaced already.
            Session::Events | Session::Control => return,
        }
        tracing::info!(node = %name, ?session, "session closed");
        if let Some(node) = self.nodes.get_mut(name) {
            node.last_seen_unix_ns = now_unix_ns();
        }
        self.touch(name);
    }

    fn status(&mut self, Status { node: name, status }: Status) {
        let Some(node) = self.nodes.get_mut(&name) else {
            return;
        };
        let answer = Answer {
            generation: Generation(status.generation),
            state: status.state(),
            reason: status.reason,
        };
        match answer.state {
            PolicyState::Rejected => tracing::warn!(
                node = %name,
                generation = answer.generation.0,
                reason = answer.reason,
                "a node rejected a generation"
            ),
            PolicyState::Unspecified | PolicyState::Received | PolicyState::Applied => {
                tracing::info!(
                    node = %name,
                    generation = answer.generation.0,
                    state = answer.state.as_str_name(),
                    "policy status"
                );
            }
        }
        node.last_seen_unix_ns = now_unix_ns();
        let desired = node.desired(&self.book);
        node.handle_answer(answer, status.hash, &desired);
        self.touch(&name);
    }

    async fn change(
        &mut self,
        parent: Generation,
        change: Change,
        by: String,
        dry_run: bool,
        traceparent: String,
    ) -> Result<Pushed, FleetError> {
        let origin = Origin {
            by,
            at_unix_ns: now_unix_ns(),
        };
        let highest_applied = self
            .nodes
            .values()
            .map(|node| node.applied.generation)
            .max()
            .unwrap_or_default();
        let record = self.book.plan(parent, change, origin, highest_applied)?;
        let pushed = Pushed {
            generation: record.generation,
            nodes: self
                .nodes
                .values()
                .filter(|node| node.is_touched_by(&record))
                .map(|node| node.name.clone())
                .collect(),
        };
        if dry_run {
            return Ok(pushed);
        }
        self.writer.records(record.changes()).await?;
        self.apply(record, traceparent);
        Ok(pushed)
    }

    async fn forget(&mut self, name: NodeId) -> Result<(), FleetError> {
        let Some(node) = self.nodes.get(&name) else {
            return Err(FleetError::UnknownNode(name));
        };
        if self.events.contains_key(&name) || self.controls.contains_key(&name) {
            return Err(FleetError::Connected(name));
        }
        self.writer.records(vec![node.removal()]).await?;
        self.nodes.remove(&name);
        self.dirty.remove(&name);
        self.changed.send_modify(|count| *count += 1);
        Ok(())
    }

    fn apply(&mut self, record: GenerationRecord, traceparent: String) {
        tracing::info!(
            generation = record.generation.0,
            by = record.origin.by,
            pushed = record.pushed.len(),
            deleted = record.deleted.len(),
            "the policy book has a new generation"
        );
        self.traceparent = Some((record.generation, traceparent));
        self.book.apply(record);
        let connected: Vec<NodeId> = self.controls.keys().cloned().collect();
        for node in connected {
            self.offer(&node);
        }
        self.changed.send_modify(|count| *count += 1);
    }

    /// Offers a connected node what it shall enforce, unless it does already
    /// or was offered it.
    fn offer(&self, name: &NodeId) {
        let (Some(node), Some(control)) = (self.nodes.get(name), self.controls.get(name)) else {
            return;
        };
        let desired = node.desired(&self.book);
        // A book that never heard of the node leaves alone what it enforces.
        if desired.generation == Generation::NONE || node.applied.is(&desired) {
            return;
        }
        let traceparent = self
            .traceparent
            .as_ref()
            .filter(|(generation, _)| *generation == desired.generation)
            .map(|(_, traceparent)| traceparent.clone())
            .unwrap_or_default();
        control.offers.send_if_modified(|offer| {
            if offer.as_ref().is_some_and(|offer| offer.set == desired) {
                return false;
            }
            *offer = Some(Offer {
                set: desired,
                traceparent,
            });
            true
        });
    }

    fn views(&self) -> Vec<NodeView> {
        self.nodes
            .values()
            .map(|node| NodeView {
                events_connected: self.events.contains_key(&node.name),
                control_connected: self.controls.contains_key(&node.name),
                desired: node.desired(&self.book).generation,
                node: node.clone(),
            })
            .collect()
    }

    fn rollout(&self, generation: Generation) -> Result<Vec<Rollout>, FleetError> {
        let record = self
            .book
            .record(generation)
            .ok_or(FleetError::UnknownGeneration(generation))?;
        Ok(self
            .nodes
            .values()
            .filter(|node| node.is_touched_by(record))
            .map(|node| {
                let (state, reason) = node.state_of(generation);
                Rollout {
                    node: node.name.clone(),
                    connected: self.controls.contains_key(&node.name),
                    applied: node.applied.generation,
                    state,
                    reason: reason.to_owned(),
                }
            })
            .collect())
    }

    fn touch(&mut self, name: &NodeId) {
        self.dirty.insert(name.clone());
        self.changed.send_modify(|count| *count += 1);
    }

    async fn store_nodes(&mut self) {
        if self.dirty.is_empty() {
            return;
        }
        let changes = self
            .dirty
            .iter()
            .filter_map(|name| self.nodes.get(name))
            .map(Node::change)
            .collect();
        match self.writer.records(changes).await {
            Ok(()) => self.dirty.clear(),
            // They stay dirty and are tried again.
            Err(error) => tracing::debug!(error = chain(&error), "nodes' records wait"),
        }
    }
}
