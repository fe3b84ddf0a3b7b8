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

mod thread;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use shrike_proto::{id::SequenceNumber, ledger::Ledger};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::Span;

use super::{
    RecordChange, Store, StoreError,
    disk::Disk,
    merge::loose::Loose,
    piece::Piece,
    stream::{LostRange, StreamKey},
    succession::{Extent, Merge},
};
use crate::{
    budget::Share,
    tail::{Encoded, Tail},
};
use thread::WriterThread;

/// Requests that wait for a commit: each session has at most its credit in
/// here, and waiting is all that happens when it is full.
const QUEUE_MAX: usize = 512;

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
    pub events: Encoded,
    /// The batch's span.
    pub span: Span,
    /// Its share of the memory that batches may take, given back when it is
    /// settled.
    pub share: Option<Share>,
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

/// What is known of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Known {
    /// Every number up to here is stored or known to be lost.
    pub durable: SequenceNumber,
    /// How many events its agent said it had numbered.
    pub sequenced: u64,
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
        Vec<Extent>,
        Vec<StreamKey>,
        oneshot::Sender<Result<(), NotStored>>,
    ),
    Merge(Vec<Merge>, oneshot::Sender<Result<(), NotStored>>),
    Mark(StreamKey, oneshot::Sender<Known>),
    Stop,
}

/// Asks the writer.
#[derive(Debug, Clone)]
pub struct Writer {
    requests: mpsc::Sender<Request>,
    state: watch::Receiver<State>,
    payload_bytes: Arc<AtomicU64>,
    loose: Arc<Loose>,
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
    ) -> Result<(Self, JoinHandle<()>), StoreError> {
        let (requests, queue) = mpsc::channel(QUEUE_MAX);
        let (state_sender, state) = watch::channel(State::Healthy);
        let payload_bytes = Arc::new(AtomicU64::new(payload_bytes));
        let loose = Arc::new(Loose::default());
        let mut task = WriterThread::new(
            store,
            disk,
            tail,
            state_sender,
            Arc::clone(&payload_bytes),
            Arc::clone(&loose),
        )?;
        let handle = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || task.run(queue))
            .expect("a thread at start");
        let writer = Self {
            requests,
            state,
            payload_bytes,
            loose,
        };
        Ok((writer, handle))
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

    /// Returns what is known of a stream once everything queued before is
    /// settled.
    ///
    /// # Errors
    /// [`Stopping`] when the writer is gone.
    pub async fn mark(&self, stream: StreamKey) -> Result<Known, Stopping> {
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

    /// Removes blocks, and the watermarks of streams that are over.
    ///
    /// # Errors
    /// [`NotStored`] when the store takes nothing.
    pub async fn remove(
        &self,
        blocks: Vec<Extent>,
        streams: Vec<StreamKey>,
    ) -> Result<(), NotStored> {
        self.change(|reply| Request::Remove(blocks, streams, reply))
            .await
    }

    /// Puts blocks in the place of others. Whoever removes or merges blocks
    /// takes turns: the writer does not ask whether the parts are there.
    ///
    /// # Errors
    /// [`NotStored`] when the store takes nothing.
    pub async fn merge(&self, merges: Vec<Merge>) -> Result<(), NotStored> {
        self.change(|reply| Request::Merge(merges, reply)).await
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

    /// Returns what is to be merged.
    pub fn loose(&self) -> Arc<Loose> {
        Arc::clone(&self.loose)
    }

    /// Returns the payload bytes in the store.
    pub fn payload_bytes(&self) -> u64 {
        self.payload_bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
