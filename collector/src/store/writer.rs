//! The one thread that writes to the store.
//!
//! ```text
//! sessions, policy book, retention → queue → [ commit ] → flush → replies, tail
//! ```
//!
//! While one commit is flushed the next requests gather in the queue and go
//! into the following commit together: the cost of a flush is shared by
//! whoever waits for it. The writer is also where it is decided whether a
//! batch follows what is durable, so that two sessions of one node, an old
//! and a new one, cannot store an event twice.

use std::{
    collections::{BTreeMap, HashMap},
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use shrike_proto::{event::Event, id::SequenceNumber, ledger::Ledger};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tracing::Span;

use super::{
    Commit, RecordChange, Store, StoreError,
    block::BlockKey,
    disk::{Disk, Room},
    piece::{self, Piece},
    stream::{LostRange, StreamKey, Watermark},
};
use crate::{
    chain::chain,
    clock::now_unix_ns,
    tail::{Arrival, Tail},
};

/// Requests that wait for a commit: each session has at most its credit in
/// here, and waiting is all that happens when it is full.
const QUEUE_MAX: usize = 512;

/// Most requests in one commit.
const COMMIT_REQUESTS_MAX: usize = 256;

/// Most payload bytes in one commit: about 100 ms of a slow disk.
const COMMIT_BYTES_MAX: usize = 8 << 20;

/// Room for what sled writes beside the payload: footers, and leaves that are
/// rewritten.
const WRITE_AMPLIFICATION: u64 = 4;

/// How long a failed store is left alone before it is opened anew.
const RECOVERY_PAUSE: Duration = Duration::from_secs(1);

/// Events of one stream, ready to be stored.
#[derive(Debug)]
pub struct Append {
    /// The stream.
    pub stream: StreamKey,
    /// The watermark that this follows.
    pub parent: SequenceNumber,
    /// The watermark afterwards.
    pub next: SequenceNumber,
    /// Sequence numbers between the two that are lost.
    pub lost: Vec<LostRange>,
    /// The agent's ledger.
    pub ledger: Option<Ledger>,
    /// The events, compressed.
    pub pieces: Vec<Piece>,
    /// The events, for live readers.
    pub events: Arc<[Event]>,
    /// The batch's span.
    pub span: Span,
    /// Its share of the memory that batches may take, given back when it is
    /// settled.
    pub share: Option<OwnedSemaphorePermit>,
}

/// What became of an [`Append`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is on disk, and so is everything before.
    Durable,
    /// Another session has moved the watermark.
    Superseded {
        /// Where it is.
        durable: SequenceNumber,
    },
    /// Nothing can be stored for the moment.
    Later,
}

/// Whether the store takes commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It does.
    Healthy,
    /// The disk is as good as full.
    NoRoom {
        /// What is free.
        free_bytes: u64,
        /// What has to stay free.
        limit_bytes: u64,
    },
    /// A write failed; recovery is tried every second.
    Failed(String),
}

/// A change of records that did not become durable.
#[derive(Debug, thiserror::Error)]
#[error("the store takes nothing for the moment: {0:?}")]
pub struct NotStored(pub State);

enum Request {
    Append(Box<Append>, mpsc::Sender<Outcome>),
    Records(Vec<RecordChange>, oneshot::Sender<Result<(), NotStored>>),
    Remove(
        Vec<(BlockKey, u64, u64)>,
        Vec<StreamKey>,
        oneshot::Sender<Result<(), NotStored>>,
    ),
    Mark(StreamKey, oneshot::Sender<SequenceNumber>),
    Stop,
}

/// Asks the writer.
#[derive(Debug, Clone)]
pub struct Writer {
    requests: mpsc::Sender<Request>,
    state: watch::Receiver<State>,
    payload_bytes: Arc<AtomicU64>,
}

/// The writer went away: the collector is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the collector is stopping")]
pub struct Stopping;

impl Writer {
    /// Starts the writer's thread. It ends, with everything durable, after
    /// [`Writer::stop`] or once every `Writer` is gone.
    ///
    /// # Errors
    /// [`StoreError`] when the watermarks cannot be read.
    ///
    /// # Panics
    /// When the system has no thread to give.
    pub fn start(
        store: Arc<dyn Store>,
        disk: Disk,
        tail: Tail,
        payload_bytes: u64,
    ) -> Result<(Self, thread::JoinHandle<()>), StoreError> {
        let (requests, queue) = mpsc::channel(QUEUE_MAX);
        let (state_sender, state) = watch::channel(State::Healthy);
        let payload_bytes = Arc::new(AtomicU64::new(payload_bytes));
        let mut task = WriterThread {
            marks: store.watermarks()?.into_iter().collect(),
            store,
            disk,
            tail,
            state: state_sender,
            payload_bytes: Arc::clone(&payload_bytes),
        };
        let thread = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || task.run(queue))
            .expect("a thread at start");
        let writer = Self {
            requests,
            state,
            payload_bytes,
        };
        Ok((writer, thread))
    }

    /// Queues events; `outcome` hears what became of them. Its capacity must
    /// cover everything that the caller has queued: the writer never waits.
    ///
    /// # Errors
    /// [`Stopping`] when the writer is gone.
    pub async fn append(
        &self,
        append: Append,
        outcome: mpsc::Sender<Outcome>,
    ) -> Result<(), Stopping> {
        self.requests
            .send(Request::Append(Box::new(append), outcome))
            .await
            .map_err(|_| Stopping)
    }

    /// Returns a stream's watermark once everything queued before is settled.
    ///
    /// # Errors
    /// [`Stopping`] when the writer is gone.
    pub async fn mark(&self, stream: StreamKey) -> Result<SequenceNumber, Stopping> {
        let (reply, answer) = oneshot::channel();
        self.requests
            .send(Request::Mark(stream, reply))
            .await
            .map_err(|_| Stopping)?;
        answer.await.map_err(|_| Stopping)
    }

    /// Makes small records durable.
    ///
    /// # Errors
    /// [`NotStored`] when the store takes nothing.
    pub async fn records(&self, changes: Vec<RecordChange>) -> Result<(), NotStored> {
        self.change(|reply| Request::Records(changes, reply)).await
    }

    /// Removes blocks, each with its events and payload bytes, and the
    /// watermarks of streams that are over.
    ///
    /// # Errors
    /// [`NotStored`] when the store takes nothing.
    pub async fn remove(
        &self,
        blocks: Vec<(BlockKey, u64, u64)>,
        streams: Vec<StreamKey>,
    ) -> Result<(), NotStored> {
        self.change(|reply| Request::Remove(blocks, streams, reply))
            .await
    }

    async fn change(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<(), NotStored>>) -> Request,
    ) -> Result<(), NotStored> {
        let stopping = || NotStored(State::Failed("the collector is stopping".to_owned()));
        let (reply, answer) = oneshot::channel();
        self.requests
            .send(request(reply))
            .await
            .map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }

    /// Lets the writer commit what is queued and end; what comes later is
    /// refused.
    pub async fn stop(&self) {
        // A writer that is gone has stopped.
        let _ = self.requests.send(Request::Stop).await;
    }

    /// Watches whether the store takes commits.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Returns the payload bytes in the store.
    pub fn payload_bytes(&self) -> u64 {
        self.payload_bytes.load(Ordering::Relaxed)
    }
}

struct WriterThread {
    store: Arc<dyn Store>,
    disk: Disk,
    tail: Tail,
    marks: HashMap<StreamKey, Watermark>,
    state: watch::Sender<State>,
    payload_bytes: Arc<AtomicU64>,
}

/// A request whose fate hangs on the commit under way.
enum Waiting {
    Append {
        append: Box<Append>,
        outcome: mpsc::Sender<Outcome>,
        span: Span,
    },
    Change(oneshot::Sender<Result<(), NotStored>>),
}

/// A commit being gathered.
#[derive(Default)]
struct Gathered {
    commit: Commit,
    /// Watermarks as they will be, by stream.
    marks: BTreeMap<StreamKey, Watermark>,
    pieces: BTreeMap<StreamKey, Vec<Piece>>,
    waiting: Vec<Waiting>,
    removed_bytes: u64,
    bytes: usize,
}

impl WriterThread {
    fn run(&mut self, mut queue: mpsc::Receiver<Request>) {
        let mut stopping = false;
        while !stopping {
            let Some(first) = queue.blocking_recv() else {
                return;
            };
            let mut gathered = Gathered::default();
            let mut requests = 1;
            stopping = self.take(first, &mut gathered).is_break();
            while !stopping && requests < COMMIT_REQUESTS_MAX && gathered.bytes < COMMIT_BYTES_MAX {
                let Ok(request) = queue.try_recv() else { break };
                requests += 1;
                stopping = self.take(request, &mut gathered).is_break();
            }
            self.finish(gathered);
        }
    }

    /// Takes a request into the commit; breaks when it is the last one.
    fn take(&self, request: Request, gathered: &mut Gathered) -> ControlFlow<()> {
        match request {
            Request::Append(append, outcome) => self.take_append(append, outcome, gathered),
            Request::Records(changes, reply) => {
                gathered.bytes += changes
                    .iter()
                    .map(|change| change.value.as_ref().map_or(0, Vec::len))
                    .sum::<usize>();
                gathered.commit.records.extend(changes);
                gathered.waiting.push(Waiting::Change(reply));
            }
            Request::Remove(blocks, streams, reply) => {
                for (key, events, bytes) in blocks {
                    if let Some(mark) = self.mark(&key.stream(), gathered) {
                        mark.removed += events;
                    }
                    gathered.removed_bytes += bytes;
                    gathered.commit.removed.push(key);
                }
                gathered.commit.forgotten.extend(streams);
                gathered.waiting.push(Waiting::Change(reply));
            }
            Request::Mark(stream, reply) => {
                let mark = gathered
                    .marks
                    .get(&stream)
                    .or_else(|| self.marks.get(&stream));
                let _ = reply.send(mark.map_or_else(SequenceNumber::default, |mark| mark.durable));
            }
            Request::Stop => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    fn take_append(
        &self,
        mut append: Box<Append>,
        outcome: mpsc::Sender<Outcome>,
        gathered: &mut Gathered,
    ) {
        let span = tracing::info_span!(parent: &append.span, "store.commit");
        let now = now_unix_ns();
        if self.mark(&append.stream, gathered).is_none() {
            let new = Watermark {
                opened_unix_ns: now,
                ..Watermark::default()
            };
            gathered.marks.insert(append.stream.clone(), new);
        }
        let mark = gathered
            .marks
            .get_mut(&append.stream)
            .expect("it was there or has just come");
        if mark.durable != append.parent {
            let durable = mark.durable;
            let _ = outcome.try_send(Outcome::Superseded { durable });
            return;
        }
        mark.durable = append.next;
        mark.committed_unix_ns = now;
        append.lost.iter().for_each(|range| mark.add_lost(*range));
        for piece in &append.pieces {
            mark.stored += u64::from(piece.summary.count);
        }
        if append.ledger.is_some() {
            mark.ledger.clone_from(&append.ledger);
        }
        gathered.bytes += append
            .pieces
            .iter()
            .map(|piece| piece.payload.len())
            .sum::<usize>();
        gathered
            .pieces
            .entry(append.stream.clone())
            .or_default()
            .append(&mut append.pieces);
        gathered.waiting.push(Waiting::Append {
            append,
            outcome,
            span,
        });
    }

    /// Returns a stream's watermark as the commit under way leaves it.
    fn mark<'a>(
        &self,
        stream: &StreamKey,
        gathered: &'a mut Gathered,
    ) -> Option<&'a mut Watermark> {
        if !gathered.marks.contains_key(stream) {
            let mark = self.marks.get(stream)?.clone();
            gathered.marks.insert(stream.clone(), mark);
        }
        gathered.marks.get_mut(stream)
    }

    fn finish(&mut self, mut gathered: Gathered) {
        for (stream, pieces) in std::mem::take(&mut gathered.pieces) {
            gathered.commit.blocks.extend(piece::join(&stream, pieces));
        }
        for stream in &gathered.commit.forgotten {
            gathered.marks.remove(stream);
        }
        gathered.commit.watermarks = gathered
            .marks
            .iter()
            .map(|(stream, mark)| (stream.clone(), mark.clone()))
            .collect();
        match self.commit(&gathered) {
            Ok(()) => self.settle(gathered),
            Err(state) => refuse(gathered, &state),
        }
    }

    fn commit(&mut self, gathered: &Gathered) -> Result<(), State> {
        let state = self.state.borrow().clone();
        match state {
            State::Healthy if gathered.commit.is_empty() => return Ok(()),
            State::Healthy | State::NoRoom { .. } => {}
            State::Failed(_) => self.recover()?,
        }
        // Removing blocks makes room in the end, whatever the disk says.
        let only_removes = gathered.commit.blocks.is_empty()
            && gathered.commit.records.is_empty()
            && !gathered.commit.removed.is_empty();
        let needed = (gathered.bytes as u64).saturating_mul(WRITE_AMPLIFICATION);
        match self.disk.room_for(needed) {
            Room::Low {
                free_bytes,
                limit_bytes,
            } if !only_removes => {
                return Err(self.enter(State::NoRoom {
                    free_bytes,
                    limit_bytes,
                }));
            }
            Room::Low { .. } => {}
            Room::Enough => {
                self.enter(State::Healthy);
            }
        }
        self.store
            .commit(&gathered.commit)
            .map_err(|error| self.enter(State::Failed(chain(&error))))
    }

    fn recover(&mut self) -> Result<(), State> {
        thread::sleep(RECOVERY_PAUSE);
        let recovered = self.store.recover().and_then(|()| self.store.watermarks());
        match recovered {
            Ok(marks) => {
                self.marks = marks.into_iter().collect();
                self.enter(State::Healthy);
                Err(State::Failed("the store was just recovered".to_owned()))
            }
            Err(error) => Err(self.enter(State::Failed(chain(&error)))),
        }
    }

    /// Enters a state, loudly when it is another one.
    fn enter(&self, state: State) -> State {
        let changed = self.state.send_if_modified(|current| {
            let same_kind = std::mem::discriminant(current) == std::mem::discriminant(&state);
            *current = state.clone();
            !same_kind
        });
        if changed {
            match &state {
                State::Healthy => tracing::info!("the store takes events again"),
                State::NoRoom {
                    free_bytes,
                    limit_bytes,
                } => tracing::error!(
                    free_bytes,
                    limit_bytes,
                    "the disk is full: nothing is stored or acknowledged until there is room"
                ),
                State::Failed(reason) => tracing::error!(
                    reason,
                    "the store failed: nothing is acknowledged until it is recovered"
                ),
            }
        }
        state
    }

    /// Everything is durable: remembers it and tells whoever waits.
    fn settle(&mut self, gathered: Gathered) {
        let added: u64 = gathered
            .commit
            .blocks
            .iter()
            .map(|block| block.payload.len() as u64)
            .sum();
        self.payload_bytes.fetch_add(added, Ordering::Relaxed);
        self.payload_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bytes| {
                Some(bytes.saturating_sub(gathered.removed_bytes))
            })
            .expect("the closure always gives a value");
        for stream in &gathered.commit.forgotten {
            self.marks.remove(stream);
        }
        self.marks.extend(gathered.marks);
        for waiting in gathered.waiting {
            match waiting {
                Waiting::Append {
                    append,
                    outcome,
                    span,
                } => {
                    drop(span);
                    let _ = outcome.try_send(Outcome::Durable);
                    self.tail.publish(Arrival {
                        stream: append.stream,
                        events: append.events,
                    });
                }
                Waiting::Change(reply) => {
                    let _ = reply.send(Ok(()));
                }
            }
        }
    }
}

fn refuse(gathered: Gathered, state: &State) {
    for waiting in gathered.waiting {
        match waiting {
            Waiting::Append { outcome, .. } => {
                let _ = outcome.try_send(Outcome::Later);
            }
            Waiting::Change(reply) => {
                let _ = reply.send(Err(NotStored(state.clone())));
            }
        }
    }
}

#[cfg(test)]
mod tests;
