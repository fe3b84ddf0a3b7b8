//! Agents and admins, as far as the wire goes.

use std::{sync::Arc, time::Duration};

use shrike_proto::{
    batch,
    event::{Event, Exit, Fact, Open, Process, ResolvedPath},
    id::{Epoch, Generation, SequenceNumber},
    identity::Role,
    tls::{self, TlsFiles},
    transport,
    wire::{
        admin::{
            self, EventFilter, QueryEventsRequest, QuerySummary, StoredEvent,
            event_service_client::EventServiceClient,
        },
        ingest::{
            Batch, Hello, NodeInfo, StreamEventsRequest, StreamEventsResponse, Welcome,
            ingest_service_client::IngestServiceClient, stream_events_request,
            stream_events_response,
        },
    },
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

pub const PATIENCE: Duration = Duration::from_secs(20);
pub const EPOCH: Epoch = Epoch([9; 16]);
pub const START_UNIX_NS: i64 = 1_735_689_600_000_000_000;

pub fn channel(address: &str, files: &TlsFiles) -> Channel {
    let (config, _) = tls::client_config(files, &[Role::Agent, Role::Admin]).unwrap();
    transport::channel(address, Arc::new(config)).unwrap()
}

pub fn events(first: u64, count: u64) -> Vec<Event> {
    (first..first + count)
        .map(|sequence| Event {
            sequence: SequenceNumber(sequence),
            time_unix_ns: START_UNIX_NS + sequence.cast_signed() * 1000,
            boot_time_ns: sequence,
            cpu: 0,
            cpu_sequence: sequence,
            generation: Generation::NONE,
            process: Process {
                tgid: 100 + (sequence % 5) as u32,
                exe: b"/usr/bin/cat".as_slice().into(),
                ..Process::default()
            },
            verdict: None,
            fact: if sequence.is_multiple_of(2) {
                Fact::Exit(Exit::default())
            } else {
                Fact::Open(Open {
                    file: Some(ResolvedPath {
                        path: b"/etc/shadow".to_vec(),
                        ..ResolvedPath::default()
                    }),
                    ..Open::default()
                })
            },
        })
        .collect()
}

pub fn sealed(first: u64, count: u64) -> Batch {
    batch::seal(EPOCH, SequenceNumber(first), events(first, count))
}

pub fn hello(node: &str) -> Hello {
    Hello {
        node: node.to_owned(),
        boot_id: "boot".to_owned(),
        epoch: EPOCH.0.to_vec(),
        first_sequence: 1,
        next_sequence: 1,
        info: Some(NodeInfo {
            hostname: node.to_owned(),
            labels: [("role".to_owned(), "web".to_owned())].into(),
            ..NodeInfo::default()
        }),
        ended: false,
    }
}

/// One event session.
pub struct Session {
    sender: mpsc::Sender<StreamEventsRequest>,
    answers: Streaming<StreamEventsResponse>,
}

impl Session {
    /// Opens the stream without saying anything.
    pub async fn connect(address: &str, files: &TlsFiles) -> Result<Self, Status> {
        let (sender, requests) = mpsc::channel(64);
        let answers = IngestServiceClient::new(channel(address, files))
            .stream_events(ReceiverStream::new(requests))
            .await?
            .into_inner();
        Ok(Self { sender, answers })
    }

    /// Opens the stream, says hello and returns the welcome.
    pub async fn open(
        address: &str,
        files: &TlsFiles,
        node: &str,
    ) -> Result<(Self, Welcome), Status> {
        let mut session = Self::connect(address, files).await?;
        session.send_hello(hello(node)).await;
        match session.answer().await? {
            stream_events_response::Message::Welcome(welcome) => Ok((session, welcome)),
            other => panic!("{other:?} is no welcome"),
        }
    }

    pub async fn send_hello(&self, hello: Hello) {
        self.send(Some(stream_events_request::Message::Hello(hello)))
            .await;
    }

    pub async fn send_batch(&self, batch: Batch) {
        self.send(Some(stream_events_request::Message::Batch(batch)))
            .await;
    }

    pub async fn send(&self, message: Option<stream_events_request::Message>) {
        // A stream that the collector ended takes nothing.
        let _ = self.sender.send(StreamEventsRequest { message }).await;
    }

    pub async fn answer(&mut self) -> Result<stream_events_response::Message, Status> {
        let answer = timeout(PATIENCE, self.answers.message())
            .await
            .expect("an answer in time")?;
        Ok(answer
            .ok_or_else(|| Status::unavailable("the stream ended"))?
            .message
            .unwrap())
    }

    pub async fn ack(&mut self) -> u64 {
        match self.answer().await.unwrap() {
            stream_events_response::Message::Ack(ack) => ack.durable_sequence,
            other => panic!("{other:?} is no acknowledgement"),
        }
    }

    /// Waits for the end and returns why.
    pub async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.answer().await {
                return status;
            }
        }
    }
}

pub async fn query(
    address: &str,
    files: &TlsFiles,
    request: QueryEventsRequest,
) -> Result<(Vec<StoredEvent>, QuerySummary), Status> {
    let mut chunks = EventServiceClient::new(channel(address, files))
        .query_events(request)
        .await?
        .into_inner();
    let (mut events, mut summary) = (Vec::new(), None);
    while let Some(chunk) = timeout(PATIENCE, chunks.message())
        .await
        .expect("in time")?
    {
        assert!(summary.is_none(), "the summary comes last");
        events.extend(chunk.events);
        summary = chunk.summary;
    }
    Ok((events, summary.expect("a summary")))
}

pub async fn sequences(address: &str, files: &TlsFiles) -> Vec<u64> {
    let request = QueryEventsRequest {
        filter: Some(EventFilter::default()),
        order: admin::Order::OldestFirst.into(),
        limit: 0,
        ..QueryEventsRequest::default()
    };
    let (events, _) = query(address, files, request).await.unwrap();
    events
        .into_iter()
        .map(|stored| stored.event.unwrap().sequence)
        .collect()
}
