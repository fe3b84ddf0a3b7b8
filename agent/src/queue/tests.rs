use std::time::Duration;

use proptest::prelude::*;
use shrike_proto::{
    event::{Fact, Open, Process},
    id::Generation,
};

use super::*;

fn queue(events_max: usize, batch_events_max: usize) -> Queue {
    Queue::new(
        Epoch([3; 16]),
        QueueLimits {
            events_max,
            bytes_max: 64 << 20,
        },
        BatchLimits {
            events_max: batch_events_max,
            delay: Duration::from_millis(100),
        },
    )
}

fn event(sequence: SequenceNumber, path_bytes: usize) -> Event {
    Event {
        sequence,
        time_unix_ns: 1,
        boot_time_ns: 2,
        cpu: 0,
        cpu_sequence: 0,
        generation: Generation::NONE,
        process: Process::default(),
        verdict: None,
        fact: Fact::Open(Open {
            path_as_asked: vec![b'a'; path_bytes],
            ..Open::default()
        }),
    }
}

fn fill(queue: &mut Queue, count: usize, now: Instant) {
    for _ in 0..count {
        queue.push(&event(queue.next_sequence(), 10), now);
    }
}

/// First sequence, count and lost ranges of a batch.
type Sent = (u64, u32, Vec<(u64, u64)>);

fn sent(queue: &mut Queue) -> Vec<Sent> {
    std::iter::from_fn(|| queue.take_next())
        .map(|batch| {
            batch::open(&batch).unwrap();
            let lost = batch
                .lost
                .iter()
                .map(|lost| (lost.first_sequence, lost.count))
                .collect();
            (batch.first_sequence, batch.count, lost)
        })
        .collect()
}

#[test]
fn batches_are_cut_by_count_and_by_delay() {
    let now = Instant::now();
    let mut queue = queue(1000, 4);
    fill(&mut queue, 6, now);
    assert_eq!(sent(&mut queue), [(1, 4, vec![])]);
    queue.cut_if_due(now + Duration::from_millis(99));
    assert_eq!(sent(&mut queue), []);
    queue.cut_if_due(now + Duration::from_millis(100));
    assert_eq!(sent(&mut queue), [(5, 2, vec![])]);
    assert_eq!(queue.cut_at(), None);
}

#[test]
fn batches_are_cut_before_the_wire_bound() {
    let now = Instant::now();
    let mut queue = queue(100_000, 16_384);
    for _ in 0..3000 {
        queue.push(&event(queue.next_sequence(), 4000), now);
    }
    queue.cut();
    let batches = sent(&mut queue);
    assert!(batches.len() >= 3);
    assert_eq!(
        batches.iter().map(|(_, count, _)| *count).sum::<u32>(),
        3000
    );
}

#[test]
fn batch_leaves_only_when_acknowledged() {
    let now = Instant::now();
    let mut queue = queue(1000, 2);
    fill(&mut queue, 4, now);
    assert_eq!(sent(&mut queue).len(), 2);
    assert_eq!(queue.acknowledge(SequenceNumber(1)), Ok(0));
    assert_eq!(queue.acknowledge(SequenceNumber(2)), Ok(1));
    assert_eq!(queue.first_sequence(), SequenceNumber(3));
    queue.rewind();
    assert_eq!(sent(&mut queue), [(3, 2, vec![])]);
    assert_eq!(queue.acknowledge(SequenceNumber(4)), Ok(1));
    assert!(queue.is_empty());
    assert_eq!((queue.events_held(), queue.bytes_held()), (0, 0));
}

#[test]
fn acknowledgement_of_what_was_never_cut_is_refused() {
    let mut queue = queue(1000, 2);
    fill(&mut queue, 3, Instant::now());
    assert_eq!(
        queue.acknowledge(SequenceNumber(3)),
        Err(AckError::Ahead {
            acked: SequenceNumber(3),
            sent: SequenceNumber(2)
        })
    );
}

#[test]
fn full_queue_gives_up_the_oldest_and_says_which() {
    let mut queue = queue(6, 2);
    fill(&mut queue, 10, Instant::now());
    assert_eq!(queue.lost()[&LossReason::AgentQueueFull], 4);
    assert_eq!(
        sent(&mut queue),
        [(5, 2, vec![(1, 4)]), (7, 2, vec![]), (9, 2, vec![])]
    );
    queue.acknowledge(SequenceNumber(10)).unwrap();
    assert!(queue.is_empty());
    assert_eq!(queue.lost()[&LossReason::AgentQueueFull], 4);
}

#[test]
fn batch_under_way_is_given_up_last() {
    let now = Instant::now();
    let mut queue = queue(6, 2);
    fill(&mut queue, 2, now);
    assert_eq!(sent(&mut queue), [(1, 2, vec![])]);
    fill(&mut queue, 6, now);
    assert_eq!(sent(&mut queue), [(5, 2, vec![(3, 2)]), (7, 2, vec![])]);
}

#[test]
fn events_that_arrived_after_all_do_not_count_as_lost() {
    let now = Instant::now();
    let mut queue = queue(4, 2);
    fill(&mut queue, 4, now);
    assert_eq!(sent(&mut queue).len(), 2);
    // The session ends with both under way, and the queue overflows.
    queue.rewind();
    fill(&mut queue, 2, now);
    assert_eq!(queue.lost()[&LossReason::AgentQueueFull], 2);
    // The next session's welcome says that they had been stored.
    queue.acknowledge(SequenceNumber(4)).unwrap();
    assert_eq!(queue.lost().get(&LossReason::AgentQueueFull), None);
}

#[test]
fn lost_range_that_begins_with_what_had_arrived_is_cut_short() {
    let now = Instant::now();
    let mut queue = queue(4, 2);
    fill(&mut queue, 4, now);
    sent(&mut queue);
    queue.rewind();
    fill(&mut queue, 4, now);
    assert_eq!(queue.lost()[&LossReason::AgentQueueFull], 4);
    queue.acknowledge(SequenceNumber(2)).unwrap();
    assert_eq!(queue.lost()[&LossReason::AgentQueueFull], 2);
    assert_eq!(sent(&mut queue), [(5, 2, vec![(3, 2)]), (7, 2, vec![])]);
}

#[test]
fn poisoned_batch_becomes_a_lost_range_and_the_rest_is_sent_again() {
    let mut queue = queue(100, 2);
    fill(&mut queue, 6, Instant::now());
    sent(&mut queue);
    let given_up = queue.give_up(SequenceNumber(3), LossReason::Quarantined);
    assert_eq!(given_up, Some(2));
    assert_eq!(sent(&mut queue), [(5, 2, vec![(3, 2)])]);
    assert_eq!(
        queue.give_up(SequenceNumber(3), LossReason::Quarantined),
        None
    );
}

#[test]
fn lost_range_at_the_end_travels_alone() {
    let mut queue = queue(100, 2);
    fill(&mut queue, 2, Instant::now());
    queue.give_up(SequenceNumber(1), LossReason::Quarantined);
    assert_eq!(sent(&mut queue), [(3, 0, vec![(1, 2)])]);
    queue.acknowledge(SequenceNumber(2)).unwrap();
    assert!(queue.is_empty());
}

#[test]
fn rewinding_to_a_batch_sends_it_and_what_follows_again() {
    let mut queue = queue(100, 2);
    fill(&mut queue, 6, Instant::now());
    sent(&mut queue);
    queue.rewind_to(SequenceNumber(3));
    assert_eq!(queue.batches_under_way(), 1);
    assert_eq!(sent(&mut queue), [(3, 2, vec![]), (5, 2, vec![])]);
}

#[derive(Debug, Clone)]
enum Step {
    Push(usize),
    Cut,
    Take,
    Acknowledge(u8),
    Rewind,
    GiveUp(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..20_usize).prop_map(Step::Push),
        Just(Step::Cut),
        Just(Step::Take),
        any::<u8>().prop_map(Step::Acknowledge),
        Just(Step::Rewind),
        any::<u8>().prop_map(Step::GiveUp),
    ]
}

proptest! {
    /// Whatever happens, the entries cover every number from the first that
    /// is not acknowledged to the last, and the bounds hold.
    #[test]
    fn sequence_has_no_holes_and_memory_is_bounded(
        steps in prop::collection::vec(step(), 0..120)
    ) {
        let now = Instant::now();
        let mut queue = queue(30, 4);
        for step in steps {
            match step {
                Step::Push(count) => fill(&mut queue, count, now),
                Step::Cut => queue.cut(),
                Step::Take => {
                    if let Some(batch) = queue.take_next() {
                        prop_assert!(batch::open(&batch).is_ok());
                        let after_lost = batch.lost.iter().fold(None, |expected, lost| {
                            assert!(expected.is_none_or(|e| e == lost.first_sequence));
                            Some(lost.first_sequence + lost.count)
                        });
                        prop_assert!(after_lost.is_none_or(|e| e == batch.first_sequence));
                    }
                }
                Step::Acknowledge(part) => {
                    let first = queue.first_sequence().0;
                    let span = queue.next_sequence().0 - first;
                    let durable = SequenceNumber(first + span * u64::from(part) / 256);
                    // Beyond what is cut it is refused, which is right too.
                    let _ = queue.acknowledge(durable);
                }
                Step::Rewind => queue.rewind(),
                Step::GiveUp(index) => {
                    let firsts: Vec<u64> = queue.entries.iter().map(Entry::first).collect();
                    if let Some(first) = firsts.get(usize::from(index) % firsts.len().max(1)) {
                        queue.give_up(SequenceNumber(*first), LossReason::Quarantined);
                    }
                }
            }
            let mut expected = queue.first_sequence().0;
            for entry in &queue.entries {
                prop_assert_eq!(entry.first(), expected);
                prop_assert!(entry.count() > 0);
                expected += entry.count();
            }
            prop_assert_eq!(expected + queue.open.events() as u64, queue.next_sequence().0);
            prop_assert!(queue.events_held() <= 30);
            prop_assert!(queue.under_way <= queue.entries.len());
            let held: usize = queue.entries.iter().map(|entry| match entry {
                Entry::Batch(batch) => batch.count as usize,
                Entry::Lost(_) => 0,
            }).sum();
            prop_assert_eq!(held + queue.open.events(), queue.events_held());
        }
    }
}
