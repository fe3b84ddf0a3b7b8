//! The collector's side: its real session, over a store that is a map.

use std::collections::{HashMap, VecDeque};

use shrike_collector::ingest::session::{Hello, Plan, Reply, Session, Step};
use shrike_collector::store::writer::{Known, Outcome};
use shrike_proto::batch;
use shrike_proto::id::{Epoch, SequenceNumber};
use shrike_proto::wire::ingest::{self, StreamEventsResponse, stream_events_response::Message};

use super::node::{Up, Wire};

/// What is on the collector's disk of one epoch.
#[derive(Debug, Default)]
pub struct Stored {
    pub durable: u64,
    pub ids: Vec<u64>,
    pub lost: u64,
}

/// One connection, as the collector sees it.
#[derive(Debug)]
struct Conversation {
    session: Session,
    epoch: Epoch,
    /// Waits for the store, oldest first.
    queued: VecDeque<(Plan, ingest::Batch)>,
}

#[derive(Debug, Default)]
pub struct Collector {
    pub epochs: HashMap<Epoch, Stored>,
    /// Events in batches that were refused.
    pub spoiled: u64,
    spoil: bool,
    /// By the number of the connection.
    conversations: HashMap<u64, Conversation>,
}

impl Collector {
    /// Takes a message of a connection.
    pub fn take(&mut self, wire: &mut Wire, message: Up) {
        match message {
            Up::Hello(hello) => {
                let hello = Hello::check(*hello, "node").expect("the agent says a good hello");
                // The newest session of a node ends the others.
                self.conversations.clear();
                let epoch = hello.stream.epoch;
                let durable = self.epochs.entry(epoch).or_default().durable;
                let (session, welcome) = Session::open(
                    &hello,
                    Known {
                        durable: SequenceNumber(durable),
                        sequenced: 0,
                    },
                );
                wire.answer(StreamEventsResponse {
                    message: Some(Message::Welcome(welcome)),
                });
                let conversation = Conversation {
                    session,
                    epoch,
                    queued: VecDeque::new(),
                };
                self.conversations.insert(wire.number, conversation);
            }
            Up::Batch(batch) => self.take_batch(wire, *batch),
        }
    }

    fn take_batch(&mut self, wire: &mut Wire, batch: ingest::Batch) {
        let Some(conversation) = self.conversations.get_mut(&wire.number) else {
            return;
        };
        let Conversation {
            session,
            epoch,
            queued,
        } = conversation;
        let reply = match session.handle_batch(&batch) {
            Ok(Step::Reply(reply)) => Some(reply),
            Ok(Step::Decode(plan)) if self.spoil && plan.skip == 0 && batch.count > 0 => {
                self.spoil = false;
                self.spoiled += u64::from(batch.count);
                Some(
                    session
                        .poison(&batch, "spoiled".to_owned())
                        .expect("one is little"),
                )
            }
            Ok(Step::Decode(plan)) => {
                session.queue(&plan);
                queued.push_back((plan, batch));
                None
            }
            Err(error) => panic!("the agent sent what it must not: {error}"),
        };
        if let Some(reply) = reply {
            let epoch = *epoch;
            wire.answer(reply.into_wire(epoch));
        }
    }

    /// Whether a connection may send more.
    pub fn has_room(&self, wire: u64) -> bool {
        self.conversations
            .get(&wire)
            .is_none_or(|conversation| conversation.session.has_room())
    }

    /// Commits everything that is queued.
    pub fn commit(&mut self, wires: &mut [Wire]) {
        for (number, conversation) in &mut self.conversations {
            while let Some((plan, batch)) = conversation.queued.pop_front() {
                let stored = self.epochs.entry(conversation.epoch).or_default();
                let outcome = append(stored, &plan, &batch);
                let reply = conversation.session.handle_outcome(outcome);
                answer(wires, *number, conversation.epoch, reply.ok());
            }
        }
    }

    /// Stores nothing of what is queued.
    pub fn refuse(&mut self, wires: &mut [Wire]) {
        for (number, conversation) in &mut self.conversations {
            while conversation.queued.pop_front().is_some() {
                let reply = conversation.session.handle_outcome(Outcome::Later);
                answer(wires, *number, conversation.epoch, reply.ok());
            }
        }
    }

    pub fn spoil_next(&mut self) {
        self.spoil = true;
    }

    pub fn die(&mut self) {
        self.conversations.clear();
    }
}

fn answer(wires: &mut [Wire], number: u64, epoch: Epoch, reply: Option<Reply>) {
    if let Some(reply) = reply
        && let Some(wire) = wires.iter_mut().find(|wire| wire.number == number)
    {
        wire.answer(reply.into_wire(epoch));
    }
}

/// What the store's writer does: events and watermark together, or nothing.
fn append(stored: &mut Stored, plan: &Plan, batch: &ingest::Batch) -> Outcome {
    if plan.parent.0 != stored.durable {
        return Outcome::Superseded {
            durable: SequenceNumber(stored.durable),
        };
    }
    let events = match batch.count {
        0 => Vec::new(),
        _ => batch::open(batch).expect("the agent seals well"),
    };
    for event in events.into_iter().skip(plan.skip) {
        stored.ids.push(event.boot_time_ns);
    }
    stored.lost += plan.lost.iter().map(|lost| lost.count).sum::<u64>();
    stored.durable = plan.next.0;
    Outcome::Durable
}
