//! `shrike.admin.v1.PolicyService`.

use std::time::Duration;

use shrike_proto::{
    id::{Generation, PolicyName},
    policy::Policy,
    telemetry,
    wire::admin::{
        DeletePolicyRequest, DeletePolicyResponse, GetPolicyRequest, GetPolicyResponse,
        ListPoliciesRequest, ListPoliciesResponse, NodeRollout, PushPoliciesRequest,
        PushPoliciesResponse, WatchRolloutRequest, WatchRolloutResponse,
        policy_service_server::PolicyService,
    },
};
use tokio::{sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use super::status;
use crate::{
    fleet::{Fleet, Pushed, Rollout},
    listen::peer,
    policy::{Change, Push},
};

/// Roll-out states that wait for the watcher; a slow one skips states in
/// between, never the last.
const STATES_QUEUED: usize = 1;

/// Changes that come together are sent together.
const SETTLE: Duration = Duration::from_millis(20);

/// Changes the policy book.
#[derive(Debug, Clone)]
pub struct PolicyAdmin {
    fleet: Fleet,
    stop: CancellationToken,
}

impl PolicyAdmin {
    /// Builds the service.
    pub fn new(fleet: Fleet, stop: CancellationToken) -> Self {
        Self { fleet, stop }
    }

    async fn change(
        &self,
        parent: Generation,
        change: Change,
        by: String,
        dry_run: bool,
    ) -> Result<Pushed, Status> {
        let traceparent = telemetry::traceparent();
        self.fleet
            .change(parent, change, by, dry_run, traceparent)
            .await
            .map_err(status)
    }
}

fn names(pushed: &Pushed) -> Vec<String> {
    pushed.nodes.iter().map(ToString::to_string).collect()
}

fn parse_name(name: &str) -> Result<PolicyName, Status> {
    PolicyName::parse(name).map_err(|error| Status::invalid_argument(error.to_string()))
}

#[tonic::async_trait]
impl PolicyService for PolicyAdmin {
    type WatchRolloutStream = ReceiverStream<Result<WatchRolloutResponse, Status>>;

    async fn push_policies(
        &self,
        request: Request<PushPoliciesRequest>,
    ) -> Result<Response<PushPoliciesResponse>, Status> {
        let by = peer::identity(&request)?.to_string();
        let span = tracing::info_span!("policy.push", by);
        telemetry::extract(&span, request.metadata());
        let request = request.into_inner();
        let pushes = request
            .documents
            .into_iter()
            .map(|document| {
                let policy = document
                    .policy
                    .ok_or_else(|| Status::invalid_argument("document.policy is missing"))?;
                Ok(Push {
                    policy: Policy::try_from(policy)
                        .map_err(|error| Status::invalid_argument(error.to_string()))?,
                    source: document.source,
                })
            })
            .collect::<Result<_, Status>>()?;
        let pushed = self
            .change(
                Generation(request.parent_generation),
                Change::Push(pushes),
                by,
                request.dry_run,
            )
            .instrument(span)
            .await?;
        Ok(Response::new(PushPoliciesResponse {
            generation: pushed.generation.0,
            nodes: names(&pushed),
        }))
    }

    async fn list_policies(
        &self,
        _: Request<ListPoliciesRequest>,
    ) -> Result<Response<ListPoliciesResponse>, Status> {
        let book = self.fleet.policies().await.map_err(status)?;
        Ok(Response::new(ListPoliciesResponse {
            generation: book.generation.0,
            documents: book.documents.into_iter().map(Into::into).collect(),
        }))
    }

    async fn get_policy(
        &self,
        request: Request<GetPolicyRequest>,
    ) -> Result<Response<GetPolicyResponse>, Status> {
        let name = parse_name(&request.into_inner().name)?;
        let (generation, document) = self.fleet.policy(name.clone()).await.map_err(status)?;
        let document =
            document.ok_or_else(|| Status::not_found(format!("there is no policy {name}")))?;
        Ok(Response::new(GetPolicyResponse {
            generation: generation.0,
            document: Some((*document).into()),
        }))
    }

    async fn delete_policy(
        &self,
        request: Request<DeletePolicyRequest>,
    ) -> Result<Response<DeletePolicyResponse>, Status> {
        let by = peer::identity(&request)?.to_string();
        let span = tracing::info_span!("policy.delete", by);
        telemetry::extract(&span, request.metadata());
        let request = request.into_inner();
        let change = Change::Delete(parse_name(&request.name)?);
        let parent = Generation(request.parent_generation);
        let pushed = self
            .change(parent, change, by, false)
            .instrument(span)
            .await?;
        Ok(Response::new(DeletePolicyResponse {
            generation: pushed.generation.0,
            nodes: names(&pushed),
        }))
    }

    async fn watch_rollout(
        &self,
        request: Request<WatchRolloutRequest>,
    ) -> Result<Response<Self::WatchRolloutStream>, Status> {
        let generation = Generation(request.into_inner().generation);
        // Unknown generations fail the call, not the stream.
        self.fleet.rollout(generation).await.map_err(status)?;
        let (states, stream) = mpsc::channel(STATES_QUEUED);
        let (fleet, stop) = (self.fleet.clone(), self.stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = watch(&fleet, generation, &states) => {}
                () = states.closed() => {}
                () = stop.cancelled() => {
                    let _ = states.try_send(Err(Status::unavailable("the collector is stopping")));
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

async fn watch(
    fleet: &Fleet,
    generation: Generation,
    states: &mpsc::Sender<Result<WatchRolloutResponse, Status>>,
) {
    let mut changes = fleet.changes();
    let mut shown: Option<Vec<Rollout>> = None;
    loop {
        changes.mark_unchanged();
        let rollout = match fleet.rollout(generation).await {
            Ok(rollout) => rollout,
            Err(error) => {
                let _ = states.send(Err(status(error))).await;
                return;
            }
        };
        let done = rollout.iter().all(Rollout::is_settled);
        if shown.as_ref() != Some(&rollout) || done {
            let state = WatchRolloutResponse {
                nodes: rollout.iter().cloned().map(wire).collect(),
                done,
            };
            if states.send(Ok(state)).await.is_err() || done {
                return;
            }
            shown = Some(rollout);
        }
        if changes.changed().await.is_err() {
            return;
        }
        sleep(SETTLE).await;
    }
}

fn wire(rollout: Rollout) -> NodeRollout {
    NodeRollout {
        node: rollout.node.to_string(),
        connected: rollout.connected,
        applied_generation: rollout.applied.0,
        state: rollout.state.into(),
        reason: rollout.reason,
    }
}
