//! A query as its reader sees it: events, and at the end a summary.

use shrike_proto::{
    event::StoredEvent,
    wire::admin::{QueryEventsRequest, QueryEventsResponse, StoredEvent as WireStoredEvent},
};
use tonic::Streaming;

use super::summary::Summary;
use crate::{connection::Connection, failure::Failure};

/// Stored events on their way. Dropping it ends the collector's work.
pub(crate) struct Reading {
    stream: Streaming<QueryEventsResponse>,
    limit: Option<u64>,
}

impl Reading {
    pub(crate) async fn open(
        connection: &Connection,
        request: QueryEventsRequest,
    ) -> Result<Self, Failure> {
        let limit = (request.limit > 0).then_some(request.limit);
        let stream = connection.events().query_events(request).await?;
        Ok(Self {
            stream: stream.into_inner(),
            limit,
        })
    }

    /// Waits for more events; `None` after the last. What the collector says
    /// of the whole query goes into `summary`.
    pub(crate) async fn next(
        &mut self,
        summary: &mut Summary,
    ) -> Result<Option<Vec<StoredEvent>>, Failure> {
        let Some(response) = self.stream.message().await? else {
            return Ok(None);
        };
        if let Some(end) = response.summary {
            summary.end(end, self.limit);
        }
        Ok(Some(decode(response.events, summary)))
    }
}

/// Converts events; one that this version cannot read is counted, not fatal.
pub(crate) fn decode(events: Vec<WireStoredEvent>, summary: &mut Summary) -> Vec<StoredEvent> {
    events
        .into_iter()
        .filter_map(|event| match StoredEvent::try_from(event) {
            Ok(event) => Some(event),
            Err(error) => {
                summary.unreadable(error);
                None
            }
        })
        .collect()
}

/// Waits for Ctrl-C.
pub(crate) async fn interrupted() -> Result<(), Failure> {
    tokio::signal::ctrl_c()
        .await
        .map_err(|error| Failure::failed(error).doing("cannot listen for Ctrl-C"))
}
