//! Times as people write and read them.

use std::time::Duration;

use jiff::{Span, SpanRelativeTo, Timestamp};

/// A point in time as an option gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// An absolute time.
    At(Timestamp),
    /// This long before the command started.
    Ago(Duration),
}

impl Moment {
    /// Returns Unix nanoseconds, cut to what they can hold.
    pub(crate) fn unix_ns(self, now: Timestamp) -> i64 {
        let timestamp = match self {
            Self::At(timestamp) => timestamp,
            Self::Ago(duration) => now.saturating_sub(duration).unwrap_or(Timestamp::MIN),
        };
        let nanoseconds = timestamp.as_nanosecond();
        i64::try_from(nanoseconds).unwrap_or(if nanoseconds < 0 { i64::MIN } else { i64::MAX })
    }
}

/// Reads `5m`, `2h30m`, `1d`, or an RFC 3339 time.
pub(crate) fn parse_moment(text: &str) -> Result<Moment, String> {
    if text == "now" {
        return Ok(Moment::Ago(Duration::ZERO));
    }
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Ok(Moment::At(timestamp));
    }
    parse_duration(text).map(Moment::Ago).map_err(|_| {
        "write a time such as 2026-11-22T15:00:00Z, or how long ago: 90s, 5m, 2h30m, 1d".to_owned()
    })
}

/// Reads `90s`, `5m`, `2h30m`, `1d`; a day has 24 hours.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let error = || "write a duration such as 90s, 5m, 2h30m or 1d".to_owned();
    let span: Span = text.parse().map_err(|_| error())?;
    let duration = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| error())?;
    Duration::try_from(duration).map_err(|_| error())
}

/// Writes how long ago something was: `3s ago`, `5m ago`, `2h ago`, `4d ago`.
pub(crate) fn ago(unix_ns: i64, now: Timestamp) -> String {
    if unix_ns == 0 {
        return "never".to_owned();
    }
    let now_ns = i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX);
    let seconds = now_ns.saturating_sub(unix_ns).max(0) / 1_000_000_000;
    match seconds {
        0..=119 => format!("{seconds}s ago"),
        120..=7199 => format!("{}m ago", seconds / 60),
        7200..=172_799 => format!("{}h ago", seconds / 3600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_times_or_durations() {
        let check = |text: &str, expect: Option<Moment>| {
            assert_eq!(parse_moment(text).ok(), expect, "{text:?}");
        };
        let ago = |seconds| Some(Moment::Ago(Duration::from_secs(seconds)));
        check("5m", ago(300));
        check("2h30m", ago(9000));
        check("1d", ago(86_400));
        check("90s", ago(90));
        check("now", ago(0));
        check(
            "1970-01-01T00:01:00Z",
            Some(Moment::At(Timestamp::from_second(60).unwrap())),
        );
        check(
            "1970-01-01T01:01:00+01:00",
            Some(Moment::At(Timestamp::from_second(60).unwrap())),
        );
        check("-5m", None);
        check("1month", None);
        check("yesterday", None);
        check("", None);
    }

    #[test]
    fn far_moments_are_cut() {
        let now = Timestamp::from_second(100).unwrap();
        assert_eq!(
            Moment::Ago(Duration::from_secs(40)).unix_ns(now),
            60_000_000_000
        );
        assert_eq!(Moment::Ago(Duration::MAX).unix_ns(now), i64::MIN);
        assert_eq!(Moment::At(Timestamp::MAX).unix_ns(now), i64::MAX);
    }

    #[test]
    fn ages_have_one_unit() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let check = |seconds: i64, expect: &str| {
            assert_eq!(ago((1_000_000 - seconds) * 1_000_000_000, now), expect);
        };
        check(5, "5s ago");
        check(-5, "0s ago");
        check(300, "5m ago");
        check(10_000, "2h ago");
        check(200_000, "2d ago");
        assert_eq!(ago(0, now), "never");
    }
}
