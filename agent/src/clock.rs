//! From the kernel's boot clock to the wall clock.
//!
//! Hooks read `CLOCK_BOOTTIME`, which never jumps; people want Unix time. The
//! difference is estimated, and estimated again now and then because the wall
//! clock is stepped and slewed.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// The estimate is renewed after this much boot time.
const RENEW_AFTER_NS: u64 = 10_000_000_000;

/// The wall clock at the boot clock's zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WallClock {
    boot_unix_ns: i64,
    estimated_at_ns: u64,
}

impl WallClock {
    /// Estimates from the running kernel's clocks.
    pub fn estimate() -> Self {
        // The boot clock is read on both sides of the wall clock, so that
        // being interrupted between two reads costs half of the pause.
        let before = nanoseconds(clock_gettime(ClockId::Boottime));
        let wall = unix_ns();
        let after = nanoseconds(clock_gettime(ClockId::Boottime));
        Self {
            boot_unix_ns: wall - (before + after) / 2,
            estimated_at_ns: u64::try_from(after).unwrap_or(0),
        }
    }

    /// Builds a clock from a known boot instant.
    pub fn at(boot_unix_ns: i64) -> Self {
        Self {
            boot_unix_ns,
            estimated_at_ns: u64::MAX,
        }
    }

    /// Returns the Unix time of an instant on the boot clock.
    pub fn unix_ns(&mut self, boot_time_ns: u64) -> i64 {
        if boot_time_ns.saturating_sub(self.estimated_at_ns) > RENEW_AFTER_NS {
            *self = Self::estimate();
        }
        self.boot_unix_ns.saturating_add_unsigned(boot_time_ns)
    }
}

/// Returns the wall clock, in Unix nanoseconds.
pub fn unix_ns() -> i64 {
    nanoseconds(clock_gettime(ClockId::Realtime))
}

/// Returns the boot clock.
pub fn boot_time_ns() -> u64 {
    u64::try_from(nanoseconds(clock_gettime(ClockId::Boottime))).unwrap_or(0)
}

fn nanoseconds(time: Timespec) -> i64 {
    time.tv_sec
        .saturating_mul(1_000_000_000)
        .saturating_add(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_time_is_added_to_the_boot_instant() {
        assert_eq!(WallClock::at(1000).unix_ns(234), 1234);
    }

    #[test]
    fn estimate_agrees_with_the_wall_clock() {
        let boot_ns = nanoseconds(clock_gettime(ClockId::Boottime));
        let wall_ns = nanoseconds(clock_gettime(ClockId::Realtime));
        let estimated = WallClock::estimate().unix_ns(boot_ns.try_into().unwrap());
        assert!((estimated - wall_ns).abs() < 1_000_000_000);
    }
}
