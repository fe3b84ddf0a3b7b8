//! The control stream: dials, says hello, answers offers, comes back.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::ClientConfig;
use shrike_proto::{
    telemetry,
    transport::{self, MESSAGE_BYTES_MAX},
    wire::{
        control::{
            ControlHello, Offer, PolicyStatus, StreamPoliciesRequest, StreamPoliciesResponse,
            control_service_client::ControlServiceClient, stream_policies_request,
            stream_policies_response,
        },
        ingest,
    },
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::offer::{Applied, ApplyRequest, Judgement, judge, outcome, received};
use crate::{
    error::chain,
    session::{Backoff, describe},
};

/// Statuses that wait for the network: two for each offer, and offers are
/// answered one by one.
const STATUSES_MAX: usize = 8;

/// A stream that lasted this long was a good one.
const GOOD_STREAM: Duration = Duration::from_secs(10);

/// What the control stream needs to know and nobody tells it later.
#[derive(Debug, Clone)]
pub struct ControlOptions {
    /// Name in the hello.
    pub node: String,
    /// Boot in the hello.
    pub boot_id: String,
    /// The rest of the hello, as it is when one is said.
    pub info: watch::Receiver<ingest::NodeInfo>,
    /// Collectors, tried in this order; at least one.
    pub collectors: Vec<String>,
    /// How to speak to them.
    pub tls: Arc<ClientConfig>,
    /// Seed of the jitter.
    pub seed: u64,
}

/// Keeps one control stream open for as long as the agent runs.
#[derive(Debug)]
pub struct Control {
    options: ControlOptions,
    applied: watch::Receiver<Option<Applied>>,
    requests: mpsc::Sender<ApplyRequest>,
}

impl Control {
    /// Builds the task; `applied` is what is in force, `requests` goes to the
    /// owner of the sensor.
    pub fn new(
        options: ControlOptions,
        applied: watch::Receiver<Option<Applied>>,
        requests: mpsc::Sender<ApplyRequest>,
    ) -> Self {
        Self {
            options,
            applied,
            requests,
        }
    }

    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut backoff = Backoff::new(self.options.seed);
        let mut collector = 0;
        loop {
            let address = &self.options.collectors[collector];
            let began = Instant::now();
            let end = tokio::select! {
                end = self.converse(address) => end,
                () = stop.cancelled() => return,
            };
            if began.elapsed() >= GOOD_STREAM {
                // The one that worked is tried again first.
                backoff.reset();
            } else {
                collector = (collector + 1) % self.options.collectors.len();
            }
            let delay = backoff.next_delay();
            tracing::warn!(
                collector = address,
                reason = end,
                retry_in_ms = delay.as_millis() as u64,
                "no policy stream; what is in force stays so"
            );
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Holds one conversation and returns how it ended.
    async fn converse(&self, address: &str) -> String {
        let channel = match transport::dial(address, Arc::clone(&self.options.tls)).await {
            Ok(channel) => channel,
            Err(error) => return chain(&error),
        };
        let mut client = ControlServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let (statuses, messages) = mpsc::channel(STATUSES_MAX);
        let hello = StreamPoliciesRequest {
            message: Some(stream_policies_request::Message::Hello(Box::new(
                self.hello(),
            ))),
        };
        if statuses.send(hello).await.is_err() {
            return "the stream is over".to_owned();
        }
        let mut offers = match client.stream_policies(ReceiverStream::new(messages)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return describe(&status),
        };
        loop {
            match offers.message().await {
                Ok(Some(StreamPoliciesResponse {
                    message: Some(stream_policies_response::Message::Offer(offer)),
                })) => {
                    if self.answer(offer, &statuses).await.is_err() {
                        return "the stream is over".to_owned();
                    }
                }
                Ok(Some(StreamPoliciesResponse { message: None })) => {
                    return "the collector sent an empty message".to_owned();
                }
                Ok(None) => return "the collector ended the stream".to_owned(),
                Err(status) => return describe(&status),
            }
        }
    }

    fn hello(&self) -> ControlHello {
        let applied = *self.applied.borrow();
        ControlHello {
            node: self.options.node.clone(),
            boot_id: self.options.boot_id.clone(),
            info: Some(self.options.info.borrow().clone()),
            applied_generation: applied.map_or(0, |applied| applied.generation.0),
            applied_hash: applied.map_or_else(Vec::new, |applied| applied.hash.0.to_vec()),
        }
    }

    /// Carries an offer out and says what came of it.
    async fn answer(
        &self,
        offer: Offer,
        statuses: &mpsc::Sender<StreamPoliciesRequest>,
    ) -> Result<(), StreamOver> {
        let span = tracing::info_span!(
            "policy.apply",
            node = self.options.node,
            generation = tracing::field::Empty,
            applied = tracing::field::Empty,
        );
        telemetry::continue_from(&span, &offer.traceparent);
        let applied = *self.applied.borrow();
        let (generation, judgement) = judge(offer, applied);
        span.record("generation", generation.0);
        let result = match judgement {
            Judgement::InForce(applied) => Ok(applied),
            Judgement::Reject(reason) => Err(reason),
            Judgement::Apply(set) => {
                send(statuses, received(generation)).await?;
                let (reply, answer) = oneshot::channel();
                let request = ApplyRequest {
                    set,
                    span: span.clone(),
                    reply,
                };
                self.requests.send(request).await.map_err(|_| StreamOver)?;
                answer
                    .instrument(span.clone())
                    .await
                    .map_err(|_| StreamOver)?
            }
        };
        span.record("applied", result.is_ok());
        match &result {
            Ok(_) => tracing::info!(generation = generation.0, "policy in force"),
            Err(reason) => tracing::error!(
                generation = generation.0,
                reason,
                "policy rejected; what was in force stays so"
            ),
        }
        send(statuses, outcome(generation, result)).await
    }
}

/// The stream ended, or the agent stops.
struct StreamOver;

async fn send(
    statuses: &mpsc::Sender<StreamPoliciesRequest>,
    status: PolicyStatus,
) -> Result<(), StreamOver> {
    statuses
        .send(StreamPoliciesRequest {
            message: Some(stream_policies_request::Message::Status(status)),
        })
        .await
        .map_err(|_| StreamOver)
}
