//! Whether what the hooks counted and what came out of the ring agree.
//!
//! Each record takes a number on its CPU before it can be lost, so a gap in
//! the numbers is a loss that some counter has to have. Each second the
//! counters are read, the ring is emptied, and they are read again:
//!
//! ```text
//! submitted before ≤ received            nothing vanished in the ring
//! received ≤ submitted after             nothing came that no hook counted
//! gaps in the numbers ≤ lost after       no loss that no hook counted
//! ```
//!
//! A hook at work has its number but is not counted yet, so each holds but
//! for a few records, and a disagreement has to last before it is one.

use std::fmt;

/// Records that hooks can be at work on: some for each CPU, nested or
/// preempted.
const AT_WORK_PER_CPU: u64 = 8;

/// Checks in a row that have to disagree.
const LASTING: u32 = 3;

/// What the hooks counted, as far as it is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counted {
    /// Records that the ring took.
    pub submitted: u64,
    /// Records that had a number and did not get into the ring.
    pub lost: u64,
}

/// A disagreement, for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Miscount {
    /// Records that the ring took did not come out of it.
    Vanished(u64),
    /// Records came out of the ring that no hook has counted.
    Uncounted(u64),
    /// Numbers are missing that no hook has counted as lost.
    UncountedLoss(u64),
}

impl fmt::Display for Miscount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vanished(count) => {
                write!(f, "{count} records went into the ring and did not come out")
            }
            Self::Uncounted(count) => {
                write!(
                    f,
                    "{count} records came out of the ring that no hook has counted"
                )
            }
            Self::UncountedLoss(count) => write!(
                f,
                "{count} numbers of records are missing that no hook has counted as lost"
            ),
        }
    }
}

/// Follows the numbers of records, and compares.
#[derive(Debug, Default)]
pub struct Continuity {
    cpus: Vec<Cpu>,
    /// Records whose number could not be read.
    undecodable: u64,
    disagreed: u32,
    /// The numbers began before: the first of each CPU that comes is its
    /// first.
    joins: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Cpu {
    received: u64,
    first: u64,
    /// One more than the highest number that was received.
    next: u64,
}

/// CPUs that a number can be of: more than any kernel has. A record with a
/// higher one is not of its form.
const CPUS_MAX: usize = 8192;

impl Continuity {
    /// Begins with programs that have run for a while.
    pub fn joining() -> Self {
        Self {
            joins: true,
            ..Self::default()
        }
    }

    /// Takes in a record that came out of the ring.
    pub fn receive(&mut self, cpu: u32, number: u64) {
        let cpu = cpu as usize;
        if cpu >= self.cpus.len() {
            if cpu >= CPUS_MAX {
                return;
            }
            self.cpus.resize(cpu + 1, Cpu::default());
        }
        let cpu = &mut self.cpus[cpu];
        if self.joins {
            cpu.first = if cpu.received == 0 {
                number
            } else {
                cpu.first.min(number)
            };
        }
        cpu.received += 1;
        cpu.next = cpu.next.max(number.saturating_add(1));
    }

    /// Takes in a record that is not of its form, and so has no number.
    pub fn receive_undecodable(&mut self) {
        self.undecodable += 1;
    }

    /// Compares, after the ring was emptied between the two readings. Returns
    /// a disagreement when it has lasted, once.
    pub fn check(&mut self, before: Counted, after: Counted) -> Option<Miscount> {
        match self.compare(before, after) {
            None => {
                self.disagreed = 0;
                None
            }
            Some(miscount) => {
                self.disagreed = self.disagreed.saturating_add(1);
                (self.disagreed == LASTING).then_some(miscount)
            }
        }
    }

    fn compare(&self, before: Counted, after: Counted) -> Option<Miscount> {
        let received: u64 =
            self.cpus.iter().map(|cpu| cpu.received).sum::<u64>() + self.undecodable;
        let gaps: u64 = self
            .cpus
            .iter()
            .map(|cpu| cpu.next.saturating_sub(cpu.first + cpu.received))
            .sum();
        let at_work = AT_WORK_PER_CPU * self.cpus.len().max(1) as u64;
        let beyond = |much: u64, little: u64| {
            let beyond = much.saturating_sub(little);
            (beyond > at_work).then_some(beyond)
        };
        beyond(before.submitted, received)
            .map(Miscount::Vanished)
            .or_else(|| beyond(received, after.submitted).map(Miscount::Uncounted))
            .or_else(|| beyond(gaps, after.lost + self.undecodable).map(Miscount::UncountedLoss))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counted(submitted: u64, lost: u64) -> Counted {
        Counted { submitted, lost }
    }

    /// Receives these numbers on CPU 0.
    fn received(numbers: impl IntoIterator<Item = u64>) -> Continuity {
        let mut continuity = Continuity::default();
        numbers
            .into_iter()
            .for_each(|number| continuity.receive(0, number));
        continuity
    }

    /// Checks until a disagreement has lasted.
    fn lasting(mut continuity: Continuity, counted: Counted) -> Option<Miscount> {
        let told: Vec<Miscount> = (0..10)
            .filter_map(|_| continuity.check(counted, counted))
            .collect();
        assert!(told.len() <= 1, "told again: {told:?}");
        told.into_iter().next()
    }

    #[test]
    fn numbers_that_began_before_are_no_gap() {
        let check = |numbers: &[u64], expect: Option<Miscount>| {
            let mut continuity = Continuity::joining();
            numbers
                .iter()
                .for_each(|number| continuity.receive(0, *number));
            assert_eq!(
                lasting(continuity, counted(numbers.len() as u64, 0)),
                expect
            );
        };
        check(&[5001, 5000, 5002], None);
        check(&[5000, 5100], Some(Miscount::UncountedLoss(99)));
    }

    #[test]
    fn disagreements_are_told_apart() {
        let check = |numbers: Vec<u64>, counted: Counted, expect: Option<Miscount>| {
            assert_eq!(lasting(received(numbers), counted), expect);
        };
        check((0..100).collect(), counted(100, 0), None);
        check(
            (0..100).collect(),
            counted(150, 0),
            Some(Miscount::Vanished(50)),
        );
        check(
            (0..100).collect(),
            counted(50, 0),
            Some(Miscount::Uncounted(50)),
        );
        // 20 to 79 were lost.
        let holes: Vec<u64> = (0..20).chain(80..100).collect();
        check(holes.clone(), counted(40, 60), None);
        check(holes, counted(40, 10), Some(Miscount::UncountedLoss(50)));
    }

    #[test]
    fn undecodable_record_is_no_hole() {
        let mut continuity = received(50..100);
        (0..50).for_each(|_| continuity.receive_undecodable());
        assert_eq!(lasting(continuity, counted(100, 0)), None);
    }

    #[test]
    fn a_few_records_at_work_are_no_disagreement() {
        let within = AT_WORK_PER_CPU;
        assert_eq!(lasting(received(0..100), counted(100 + within, 0)), None);
        assert_eq!(lasting(received(0..100), counted(100 - within, 0)), None);
        assert!(lasting(received(0..100), counted(101 + within, 0)).is_some());
    }

    #[test]
    fn disagreement_has_to_last() {
        let mut continuity = received(0..100);
        let (wrong, right) = (counted(200, 0), counted(100, 0));
        for _ in 0..10 {
            assert_eq!(continuity.check(wrong, wrong), None);
            assert_eq!(continuity.check(wrong, wrong), None);
            assert_eq!(continuity.check(right, right), None);
        }
    }

    proptest! {
        /// Whatever is lost, in whatever order records come: as long as the
        /// hooks count right, there is nothing to tell.
        #[test]
        fn right_counts_agree(
            fates in prop::collection::vec((0..4_u32, any::<bool>()), 0..400),
            order in any::<u64>(),
        ) {
            let mut numbers = [0; 4];
            let (mut records, mut lost) = (Vec::new(), 0);
            for (cpu, arrives) in fates {
                let number = &mut numbers[cpu as usize];
                if arrives {
                    records.push((cpu, *number));
                } else {
                    lost += 1;
                }
                *number += 1;
            }
            // Programs that are preempted deliver out of order.
            records.sort_by_key(|(cpu, number)| (number ^ order) & 7 | u64::from(*cpu) << 3);
            let mut continuity = Continuity::default();
            for (cpu, number) in &records {
                continuity.receive(*cpu, *number);
            }
            prop_assert_eq!(lasting(continuity, counted(records.len() as u64, lost)), None);
        }
    }
}
