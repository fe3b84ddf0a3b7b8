//! A live read, from what is stored on if it is asked to.
//!
//! The collector joins the two: it alone knows what is stored at the moment
//! that a live read begins.

use shrike_proto::wire::admin::{EventFilter, TailEventsRequest, TailEventsResponse};
use tonic::Streaming;

use crate::{args::EventsArgs, connection::Connection, failure::Failure};

/// A stream of what arrives.
pub(super) struct Tail {
    stream: Streaming<TailEventsResponse>,
}

impl Tail {
    /// Opens the tail; what is durable after this returns is delivered.
    pub(super) async fn open(
        connection: &Connection,
        args: &EventsArgs,
        filter: EventFilter,
    ) -> Result<Self, Failure> {
        let stream = connection
            .events()
            .tail_events(TailEventsRequest {
                filter: Some(filter),
                history: args.filter.since.is_some() || args.last.is_some(),
                history_limit: args.last.unwrap_or_default(),
            })
            .await?
            .into_inner();
        Ok(Self { stream })
    }

    /// Waits for the next message; `None` when the collector ends the stream.
    pub(super) async fn next(&mut self) -> Result<Option<TailEventsResponse>, Failure> {
        Ok(self.stream.message().await?)
    }
}
