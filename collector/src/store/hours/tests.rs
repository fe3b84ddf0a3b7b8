use std::sync::Arc;

use super::*;
use crate::{
    sample,
    store::{Commit, memory::MemoryStore, stream::Watermark},
};

fn mark(number: u64, hour: i64, seen: u64, ring_full: u64, sequenced: u64) -> HourMark {
    HourMark {
        hour: Hour(hour),
        number,
        seen,
        filtered: 0,
        lost: BTreeMap::from([(LossReason::KernelRingFull, ring_full)]),
        sequenced,
    }
}

fn range(first: u64, count: u64) -> LostRange {
    LostRange {
        first: SequenceNumber(first),
        count,
        reason: LossReason::AgentSpoolFull,
    }
}

fn open(marks: &[HourMark]) -> OpenHours {
    let mut hours = OpenHours::default();
    hours.take_in(&marks.iter().cloned().collect());
    hours
}

#[test]
fn an_hour_closes_when_the_next_has_begun_and_its_numbers_are_durable() {
    let mut hours = open(&[mark(1, 7, 100, 10, 90)]);
    assert_eq!(hours.close(SequenceNumber(90)), [], "it goes on");
    hours.take_in(&VecDeque::from([
        mark(1, 7, 120, 10, 105),
        mark(2, 8, 150, 15, 130),
    ]));
    assert_eq!(hours.close(SequenceNumber(104)), []);
    let closed = hours.close(SequenceNumber(105));
    let [(Hour(7), counts)] = closed.as_slice() else {
        panic!("{closed:?}");
    };
    assert_eq!((counts.seen, counts.sequenced), (120, 105));
    assert_eq!((counts.stored(), counts.unaccounted), (105, 5));
    // The agent says it again.
    hours.take_in(&VecDeque::from([
        mark(1, 7, 120, 10, 105),
        mark(2, 8, 160, 15, 140),
    ]));
    let left = hours.counts(SequenceNumber(110));
    let [(Hour(8), counts)] = left.as_slice() else {
        panic!("{left:?}");
    };
    assert_eq!((counts.seen, counts.sequenced), (40, 35));
    assert_eq!(counts.lost[&LossReason::KernelRingFull], 5);
    assert_eq!((counts.in_flight, counts.stored()), (30, 5));
}

#[test]
fn what_is_counted_again_by_the_next_agent_counts_once() {
    let hours = open(&[
        mark(1, 7, 100, 10, 80),
        // Ten records were on their way when the agent before it ended.
        mark(2, 8, 90, 10, 80),
        mark(3, 9, 130, 10, 120),
    ]);
    let counts = hours.counts(SequenceNumber(120));
    let seen: Vec<u64> = counts.iter().map(|(_, counts)| counts.seen).collect();
    assert_eq!(seen, [100, 0, 30]);
}

#[test]
fn lost_numbers_are_booked_on_the_hours_that_have_them() {
    let mut hours = open(&[
        mark(1, 7, 100, 0, 100),
        mark(2, 8, 200, 0, 200),
        mark(3, 9, 210, 0, 210),
    ]);
    hours.lose(&range(90, 20));
    hours.lose(&range(150, 10));
    // Beyond what the agent told.
    hours.lose(&range(205, 20));
    let lost: Vec<_> = hours
        .counts(SequenceNumber(224))
        .iter()
        .map(|(hour, counts)| (hour.0, counts.lost[&LossReason::AgentSpoolFull]))
        .collect();
    assert_eq!(lost, [(7, 11), (8, 19), (9, 20)]);
}

#[test]
fn an_older_ledger_that_comes_late_takes_nothing_back() {
    let mut hours = open(&[mark(1, 7, 100, 0, 100)]);
    hours.take_in(&VecDeque::from([mark(1, 7, 50, 0, 50)]));
    assert_eq!(hours.counts(SequenceNumber(0))[0].1.seen, 100);
}

#[test]
fn open_hours_survive_the_store_and_are_bounded() {
    let mut hours = OpenHours::default();
    for number in 1..=2 * HOURS_MAX as u64 {
        hours.take_in(&VecDeque::from([mark(
            number,
            number as i64,
            number,
            0,
            number,
        )]));
        hours.lose(&range(number, 1));
    }
    assert_eq!(OpenHours::from_disk(hours.to_disk()), hours);
    let counts = hours.counts(SequenceNumber(0));
    assert_eq!(counts.len(), HOURS_MAX);
    let lost = counts.iter().flat_map(|(_, counts)| counts.lost.values());
    assert_eq!(lost.sum::<u64>(), 2 * HOURS_MAX as u64);
}

#[test]
fn closed_and_open_hours_are_listed_once_also_where_the_clock_went_back() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let stream = sample::stream();
    let mut hours = open(&[
        mark(1, 7, 10, 0, 10),
        mark(2, 8, 30, 0, 30),
        mark(3, 7, 60, 0, 60),
        mark(4, 8, 100, 0, 100),
    ]);
    let write = |hours: &OpenHours, closed: Vec<(Hour, HourCounts)>| {
        let mut gathered = ClosedHours::default();
        gathered.add(&stream, closed);
        let mark = Watermark {
            durable: SequenceNumber(100),
            hours: hours.clone(),
            ..Watermark::default()
        };
        let commit = Commit {
            watermarks: vec![(stream.clone(), mark)],
            records: gathered.changes(&*store).unwrap(),
            ..Commit::default()
        };
        store.commit(&commit).unwrap();
        let listed = list(&*store, Hour(0), Hour(9), |_| true).unwrap();
        let seen = |hour| -> u64 {
            let of_hour = listed.iter().filter(|one| one.hour == Hour(hour));
            of_hour.map(|one| one.counts.seen).sum()
        };
        (seen(7), seen(8))
    };
    assert_eq!(write(&hours, Vec::new()), (40, 60));
    let before = hours.clone();
    let closed = hours.close(SequenceNumber(35));
    assert_eq!(closed.len(), 2);
    // Read in between: what is closed is still in the watermark.
    assert_eq!(write(&before, closed), (40, 60));
    let closed = hours.close(SequenceNumber(100));
    assert_eq!(write(&hours, closed), (40, 60));
    assert_eq!(list(&*store, Hour(8), Hour(8), |_| true).unwrap().len(), 1);
    let commit = Commit {
        records: removals(&*store, Hour(8), 10).unwrap(),
        ..Commit::default()
    };
    store.commit(&commit).unwrap();
    assert_eq!(list(&*store, Hour(7), Hour(7), |_| true).unwrap(), []);
}
