//! One gRPC stream to one collector, from dialling to its end.
//!
//! It understands nothing of what it carries: batches go out in the order
//! they came in, and every message and the end are reported under the
//! attempt's number.

use std::{collections::VecDeque, error::Error, sync::Arc};

use futures::StreamExt as _;
use rustls::ClientConfig;
use shrike_proto::{
    id::SequenceNumber,
    telemetry,
    transport::{self, MESSAGE_BYTES_MAX},
    wire::ingest::{
        self, StreamEventsRequest, StreamEventsResponse,
        ingest_service_client::IngestServiceClient, stream_events_request, stream_events_response,
    },
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::machine::{Attempt, CREDIT_MAX};
use crate::error::chain;

/// Reports that wait for the pipeline: acknowledgements are cumulative and
/// few, so this is seconds of them.
pub const LINK_REPORTS_MAX: usize = 64;

/// Messages that wait for the network: all that credit allows, and the
/// ledgers of a quarter minute, after which keep-alive has noticed a dead
/// peer.
const OUTGOING_MAX: usize = CREDIT_MAX as usize + 16;

/// What came of an attempt so far.
#[derive(Debug)]
pub enum Report {
    /// The collector took the session.
    Welcome(ingest::Welcome),
    /// Events are durable.
    Ack(ingest::Ack),
    /// A batch was refused.
    Nack(ingest::Nack),
    /// It is over; why, for a person.
    Closed(String),
}

/// The present stream, from the pipeline's side.
#[derive(Debug)]
pub struct Link {
    outgoing: mpsc::Sender<StreamEventsRequest>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    /// Spans of batches under way, each ended by its acknowledgement.
    spans: VecDeque<(SequenceNumber, Span)>,
}

impl Link {
    /// Dials `address` in a task of its own, which reports under `attempt`.
    pub fn open(
        attempt: Attempt,
        address: String,
        tls: Arc<ClientConfig>,
        hello: ingest::Hello,
        reports: mpsc::Sender<(Attempt, Report)>,
    ) -> Self {
        let (outgoing, messages) = mpsc::channel(OUTGOING_MAX);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let end = tokio::select! {
                end = converse(attempt, &address, tls, hello, messages, &reports) => end,
                () = stopped.cancelled() => return,
            };
            // The pipeline is gone only when the agent stops.
            let _ = reports.send((attempt, Report::Closed(end))).await;
        });
        Self {
            outgoing,
            stop,
            task,
            spans: VecDeque::new(),
        }
    }

    /// Hands a batch to the network, as a span of its own that its
    /// acknowledgement ends.
    ///
    /// # Errors
    /// When the stream is over, or takes nothing.
    pub fn send(&mut self, mut batch: ingest::Batch) -> Result<(), LinkError> {
        if batch.count > 0 {
            let span = tracing::info_span!(
                "batch.send",
                first_sequence = batch.first_sequence,
                events = batch.count,
                bytes = batch.payload.len(),
            );
            batch.traceparent = span.in_scope(telemetry::traceparent);
            let last = batch.first_sequence + u64::from(batch.count) - 1;
            self.spans.push_back((SequenceNumber(last), span));
        }
        self.outgoing
            .try_send(StreamEventsRequest {
                message: Some(stream_events_request::Message::Batch(batch)),
            })
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => LinkError::Full,
                mpsc::error::TrySendError::Closed(_) => LinkError::Closed,
            })
    }

    /// Ends the spans of what is durable.
    pub fn settle(&mut self, durable: SequenceNumber) {
        while self.spans.front().is_some_and(|(last, _)| *last <= durable) {
            self.spans.pop_front();
        }
    }

    /// Ends the stream at once.
    pub fn close(self) {
        self.stop.cancel();
    }

    /// Lets what was handed over reach the network, then ends the stream.
    pub async fn finish(self) {
        drop(self.outgoing);
        // It ends when the collector has read everything, or is aborted by
        // the caller's time-out.
        let _ = self.task.await;
    }
}

/// Why a batch could not be handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The network takes nothing.
    #[error("the connection takes nothing")]
    Full,
    /// The stream is over.
    #[error("the stream is over")]
    Closed,
}

/// Holds the conversation and returns how it ended.
async fn converse(
    attempt: Attempt,
    address: &str,
    tls: Arc<ClientConfig>,
    hello: ingest::Hello,
    messages: mpsc::Receiver<StreamEventsRequest>,
    reports: &mpsc::Sender<(Attempt, Report)>,
) -> String {
    let channel = match transport::dial(address, tls).await {
        Ok(channel) => channel,
        Err(error) => return chain(&error),
    };
    let mut client = IngestServiceClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let hello = StreamEventsRequest {
        message: Some(stream_events_request::Message::Hello(hello)),
    };
    let requests = futures::stream::iter([hello]).chain(ReceiverStream::new(messages));
    let mut responses = match client.stream_events(requests).await {
        Ok(response) => response.into_inner(),
        Err(status) => return describe(&status),
    };
    loop {
        let report = match responses.message().await {
            Ok(Some(StreamEventsResponse {
                message: Some(message),
            })) => match message {
                stream_events_response::Message::Welcome(welcome) => Report::Welcome(welcome),
                stream_events_response::Message::Ack(ack) => Report::Ack(ack),
                stream_events_response::Message::Nack(nack) => Report::Nack(nack),
            },
            Ok(Some(StreamEventsResponse { message: None })) => {
                return "the collector sent an empty message".to_owned();
            }
            Ok(None) => return "the collector ended the stream".to_owned(),
            Err(status) => return describe(&status),
        };
        if reports.send((attempt, report)).await.is_err() {
            return "the agent stops".to_owned();
        }
    }
}

/// Returns a status as a line for a person.
pub(crate) fn describe(status: &tonic::Status) -> String {
    let mut text = format!("{}: {}", status.code(), status.message().escape_debug());
    if let Some(source) = status.source() {
        text.push_str(": ");
        text.push_str(&chain(source));
    }
    text
}
