//! The handle that asks the fleet, and the places that sessions hold.

use shrike_proto::{
    id::{Generation, NodeId, PolicyName},
    policy::PolicySet,
    wire::{control, ingest::NodeInfo},
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::node::{Applied, Node, Rollout};
use crate::{
    ingest::session::Hello,
    policy::{BookError, Change, Document},
    store::writer::NotStored,
};

/// What an agent shall apply.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    /// The set.
    pub set: PolicySet,
    /// Trace of the push that made it; may be empty.
    pub traceparent: String,
}

/// A change or question that failed.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The collector stops.
    #[error("the collector is stopping")]
    Stopping,
    /// The change cannot be made.
    #[error(transparent)]
    Book(#[from] BookError),
    /// The change could not be made durable.
    #[error("the change was not stored")]
    NotStored(#[from] NotStored),
    /// There is no such generation.
    #[error("there is no generation {0}")]
    UnknownGeneration(Generation),
    /// There is no such node.
    #[error("no node `{0}` is known")]
    UnknownNode(NodeId),
    /// The node is here.
    #[error("node `{0}` is connected")]
    Connected(NodeId),
}

/// A node, and whether it is here.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeView {
    /// What is known of it.
    pub node: Node,
    /// Its event session is open.
    pub events_connected: bool,
    /// Its policy session is open.
    pub control_connected: bool,
    /// What it shall enforce.
    pub desired: Generation,
}

/// The policies in force.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyBookView {
    /// The current generation.
    pub generation: Generation,
    /// The policies by name.
    pub documents: Vec<Document>,
}

/// What a change of the book led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The new generation.
    pub generation: Generation,
    /// Known nodes that it touches.
    pub nodes: Vec<NodeId>,
}

/// What an agent says of an offer.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// The node.
    pub node: NodeId,
    /// Its words.
    pub status: control::PolicyStatus,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Session {
    Events,
    Control,
}

pub(super) enum Request {
    EventsOpened {
        hello: Box<Hello>,
        lease: oneshot::Sender<EventsLease>,
    },
    ControlOpened {
        node: NodeId,
        boot_id: String,
        info: Option<Box<NodeInfo>>,
        applied: Applied,
        lease: oneshot::Sender<ControlLease>,
    },
    Closed {
        session: Session,
        node: NodeId,
        id: u64,
    },
    Status(Status),
    Change {
        parent: Generation,
        change: Change,
        by: String,
        dry_run: bool,
        traceparent: String,
        reply: oneshot::Sender<Result<Pushed, FleetError>>,
    },
    Forget(NodeId, oneshot::Sender<Result<(), FleetError>>),
    Policies(oneshot::Sender<PolicyBookView>),
    Policy(
        PolicyName,
        oneshot::Sender<(Generation, Option<Box<Document>>)>,
    ),
    Nodes(oneshot::Sender<(Generation, Vec<NodeView>)>),
    Rollout(
        Generation,
        oneshot::Sender<Result<Vec<Rollout>, FleetError>>,
    ),
}

/// Asks the fleet.
#[derive(Debug, Clone)]
pub struct Fleet {
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) changes: watch::Receiver<u64>,
}

/// An event session's place; a newer session of the node takes it.
#[derive(Debug)]
pub struct EventsLease {
    pub(super) lease: Lease,
}

/// A policy session's place, and what its agent shall apply.
#[derive(Debug)]
pub struct ControlLease {
    pub(super) lease: Lease,
    /// The newest offer; `None` until there is one.
    pub offers: watch::Receiver<Option<Offer>>,
}

#[derive(Debug)]
pub(super) struct Lease {
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) session: Session,
    pub(super) node: NodeId,
    pub(super) id: u64,
    pub(super) replaced: CancellationToken,
}

impl Lease {
    async fn close(self) {
        let closed = Request::Closed {
            session: self.session,
            node: self.node,
            id: self.id,
        };
        // At shutdown there is nobody left to tell.
        let _ = self.requests.send(closed).await;
    }
}

impl EventsLease {
    /// Waits until a newer session of the node takes over.
    pub async fn replaced(&self) {
        self.lease.replaced.cancelled().await;
    }

    /// Gives the place back.
    pub async fn close(self) {
        self.lease.close().await;
    }
}

impl ControlLease {
    /// Returns what is cancelled when a newer session of the node takes over.
    pub fn replaced(&self) -> CancellationToken {
        self.lease.replaced.clone()
    }

    /// Gives the place back.
    pub async fn close(self) {
        self.lease.close().await;
    }
}

impl Fleet {
    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, FleetError> {
        let (reply, answer) = oneshot::channel();
        self.requests
            .send(request(reply))
            .await
            .map_err(|_| FleetError::Stopping)?;
        answer.await.map_err(|_| FleetError::Stopping)
    }

    /// Opens an event session; an older one of the node is replaced.
    ///
    /// # Errors
    /// [`FleetError::Stopping`].
    pub async fn events_opened(&self, hello: &Hello) -> Result<EventsLease, FleetError> {
        let hello = Box::new(hello.clone());
        self.ask(|lease| Request::EventsOpened { hello, lease })
            .await
    }

    /// Opens a policy session; an older one of the node is replaced.
    ///
    /// # Errors
    /// [`FleetError::Stopping`].
    pub async fn control_opened(
        &self,
        node: NodeId,
        boot_id: String,
        info: Option<NodeInfo>,
        applied: Applied,
    ) -> Result<ControlLease, FleetError> {
        self.ask(|lease| Request::ControlOpened {
            node,
            boot_id,
            info: info.map(Box::new),
            applied,
            lease,
        })
        .await
    }

    /// Takes an agent's answer to an offer.
    ///
    /// # Errors
    /// [`FleetError::Stopping`].
    pub async fn status(&self, status: Status) -> Result<(), FleetError> {
        self.requests
            .send(Request::Status(status))
            .await
            .map_err(|_| FleetError::Stopping)
    }

    /// Changes the policy book; `traceparent` goes with the offers.
    ///
    /// # Errors
    /// [`FleetError`] says why not.
    pub async fn change(
        &self,
        parent: Generation,
        change: Change,
        by: String,
        dry_run: bool,
        traceparent: String,
    ) -> Result<Pushed, FleetError> {
        self.ask(|reply| Request::Change {
            parent,
            change,
            by,
            dry_run,
            traceparent,
            reply,
        })
        .await?
    }

    /// Takes a node off the list. Its events stay, and it comes back when its
    /// agent does.
    ///
    /// # Errors
    /// [`FleetError::UnknownNode`], [`FleetError::Connected`], or
    /// [`FleetError::NotStored`].
    pub async fn forget(&self, node: NodeId) -> Result<(), FleetError> {
        self.ask(|reply| Request::Forget(node, reply)).await?
    }

    /// Lists the policies in force.
    ///
    /// # Errors
    /// [`FleetError::Stopping`].
    pub async fn policies(&self) -> Result<PolicyBookView, FleetError> {
        self.ask(Request::Policies).await
    }

    /// Returns one policy in force, and the current generation.
    ///
    /// # Errors
    /// [`FleetError::Stopping`].
    pub async fn policy(
        &self,
        name: PolicyName,
    ) -> Result<(Generation, Option<Box<Document>>), FleetError> {
        self.ask(|reply| Request::Policy(name, reply)).await
    }

    /// Lists the nodes, and the current generation.
    ///
    /// # Errors
    /// [`FleetError::Stopping`].
    pub async fn nodes(&self) -> Result<(Generation, Vec<NodeView>), FleetError> {
        self.ask(Request::Nodes).await
    }

    /// Returns the state of every node that a generation touches.
    ///
    /// # Errors
    /// [`FleetError::UnknownGeneration`].
    pub async fn rollout(&self, generation: Generation) -> Result<Vec<Rollout>, FleetError> {
        self.ask(|reply| Request::Rollout(generation, reply))
            .await?
    }

    /// Returns a counter that moves with every change of nodes or policies.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }
}
