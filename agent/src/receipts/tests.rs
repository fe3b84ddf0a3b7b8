use std::collections::BTreeMap;

use proptest::prelude::*;
use shrike_proto::{
    event::{Action, Exit, Obstacle, Open},
    id::{Generation, PolicyName, RuleName, SequenceNumber},
};

use super::*;

/// The process's start, in a clock tick of its own.
const START_BOOT_NS: u64 = 50_000_000;

fn event(sequence: u64, tgid: u32, outcome: Option<Outcome>, fact: Fact) -> Event {
    Event {
        sequence: SequenceNumber(sequence),
        time_unix_ns: 0,
        boot_time_ns: 1_000 * sequence,
        cpu: 0,
        cpu_sequence: 0,
        generation: Generation(3),
        process: Process {
            tgid,
            start_boot_ns: START_BOOT_NS,
            ..Process::default()
        },
        verdict: outcome.map(|outcome| Verdict {
            action: Action::Kill,
            policy: PolicyName::parse("p").unwrap(),
            rule: RuleName::parse("r").unwrap(),
            outcome,
            denied: false,
        }),
        fact,
    }
}

fn killed(sequence: u64, tgid: u32, outcome: Outcome) -> Event {
    event(sequence, tgid, Some(outcome), Fact::Open(Open::default()))
}

fn exit(sequence: u64, tgid: u32, signal: u32) -> Event {
    let exit = Exit {
        signal,
        ..Exit::default()
    };
    event(sequence, tgid, None, Fact::Exit(exit))
}

fn receipt_of(event: &Event) -> Option<&Receipt> {
    match &event.fact {
        Fact::Exit(exit) => exit.receipt.as_ref(),
        _ => None,
    }
}

fn receipts() -> Receipts {
    Receipts::new(PATIENCE_DEFAULT)
}

fn alive() -> Fate {
    Fate::Alive {
        obstacle: Obstacle::Uninterruptible,
        detail: "thread 7 waits".to_owned(),
    }
}

/// Runs one verdict and one exit, and returns the exit's receipt.
fn receipt(outcome: Option<Outcome>, signal: u32) -> Option<Receipt> {
    let (mut receipts, now) = (receipts(), Instant::now());
    receipts.observe(&mut event(1, 7, outcome, Fact::Open(Open::default())), now);
    let mut exited = exit(2, 7, signal);
    receipts.observe(&mut exited, now);
    assert_eq!(receipts.followed(), 0);
    receipt_of(&exited).cloned()
}

#[test]
fn kill_that_worked_has_a_receipt() {
    let receipt = receipt(Some(Outcome::SignalSent), 9).unwrap();
    assert!(receipt.died_by_it);
    assert_eq!(receipt.verdict_sequence, SequenceNumber(1));
    assert_eq!(receipt.generation, Generation(3));
    assert_eq!(receipt.after_ns, 1_000);
}

#[test]
fn exit_of_its_own_is_not_claimed() {
    assert!(!receipt(Some(Outcome::SignalSent), 0).unwrap().died_by_it);
    let failed = receipt(Some(Outcome::SignalFailed(-1)), 9).unwrap();
    assert!(!failed.died_by_it);
    assert_eq!(failed.signal_result, -1);
}

#[test]
fn only_signals_have_receipts() {
    assert_eq!(receipt(None, 9), None);
    assert_eq!(receipt(Some(Outcome::Observed), 9), None);
    assert_eq!(receipt(Some(Outcome::SparedInit), 9), None);
    assert_eq!(receipt(Some(Outcome::Denied), 9), None);
}

#[test]
fn other_process_with_the_same_number_gets_none() {
    let (mut receipts, now) = (receipts(), Instant::now());
    receipts.observe(&mut killed(1, 7, Outcome::SignalSent), now);
    let mut other = exit(2, 7, 9);
    other.process.start_boot_ns = 77_000_000_000;
    receipts.observe(&mut other, now);
    assert_eq!(receipt_of(&other), None);
}

#[test]
fn failed_signal_is_an_alert_at_once() {
    let mut receipts = receipts();
    let mut event = killed(1, 7, Outcome::SignalFailed(-3));
    let alarm = receipts.observe(&mut event, Instant::now()).unwrap();
    assert_eq!(alarm.process, event.process);
    assert!(
        matches!(&alarm.alert.cause, Cause::SignalFailed(receipt) if receipt.signal_result == -3),
        "{alarm:?}"
    );
}

#[test]
fn survivor_is_told_once_and_its_late_death_has_a_receipt() {
    let (mut receipts, now) = (receipts(), Instant::now());
    receipts.observe(&mut killed(1, 7, Outcome::SignalSent), now);
    let early = now + PATIENCE_DEFAULT - Duration::from_millis(1);
    assert_eq!(receipts.overdue(early), None);
    let late = now + PATIENCE_DEFAULT;
    let key = receipts.overdue(late).unwrap();
    let alarm = receipts.settle(key, alive(), late, 6_000).unwrap();
    let Cause::KillSurvived { receipt, obstacle } = &alarm.alert.cause else {
        panic!("{alarm:?}");
    };
    assert_eq!(*obstacle, Obstacle::Uninterruptible);
    assert_eq!(receipt.after_ns, 5_000);
    assert_eq!(alarm.verdict.unwrap().rule.as_str(), "r");
    assert_eq!(receipts.overdue(late + 100 * PATIENCE_DEFAULT), None);

    let mut exited = exit(9, 7, 9);
    receipts.observe(&mut exited, late);
    let receipt = receipt_of(&exited).unwrap();
    assert!(receipt.died_by_it);
    assert_eq!(receipt.after_ns, 8_000);
}

#[test]
fn process_that_is_gone_gets_time_for_its_exit_to_arrive() {
    for arrives in [true, false] {
        let (mut receipts, now) = (receipts(), Instant::now());
        receipts.observe(&mut killed(1, 7, Outcome::SignalSent), now);
        let first = now + PATIENCE_DEFAULT;
        let key = receipts.overdue(first).unwrap();
        assert_eq!(receipts.settle(key, Fate::Gone, first, 0), None);
        assert_eq!(receipts.overdue(first), None);
        if arrives {
            let mut exited = exit(2, 7, 9);
            receipts.observe(&mut exited, first);
            assert!(receipt_of(&exited).unwrap().died_by_it);
        }
        let second = first + PATIENCE_DEFAULT;
        let key = receipts.overdue(second);
        assert_eq!(key.is_none(), arrives);
        if let Some(key) = key {
            let alarm = receipts.settle(key, Fate::Gone, second, 0).unwrap();
            assert!(matches!(alarm.alert.cause, Cause::KillUnproven(_)));
        }
        assert_eq!(receipts.followed(), 0);
    }
}

#[test]
fn too_many_kills_are_looked_at_before_their_time() {
    let (mut receipts, now) = (receipts(), Instant::now());
    let total = 3 * PENDING_MAX as u32;
    let mut told = 0;
    for tgid in 1..=total {
        receipts.observe(&mut killed(1, tgid, Outcome::SignalSent), now);
        while let Some(key) = receipts.overdue(now) {
            told += u32::from(receipts.settle(key, alive(), now, 0).is_some());
        }
        assert!(receipts.followed() <= 2 * PENDING_MAX + 1);
        assert!(receipts.deadlines.len() <= 2 * PENDING_MAX + 1);
        assert!(receipts.told.len() <= PENDING_MAX);
    }
    assert!(told > 0, "nobody was told of any");
}

/// What can happen, in any order.
#[derive(Debug, Clone)]
enum Step {
    Kill { tgid: u32, result: i32 },
    Exit { tgid: u32, signal: u32 },
    Wait { milliseconds: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let tgid = 1..6_u32;
    prop_oneof![
        (tgid.clone(), prop::sample::select(vec![0, 0, -1]))
            .prop_map(|(tgid, result)| Step::Kill { tgid, result }),
        (tgid, prop::sample::select(vec![0, 9]))
            .prop_map(|(tgid, signal)| Step::Exit { tgid, signal }),
        (0..9_000_u64).prop_map(|milliseconds| Step::Wait { milliseconds }),
    ]
}

proptest! {
    /// Each process that was sent a signal ends with one receipt or is told
    /// of, and one that was not has neither.
    #[test]
    fn every_signal_is_accounted_for(steps in prop::collection::vec(step(), 1..60)) {
        let (mut receipts, mut now) = (receipts(), Instant::now());
        // What is expected of each: the signal's result, and since when.
        let mut asked: BTreeMap<u32, (i32, Instant)> = BTreeMap::new();
        let mut told: Vec<u32> = Vec::new();
        for (step, sequence) in steps.into_iter().zip(1..) {
            match step {
                Step::Kill { tgid, result } => {
                    let outcome = if result == 0 { Outcome::SignalSent } else { Outcome::SignalFailed(result) };
                    let alarm = receipts.observe(&mut killed(sequence, tgid, outcome), now);
                    prop_assert_eq!(alarm.is_some(), result != 0);
                    let entry = asked.entry(tgid).or_insert((result, now));
                    if entry.0 != 0 && result == 0 {
                        *entry = (0, now);
                    }
                }
                Step::Exit { tgid, signal } => {
                    let mut exited = exit(sequence, tgid, signal);
                    receipts.observe(&mut exited, now);
                    let died = receipt_of(&exited).map(|receipt| receipt.died_by_it);
                    let expect = asked.remove(&tgid).map(|(result, _)| result == 0 && signal == 9);
                    prop_assert_eq!(died, expect);
                    told.retain(|other| *other != tgid);
                }
                Step::Wait { milliseconds } => now += Duration::from_millis(milliseconds),
            }
            while let Some(key) = receipts.overdue(now) {
                let alarm = receipts.settle(key, alive(), now, 0).unwrap();
                prop_assert!(!told.contains(&alarm.process.tgid), "told twice");
                told.push(alarm.process.tgid);
            }
            for (tgid, (result, since)) in &asked {
                let due = *result == 0 && now >= *since + PATIENCE_DEFAULT;
                prop_assert_eq!(told.contains(tgid), due, "process {}", tgid);
            }
            prop_assert_eq!(receipts.followed(), asked.len());
        }
    }
}
