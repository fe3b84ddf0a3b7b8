//! Policy to agents: one stream for each agent, on a connection of its own.
//!
//! Only the newest offer matters: an agent that is slow to answer skips the
//! ones in between.

use std::time::Duration;

use shrike_proto::{
    id::{Generation, NodeId},
    wire::control::{
        self, ControlHello, StreamPoliciesRequest, StreamPoliciesResponse,
        control_service_server::ControlService, stream_policies_request, stream_policies_response,
    },
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    fleet::{self, Applied, ControlLease, Fleet, Offer},
    listen::peer,
};

/// Longest that a new stream may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Offers that wait for the agent: newer ones replace the one behind.
const OFFERS_QUEUED: usize = 1;

/// Longest reason for a rejection that is kept.
const REASON_CHARS_MAX: usize = 2000;

/// Hands policies to agents.
#[derive(Debug, Clone)]
pub struct Control {
    fleet: Fleet,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Control {
    /// Builds the service.
    pub fn new(fleet: Fleet, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { fleet, tasks, stop }
    }
}

type Answers = mpsc::Sender<Result<StreamPoliciesResponse, Status>>;

#[tonic::async_trait]
impl ControlService for Control {
    type StreamPoliciesStream = ReceiverStream<Result<StreamPoliciesResponse, Status>>;

    async fn stream_policies(
        &self,
        request: Request<Streaming<StreamPoliciesRequest>>,
    ) -> Result<Response<Self::StreamPoliciesStream>, Status> {
        let identity = peer::identity(&request)?;
        let (answers, stream) = mpsc::channel(OFFERS_QUEUED);
        let control = self.clone();
        let inbound = request.into_inner();
        self.tasks.spawn(async move {
            if let Err(status) = control.serve(identity.id(), inbound, &answers).await {
                tracing::debug!(
                    node = identity.id(),
                    status = status.message(),
                    "a policy session ended"
                );
                let _ = timeout(Duration::from_secs(1), answers.send(Err(status))).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

fn stopping() -> Status {
    Status::unavailable("the collector is stopping")
}

impl Control {
    async fn serve(
        &self,
        certificate: &str,
        mut inbound: Streaming<StreamPoliciesRequest>,
        answers: &Answers,
    ) -> Result<(), Status> {
        let hello = self.hello(&mut inbound).await?;
        let node = check(&hello, certificate)?;
        let applied = Applied {
            generation: Generation(hello.applied_generation),
            hash: hello.applied_hash,
        };
        let mut lease = self
            .fleet
            .control_opened(node.clone(), hello.boot_id, hello.info, applied)
            .await
            .map_err(|_| stopping())?;
        tracing::info!(%node, applied = hello.applied_generation, "policy session opened");
        let replaced = lease.replaced();
        let served = tokio::select! {
            served = self.converse(&node, &mut lease, inbound, answers) => served,
            () = replaced.cancelled() => Err(Status::aborted("another session of this node has taken over")),
            () = self.stop.cancelled() => Err(stopping()),
        };
        lease.close().await;
        served
    }

    async fn hello(
        &self,
        inbound: &mut Streaming<StreamPoliciesRequest>,
    ) -> Result<ControlHello, Status> {
        let first = tokio::select! {
            first = timeout(HELLO_TIMEOUT, inbound.message()) => first,
            () = self.stop.cancelled() => return Err(stopping()),
        };
        let no_hello = || Status::invalid_argument("the first message of a session is a hello");
        match first.map_err(|_| no_hello())?? {
            Some(StreamPoliciesRequest {
                message: Some(stream_policies_request::Message::Hello(hello)),
            }) => Ok(*hello),
            Some(_) | None => Err(no_hello()),
        }
    }

    async fn converse(
        &self,
        node: &NodeId,
        lease: &mut ControlLease,
        mut inbound: Streaming<StreamPoliciesRequest>,
        answers: &Answers,
    ) -> Result<(), Status> {
        // An offer may be waiting already.
        lease.offers.mark_changed();
        loop {
            tokio::select! {
                changed = lease.offers.changed() => {
                    changed.map_err(|_| stopping())?;
                    let offer = lease.offers.borrow_and_update().clone();
                    if let Some(offer) = offer {
                        tracing::info!(%node, generation = offer.set.generation.0, "policy offered");
                        if answers.send(Ok(wire(offer))).await.is_err() {
                            return Ok(());
                        }
                    }
                }
                message = inbound.message() => match message? {
                    None => return Ok(()),
                    Some(message) => self.message(node, message).await?,
                },
            }
        }
    }

    async fn message(&self, node: &NodeId, message: StreamPoliciesRequest) -> Result<(), Status> {
        match message.message {
            Some(stream_policies_request::Message::Status(mut status)) => {
                if status.state() == control::PolicyState::Unspecified {
                    return Err(Status::invalid_argument(format!(
                        "policy state {} is unknown",
                        status.state
                    )));
                }
                status.reason = status.reason.chars().take(REASON_CHARS_MAX).collect();
                self.fleet
                    .status(fleet::Status {
                        node: node.clone(),
                        status,
                    })
                    .await
                    .map_err(|_| stopping())
            }
            Some(stream_policies_request::Message::Hello(_)) => Err(Status::invalid_argument(
                "a session has one hello, as its first message",
            )),
            None => Err(Status::invalid_argument(
                "the message is neither hello nor status: unknown or empty",
            )),
        }
    }
}

fn check(hello: &ControlHello, certificate: &str) -> Result<NodeId, Status> {
    if hello.node != certificate {
        let said: String = hello.node.chars().take(80).collect();
        return Err(Status::permission_denied(format!(
            "the hello is from node {said:?}, the certificate from {certificate:?}"
        )));
    }
    if hello.boot_id.len() > 64 || hello.applied_hash.len() > 64 {
        return Err(Status::invalid_argument(
            "boot id and hash have at most 64 bytes",
        ));
    }
    NodeId::parse(&hello.node).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn wire(offer: Offer) -> StreamPoliciesResponse {
    StreamPoliciesResponse {
        message: Some(stream_policies_response::Message::Offer(control::Offer {
            set: Some(offer.set.into()),
            traceparent: offer.traceparent,
        })),
    }
}
