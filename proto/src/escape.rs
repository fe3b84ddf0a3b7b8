//! How bytes that a stranger chose are shown to people and programs.
//!
//! Paths, arguments and command names come from processes that may be
//! hostile, and they are bytes, not text. Two forms exist, and both can be
//! turned back into the bytes:
//!
//! - [`Terminal`], for people: nothing that moves the cursor, changes colours,
//!   reorders or hides text reaches the terminal.
//! - [`lossless`], for JSON: UTF-8 stays as it is; JSON's own escaping takes
//!   care of the rest.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
};

/// Where text is written. What is known to be ASCII need not be looked at
/// again by something that keeps bytes.
pub(crate) trait TextOut: fmt::Write {
    /// Writes ASCII.
    fn write_ascii(&mut self, text: &[u8]) -> fmt::Result {
        self.write_str(str::from_utf8(text).expect("ASCII is UTF-8"))
    }
}

impl TextOut for fmt::Formatter<'_> {}

impl TextOut for String {}

/// Shows bytes on one line of a terminal.
///
/// Printable UTF-8 is shown as it is. A backslash is `\\`; line feed, carriage
/// return and tab are `\n`, `\r` and `\t`; other ASCII control characters,
/// and bytes that are not UTF-8, are `\xNN`; other control, bidirectional and
/// invisible characters are `\u{NNNN}`.
#[derive(Debug, Clone, Copy)]
pub struct Terminal<'a>(pub &'a [u8]);

impl<'a> Terminal<'a> {
    /// Shows text.
    pub fn text(text: &'a str) -> Self {
        Self(text.as_bytes())
    }
}

impl fmt::Display for Terminal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Padding needs the width first.
        if f.width().is_some() {
            let mut escaped = String::with_capacity(self.0.len());
            write_terminal(&mut escaped, self.0, Quoting::Bare)?;
            return f.pad(&escaped);
        }
        self.write_to(f)
    }
}

impl Terminal<'_> {
    /// Does what `Display` does, without a formatter in between.
    pub(crate) fn write_to(&self, out: &mut impl TextOut) -> fmt::Result {
        write_terminal(out, self.0, Quoting::Bare)
    }
}

/// Shows arguments as a command line: escaped as [`Terminal`] does, and in
/// double quotes where an argument would otherwise run into its neighbours.
#[derive(Debug, Clone, Copy)]
pub struct CommandLine<'a>(pub &'a [Vec<u8>]);

impl fmt::Display for CommandLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_to(f)
    }
}

impl CommandLine<'_> {
    /// Does what `Display` does, without a formatter in between.
    pub(crate) fn write_to(&self, out: &mut impl TextOut) -> fmt::Result {
        for (index, argument) in self.0.iter().enumerate() {
            if index > 0 {
                out.write_char(' ')?;
            }
            if argument.is_empty() || argument.iter().any(|byte| b" \"'`$;|&<>()".contains(byte)) {
                out.write_char('"')?;
                write_terminal(out, argument, Quoting::Quoted)?;
                out.write_char('"')?;
            } else {
                write_terminal(out, argument, Quoting::Bare)?;
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Quoting {
    Bare,
    Quoted,
}

fn write_terminal(out: &mut impl TextOut, bytes: &[u8], quoting: Quoting) -> fmt::Result {
    let mut rest = bytes;
    loop {
        // Most of what is shown is plain: it is passed on in one piece.
        let plain = plain_length(rest, quoting);
        let (text, behind) = rest.split_at(plain);
        out.write_ascii(text)?;
        if behind.is_empty() {
            return Ok(());
        }
        // No character holds a plain byte, so none is torn here.
        let odd = length_while(behind, |byte| !is_plain(byte, quoting));
        let (odd, behind) = behind.split_at(odd);
        write_odd(out, odd, quoting)?;
        rest = behind;
    }
}

/// Returns how many bytes from the front are plain, eight at a time.
fn plain_length(bytes: &[u8], quoting: Quoting) -> usize {
    let words = bytes
        .as_chunks()
        .0
        .iter()
        .take_while(|word| are_plain(u64::from_le_bytes(**word), quoting))
        .count();
    let start = words * 8;
    start + length_while(&bytes[start..], |byte| is_plain(byte, quoting))
}

/// Says whether eight bytes are all plain; `false` is never wrong about at
/// least one of them.
fn are_plain(word: u64, quoting: Quoting) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // The highest bit of a byte: set where it is below `limit`, for the lowest
    // such byte at least.
    let below = |word: u64, limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word;
    let is = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    let quotes = match quoting {
        Quoting::Bare => 0,
        Quoting::Quoted => is(b'"'),
    };
    (word | below(word, b' ') | is(b'\x7f') | is(b'\\') | quotes) & ONES << 7 == 0
}

fn length_while(bytes: &[u8], holds: impl Fn(u8) -> bool) -> usize {
    bytes
        .iter()
        .position(|byte| !holds(*byte))
        .unwrap_or(bytes.len())
}

/// Says whether a byte is a character that is shown as itself.
fn is_plain(byte: u8, quoting: Quoting) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'\\' && (byte != b'"' || quoting == Quoting::Bare)
}

fn write_odd(out: &mut impl fmt::Write, bytes: &[u8], quoting: Quoting) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => out.write_str(r"\\")?,
                '\n' => out.write_str(r"\n")?,
                '\r' => out.write_str(r"\r")?,
                '\t' => out.write_str(r"\t")?,
                '"' if quoting == Quoting::Quoted => out.write_str("\\\"")?,
                '\0'..='\x1f' | '\x7f' => write!(out, r"\x{:02x}", u32::from(character))?,
                _ if misleads(character) => write!(out, r"\u{{{:x}}}", u32::from(character))?,
                _ => out.write_char(character)?,
            }
        }
        for byte in chunk.invalid() {
            write!(out, r"\x{byte:02x}")?;
        }
    }
    Ok(())
}

/// Says whether a character outside of ASCII changes or hides what stands
/// around it: C1 controls, the Unicode categories Zl, Zp and Cf, and the
/// fillers that show nothing.
fn misleads(character: char) -> bool {
    matches!(character,
        '\u{80}'..='\u{9f}'             // C1: CSI and OSC in one character
        | '\u{ad}'                      // soft hyphen
        | '\u{34f}' | '\u{61c}'         // grapheme joiner, Arabic letter mark
        | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' // Hangul fillers
        | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}'       // Mongolian selectors
        | '\u{200b}'..='\u{200f}'       // zero width, direction marks
        | '\u{2028}'..='\u{202e}'       // separators, embeddings, overrides
        | '\u{2060}'..='\u{206f}'       // joiners, isolates
        | '\u{fe00}'..='\u{fe0f}'       // variation selectors
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}') // tags, more variation selectors
}

/// Turns bytes into a string without losing any: UTF-8 stays as it is, a byte
/// that is not part of valid UTF-8 becomes `\xNN`, and a backslash that stands
/// before an `x` becomes `\x5c`.
///
/// So `\xNN` in the result is always one byte, and everything else is itself;
/// [`from_lossless`] reverses it.
pub fn lossless(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes)
        // Looking for one byte is far cheaper than for a text.
        && (!bytes.contains(&b'\\') || !text.contains(r"\x"))
    {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(bytes.len() + 8);
    for chunk in bytes.utf8_chunks() {
        escaped.push_str(&chunk.valid().replace(r"\x", r"\x5cx"));
        for byte in chunk.invalid() {
            write!(escaped, r"\x{byte:02x}").expect("strings take everything");
        }
    }
    Cow::Owned(escaped)
}

/// Turns the form of [`lossless`] back into bytes; `None` when a `\x` in it
/// has no two hexadecimal digits.
pub fn from_lossless(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split(r"\x");
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn terminal_shows_nothing_that_misleads() {
        let check = |bytes: &[u8], expect: &str| {
            assert_eq!(Terminal(bytes).to_string(), expect);
        };
        check(b"/etc/shadow", "/etc/shadow");
        check("/tmp/ä ö".as_bytes(), "/tmp/ä ö");
        check(b"\x1b[31mred", r"\x1b[31mred");
        check(b"a\nb\r\t\0\x7f", r"a\nb\r\t\x00\x7f");
        check(b"a\\nb", r"a\\nb");
        check(b"\xff\xfe", r"\xff\xfe");
        check("\u{9b}31m".as_bytes(), r"\u{9b}31m");
        check("gpj.\u{202e}exe".as_bytes(), r"gpj.\u{202e}exe");
        check("a\u{200b}b".as_bytes(), r"a\u{200b}b");
        check("a\u{2028}b".as_bytes(), r"a\u{2028}b");
    }

    #[test]
    fn terminal_pads_what_it_shows() {
        assert_eq!(format!("{:<6}|", Terminal(b"a\n")), r"a\n   |");
    }

    #[test]
    fn command_line_keeps_arguments_apart() {
        let check = |arguments: &[&str], expect: &str| {
            let arguments: Vec<Vec<u8>> = arguments
                .iter()
                .map(|argument| argument.as_bytes().to_vec())
                .collect();
            assert_eq!(CommandLine(&arguments).to_string(), expect);
        };
        check(&["nc", "-l", "80"], "nc -l 80");
        check(&["sh", "-c", "a b"], r#"sh -c "a b""#);
        check(&["a", "", "b"], r#"a "" b"#);
        check(&["say \"hi\""], r#""say \"hi\"""#);
        check(&["\x1b[2J"], r"\x1b[2J");
    }

    proptest! {
        #[test]
        fn plain_bytes_are_counted_as_one_by_one(bytes in prop::collection::vec(
            prop_oneof![b' '..=b'~', Just(b'"'), Just(b'\\'), Just(0x7f_u8), any::<u8>()],
            0..40,
        )) {
            for quoting in [Quoting::Bare, Quoting::Quoted] {
                prop_assert_eq!(
                    plain_length(&bytes, quoting),
                    length_while(&bytes, |byte| is_plain(byte, quoting))
                );
            }
        }

        #[test]
        fn every_word_of_plain_bytes_is_taken_whole(bytes in prop::array::uniform8(b' '..=b'~')) {
            let bare = bytes.iter().all(|byte| is_plain(*byte, Quoting::Bare));
            prop_assert_eq!(are_plain(u64::from_le_bytes(bytes), Quoting::Bare), bare);
        }

        #[test]
        fn lossless_loses_nothing(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(from_lossless(&lossless(&bytes)), Some(bytes));
        }

        #[test]
        fn lossless_keeps_backslashes(text in r"[\\x5cé]{0,12}") {
            prop_assert_eq!(from_lossless(&lossless(text.as_bytes())), Some(text.into_bytes()));
        }

        #[test]
        fn terminal_never_emits_a_control_character(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let shown = Terminal(&bytes).to_string();
            prop_assert!(!shown.chars().any(|c| c.is_control() || misleads(c)));
        }

        #[test]
        fn from_lossless_never_panics(text in ".{0,32}") {
            let _ = from_lossless(&text);
        }
    }
}
