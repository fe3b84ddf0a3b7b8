//! What keeps a policy from doing harm: programs that are never killed, and
//! the breaker that stops a rule which kills too much.

/// Programs that are never killed, at most.
pub const PROTECTED_MAX: u32 = 256;

/// What the breaker counts within.
pub const WINDOW_NS: u64 = 60_000_000_000;

/// One kill too many was asked for.
pub const OPEN: u64 = u64::MAX;

/// A program's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Program {
    /// Inode number.
    pub inode: u64,
    /// Kernel device number.
    pub device: u64,
}

/// Nanoseconds of a clock tick in /proc (`USER_HZ` is 100 on every
/// architecture that Shrike runs on).
pub const TICK_NS: u64 = 10_000_000;

/// The agent that owns the programs. A successor may take over programs that
/// run already, so it is not compiled in; and a thread group's number alone
/// would make an agent of whoever gets a dead one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Agent {
    /// Thread group.
    pub tgid: u64,
    /// Start of the process in clock ticks, which is as much as /proc tells.
    pub start_ticks: u64,
}

/// Kills of one rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Kills {
    /// Start of the minute that is counted, boot nanoseconds.
    pub since_ns: u64,
    /// Kills in it, or [`OPEN`].
    pub count: u64,
}

impl Kills {
    /// Says whether another kill is one too many, and counts it. Once it was
    /// one too many it stays so.
    #[inline(always)]
    pub fn count(&mut self, now_ns: u64, max: u64) -> bool {
        if self.count == OPEN {
            return true;
        }
        if now_ns.wrapping_sub(self.since_ns) > WINDOW_NS {
            self.since_ns = now_ns;
            self.count = 0;
        }
        if self.count >= max {
            self.count = OPEN;
            return true;
        }
        self.count += 1;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breaker_opens_at_the_limit_and_stays_open() {
        let mut kills = Kills::default();
        let minute = WINDOW_NS + 1;
        let check = |kills: &mut Kills, now: u64, open: bool| {
            assert_eq!(kills.count(now, 3), open, "{now}");
        };
        for now in [minute, minute + 1, minute + 2] {
            check(&mut kills, now, false);
        }
        check(&mut kills, minute + 3, true);
        check(&mut kills, 100 * minute, true);
    }

    #[test]
    fn slow_kills_never_open_the_breaker() {
        let mut kills = Kills::default();
        for number in 1..100 {
            assert!(!kills.count(number * (WINDOW_NS / 2), 3), "{number}");
        }
    }
}
