//! The way to a collector: one connection, one client for each service.

use std::sync::Arc;

use shrike_proto::{
    identity::Role,
    telemetry,
    tls::client_config,
    transport::{self, MESSAGE_BYTES_MAX},
    wire::admin::{
        event_service_client::EventServiceClient, node_service_client::NodeServiceClient,
        policy_service_client::PolicyServiceClient,
    },
};
use tonic::{Request, Status, service::interceptor::InterceptedService, transport::Channel};

use crate::{args::Global, context, failure::Failure};

type TracedChannel = InterceptedService<Channel, fn(Request<()>) -> Result<Request<()>, Status>>;

/// A connection whose handshake is done.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    channel: TracedChannel,
}

impl Connection {
    /// Dials the collector that the options or the context name.
    pub(crate) async fn open(global: &Global) -> Result<Self, Failure> {
        let target = context::resolve(global)?;
        let (tls, _) = client_config(&target.files, &[Role::Admin]).map_err(Failure::input)?;
        let channel = transport::dial(&target.address, Arc::new(tls)).await?;
        Ok(Self {
            channel: InterceptedService::new(channel, trace),
        })
    }

    pub(crate) fn nodes(&self) -> NodeServiceClient<TracedChannel> {
        NodeServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn events(&self) -> EventServiceClient<TracedChannel> {
        EventServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn policies(&self) -> PolicyServiceClient<TracedChannel> {
        PolicyServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}

/// Sends the current span's context along, so that the collector's work is
/// part of the same trace.
#[expect(
    clippy::unnecessary_wraps,
    reason = "the signature of a tonic interceptor"
)]
fn trace(mut request: Request<()>) -> Result<Request<()>, Status> {
    telemetry::inject(request.metadata_mut());
    Ok(request)
}
