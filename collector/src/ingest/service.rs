//! The gRPC shell around event sessions.

use std::{sync::Arc, time::Duration};

use shrike_proto::{
    batch,
    identity::Identity,
    telemetry,
    wire::ingest::{
        self, StreamEventsRequest, StreamEventsResponse, ingest_service_server::IngestService,
        stream_events_request, stream_events_response,
    },
};
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;

use super::{
    inbound::{Inbound, InboundStream},
    prepare::{PrepareError, Prepared, prepare},
    session::{CREDIT, Hello, Plan, Reply, Session, SessionError, Step},
};
use crate::{
    budget::Share,
    chain::chain,
    fleet::Fleet,
    listen::peer,
    store::writer::{Append, Outcome, Stopping, Writer},
    tail::Encoded,
};

/// Longest that a new stream may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers that wait for the agent: it can have no more batches under way,
/// and the welcome.
const ANSWERS_QUEUED: usize = CREDIT as usize + 1;

/// Longest batch before compression that is prepared at once, on the runtime's
/// own thread: below, that takes less than handing it over.
const AT_ONCE_BYTES_MAX: u64 = 16 << 10;

/// Takes events from agents.
#[derive(Debug, Clone)]
pub struct Ingest {
    writer: Writer,
    fleet: Fleet,
    /// Decoding is work for the processor: more at once than there are
    /// processors only takes memory.
    decoders: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Ingest {
    /// Builds the service.
    pub fn new(writer: Writer, fleet: Fleet, tasks: TaskTracker, stop: CancellationToken) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            writer,
            fleet,
            decoders: Arc::new(Semaphore::new(processors)),
            tasks,
            stop,
        }
    }
}

#[tonic::async_trait]
impl IngestService for Ingest {
    type StreamEventsStream = ReceiverStream<Result<StreamEventsResponse, Status>>;

    async fn stream_events(
        &self,
        request: Request<Streaming<StreamEventsRequest>>,
    ) -> Result<Response<Self::StreamEventsStream>, Status> {
        let identity = peer::identity(&request)?;
        // What tonic would read of the stream is empty.
        let inbound = InboundStream::take(&request)?;
        let (answers, stream) = mpsc::channel(ANSWERS_QUEUED);
        let ingest = self.clone();
        self.tasks.spawn(async move {
            if let Err(end) = ingest.serve(&identity, inbound, &answers).await {
                let node = identity.id();
                match &end {
                    End::Gone => {}
                    End::Wrong(error) => {
                        tracing::warn!(node, error = chain(error), "an event session was ended");
                    }
                    End::Broken(status) => {
                        tracing::debug!(node, status = status.message(), "an event session broke");
                    }
                    End::Stopping => {}
                }
                if let Some(status) = end.status() {
                    // The agent may be gone or may not read.
                    let _ = timeout(Duration::from_secs(1), answers.send(Err(status))).await;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Why a session ends.
enum End {
    /// The agent left.
    Gone,
    /// The agent did something wrong, or another session took over.
    Wrong(SessionError),
    /// The stream broke, or carried something that is no message.
    Broken(Status),
    /// The collector stops.
    Stopping,
}

impl End {
    fn status(&self) -> Option<Status> {
        match self {
            Self::Gone => None,
            Self::Wrong(error) => Some(status(error)),
            Self::Broken(status) => Some(status.clone()),
            Self::Stopping => Some(Status::unavailable("the collector is stopping")),
        }
    }
}

impl From<SessionError> for End {
    fn from(error: SessionError) -> Self {
        Self::Wrong(error)
    }
}

impl From<Stopping> for End {
    fn from(_: Stopping) -> Self {
        Self::Stopping
    }
}

fn status(error: &SessionError) -> Status {
    let text = error.to_string();
    match error {
        SessionError::WrongNode { .. } => Status::permission_denied(text),
        SessionError::Superseded => Status::aborted(text),
        SessionError::OutOfOrder { .. } | SessionError::WrongEpoch { .. } => {
            Status::failed_precondition(text)
        }
        SessionError::TooManyLosses => Status::resource_exhausted(text),
        SessionError::NoHello
        | SessionError::SecondHello
        | SessionError::Empty
        | SessionError::Id(_)
        | SessionError::BootId
        | SessionError::Sequences { .. }
        | SessionError::TooMany { .. }
        | SessionError::Overflow
        | SessionError::LossReason(_) => Status::invalid_argument(text),
    }
}

type Answers = mpsc::Sender<Result<StreamEventsResponse, Status>>;

impl Ingest {
    async fn serve(
        &self,
        identity: &Identity,
        mut inbound: InboundStream,
        answers: &Answers,
    ) -> Result<(), End> {
        let hello = self.hello(identity, &mut inbound).await?;
        let lease = self
            .fleet
            .events_opened(&hello)
            .await
            .map_err(|_| End::Stopping)?;
        let served = tokio::select! {
            served = self.converse(&hello, inbound, answers) => served,
            () = lease.replaced() => Err(SessionError::Superseded.into()),
            () = self.stop.cancelled() => Err(End::Stopping),
        };
        lease.close().await;
        served
    }

    async fn hello(&self, identity: &Identity, inbound: &mut InboundStream) -> Result<Hello, End> {
        let first = tokio::select! {
            first = timeout(HELLO_TIMEOUT, inbound.next()) => first,
            () = self.stop.cancelled() => return Err(End::Stopping),
        };
        match first
            .map_err(|_| SessionError::NoHello)?
            .map_err(End::Broken)?
        {
            None => Err(End::Gone),
            Some(Inbound {
                message: Some(stream_events_request::Message::Hello(hello)),
                share: _,
            }) => Ok(Hello::check(hello, identity.id())?),
            Some(_) => Err(SessionError::NoHello.into()),
        }
    }

    async fn converse(
        &self,
        hello: &Hello,
        mut inbound: InboundStream,
        answers: &Answers,
    ) -> Result<(), End> {
        let known = self.writer.mark(hello.stream.clone()).await?;
        let (mut session, welcome) = Session::open(hello, known);
        answer(answers, stream_events_response::Message::Welcome(welcome)).await?;
        tracing::info!(
            node = %hello.stream.node,
            epoch = %hello.stream.epoch,
            durable = known.durable.0,
            "events session opened"
        );
        // The writer never waits for us: there is room for everything that
        // the credit lets into its queue.
        let (outcome_sender, mut outcomes) = mpsc::channel(CREDIT as usize);
        if let Some(plan) = session.close_epoch() {
            session.queue(&plan);
            let append = Append {
                stream: hello.stream.clone(),
                parent: plan.parent,
                next: plan.next,
                lost: plan.lost,
                ledger: None,
                pieces: Vec::new(),
                events: Encoded::default(),
                span: tracing::Span::none(),
                share: None,
            };
            self.writer.append(append, outcome_sender.clone()).await?;
        }
        let mut open = true;
        while open || session.is_waiting() {
            tokio::select! {
                biased;
                Some(outcome) = outcomes.recv() => {
                    let reply = session.handle_outcome(outcome)?;
                    self.reply(hello, reply, answers).await?;
                }
                message = inbound.next(), if open && session.has_room() => {
                    match message.map_err(End::Broken)? {
                        None => open = false,
                        Some(message) => {
                            self.message(hello, &mut session, message, &outcome_sender, answers)
                                .await?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    async fn message(
        &self,
        hello: &Hello,
        session: &mut Session,
        message: Inbound,
        outcomes: &mpsc::Sender<Outcome>,
        answers: &Answers,
    ) -> Result<(), End> {
        let Inbound { message, share } = message;
        let batch = match message.ok_or(SessionError::Empty)? {
            stream_events_request::Message::Hello(_) => {
                return Err(SessionError::SecondHello.into());
            }
            stream_events_request::Message::Batch(batch) => batch,
        };
        match session.handle_batch(&batch)? {
            Step::Reply(reply) => self.reply(hello, reply, answers).await,
            Step::Decode(plan) => {
                let span = tracing::info_span!(
                    "batch.ingest",
                    node = %hello.stream.node,
                    first = batch.first_sequence,
                    count = batch.count,
                );
                telemetry::continue_from(&span, &batch.traceparent);
                let task = self.store(hello, session, (batch, share), plan, outcomes, span.clone());
                match task.instrument(span).await? {
                    Some(reply) => self.reply(hello, reply, answers).await,
                    None => Ok(()),
                }
            }
        }
    }

    /// Prepares a batch and hands it to the writer; a reply is one that needs
    /// no writer.
    async fn store(
        &self,
        hello: &Hello,
        session: &mut Session,
        (batch, share): (ingest::Batch, Share),
        plan: Plan,
        outcomes: &mpsc::Sender<Outcome>,
        span: tracing::Span,
    ) -> Result<Option<Reply>, End> {
        let (batch, prepared) = self.prepare(batch, plan.skip).await?;
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                let reason = chain(&error);
                tracing::warn!(
                    node = %hello.stream.node,
                    first = batch.first_sequence,
                    count = batch.count,
                    reason,
                    "a batch is poison: refused for good"
                );
                return Ok(Some(session.poison(&batch, reason)?));
            }
        };
        session.queue(&plan);
        let append = Append {
            stream: hello.stream.clone(),
            parent: plan.parent,
            next: plan.next,
            lost: plan.lost,
            ledger: batch.ledger.map(Into::into),
            pieces: prepared.pieces,
            events: prepared.events,
            span,
            share: Some(share),
        };
        self.writer.append(append, outcomes.clone()).await?;
        Ok(None)
    }

    async fn prepare(
        &self,
        batch: ingest::Batch,
        skip: usize,
    ) -> Result<(ingest::Batch, Result<Prepared, PrepareError>), End> {
        if batch::claimed_bytes(&batch).is_some_and(|bytes| bytes <= AT_ONCE_BYTES_MAX) {
            let prepared = prepare(&batch, skip);
            return Ok((batch, prepared));
        }
        let decoder = Arc::clone(&self.decoders)
            .acquire_owned()
            .await
            .map_err(|_| End::Stopping)?;
        tokio::task::spawn_blocking(move || {
            let prepared = prepare(&batch, skip);
            drop(decoder);
            (batch, prepared)
        })
        .await
        .map_err(|_| End::Stopping)
    }

    async fn reply(&self, hello: &Hello, reply: Reply, answers: &Answers) -> Result<(), End> {
        let response = reply.into_wire(hello.stream.epoch);
        answers.send(Ok(response)).await.map_err(|_| End::Gone)
    }
}

async fn answer(answers: &Answers, message: stream_events_response::Message) -> Result<(), End> {
    let response = StreamEventsResponse {
        message: Some(message),
    };
    answers.send(Ok(response)).await.map_err(|_| End::Gone)
}
