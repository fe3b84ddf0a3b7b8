//! The agent's side: its real session over a spool in a folder, fed from a
//! ring that remembers what was read.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shrike_agent::config::SpoolLimits;
use shrike_agent::session::{Attempt, Command, Session, SessionOptions};
use shrike_agent::spool::{Class, Disk, Folder, Mark, Spool};
use shrike_proto::batch::BY_PLACE;
use shrike_proto::event::{Action, Event, Exit, Fact, Open, Outcome, Process, Verdict};
use shrike_proto::id::{Epoch, Generation, PolicyName, RuleName, SequenceNumber};
use shrike_proto::wire::ingest::{self, StreamEventsResponse, stream_events_response::Message};
use tempfile::TempDir;

use super::collector::Collector;

/// A message to the collector.
#[derive(Debug)]
pub enum Up {
    Hello(Box<ingest::Hello>),
    Batch(Box<ingest::Batch>),
}

/// A connection: what is on its way, in both directions.
#[derive(Debug)]
pub struct Wire {
    pub number: u64,
    attempt: Attempt,
    up: VecDeque<Up>,
    down: VecDeque<StreamEventsResponse>,
    /// The agent still listens.
    heard: bool,
}

impl Wire {
    pub fn answer(&mut self, answer: StreamEventsResponse) {
        if self.heard {
            self.down.push_back(answer);
        }
    }
}

pub struct Node {
    folder: TempDir,
    disk: Disk,
    session: Session,
    now: Instant,
    /// Connections, the newest last; attempts of other lives have the same
    /// numbers, so each has one of its own.
    wires: Vec<Wire>,
    wires_made: u64,
    ring: Vec<Class>,
    /// Identity of the ring's first event.
    ring_begins: u64,
    read: usize,
    /// How far the rings were told that they may forget.
    released: usize,
    boots: u64,
    epochs: u8,
    /// Events that lie in the rings still when an agent dies that has sent
    /// them: its disk had not taken them.
    sent_and_held: u64,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("session", &self.session)
            .field("wires", &self.wires)
            .finish_non_exhaustive()
    }
}

impl Node {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("there is room for temporary files");
        let now = Instant::now();
        let disk = disk(&folder);
        Self {
            session: open(&disk, 0, 0, now),
            disk,
            folder,
            now,
            wires: Vec::new(),
            wires_made: 0,
            ring: Vec::new(),
            ring_begins: 0,
            read: 0,
            released: 0,
            boots: 0,
            epochs: 0,
            sent_and_held: 0,
        }
    }

    /// The disk with the spool hangs.
    pub fn hang(&mut self) {
        self.disk.hold();
    }

    /// It does so many things.
    pub fn creep(&mut self, count: u8) {
        self.disk.do_some(count.into());
        self.advance();
    }

    /// It goes on.
    pub fn go_on(&mut self) {
        self.disk.let_go();
        self.advance();
    }

    /// How many events may be stored twice: their agent died while its disk
    /// hung.
    pub fn sent_and_held(&self) -> u64 {
        self.sent_and_held
    }

    /// How many events there were.
    pub fn happened(&self) -> u64 {
        self.ring_begins + self.ring.len() as u64
    }

    /// The hooks see events, and the agent reads them.
    pub fn happen(&mut self, kind: u8, count: u8) {
        let class = Class::ALL[usize::from(kind) % Class::COUNT];
        self.ring.extend(std::iter::repeat_n(class, count.into()));
        self.read();
        self.advance();
    }

    fn advance(&mut self) {
        self.settle();
        let commands = self.session.advance(self.now);
        self.execute(commands);
    }

    fn settle(&mut self) {
        let marks = self.session.spool_mut().settle(self.now);
        for mark in marks.into_iter().flatten() {
            if mark.instance == self.boots + 1 {
                self.released = self.released.max(mark.priority as usize);
            }
        }
    }

    fn read(&mut self) {
        while let Some(class) = self.ring.get(self.read) {
            let spool = self.session.spool_mut();
            let sequence = match class {
                Class::Verdicts => spool.next_verdict_number(),
                Class::Processes | Class::Opens => SequenceNumber(BY_PLACE),
            };
            let id = self.ring_begins + self.read as u64;
            spool.push(&event(*class, id, sequence));
            self.read += 1;
        }
        let mark = Mark {
            instance: self.boots + 1,
            priority: self.read as u64,
            opens: 0,
        };
        self.session.spool_mut().commit(&[mark]);
    }

    pub fn wait(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
        self.advance();
    }

    /// A message reaches the collector over the newest connection, or one
    /// further back.
    pub fn deliver_up(&mut self, collector: &mut Collector, back: usize) {
        let Some(index) = self.wires.len().checked_sub(back + 1) else {
            return;
        };
        let wire = &mut self.wires[index];
        if collector.has_room(wire.number)
            && let Some(message) = wire.up.pop_front()
        {
            collector.take(wire, message);
        }
    }

    /// An answer reaches the agent.
    pub fn deliver_down(&mut self) {
        let Some(wire) = self.wires.last_mut().filter(|wire| wire.heard) else {
            return;
        };
        let Some(answer) = wire.down.pop_front() else {
            return;
        };
        let (attempt, now) = (wire.attempt, self.now);
        let commands = match answer.message.expect("the collector says something") {
            Message::Welcome(welcome) => self.session.handle_welcome(attempt, &welcome, now),
            Message::Ack(ack) => self.session.handle_ack(attempt, &ack, now),
            Message::Nack(nack) => self.session.handle_nack(attempt, &nack, now),
        };
        self.execute(commands);
        self.settle();
    }

    /// The agent's connection breaks; `whole`: what is on its way is gone.
    pub fn break_connection(&mut self, whole: bool) {
        if let Some(wire) = self.wires.last_mut()
            && std::mem::take(&mut wire.heard)
        {
            let attempt = wire.attempt;
            if whole {
                wire.up.clear();
            }
            let commands = self.session.handle_closed(attempt, "broken", self.now);
            self.execute(commands);
        }
    }

    pub fn lose_all_connections(&mut self) {
        self.break_connection(true);
        self.wires.clear();
    }

    /// The agent is killed, and started again: what its disk had not taken is
    /// in the rings.
    pub fn restart(&mut self) {
        if let Some(wire) = self.wires.last_mut() {
            wire.heard = false;
        }
        self.epochs += 1;
        self.disk = disk(&self.folder);
        self.session = open(&self.disk, self.boots, self.epochs, self.now);
        let marks = self.session.spool().marks();
        let mark = marks.iter().find(|mark| mark.instance == self.boots + 1);
        let marked = mark.map_or(0, |mark| mark.priority as usize);
        self.released = self.released.max(marked);
        self.sent_and_held += (self.read - self.released) as u64;
        self.read = self.released;
        self.read();
        self.settle();
    }

    /// The machine is shut down in order and booted: the rings are others.
    pub fn boot(&mut self) {
        self.disk.let_go();
        self.session.spool_mut().finish();
        self.settle();
        assert_eq!(self.released, self.ring.len(), "the disk has everything");
        self.ring_begins += self.ring.len() as u64;
        self.ring.clear();
        self.read = 0;
        self.released = 0;
        self.boots += 1;
        self.restart();
    }

    pub fn wires(&mut self) -> &mut [Wire] {
        &mut self.wires
    }

    pub fn is_drained(&self) -> bool {
        self.session.spool().is_empty()
    }

    fn execute(&mut self, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Open { attempt, hello, .. } => {
                    self.wires_made += 1;
                    self.wires.push(Wire {
                        number: self.wires_made,
                        attempt,
                        up: VecDeque::from([Up::Hello(hello)]),
                        down: VecDeque::new(),
                        heard: true,
                    });
                }
                Command::Send(batch) => {
                    let wire = self.wires.last_mut().expect("a session is open");
                    wire.up.push_back(Up::Batch(batch));
                }
                Command::Settled(_) => {}
                Command::Close => {
                    if let Some(wire) = self.wires.last_mut() {
                        wire.heard = false;
                        wire.up.clear();
                    }
                }
                Command::BeginAnew => {
                    assert!(self.sent_and_held > 0, "the spool lost nothing");
                    self.epochs += 1;
                    self.session.begin_anew(Epoch([self.epochs; 16]));
                }
            }
        }
    }
}

fn disk(folder: &TempDir) -> Disk {
    Disk::immediate(Arc::new(Folder::at(folder.path().to_owned())))
}

fn open(disk: &Disk, boots: u64, epochs: u8, now: Instant) -> Session {
    let spool = Spool::open(
        disk.clone(),
        SpoolLimits::default(),
        4,
        &format!("boot-{boots}"),
        Epoch([epochs; 16]),
    )
    .expect("the folder can be read");
    Session::new(
        SessionOptions {
            node: "node".to_owned(),
            info: ingest::NodeInfo::default(),
            collectors: vec!["collector:1".to_owned()],
            seed: u64::from(epochs),
        },
        spool,
        now,
    )
}

/// An event that is known again by its boot time.
fn event(class: Class, id: u64, sequence: SequenceNumber) -> Event {
    let verdict = (class == Class::Verdicts).then(|| Verdict {
        action: Action::Deny,
        policy: PolicyName::parse("p").expect("a name"),
        rule: RuleName::parse("r").expect("a name"),
        outcome: Outcome::Denied,
        denied: true,
    });
    Event {
        sequence,
        time_unix_ns: 0,
        boot_time_ns: id,
        cpu: 0,
        cpu_sequence: 0,
        generation: Generation::NONE,
        process: Process::default(),
        verdict,
        fact: match class {
            Class::Processes => Fact::Exit(Exit::default()),
            Class::Verdicts | Class::Opens => Fact::Open(Open::default()),
        },
    }
}
