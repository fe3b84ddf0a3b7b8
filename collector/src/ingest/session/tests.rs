use std::collections::BTreeMap;

use proptest::prelude::*;
use shrike_proto::wire::event as event_wire;

use super::*;

const EPOCH: Epoch = Epoch([1; 16]);

fn hello(first: u64) -> ingest::Hello {
    ingest::Hello {
        node: "node-a".to_owned(),
        boot_id: "b".to_owned(),
        epoch: EPOCH.0.to_vec(),
        first_sequence: first,
        next_sequence: first + 1000,
        info: None,
        ended: false,
    }
}

fn known(durable: u64) -> Known {
    Known {
        durable: SequenceNumber(durable),
        sequenced: 0,
    }
}

fn open(first: u64, durable: u64) -> Session {
    let hello = Hello::check(hello(first), "node-a").unwrap();
    Session::open(&hello, known(durable)).0
}

fn batch(first: u64, count: u32) -> ingest::Batch {
    ingest::Batch {
        epoch: EPOCH.0.to_vec(),
        first_sequence: first,
        count,
        ..ingest::Batch::default()
    }
}

fn lost(first: u64, count: u64) -> ingest::LostRange {
    ingest::LostRange {
        first_sequence: first,
        count,
        reason: event_wire::LossReason::AgentSpoolFull.into(),
    }
}

fn plan(session: &mut Session, batch: &ingest::Batch) -> Plan {
    match session.handle_batch(batch).unwrap() {
        Step::Decode(plan) => plan,
        Step::Reply(reply) => panic!("{reply:?}"),
    }
}

fn queue(session: &mut Session, batch: &ingest::Batch) -> Plan {
    let plan = plan(session, batch);
    session.queue(&plan);
    plan
}

#[test]
fn what_an_ended_epoch_lost_with_the_power_is_accounted_for() {
    let ended = |durable: u64| {
        let hello = ingest::Hello {
            next_sequence: 8,
            ended: true,
            ..hello(1)
        };
        let known = Known {
            durable: SequenceNumber(durable),
            sequenced: 12,
        };
        Session::open(&Hello::check(hello, "node-a").unwrap(), known).0
    };
    let gone = |first: u64| LostRange {
        first: SequenceNumber(first),
        count: 13 - first,
        reason: LossReason::AgentSpoolDamaged,
    };
    // With its last batch.
    let mut session = ended(0);
    assert_eq!(session.close_epoch(), None);
    assert_eq!(queue(&mut session, &batch(1, 4)).lost, []);
    let plan = queue(&mut session, &batch(5, 3));
    assert_eq!((plan.next.0, plan.lost), (12, vec![gone(8)]));
    // At once, where the collector has it all, or even more than the agent.
    for durable in [7, 10] {
        let session = ended(durable);
        let plan = session.close_epoch().unwrap();
        assert_eq!((plan.parent.0, plan.next.0), (durable, 12));
        assert_eq!(plan.lost, [gone(durable + 1)]);
    }
    assert_eq!(ended(12).close_epoch(), None);
}

#[test]
fn an_agent_that_spoke_of_every_number_there_is_ends_its_epoch_below_the_last() {
    let hello = ingest::Hello {
        ended: true,
        ..hello(1)
    };
    let known = Known {
        durable: SequenceNumber(1000),
        sequenced: u64::MAX,
    };
    let mut session = Session::open(&Hello::check(hello, "node-a").unwrap(), known).0;
    let plan = session.close_epoch().unwrap();
    assert_eq!(plan.next.0, u64::MAX - 1);
    session.queue(&plan);
    // What follows is known already, and adds nothing up past the end.
    assert_eq!(queue(&mut session, &batch(1, 5)).skip, 5);
}

#[test]
fn batches_in_order_are_acknowledged() {
    let mut session = open(1, 0);
    queue(&mut session, &batch(1, 10));
    queue(&mut session, &batch(11, 5));
    for durable in [10, 15] {
        assert_eq!(
            session.handle_outcome(Outcome::Durable),
            Ok(Reply::Ack(SequenceNumber(durable)))
        );
    }
}

#[test]
fn duplicate_is_acknowledged_and_not_stored() {
    let mut session = open(1, 20);
    let plan = queue(&mut session, &batch(11, 10));
    assert_eq!(
        (plan.skip, plan.parent, plan.next),
        (10, plan.next, SequenceNumber(20))
    );
    assert_eq!(
        session.handle_outcome(Outcome::Durable),
        Ok(Reply::Ack(SequenceNumber(20)))
    );
}

#[test]
fn overlap_is_stored_once() {
    let mut session = open(1, 14);
    let plan = queue(&mut session, &batch(11, 10));
    assert_eq!((plan.skip, plan.next.0), (4, 20));
}

#[test]
fn hole_ends_the_session() {
    let mut session = open(1, 0);
    assert_eq!(
        session.handle_batch(&batch(5, 1)),
        Err(SessionError::OutOfOrder {
            first: 5,
            expected: 1
        })
    );
}

#[test]
fn hole_that_was_reported_is_a_loss() {
    let mut session = open(1, 0);
    let mut next = batch(5, 1);
    next.lost = vec![lost(1, 4)];
    let plan = queue(&mut session, &next);
    assert_eq!(plan.next.0, 5);
    assert_eq!(
        plan.lost,
        [LostRange {
            first: SequenceNumber(1),
            count: 4,
            reason: LossReason::AgentSpoolFull
        }]
    );
}

#[test]
fn loss_without_events_moves_the_watermark() {
    let mut session = open(1, 7);
    let mut next = batch(0, 0);
    next.lost = vec![lost(5, 10)];
    let plan = queue(&mut session, &next);
    assert_eq!((plan.parent.0, plan.next.0), (7, 14));
    assert_eq!(plan.lost[0].count, 7);
}

#[test]
fn loss_of_what_is_durable_is_none() {
    let mut session = open(1, 20);
    let mut next = batch(21, 1);
    next.lost = vec![lost(5, 10)];
    assert_eq!(queue(&mut session, &next).lost, []);
}

#[test]
fn what_another_store_had_is_missing_in_this_one() {
    let mut session = open(101, 0);
    let plan = queue(&mut session, &batch(101, 1));
    assert_eq!(
        plan.lost,
        [LostRange {
            first: SequenceNumber(1),
            count: 100,
            reason: LossReason::StoreMissing
        }]
    );
}

#[test]
fn agents_own_word_comes_before_missing() {
    let mut session = open(101, 0);
    let mut next = batch(101, 1);
    next.lost = vec![lost(41, 60)];
    let plan = queue(&mut session, &next);
    let parts: Vec<_> = plan
        .lost
        .iter()
        .map(|it| (it.first.0, it.count, it.reason))
        .collect();
    assert_eq!(
        parts,
        [
            (1, 40, LossReason::StoreMissing),
            (41, 60, LossReason::AgentSpoolFull)
        ]
    );
}

#[test]
fn poison_is_refused_and_the_session_goes_on() {
    let mut session = open(1, 0);
    let poison = batch(1, 10);
    plan(&mut session, &poison);
    assert_eq!(
        session.poison(&poison, "bad".to_owned()),
        Ok(Reply::Poison {
            first: 1,
            reason: "bad".to_owned()
        })
    );
    let next = queue(&mut session, &batch(11, 10));
    assert_eq!(next.lost[0].reason, LossReason::Quarantined);
    assert_eq!((next.lost[0].count, next.next.0), (10, 20));
}

#[test]
fn what_was_not_stored_is_asked_for_again_in_order() {
    let mut session = open(1, 0);
    queue(&mut session, &batch(1, 10));
    queue(&mut session, &batch(11, 10));
    let retry = |first| Ok(Reply::RetryLater { first });
    assert_eq!(session.handle_outcome(Outcome::Later), retry(1));
    assert_eq!(
        session.handle_outcome(Outcome::Superseded {
            durable: SequenceNumber(0)
        }),
        retry(11)
    );
    assert_eq!(
        session.handle_batch(&batch(21, 10)),
        Ok(Step::Reply(Reply::RetryLater { first: 21 }))
    );
    queue(&mut session, &batch(1, 10));
    queue(&mut session, &batch(11, 10));
    assert_eq!(
        session.handle_outcome(Outcome::Durable),
        Ok(Reply::Ack(SequenceNumber(10)))
    );
}

#[test]
fn reading_pauses_at_the_credit() {
    let mut session = open(1, 0);
    for index in 0..u64::from(CREDIT) {
        assert!(session.has_room());
        queue(&mut session, &batch(1 + index, 1));
    }
    assert!(!session.has_room());
    session.handle_outcome(Outcome::Durable).unwrap();
    assert!(session.has_room());
}

#[test]
fn malformed_batches_end_the_session() {
    let check = |batch: ingest::Batch| {
        assert!(open(1, 0).handle_batch(&batch).is_err(), "{batch:?}");
    };
    check(ingest::Batch::default());
    check(ingest::Batch {
        epoch: vec![2; 16],
        ..batch(1, 1)
    });
    check(batch(1, BATCH_EVENTS_MAX as u32 + 1));
    check(batch(0, 1));
    check(batch(u64::MAX, 2));
    check(ingest::Batch {
        lost: vec![lost(u64::MAX, 2)],
        ..batch(1, 1)
    });
    check(ingest::Batch {
        lost: vec![ingest::LostRange {
            reason: 99,
            ..lost(1, 2)
        }],
        ..batch(1, 1)
    });
}

#[test]
fn hello_must_fit_the_certificate() {
    let check = |change: &dyn Fn(&mut ingest::Hello)| {
        let mut hello = hello(1);
        change(&mut hello);
        assert!(Hello::check(hello, "node-a").is_err());
    };
    check(&|hello| hello.node = "node-b".to_owned());
    check(&|hello| hello.epoch = vec![1; 3]);
    check(&|hello| hello.first_sequence = 0);
    check(&|hello| hello.next_sequence = 0);
    check(&|hello| hello.boot_id = "x".repeat(1000));
}

/// What an agent, a network and a disk may do.
#[derive(Debug, Clone)]
enum Act {
    Send { count: u32, poison: bool },
    GiveUp { count: u64 },
    Store,
    Refuse,
    Reconnect,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (0..6u32, prop::bool::weighted(0.1))
            .prop_map(|(count, poison)| Act::Send { count, poison }),
        1 => (1..5u64).prop_map(|count| Act::GiveUp { count }),
        4 => Just(Act::Store),
        1 => Just(Act::Refuse),
        1 => Just(Act::Reconnect),
    ];
    prop::collection::vec(act, 1..120)
}

/// An agent that sends in order, and a store that keeps watermarks as the
/// writer does.
struct World {
    session: Session,
    plans: VecDeque<(Plan, u32)>,
    durable: u64,
    /// How often each number was stored or counted as lost.
    accounts: BTreeMap<u64, u32>,
    next: u64,
    given_up: Vec<ingest::LostRange>,
}

impl World {
    fn new() -> Self {
        Self {
            session: open(1, 0),
            plans: VecDeque::new(),
            durable: 0,
            accounts: BTreeMap::new(),
            next: 1,
            given_up: Vec::new(),
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Send { count, poison } => self.send(count, poison),
            Act::GiveUp { count } => {
                self.given_up.push(lost(self.next, count));
                self.next += count;
            }
            Act::Store => self.settle(true),
            Act::Refuse => self.settle(false),
            Act::Reconnect => {
                while !self.plans.is_empty() {
                    self.settle(true);
                }
                self.reopen();
            }
        }
    }

    fn send(&mut self, count: u32, poison: bool) {
        if self.session.in_flight.len() == CREDIT as usize {
            self.settle(true);
        }
        let mut sent = batch(self.next, count);
        sent.lost.clone_from(&self.given_up);
        match self.session.handle_batch(&sent).unwrap() {
            Step::Decode(_) if poison && count > 0 => {
                self.session.poison(&sent, String::new()).unwrap();
                self.next += u64::from(count);
            }
            Step::Decode(plan) => {
                self.session.queue(&plan);
                self.plans.push_back((plan, count));
                self.next = self.next.max(sent.first_sequence + u64::from(count));
            }
            Step::Reply(_) => {}
        }
    }

    fn settle(&mut self, stores: bool) {
        let Some((plan, count)) = self.plans.pop_front() else {
            return;
        };
        let outcome = if plan.parent.0 != self.durable {
            Outcome::Superseded {
                durable: SequenceNumber(self.durable),
            }
        } else if stores {
            for number in plan.first + plan.skip as u64..plan.first + u64::from(count) {
                *self.accounts.entry(number).or_default() += 1;
            }
            for range in &plan.lost {
                for number in range.first.0..=range.last() {
                    *self.accounts.entry(number).or_default() += 1;
                }
            }
            self.durable = plan.next.0;
            Outcome::Durable
        } else {
            Outcome::Later
        };
        match self.session.handle_outcome(outcome).unwrap() {
            // A real agent goes back to what is asked for again.
            Reply::RetryLater { .. } => self.next = self.durable + 1,
            Reply::Ack(durable) => assert_eq!(durable.0, self.durable),
            Reply::Poison { .. } => panic!("the store refuses nothing for good"),
        }
    }

    fn reopen(&mut self) {
        self.session = open(1, self.durable);
        self.next = self.durable + 1;
        self.given_up
            .retain(|range| range.first_sequence + range.count > self.next);
    }
}

proptest! {
    #[test]
    fn every_number_up_to_the_watermark_is_accounted_for_once(acts in acts()) {
        let mut world = World::new();
        for act in acts {
            world.act(act);
        }
        while !world.plans.is_empty() {
            world.settle(true);
        }
        let expected: BTreeMap<u64, u32> = (1..=world.durable).map(|number| (number, 1)).collect();
        prop_assert_eq!(world.accounts, expected);
    }

    #[test]
    fn no_header_makes_it_panic(
        first: u64, count: u32, held in 1..u64::MAX, durable in 0..u64::MAX / 2,
        ranges in prop::collection::vec((any::<u64>(), any::<u64>(), 0..12i32), 0..5),
    ) {
        let mut batch = batch(first, count);
        batch.lost = ranges.into_iter().map(|(first_sequence, count, reason)| ingest::LostRange {
            first_sequence, count, reason,
        }).collect();
        let mut hello = Hello::check(hello(1), "node-a").unwrap();
        hello.first = held;
        let (mut session, _) = Session::open(&hello, known(durable));
        if let Ok(Step::Decode(plan)) = session.handle_batch(&batch) {
            prop_assert!(plan.next >= plan.parent);
            prop_assert!(plan.skip <= count as usize);
            session.queue(&plan);
        }
    }
}
