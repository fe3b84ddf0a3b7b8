//! Times as text: RFC 3339, UTC.
//!
//! Events come in the order of their time, thousands within one second: the
//! text of the second is kept, and only the fraction is made anew.

use std::fmt;

use jiff::Timestamp;

/// How much of the fraction of a second is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fraction {
    /// Three digits, cut.
    Milliseconds,
    /// All nine.
    Nanoseconds,
}

/// Writes times, and remembers the second of the last one.
#[derive(Debug, Clone, Default)]
pub struct TimeText {
    second: Option<i64>,
    /// `2026-11-22T15:00:00`
    text: String,
}

impl TimeText {
    /// Returns the text of a time, to the millisecond.
    pub fn text(&mut self, unix_ns: i64) -> String {
        let mut text = String::new();
        self.write(&mut text, unix_ns, Fraction::Milliseconds)
            .expect("a String takes everything");
        text
    }

    pub(super) fn write(
        &mut self,
        out: &mut impl fmt::Write,
        unix_ns: i64,
        fraction: Fraction,
    ) -> fmt::Result {
        const NS: i64 = 1_000_000_000;
        let second = unix_ns.div_euclid(NS);
        if self.second != Some(second) {
            self.second = Some(second);
            self.text = to_the_second(second);
        }
        out.write_str(&self.text)?;
        let ns = unix_ns.rem_euclid(NS);
        let mut digits = *b".000000000";
        let mut left = ns;
        for digit in digits[1..].iter_mut().rev() {
            *digit += u8::try_from(left % 10).expect("one digit");
            left /= 10;
        }
        let shown = match fraction {
            Fraction::Milliseconds => &digits[..4],
            Fraction::Nanoseconds => &digits[..],
        };
        out.write_str(str::from_utf8(shown).expect("digits are ASCII"))?;
        out.write_char('Z')
    }
}

fn to_the_second(second: i64) -> String {
    let timestamp =
        Timestamp::from_second(second).expect("64 bits of nanoseconds are the years 1677 to 2262");
    let mut text = format!("{timestamp:.0}");
    text.pop();
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(clock: &mut TimeText, unix_ns: i64, fraction: Fraction) -> String {
        let mut text = String::new();
        clock.write(&mut text, unix_ns, fraction).unwrap();
        text
    }

    #[test]
    fn times_before_1970_have_their_own_second() {
        let mut clock = TimeText::default();
        let check = |clock: &mut TimeText, unix_ns, expect| {
            assert_eq!(text(clock, unix_ns, Fraction::Milliseconds), expect);
        };
        check(&mut clock, -1, "1969-12-31T23:59:59.999Z");
        check(&mut clock, 0, "1970-01-01T00:00:00.000Z");
        check(&mut clock, 1_999_999, "1970-01-01T00:00:00.001Z");
    }

    proptest! {
        #[test]
        fn every_time_is_as_jiff_writes_it(times in prop::collection::vec(any::<i64>(), 1..4)) {
            let mut clock = TimeText::default();
            for time in times.iter().flat_map(|time| [*time, time ^ 1]) {
                let timestamp = Timestamp::from_nanosecond(time.into()).unwrap();
                prop_assert_eq!(
                    text(&mut clock, time, Fraction::Nanoseconds),
                    format!("{timestamp:.9}")
                );
                let cut = Timestamp::from_millisecond(time.div_euclid(1_000_000)).unwrap();
                prop_assert_eq!(
                    text(&mut clock, time, Fraction::Milliseconds),
                    format!("{cut:.3}")
                );
            }
        }
    }
}
