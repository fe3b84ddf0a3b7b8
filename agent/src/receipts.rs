//! What came of each kill: a verdict that asked for one is matched with the
//! process's own exit.
//!
//! A verdict alone only says what was asked. The receipt on the exit event
//! says what happened, so that nobody has to take the kernel's word for it.

use std::collections::VecDeque;

use foldhash::HashMap;
use shrike_proto::event::{Event, Fact, Outcome, Receipt};

use crate::enrich::ProcessKey;

/// Kills whose exit has not been seen yet. A signalled process exits within
/// milliseconds; only lost exits make them pile up.
const PENDING_MAX: usize = 4096;

/// SIGKILL (signal(7)).
const SIGKILL: u32 = 9;

/// Kills that wait for their process's exit.
#[derive(Debug, Default)]
pub struct Receipts {
    pending: HashMap<ProcessKey, Receipt>,
    order: VecDeque<ProcessKey>,
}

impl Receipts {
    /// Remembers a kill, or puts its receipt onto the exit. The event must
    /// have its sequence number.
    pub fn observe(&mut self, event: &mut Event) {
        let key = ProcessKey::of(&event.process);
        if let Some(receipt) = asked(event) {
            self.remember(key, receipt);
        }
        if let Fact::Exit(exit) = &mut event.fact
            && let Some(mut receipt) = self.pending.remove(&key)
        {
            receipt.died_by_it = receipt.signal_result == 0 && exit.signal == SIGKILL;
            exit.receipt = Some(receipt);
        }
    }

    fn remember(&mut self, key: ProcessKey, receipt: Receipt) {
        match self.pending.get_mut(&key) {
            // The signal that got through is the one that it dies by.
            Some(earlier) if earlier.signal_result != 0 && receipt.signal_result == 0 => {
                *earlier = receipt;
            }
            Some(_) => {}
            None => {
                self.pending.insert(key, receipt);
                self.order.push_back(key);
            }
        }
        while self.order.len() > PENDING_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.pending.remove(&oldest);
        }
    }
}

fn asked(event: &Event) -> Option<Receipt> {
    let verdict = event.verdict.as_ref()?;
    let signal_result = match verdict.outcome {
        Outcome::SignalSent => 0,
        Outcome::SignalFailed(result) => result,
        Outcome::Noted
        | Outcome::Observed
        | Outcome::SparedInit
        | Outcome::SparedKernelThread
        | Outcome::SparedAgent
        | Outcome::SparedProtected
        | Outcome::BreakerOpen
        | Outcome::Denied => return None,
    };
    Some(Receipt {
        generation: event.generation,
        policy: verdict.policy.clone(),
        rule: verdict.rule.clone(),
        signal_result,
        died_by_it: false,
        verdict_sequence: event.sequence,
    })
}

#[cfg(test)]
mod tests {
    use shrike_proto::{
        event::{Action, Exit, Open, Process, Verdict},
        id::{Generation, PolicyName, RuleName, SequenceNumber},
    };

    use super::*;

    fn event(sequence: u64, tgid: u32, outcome: Option<Outcome>, fact: Fact) -> Event {
        Event {
            sequence: SequenceNumber(sequence),
            time_unix_ns: 0,
            boot_time_ns: 0,
            cpu: 0,
            cpu_sequence: 0,
            generation: Generation(3),
            process: Process {
                tgid,
                start_boot_ns: 5,
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

    fn exit(signal: u32) -> Fact {
        Fact::Exit(Exit {
            signal,
            ..Exit::default()
        })
    }

    /// Runs one verdict and one exit, and returns the exit's receipt.
    fn receipt(outcome: Option<Outcome>, signal: u32) -> Option<Receipt> {
        let mut receipts = Receipts::default();
        receipts.observe(&mut event(1, 7, outcome, Fact::Open(Open::default())));
        let mut exited = event(2, 7, None, exit(signal));
        receipts.observe(&mut exited);
        assert!(receipts.pending.is_empty());
        match exited.fact {
            Fact::Exit(exit) => exit.receipt,
            _ => None,
        }
    }

    #[test]
    fn kill_that_worked_has_a_receipt() {
        let receipt = receipt(Some(Outcome::SignalSent), 9).unwrap();
        assert!(receipt.died_by_it);
        assert_eq!(receipt.verdict_sequence, SequenceNumber(1));
        assert_eq!(receipt.generation, Generation(3));
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
    }

    #[test]
    fn other_process_with_the_same_number_gets_none() {
        let mut receipts = Receipts::default();
        let sent = Some(Outcome::SignalSent);
        receipts.observe(&mut event(1, 7, sent, Fact::Open(Open::default())));
        let mut other = event(2, 7, None, exit(9));
        other.process.start_boot_ns = 77_000_000_000;
        receipts.observe(&mut other);
        assert!(matches!(&other.fact, Fact::Exit(exit) if exit.receipt.is_none()));
    }

    #[test]
    fn kills_without_an_exit_are_bounded() {
        let mut receipts = Receipts::default();
        for tgid in 1..10_000 {
            let sent = Some(Outcome::SignalSent);
            receipts.observe(&mut event(1, tgid, sent, Fact::Open(Open::default())));
        }
        assert!(receipts.pending.len() <= PENDING_MAX);
        assert!(receipts.order.len() <= PENDING_MAX);
    }
}
