//! How long to wait before the next attempt: exponential, with full jitter,
//! so that a fleet does not come back in step after a collector's restart.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(10);

/// Never less than this: a jitter of nearly 0 would be a busy loop.
const SHORTEST: Duration = Duration::from_millis(20);

/// Counts failures and hands out waiting times.
#[derive(Debug, Clone)]
pub struct Backoff {
    failures: u32,
    random: u64,
}

impl Backoff {
    /// Starts without failures. The seed only has to differ between nodes.
    pub fn new(seed: u64) -> Self {
        Self {
            failures: 0,
            random: seed,
        }
    }

    /// Counts a failure and returns how long to wait.
    pub fn next_delay(&mut self) -> Duration {
        let ceiling = FIRST
            .saturating_mul(1 << self.failures.min(16))
            .min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(self.uniform()).max(SHORTEST)
    }

    /// Forgets the failures.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Returns a number from 0 to 1: SplitMix64, which is plenty for jitter.
    fn uniform(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn delay_grows_to_its_ceiling_and_starts_over(seed: u64) {
            let mut backoff = Backoff::new(seed);
            for failures in 0..40 {
                let ceiling = FIRST.saturating_mul(1 << failures.min(16)).min(LONGEST);
                let delay = backoff.next_delay();
                prop_assert!(delay >= SHORTEST && delay <= ceiling);
            }
            backoff.reset();
            prop_assert!(backoff.next_delay() <= FIRST);
        }
    }

    #[test]
    fn delays_differ_between_nodes() {
        assert_ne!(Backoff::new(1).next_delay(), Backoff::new(2).next_delay());
    }
}
