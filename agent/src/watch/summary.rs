//! What became of everything that the kernel saw, at the end of a watch.

use std::fmt;

use shrike_proto::ledger::{Ledger, LossReason};

/// The loss summary.
#[derive(Debug)]
pub(super) struct Summary {
    /// Who counted what; its sequenced events are those that were to be
    /// printed.
    pub(super) ledger: Ledger,
    /// Events that were printed.
    pub(super) printed: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ledger = &self.ledger;
        let missed = ledger
            .lost
            .get(&LossReason::KernelProbeMissed)
            .copied()
            .unwrap_or(0);
        write!(
            f,
            "seen {} = delivered {} + filtered {} + lost {}",
            ledger.seen,
            self.printed,
            ledger.filtered,
            ledger.lost_total() - missed,
        )?;
        let unprinted = ledger.sequenced.saturating_sub(self.printed);
        if unprinted > 0 {
            write!(f, " + not printed {unprinted} (nobody read)")?;
        }
        if ledger.unaccounted() != 0 {
            write!(f, " + unaccounted for {}", ledger.unaccounted())?;
        }
        for (reason, count) in &ledger.lost {
            if *reason != LossReason::KernelProbeMissed {
                write!(f, "\nlost {}: {count}", reason.as_str())?;
            }
        }
        if missed > 0 {
            write!(f, "\nhooks that the kernel did not run: {missed}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn parts_add_up() {
        let summary = Summary {
            ledger: Ledger {
                seen: 100,
                filtered: 10,
                lost: BTreeMap::from([
                    (LossReason::KernelRingFull, 5),
                    (LossReason::KernelProbeMissed, 2),
                ]),
                sequenced: 85,
                ..Ledger::default()
            },
            printed: 85,
        };
        assert_eq!(
            summary.to_string(),
            "seen 100 = delivered 85 + filtered 10 + lost 5\n\
             lost kernel-ring-full: 5\n\
             hooks that the kernel did not run: 2"
        );
    }

    #[test]
    fn what_is_missing_is_said() {
        let summary = Summary {
            ledger: Ledger {
                seen: 100,
                sequenced: 90,
                ..Ledger::default()
            },
            printed: 80,
        };
        assert_eq!(
            summary.to_string(),
            "seen 100 = delivered 80 + filtered 0 + lost 0 \
             + not printed 10 (nobody read) + unaccounted for 10"
        );
    }
}
