//! `shrike.admin.v1.EventService`.

use std::sync::Arc;

use shrike_proto::wire::admin::{
    self, EventFilter, QueryEventsRequest, QueryEventsResponse, TailEventsRequest,
    TailEventsResponse, event_service_server::EventService,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{
    query::{self, Filter, PAGE_EVENTS_MAX, Place, Queries},
    store::{Order, Store},
    tail::{self, History, Tail},
};

/// Answers queries and tails.
#[derive(Clone)]
pub struct EventAdmin {
    store: Arc<dyn Store>,
    queries: Queries,
    tail: Tail,
    stop: CancellationToken,
}

impl std::fmt::Debug for EventAdmin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventAdmin").finish_non_exhaustive()
    }
}

impl EventAdmin {
    /// Builds the service.
    pub fn new(store: Arc<dyn Store>, tail: Tail, stop: CancellationToken) -> Self {
        Self {
            store,
            queries: Queries::default(),
            tail,
            stop,
        }
    }
}

fn filter(filter: Option<EventFilter>) -> Result<Filter, Status> {
    Filter::try_from(filter.unwrap_or_default())
        .map_err(|error| Status::invalid_argument(error.to_string()))
}

#[tonic::async_trait]
impl EventService for EventAdmin {
    type QueryEventsStream = ReceiverStream<Result<QueryEventsResponse, Status>>;
    type TailEventsStream = ReceiverStream<Result<TailEventsResponse, Status>>;

    async fn query_events(
        &self,
        request: Request<QueryEventsRequest>,
    ) -> Result<Response<Self::QueryEventsStream>, Status> {
        let request = request.into_inner();
        let order = match admin::Order::try_from(request.order) {
            Ok(admin::Order::Unspecified | admin::Order::OldestFirst) => Order::OldestFirst,
            Ok(admin::Order::NewestFirst) => Order::NewestFirst,
            Err(_) => {
                return Err(Status::invalid_argument(format!(
                    "order {} is unknown",
                    request.order
                )));
            }
        };
        let filter = filter(request.filter)?;
        let after = request
            .after
            .map(Place::try_from)
            .transpose()
            .map_err(|error| Status::invalid_argument(format!("after: {error}")))?;
        if after.is_some() && !(1..=PAGE_EVENTS_MAX).contains(&request.limit) {
            return Err(Status::invalid_argument(format!(
                "a page has a limit of 1 to {PAGE_EVENTS_MAX} events"
            )));
        }
        let slot = self.queries.admit()?;
        let store = Arc::clone(&self.store);
        let chunks = query::serve(store, filter, order, request.limit, after, slot);
        Ok(Response::new(ReceiverStream::new(chunks)))
    }

    async fn tail_events(
        &self,
        request: Request<TailEventsRequest>,
    ) -> Result<Response<Self::TailEventsStream>, Status> {
        let request = request.into_inner();
        let filter = filter(request.filter)?;
        let history = if request.history {
            Some(History {
                limit: request.history_limit,
                slot: self.queries.admit()?,
            })
        } else {
            None
        };
        let store = Arc::clone(&self.store);
        let chunks = tail::serve(&self.tail, store, filter, history, self.stop.clone()).await?;
        Ok(Response::new(ReceiverStream::new(chunks)))
    }
}
