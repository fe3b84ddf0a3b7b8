//! The identifiers that both sides of the wire speak of.
//!
//! Each is a newtype that can only hold a valid value: it is parsed once, at
//! the edge.

use std::{fmt, str::FromStr};

/// An identifier that is not of its form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// A name with a length or a byte that names may not have.
    #[error(
        "{what} {value:?} is not valid: use 1 to 63 of a-z, 0-9, '-', '.' and '_', starting with a letter or digit"
    )]
    Name {
        /// Which identifier it should have been.
        what: &'static str,
        /// The offending value, cut at 80 characters.
        value: String,
    },
    /// An epoch that is not 16 bytes long.
    #[error("an epoch has 16 bytes, this one {length}")]
    Epoch {
        /// Length as it came.
        length: usize,
    },
}

/// 1 to 63 of `a-z0-9-._`, the first a letter or digit: fits a DNS label, a
/// file name and a URI path segment without escaping.
fn check_name(what: &'static str, value: &str) -> Result<(), IdError> {
    let fits = (1..=63).contains(&value.len())
        && value
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_'))
        && value.as_bytes()[0].is_ascii_alphanumeric();
    if fits {
        return Ok(());
    }
    Err(IdError::Name {
        what,
        value: value.chars().take(80).collect(),
    })
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Box<str>);

        impl $type {
            /// Parses the name.
            ///
            /// # Errors
            /// [`IdError::Name`] when it is not 1 to 63 of `a-z0-9-._`
            /// starting with a letter or digit.
            pub fn parse(value: &str) -> Result<Self, IdError> {
                check_name($what, value)?;
                Ok(Self(value.into()))
            }

            /// Returns the name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl FromStr for $type {
            type Err = IdError;
            fn from_str(value: &str) -> Result<Self, IdError> {
                Self::parse(value)
            }
        }
    };
}

name!(
    /// A machine, by the name that its certificate carries.
    NodeId,
    "node name"
);
name!(
    /// A policy's `metadata.name`.
    PolicyName,
    "policy name"
);
name!(
    /// A rule's name, unique within its policy.
    RuleName,
    "rule name"
);

/// The monotonic number of a policy set; 0 stands for "none".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation(pub u64);

impl Generation {
    /// No policy was ever loaded.
    pub const NONE: Self = Self(0);

    /// Returns the generation after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// An event's position in its epoch, counted from 1; 0 stands for "before
/// the first".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SequenceNumber(pub u64);

impl fmt::Display for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// One life of an agent's spool: 16 random bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub [u8; 16]);

impl Epoch {
    /// Reads an epoch from the wire.
    ///
    /// # Errors
    /// [`IdError::Epoch`] when it is not 16 bytes long.
    pub fn from_wire(bytes: &[u8]) -> Result<Self, IdError> {
        bytes.try_into().map(Self).map_err(|_| IdError::Epoch {
            length: bytes.len(),
        })
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 32];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        f.write_str(str::from_utf8(&text).expect("digits are ASCII"))
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_to_their_alphabet() {
        let check = |value: &str, valid: bool| {
            assert_eq!(NodeId::parse(value).is_ok(), valid, "{value:?}");
        };
        check("web-1.example_a", true);
        check("0", true);
        check(&"a".repeat(63), true);
        check(&"a".repeat(64), false);
        check("", false);
        check("-a", false);
        check("Web", false);
        check("a/b", false);
        check("a b", false);
        check("ä", false);
    }

    #[test]
    fn epoch_has_sixteen_bytes() {
        assert_eq!(Epoch::from_wire(&[7; 16]), Ok(Epoch([7; 16])));
        assert_eq!(
            Epoch::from_wire(&[7; 15]),
            Err(IdError::Epoch { length: 15 })
        );
    }
}
