//! The wall clock, read at the edges only.

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the time in Unix nanoseconds; 0 before 1970.
pub fn now_unix_ns() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
        })
}
