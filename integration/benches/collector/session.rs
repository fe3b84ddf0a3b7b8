//! One node's connections, as an agent makes them.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use shrike_integration::bench::collector::task::Site;
use shrike_proto::id::Epoch;
use shrike_proto::identity::Role;
use shrike_proto::tls::{TlsFiles, client_config};
use shrike_proto::transport::{MESSAGE_BYTES_MAX, dial};
use shrike_proto::wire::control::{
    ControlHello, StreamPoliciesRequest, StreamPoliciesResponse,
    control_service_client::ControlServiceClient, stream_policies_request,
};
use shrike_proto::wire::ingest::{
    Batch, Hello, NodeInfo, StreamEventsRequest, StreamEventsResponse,
    ingest_service_client::IngestServiceClient, stream_events_request as request,
    stream_events_response as response,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Batches handed to the transport ahead of the network, as agents do; the
/// collector's credit is the real bound.
const AHEAD: usize = 4;

const BOOT_ID: &str = "0b3a4a43-4f6a-4d84-9f0a-9d0e2f6c1f00";

/// The connection for events.
pub struct Session {
    sender: Sender,
    answers: Streaming<StreamEventsResponse>,
    /// Batches that may be unacknowledged.
    pub credit: usize,
}

/// Sends batches.
#[derive(Clone)]
pub struct Sender(mpsc::Sender<StreamEventsRequest>);

/// Hears what became of them.
pub struct Answers(Streaming<StreamEventsResponse>);

impl Session {
    /// Dials, says hello and is welcome.
    pub async fn open(site: &Site, node: &str, epoch: Epoch) -> Result<Self> {
        let channel = dial(&site.address, tls(&site.pki, node)?).await?;
        let mut client = IngestServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let (sender, receiver) = mpsc::channel(AHEAD);
        let hello = Hello {
            node: node.to_owned(),
            boot_id: BOOT_ID.to_owned(),
            epoch: epoch.0.to_vec(),
            first_sequence: 1,
            next_sequence: 1,
            info: Some(info(node)),
            ended: false,
        };
        let message = Some(request::Message::Hello(hello));
        sender.send(StreamEventsRequest { message }).await?;
        let mut answers = client
            .stream_events(ReceiverStream::new(receiver))
            .await?
            .into_inner();
        match answers.message().await?.and_then(|answer| answer.message) {
            Some(response::Message::Welcome(welcome)) if welcome.durable_sequence == 0 => {
                Ok(Self {
                    sender: Sender(sender),
                    answers,
                    credit: welcome.credit.max(1) as usize,
                })
            }
            other => bail!("{node} is not welcome to a fresh store: {other:?}"),
        }
    }

    /// Parts into what sends and what hears.
    pub fn split(self) -> (Sender, Answers) {
        (self.sender, Answers(self.answers))
    }
}

impl Sender {
    /// Sends a batch; waits while too many are on their way.
    pub async fn send(&self, batch: Batch) -> Result<()> {
        let message = Some(request::Message::Batch(batch));
        let sent = self.0.send(StreamEventsRequest { message }).await;
        sent.context("the stream has ended")
    }
}

impl Answers {
    /// Waits for the next acknowledgement.
    pub async fn ack(&mut self) -> Result<u64> {
        match self.0.message().await?.and_then(|answer| answer.message) {
            Some(response::Message::Ack(ack)) => Ok(ack.durable_sequence),
            Some(other) => bail!("{other:?} is no acknowledgement"),
            None => bail!("the collector ended the session"),
        }
    }
}

/// The connection for policies, which nobody pushes here.
pub struct Control {
    _sender: mpsc::Sender<StreamPoliciesRequest>,
    _offers: Streaming<StreamPoliciesResponse>,
}

impl Control {
    /// Dials and says hello.
    pub async fn open(site: &Site, node: &str) -> Result<Self> {
        let channel = dial(&site.address, tls(&site.pki, node)?).await?;
        let (sender, receiver) = mpsc::channel(1);
        let hello = ControlHello {
            node: node.to_owned(),
            boot_id: BOOT_ID.to_owned(),
            info: Some(info(node)),
            ..ControlHello::default()
        };
        let message = Some(stream_policies_request::Message::Hello(Box::new(hello)));
        sender.send(StreamPoliciesRequest { message }).await?;
        let offers = ControlServiceClient::new(channel)
            .stream_policies(ReceiverStream::new(receiver))
            .await?
            .into_inner();
        Ok(Self {
            _sender: sender,
            _offers: offers,
        })
    }
}

fn info(node: &str) -> NodeInfo {
    NodeInfo {
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel_release: "6.12.117+deb12-cloud-amd64".to_owned(),
        hostname: node.to_owned(),
        labels: [("role".to_owned(), "web".to_owned())].into(),
        ..NodeInfo::default()
    }
}

fn tls(pki: &Path, node: &str) -> Result<Arc<rustls::ClientConfig>> {
    let files = TlsFiles {
        ca: pki.join("ca.pem"),
        certificate: pki.join(format!("agent-{node}.pem")),
        key: pki.join(format!("agent-{node}.key")),
    };
    let (config, _) = client_config(&files, &[Role::Agent])?;
    Ok(Arc::new(config))
}
