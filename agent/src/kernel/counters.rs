//! What the hooks counted, summed over the CPUs.

use std::collections::BTreeMap;

use aya::maps::{MapData, PerCpuArray};
use shrike_agent_ebpf::counter::{Counters, Hook};
use shrike_proto::ledger::{HookCounts, LossReason};

use super::continuity::Counted;

/// Counts of one hook since the sensor was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HookCounters {
    /// Records that it set out to write.
    pub seen: u64,
    /// Records that the ring took.
    pub submitted: u64,
    /// Left out on purpose: the agent's own.
    pub filtered_own: u64,
    /// Left out on purpose: repeats of what went out before.
    pub filtered_repeated: u64,
    /// The ring had no room.
    pub lost_ring_full: u64,
    /// The record is longer than the longest one.
    pub lost_oversize: u64,
    /// The map of operations under way had no room.
    pub lost_pending_full: u64,
    /// A kernel structure could not be read.
    pub lost_unreadable: u64,
    /// It did not do its work: every scratch buffer was in use, what it decides
    /// about could not be read, or, for the programs as a whole, the kernel left
    /// it out. Not part of `seen`.
    pub missed: u64,
}

/// Counts of all hooks since the sensor was started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KernelCounters {
    /// By the hook's name.
    pub hooks: BTreeMap<&'static str, HookCounters>,
}

impl KernelCounters {
    /// Returns the sum of the hooks.
    pub fn total(&self) -> HookCounters {
        self.hooks
            .values()
            .fold(HookCounters::default(), |mut total, hook| {
                total.add(hook);
                total
            })
    }

    /// Returns what was lost, by the ledger's reasons. Reasons without a loss
    /// are left out.
    pub fn lost(&self) -> BTreeMap<LossReason, u64> {
        let total = self.total();
        [
            (LossReason::KernelRingFull, total.lost_ring_full),
            (LossReason::KernelPendingFull, total.lost_pending_full),
            (LossReason::KernelOversize, total.lost_oversize),
            (LossReason::KernelUnreadable, total.lost_unreadable),
            (LossReason::KernelProbeMissed, total.missed),
        ]
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .collect()
    }

    /// Leaves out what is somebody else's: the end of an operation that began
    /// before every hook was in place, and what an agent before this one
    /// reported.
    pub(super) fn forget(&mut self, base: &Self) {
        for (name, base) in &base.hooks {
            if let Some(hook) = self.hooks.get_mut(name) {
                let settled = base.submitted
                    + base.filtered()
                    + base.lost_ring_full
                    + base.lost_oversize
                    + base.lost_pending_full
                    + base.lost_unreadable;
                hook.seen = hook.seen.saturating_sub(settled);
                hook.submitted = hook.submitted.saturating_sub(base.submitted);
                hook.filtered_own = hook.filtered_own.saturating_sub(base.filtered_own);
                hook.filtered_repeated = hook
                    .filtered_repeated
                    .saturating_sub(base.filtered_repeated);
                hook.lost_oversize = hook.lost_oversize.saturating_sub(base.lost_oversize);
                hook.lost_ring_full = hook.lost_ring_full.saturating_sub(base.lost_ring_full);
                hook.lost_pending_full = hook
                    .lost_pending_full
                    .saturating_sub(base.lost_pending_full);
                hook.lost_unreadable = hook.lost_unreadable.saturating_sub(base.lost_unreadable);
                hook.missed = hook.missed.saturating_sub(base.missed);
            }
        }
    }

    /// Adds what other programs counted.
    pub(super) fn add(&mut self, other: &Self) {
        for (name, counters) in &other.hooks {
            self.hooks.entry(name).or_default().add(counters);
        }
    }

    /// Returns `seen - submitted - filtered - lost`: other than 0 only while
    /// a hook is at work.
    pub fn unaccounted(&self) -> i128 {
        let total = self.total();
        i128::from(total.seen)
            - i128::from(total.submitted)
            - i128::from(total.filtered())
            - i128::from(total.lost_ring_full)
            - i128::from(total.lost_pending_full)
            - i128::from(total.lost_oversize)
            - i128::from(total.lost_unreadable)
    }

    /// Returns what the numbers of records are compared with. What was lost
    /// before it had a number is not part of it.
    pub(super) fn counted(&self) -> Counted {
        let total = self.total();
        Counted {
            submitted: total.submitted,
            lost: total.lost_ring_full + total.lost_oversize,
        }
    }
}

impl HookCounters {
    /// Returns what was left out on purpose.
    pub fn filtered(&self) -> u64 {
        self.filtered_own + self.filtered_repeated
    }

    fn add(&mut self, other: &Self) {
        self.seen += other.seen;
        self.submitted += other.submitted;
        self.filtered_own += other.filtered_own;
        self.filtered_repeated += other.filtered_repeated;
        self.lost_oversize += other.lost_oversize;
        self.lost_ring_full += other.lost_ring_full;
        self.lost_pending_full += other.lost_pending_full;
        self.lost_unreadable += other.lost_unreadable;
        self.missed += other.missed;
    }
}

impl From<&HookCounters> for HookCounts {
    fn from(counters: &HookCounters) -> Self {
        Self {
            seen: counters.seen,
            submitted: counters.submitted,
            filtered_own: counters.filtered_own,
            filtered_repeated: counters.filtered_repeated,
            lost_ring_full: counters.lost_ring_full,
            lost_pending_full: counters.lost_pending_full,
            lost_oversize: counters.lost_oversize,
            lost_unreadable: counters.lost_unreadable,
            missed: counters.missed,
        }
    }
}

impl From<&Counters> for HookCounters {
    fn from(counters: &Counters) -> Self {
        Self {
            seen: counters.seen + counters.repeated,
            submitted: counters.submitted,
            filtered_own: counters.filtered,
            filtered_repeated: counters.repeated,
            lost_oversize: counters.lost_oversize,
            lost_ring_full: counters.lost_ring_full,
            lost_pending_full: counters.lost_pending_full,
            lost_unreadable: counters.lost_unreadable,
            missed: counters.missed,
        }
    }
}

/// What one hook counted on one CPU since its programs were attached, whatever
/// agents came and went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuCounters {
    /// The hook's name.
    pub hook: &'static str,
    /// The CPU's number.
    pub cpu: usize,
    /// What it counted.
    pub counts: HookCounters,
}

/// Reads the counters map without adding up the CPUs; those that counted
/// nothing are left out.
///
/// # Errors
/// What the kernel said.
pub fn read_by_cpu(
    map: &PerCpuArray<MapData, Counters>,
) -> Result<Vec<CpuCounters>, aya::maps::MapError> {
    let mut found = Vec::new();
    for hook in Hook::ALL {
        let of_cpus = map.get(&(hook as u32), 0)?;
        found.extend(of_cpus.iter().enumerate().filter_map(|(cpu, counters)| {
            let counts = HookCounters::from(counters);
            (counts != HookCounters::default()).then_some(CpuCounters {
                hook: hook.as_str(),
                cpu,
                counts,
            })
        }));
    }
    Ok(found)
}

/// Sums the counters map.
///
/// # Errors
/// What the kernel said.
pub fn read(map: &PerCpuArray<MapData, Counters>) -> Result<KernelCounters, aya::maps::MapError> {
    let mut hooks = BTreeMap::new();
    for hook in Hook::ALL {
        let mut sum = HookCounters::default();
        for counters in map.get(&(hook as u32), 0)?.iter() {
            sum.add(&HookCounters::from(counters));
        }
        hooks.insert(hook.as_str(), sum);
    }
    Ok(KernelCounters { hooks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_that_began_unseen_are_left_out() {
        let hook = |seen, submitted, lost_pending_full| KernelCounters {
            hooks: BTreeMap::from([(
                "file-open",
                HookCounters {
                    seen,
                    submitted,
                    lost_pending_full,
                    ..HookCounters::default()
                },
            )]),
        };
        let mut counters = hook(100, 80, 20);
        counters.forget(&hook(17, 0, 17));
        assert_eq!(counters, hook(83, 80, 3));
        assert_eq!(counters.unaccounted(), 0);
    }

    #[test]
    fn what_an_agent_before_reported_is_left_out() {
        let hook = |seen, submitted, filtered, lost_ring_full| KernelCounters {
            hooks: BTreeMap::from([(
                "file-open",
                HookCounters {
                    seen,
                    submitted,
                    filtered_own: filtered,
                    lost_ring_full,
                    ..HookCounters::default()
                },
            )]),
        };
        let mut counters = hook(100, 70, 20, 10);
        counters.forget(&hook(0, 60, 15, 4));
        assert_eq!(counters, hook(21, 10, 5, 6));
        counters.add(&hook(3, 3, 0, 0));
        assert_eq!(counters, hook(24, 13, 5, 6));
        assert_eq!(counters.unaccounted(), 0);
    }

    #[test]
    fn missed_hooks_saw_nothing() {
        let counters = KernelCounters {
            hooks: BTreeMap::from([
                (
                    "file-open",
                    HookCounters {
                        seen: 17,
                        submitted: 6,
                        filtered_own: 1,
                        filtered_repeated: 3,
                        lost_oversize: 1,
                        lost_ring_full: 2,
                        lost_pending_full: 1,
                        lost_unreadable: 3,
                        missed: 5,
                    },
                ),
                ("process-exit", HookCounters::default()),
            ]),
        };
        assert_eq!(counters.unaccounted(), 0);
        assert_eq!(
            counters.lost(),
            BTreeMap::from([
                (LossReason::KernelRingFull, 2),
                (LossReason::KernelPendingFull, 1),
                (LossReason::KernelOversize, 1),
                (LossReason::KernelUnreadable, 3),
                (LossReason::KernelProbeMissed, 5),
            ])
        );
    }
}
