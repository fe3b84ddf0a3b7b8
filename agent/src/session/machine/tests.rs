use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;
use shrike_proto::{
    batch,
    event::{Event, Fact, Open, Process},
    id::Generation,
    ledger::{Hour, LossReason},
};

use super::*;
use crate::{
    config::SpoolLimits,
    spool::{Disk, testing::MemoryFiles},
};

const EPOCH: Epoch = Epoch([9; 16]);
const BOOT: &str = "boot";

fn session(now: Instant) -> Session {
    session_on(MemoryFiles::default(), BOOT, EPOCH, now)
}

fn session_on(files: MemoryFiles, boot_id: &str, epoch: Epoch, now: Instant) -> Session {
    let disk = Disk::immediate(Arc::new(files));
    let spool = Spool::open(disk, SpoolLimits::default(), 2, boot_id, epoch).unwrap();
    Session::new(
        SessionOptions {
            node: "web-1".to_owned(),
            info: ingest::NodeInfo::default(),
            collectors: vec!["a:1".to_owned(), "b:1".to_owned()],
            seed: 9,
        },
        spool,
        now,
    )
}

fn push(session: &mut Session, count: usize) {
    for _ in 0..count {
        let event = Event {
            sequence: SequenceNumber(batch::BY_PLACE),
            time_unix_ns: 0,
            boot_time_ns: 0,
            cpu: 0,
            cpu_sequence: 0,
            generation: Generation::NONE,
            process: Process::default(),
            verdict: None,
            fact: Fact::Open(Open::default()),
        };
        session.spool_mut().push(&event);
    }
    session.spool_mut().commit(&[]);
}

fn welcome(durable_sequence: u64, credit: u32) -> ingest::Welcome {
    ingest::Welcome {
        durable_sequence,
        credit,
    }
}

fn ack(durable_sequence: u64) -> ingest::Ack {
    ingest::Ack {
        epoch: EPOCH.0.to_vec(),
        durable_sequence,
    }
}

fn nack(first_sequence: u64, reason: ingest::nack::Reason) -> ingest::Nack {
    ingest::Nack {
        first_sequence,
        reason: Some(reason),
    }
}

/// First sequence and count of each batch that has events.
fn batches(commands: &[Command]) -> Vec<(u64, u32)> {
    commands
        .iter()
        .filter_map(|command| match command {
            Command::Send(batch) if batch.count > 0 => Some((batch.first_sequence, batch.count)),
            _ => None,
        })
        .collect()
}

fn opened(session: &mut Session, now: Instant) -> (Attempt, ingest::Hello, String) {
    for command in session.advance(now) {
        if let Command::Open {
            attempt,
            hello,
            address,
        } = command
        {
            return (attempt, *hello, address);
        }
    }
    panic!("a connection is due");
}

fn streaming(session: &mut Session, durable: u64, now: Instant) -> (Attempt, Vec<Command>) {
    let (attempt, _, _) = opened(session, now);
    let commands = session.handle_welcome(attempt, &welcome(durable, 8), now);
    (attempt, commands)
}

#[test]
fn welcome_releases_what_waits() {
    let now = Instant::now();
    let mut session = session(now);
    push(&mut session, 5);
    let (_, commands) = streaming(&mut session, 0, now);
    assert_eq!(batches(&commands), [(1, 2), (3, 2), (5, 1)]);
}

#[test]
fn what_is_committed_goes_out_at_once() {
    let now = Instant::now();
    let mut session = session(now);
    streaming(&mut session, 0, now);
    push(&mut session, 1);
    assert_eq!(batches(&session.advance(now)), [(1, 1)]);
}

#[test]
fn ended_epochs_are_delivered_first_each_in_a_session_of_its_own() {
    let now = Instant::now();
    let files = MemoryFiles::default();
    let mut before = session_on(files.clone(), "boot before", Epoch([1; 16]), now);
    push(&mut before, 3);
    drop(before);
    let mut session = session_on(files, BOOT, EPOCH, now);
    push(&mut session, 1);
    let (attempt, hello, _) = opened(&mut session, now);
    assert_eq!((hello.epoch[0], hello.ended), (1, true));
    assert_eq!(hello.boot_id, "boot before");
    // The power went after the collector had stored more than the spool kept.
    let commands = session.handle_welcome(attempt, &welcome(7, 8), now);
    let [
        Command::Settled(_),
        Command::Close,
        Command::Open { attempt, hello, .. },
    ] = commands.as_slice()
    else {
        panic!("{commands:?}");
    };
    assert_eq!((hello.epoch[0], hello.ended), (9, false));
    let commands = session.handle_welcome(*attempt, &welcome(0, 8), now);
    assert_eq!(batches(&commands), [(1, 1)]);
}

#[test]
fn a_collector_that_is_ahead_is_met_with_another_epoch() {
    let now = Instant::now();
    let mut session = session(now);
    push(&mut session, 2);
    let (attempt, _, _) = opened(&mut session, now);
    let commands = session.handle_welcome(attempt, &welcome(5, 8), now);
    assert_eq!(commands, [Command::BeginAnew, Command::Close]);
    session.begin_anew(Epoch([5; 16]));
    let later = now + Duration::from_secs(11);
    let (attempt, hello, _) = opened(&mut session, later);
    assert_eq!((hello.epoch[0], hello.next_sequence), (5, 3));
    let commands = session.handle_welcome(attempt, &welcome(0, 8), later);
    assert_eq!(batches(&commands), [(1, 2)], "what was never sent goes on");
}

#[test]
fn session_resumes_behind_what_is_durable() {
    let now = Instant::now();
    let mut session = session(now);
    push(&mut session, 6);
    let (attempt, commands) = streaming(&mut session, 0, now);
    assert_eq!(batches(&commands).len(), 3);
    session.handle_closed(attempt, "gone", now);
    let later = now + Duration::from_secs(11);
    let (attempt, hello, address) = opened(&mut session, later);
    assert_eq!((hello.first_sequence, hello.next_sequence), (1, 7));
    assert_eq!(address, "a:1", "the one that worked is tried first");
    let commands = session.handle_welcome(attempt, &welcome(2, 8), later);
    assert_eq!(batches(&commands), [(3, 2), (5, 2)]);
}

#[test]
fn credit_bounds_what_is_under_way() {
    let now = Instant::now();
    let mut session = session(now);
    push(&mut session, 10);
    let (attempt, _, _) = opened(&mut session, now);
    let commands = session.handle_welcome(attempt, &welcome(0, 2), now);
    assert_eq!(batches(&commands), [(1, 2), (3, 2)]);
    let commands = session.handle_ack(attempt, &ack(2), now);
    assert_eq!(batches(&commands), [(5, 2)]);
}

#[test]
fn pause_is_kept_and_the_batch_sent_again() {
    let now = Instant::now();
    let mut session = session(now);
    push(&mut session, 4);
    let (attempt, _) = streaming(&mut session, 0, now);
    let retry = nack(3, ingest::nack::Reason::RetryAfterMs(500));
    assert_eq!(batches(&session.handle_nack(attempt, &retry, now)), []);
    let before = now + Duration::from_millis(499);
    assert_eq!(batches(&session.advance(before)), []);
    let after = now + Duration::from_millis(500);
    assert_eq!(batches(&session.advance(after)), [(3, 2)]);
}

#[test]
fn poison_is_quarantined_and_the_rest_goes_on() {
    let now = Instant::now();
    let mut session = session(now);
    push(&mut session, 6);
    let (attempt, _) = streaming(&mut session, 0, now);
    let poison = nack(3, ingest::nack::Reason::Poison("bad".to_owned()));
    let commands = session.handle_nack(attempt, &poison, now);
    let Some(Command::Send(batch)) = commands.first() else {
        panic!("the rest is sent again: {commands:?}");
    };
    assert_eq!(batch.first_sequence, 5);
    assert_eq!((batch.lost[0].first_sequence, batch.lost[0].count), (3, 2));
    session.handle_ack(attempt, &ack(6), now);
    assert_eq!(
        session.spool().lost(),
        BTreeMap::from([(LossReason::Quarantined, 2)])
    );
}

#[test]
fn changed_ledger_goes_out_alone_once_a_second() {
    let now = Instant::now();
    let mut session = session(now);
    let (attempt, commands) = streaming(&mut session, 0, now);
    assert!(matches!(commands.last(), Some(Command::Send(batch)) if batch.count == 0));
    session.handle_ack(attempt, &ack(0), now);
    assert_eq!(session.next_deadline(), None, "nothing changes");
    session.set_ledger(Ledger {
        seen: 7,
        ..Ledger::default()
    });
    assert_eq!(session.advance(now), []);
    let due = session.next_deadline().unwrap();
    assert_eq!(due, now + LEDGER_INTERVAL);
    let commands = session.advance(due);
    let [Command::Send(batch)] = commands.as_slice() else {
        panic!("{commands:?}");
    };
    assert_eq!(batch.count, 0);
    assert_eq!(batch.ledger.as_ref().unwrap().seen, 7);
    assert_eq!(session.advance(due), []);
}

#[test]
fn an_hour_is_told_when_it_ended_and_everything_sent_is_acknowledged() {
    let now = Instant::now();
    let mut session = session(now);
    let (attempt, _) = streaming(&mut session, 0, now);
    let mut ledger = Ledger::default();
    let mut tell = |session: &mut Session, hour, now| {
        ledger.seen += 1;
        ledger.note_hour(Hour(hour));
        session.set_ledger(ledger.clone());
        assert_eq!(session.advance(now).len(), 1);
    };
    session.handle_ack(attempt, &ack(0), now);
    let later = |seconds| now + Duration::from_secs(seconds);
    tell(&mut session, 7, later(1));
    session.handle_ack(attempt, &ack(0), later(1));
    assert_eq!(session.hours_told(), 0, "it has not ended");
    tell(&mut session, 8, later(2));
    assert_eq!(session.hours_told(), 0, "it is under way");
    session.handle_ack(attempt, &ack(0), later(2));
    assert_eq!(session.hours_told(), 1);
    // Sent, and nobody knows whether it arrived.
    tell(&mut session, 9, later(3));
    session.handle_closed(attempt, "gone", later(3));
    let (attempt, _, _) = opened(&mut session, later(60));
    session.handle_welcome(attempt, &welcome(0, 8), later(60));
    assert_eq!(session.hours_told(), 1);
    session.handle_ack(attempt, &ack(0), later(60));
    assert_eq!(session.hours_told(), 2);
}

#[test]
fn ledger_that_is_not_answered_takes_credit() {
    let now = Instant::now();
    let mut session = session(now);
    let (attempt, _, _) = opened(&mut session, now);
    let commands = session.handle_welcome(attempt, &welcome(0, 2), now);
    assert!(matches!(commands.last(), Some(Command::Send(batch)) if batch.count == 0));
    push(&mut session, 6);
    assert_eq!(batches(&session.advance(now)), [(1, 2)]);
    let commands = session.handle_ack(attempt, &ack(0), now);
    assert_eq!(batches(&commands), [(3, 2)]);
}

#[test]
fn contradictions_end_the_connection_and_lose_nothing() {
    let check = |what: &str, act: &dyn Fn(&mut Session, Attempt, Instant) -> Vec<Command>| {
        let now = Instant::now();
        let mut session = session(now);
        push(&mut session, 4);
        let (attempt, _) = streaming(&mut session, 0, now);
        let commands = act(&mut session, attempt, now);
        assert!(commands.contains(&Command::Close), "{what}: {commands:?}");
        let later = now + Duration::from_secs(11);
        let (_, hello, _) = opened(&mut session, later);
        assert_eq!(hello.first_sequence, 1, "{what}");
    };
    check("ack ahead", &|session, attempt, now| {
        session.handle_ack(attempt, &ack(5), now)
    });
    check("other epoch", &|session, attempt, now| {
        let other = ingest::Ack {
            epoch: vec![1; 16],
            durable_sequence: 1,
        };
        session.handle_ack(attempt, &other, now)
    });
    check("second welcome", &|session, attempt, now| {
        session.handle_welcome(attempt, &welcome(0, 1), now)
    });
    check("nack without a reason", &|session, attempt, now| {
        let bare = ingest::Nack {
            first_sequence: 1,
            reason: None,
        };
        session.handle_nack(attempt, &bare, now)
    });
}

#[test]
fn silent_collector_is_given_up() {
    let now = Instant::now();
    let mut session = session(now);
    opened(&mut session, now);
    let due = session.next_deadline().unwrap();
    assert_eq!(session.advance(due), [Command::Close]);
    let (_, _, address) = opened(&mut session, due + Duration::from_secs(11));
    assert_eq!(address, "b:1", "the next collector has its turn");
}

#[test]
fn stuck_collector_is_given_up() {
    let now = Instant::now();
    let mut session = session(now);
    push(&mut session, 2);
    streaming(&mut session, 0, now);
    let commands = session.advance(now + STALL_TIMEOUT);
    assert!(commands.contains(&Command::Close));
}

#[test]
fn reports_of_an_old_connection_are_ignored() {
    let now = Instant::now();
    let mut session = session(now);
    let (old, _, _) = opened(&mut session, now);
    session.handle_closed(old, "gone", now);
    let later = now + Duration::from_secs(11);
    let (new, _, _) = opened(&mut session, later);
    assert_eq!(session.handle_welcome(old, &welcome(0, 1), later), []);
    assert!(
        !session
            .handle_welcome(new, &welcome(0, 1), later)
            .is_empty()
    );
}

#[test]
fn stop_sends_what_is_open_and_is_drained_by_the_acknowledgement() {
    let now = Instant::now();
    let mut session = session(now);
    assert!(!session.is_at_work());
    let (attempt, _) = streaming(&mut session, 0, now);
    push(&mut session, 1);
    assert!(session.is_at_work());
    assert_eq!(batches(&session.handle_stop(now)), [(1, 1)]);
    assert!(!session.is_drained());
    session.handle_ack(attempt, &ack(1), now);
    assert!(session.is_drained());
}

#[test]
fn stop_waits_for_the_answer_to_the_last_ledger() {
    let now = Instant::now();
    let mut session = session(now);
    let (attempt, _) = streaming(&mut session, 0, now);
    session.handle_ack(attempt, &ack(0), now);
    session.set_ledger(Ledger {
        seen: 7,
        ..Ledger::default()
    });
    assert_eq!(session.handle_stop(now).len(), 1);
    assert!(!session.is_drained());
    session.handle_ack(attempt, &ack(0), now);
    assert!(session.is_drained());
}

#[test]
fn collector_with_an_empty_store_gets_what_is_held() {
    let now = Instant::now();
    let mut session = session(now);
    push(&mut session, 4);
    let (attempt, _) = streaming(&mut session, 0, now);
    session.handle_ack(attempt, &ack(2), now);
    session.handle_closed(attempt, "replaced", now);
    let later = now + Duration::from_secs(11);
    let (attempt, hello, _) = opened(&mut session, later);
    assert_eq!(hello.first_sequence, 3);
    let commands = session.handle_welcome(attempt, &welcome(0, 8), later);
    assert_eq!(batches(&commands), [(3, 2)]);
    assert!(session.spool().lost().is_empty());
}

/// A collector that stores what it should and is told apart from the agent by
/// a network that may break at any moment.
#[derive(Default)]
struct Collector {
    durable: u64,
    stored: Vec<u64>,
    lost: u64,
}

impl Collector {
    fn take(&mut self, batch: &ingest::Batch) {
        for range in &batch.lost {
            // Ranges are joined, so one may begin with what was told before.
            let last = range.first_sequence + range.count - 1;
            if range.first_sequence <= self.durable + 1 && last > self.durable {
                self.lost += last - self.durable;
                self.durable = last;
            }
        }
        for event in batch::open(batch).expect("the agent seals well") {
            if event.sequence.0 == self.durable + 1 {
                self.stored.push(event.sequence.0);
                self.durable += 1;
            } else {
                assert!(event.sequence.0 <= self.durable, "a hole");
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Push(usize),
    Wait(u64),
    /// Deliver this many of the messages that are on the wire.
    Deliver(usize),
    /// The collector answers, or its answer is lost with the connection.
    Answer,
    Break,
    Poison,
    Retry,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..9_usize).prop_map(Step::Push),
        (1..3000_u64).prop_map(Step::Wait),
        (1..5_usize).prop_map(Step::Deliver),
        Just(Step::Answer),
        Just(Step::Break),
        Just(Step::Poison),
        Just(Step::Retry),
    ]
}

proptest! {
    /// However the network breaks and the collector refuses: every event is
    /// stored once, in order, or counted as lost.
    #[test]
    fn every_event_is_stored_once_or_counted(
        steps in prop::collection::vec(step(), 0..150),
    ) {
        let mut now = Instant::now();
        let mut session = session(now);
        let mut collector = Collector::default();
        let mut wire: Vec<ingest::Batch> = Vec::new();
        let mut attempt = None;
        let run = |session: &mut Session, commands: Vec<Command>, wire: &mut Vec<ingest::Batch>,
                       attempt: &mut Option<Attempt>, durable: u64, now: Instant| {
            let mut pending = commands;
            while !pending.is_empty() {
                let mut next = Vec::new();
                for command in pending {
                    match command {
                        Command::Open { attempt: number, .. } => {
                            *attempt = Some(number);
                            wire.clear();
                            next.extend(session.handle_welcome(number, &welcome(durable, 3), now));
                        }
                        Command::Send(batch) => wire.push(*batch),
                        Command::Settled(_) => {}
                        Command::BeginAnew | Command::Close => {
                            panic!("nobody contradicts itself here")
                        }
                    }
                }
                pending = next;
            }
        };
        let tail = std::iter::repeat_n([Step::Wait(11_000), Step::Deliver(100), Step::Answer], 40);
        for step in steps.into_iter().chain(tail.flatten()) {
            let commands = match step {
                Step::Push(count) => {
                    push(&mut session, count);
                    session.advance(now)
                }
                Step::Wait(ms) => {
                    now += Duration::from_millis(ms);
                    session.advance(now)
                }
                Step::Deliver(count) => {
                    for batch in wire.drain(..count.min(wire.len())) {
                        collector.take(&batch);
                    }
                    Vec::new()
                }
                Step::Answer => match attempt {
                    Some(attempt) => session.handle_ack(attempt, &ack(collector.durable), now),
                    None => Vec::new(),
                },
                Step::Break => match attempt.take() {
                    Some(attempt) => {
                        wire.clear();
                        session.handle_closed(attempt, "broken", now)
                    }
                    None => Vec::new(),
                },
                Step::Poison | Step::Retry => {
                    let first = wire.iter().find(|batch| batch.count > 0).map(|b| b.first_sequence);
                    match (attempt, first) {
                        (Some(attempt), Some(first)) => {
                            // A refused batch and what is behind it is not stored.
                            let keep = wire.iter().take_while(|b| b.first_sequence < first).count();
                            wire.truncate(keep);
                            let reason = if matches!(step, Step::Poison) {
                                ingest::nack::Reason::Poison("no".to_owned())
                            } else {
                                ingest::nack::Reason::RetryAfterMs(300)
                            };
                            session.handle_nack(attempt, &nack(first, reason), now)
                        }
                        _ => Vec::new(),
                    }
                }
            };
            run(&mut session, commands, &mut wire, &mut attempt, collector.durable, now);
            prop_assert!(collector.stored.is_sorted());
        }
        let sequenced = session.spool().next_number().0 - 1;
        prop_assert!(session.spool().is_empty(), "{:?}", session);
        prop_assert_eq!(collector.durable, sequenced);
        prop_assert_eq!(collector.stored.len() as u64 + collector.lost, sequenced);
        let counted: u64 = session.spool().lost().values().sum();
        prop_assert_eq!(counted, collector.lost);
    }
}
