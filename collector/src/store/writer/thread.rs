//! The thread: gathers requests into commits and settles them.

use std::{
    collections::{BTreeMap, HashMap},
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use shrike_proto::ledger::Ledger;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::Span;

use super::{Append, Known, NotStored, Outcome, Request, State};
use crate::{
    chain::chain,
    clock::now_unix_ns,
    store::{
        Commit, Store, StoreError,
        disk::{Disk, Room},
        hours::ClosedHours,
        merge::loose::{Loose, Minute, is_loose},
        piece::{self, Piece},
        stream::{StreamKey, Watermark},
    },
    tail::{Arrival, Tail},
};

/// Most requests in one commit.
const COMMIT_REQUESTS_MAX: usize = 256;

/// Most payload bytes in one commit: about 100 ms of a slow disk.
const COMMIT_BYTES_MAX: usize = 8 << 20;

/// Least time from the begin of one commit to that of the next: a large fleet
/// of quiet nodes would otherwise have a flush for each few of its batches. One
/// that comes alone is committed at once.
const COMMIT_INTERVAL: Duration = Duration::from_millis(20);

/// Room for what sled writes beside the payload: footers, and leaves that are
/// rewritten.
const WRITE_AMPLIFICATION: u64 = 4;

/// How long a failed store is left alone before it is opened anew.
const RECOVERY_PAUSE: Duration = Duration::from_secs(1);

/// Owns the watermarks and whatever is written.
pub(super) struct WriterThread {
    store: Arc<dyn Store>,
    disk: Disk,
    tail: Tail,
    marks: HashMap<StreamKey, Watermark>,
    state: watch::Sender<State>,
    payload_bytes: Arc<AtomicU64>,
    loose: Arc<Loose>,
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
    hours: ClosedHours,
    removed_bytes: u64,
    bytes: usize,
}

impl WriterThread {
    /// Reads the watermarks.
    pub(super) fn new(
        store: Arc<dyn Store>,
        disk: Disk,
        tail: Tail,
        state: watch::Sender<State>,
        payload_bytes: Arc<AtomicU64>,
        loose: Arc<Loose>,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            marks: store.watermarks()?.into_iter().collect(),
            store,
            disk,
            tail,
            state,
            payload_bytes,
            loose,
        })
    }

    /// Serves requests until the last one.
    pub(super) fn run(&mut self, mut queue: mpsc::Receiver<Request>) {
        let mut stopping = false;
        let mut next_commit = Instant::now();
        while !stopping {
            let Some(first) = queue.blocking_recv() else {
                return;
            };
            let mut gathered = Gathered::default();
            let mut requests = 1;
            stopping = self.take(first, &mut gathered).is_break();
            let mut has_waited = false;
            while !stopping && requests < COMMIT_REQUESTS_MAX && gathered.bytes < COMMIT_BYTES_MAX {
                match queue.try_recv() {
                    Ok(request) => {
                        requests += 1;
                        stopping = self.take(request, &mut gathered).is_break();
                    }
                    // Whoever only asks for a watermark has its answer.
                    Err(_) if has_waited || gathered.waiting.is_empty() => break,
                    Err(_) => {
                        thread::sleep(next_commit.saturating_duration_since(Instant::now()));
                        has_waited = true;
                    }
                }
            }
            next_commit = Instant::now() + COMMIT_INTERVAL;
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
                for block in blocks {
                    for run in &block.runs {
                        if let Some(mark) = self.mark(&run.stream, gathered) {
                            mark.removed += u64::from(run.count);
                        }
                    }
                    gathered.removed_bytes += block.payload_bytes;
                    gathered.commit.removed.push(block.key);
                }
                gathered.commit.forgotten.extend(streams);
                gathered.waiting.push(Waiting::Change(reply));
            }
            Request::Merge(merges, reply) => {
                for merge in &merges {
                    gathered.bytes += merge.block.payload.len();
                    gathered.removed_bytes += merge
                        .parts
                        .iter()
                        .map(|part| part.payload_bytes)
                        .sum::<u64>();
                }
                gathered.commit.merges.extend(merges);
                gathered.waiting.push(Waiting::Change(reply));
            }
            Request::Mark(stream, reply) => {
                let mark = gathered
                    .marks
                    .get(&stream)
                    .or_else(|| self.marks.get(&stream));
                let _ = reply.send(mark.map_or_else(Known::default, |mark| Known {
                    durable: mark.durable,
                    sequenced: mark.ledger.as_ref().map_or(0, |ledger| ledger.sequenced),
                }));
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
        if let Some(ledger) = append.ledger.take() {
            take_ledger(&append.stream, mark, ledger);
        }
        append.lost.iter().for_each(|range| mark.add_lost(*range));
        for piece in &append.pieces {
            mark.stored += u64::from(piece.summary.count);
        }
        gathered
            .hours
            .add(&append.stream, mark.hours.close(mark.durable));
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
        gathered.commit.watermarks = std::mem::take(&mut gathered.marks).into_iter().collect();
        match self.commit(&mut gathered) {
            Ok(()) => self.settle(gathered),
            Err(state) => refuse(gathered, &state),
        }
    }

    fn commit(&mut self, gathered: &mut Gathered) -> Result<(), State> {
        let state = self.state.borrow().clone();
        match state {
            State::Healthy if gathered.commit.is_empty() => return Ok(()),
            State::Healthy | State::NoRoom { .. } => {}
            State::Failed(_) => self.recover()?,
        }
        // Removing blocks makes room in the end, whatever the disk says.
        let only_removes = gathered.commit.blocks.is_empty()
            && gathered.commit.merges.is_empty()
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
        gathered
            .hours
            .changes(&*self.store)
            .and_then(|hours| {
                gathered.commit.records.extend(hours);
                self.store.commit(&gathered.commit)
            })
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
            .chain(gathered.commit.merges.iter().map(|merge| &merge.block))
            .map(|block| block.payload.len() as u64)
            .sum();
        self.payload_bytes.fetch_add(added, Ordering::Relaxed);
        let now = Instant::now();
        for block in &gathered.commit.blocks {
            self.loose.came(&block.key, &block.footer, now);
        }
        // What is still small is merged once more, with others of its kind.
        for merge in &gathered.commit.merges {
            if is_loose(&merge.block.footer) {
                self.loose.found(Minute::of(&merge.block.key));
            }
        }
        self.payload_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bytes| {
                Some(bytes.saturating_sub(gathered.removed_bytes))
            })
            .expect("the closure always gives a value");
        for stream in &gathered.commit.forgotten {
            self.marks.remove(stream);
        }
        self.marks.extend(gathered.commit.watermarks);
        for waiting in gathered.waiting {
            match waiting {
                Waiting::Append {
                    append,
                    outcome,
                    span,
                } => {
                    drop(span);
                    let _ = outcome.try_send(Outcome::Durable);
                    self.tail
                        .publish(Arrival::new(append.stream, append.events));
                }
                Waiting::Change(reply) => {
                    let _ = reply.send(Ok(()));
                }
            }
        }
    }
}

/// Takes in what an agent says of itself, and says loudly when that cannot be:
/// it numbered more events than there were.
fn take_ledger(stream: &StreamKey, mark: &mut Watermark, ledger: Ledger) {
    let was_sound = mark.hours.unaccounted() >= 0;
    mark.take_ledger(ledger);
    let unaccounted = mark.hours.unaccounted();
    if was_sound && unaccounted < 0 {
        tracing::error!(
            node = %stream.node,
            epoch = %stream.epoch,
            events = unaccounted.unsigned_abs(),
            "the node's ledger does not balance: more events have a number than its hooks have seen"
        );
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
