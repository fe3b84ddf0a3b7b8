//! Finding the base name of a path eight bytes at a time.
//!
//! A loop over bytes with a branch in it costs the verifier more states than
//! it has patience for; a step of eight bytes without one does not.

const SLASHES: u64 = 0x2f2f_2f2f_2f2f_2f2f;
const LOW_BITS: u64 = 0x7f7f_7f7f_7f7f_7f7f;
const ONES: u64 = 0x0101_0101_0101_0101;

/// Returns how many bytes of a word to skip to be behind its last slash, 0 when
/// there is none. Only the first `left` bytes count.
#[inline(always)]
pub fn behind_last_slash(word: u64, left: u64) -> u64 {
    // A byte of `differs` is 0 where the text has a slash.
    let differs = word ^ SLASHES;
    let mut found = !(((differs & LOW_BITS) + LOW_BITS) | differs | LOW_BITS);
    if left < 8 {
        found &= (1 << (left * 8)) - 1;
    }
    // Fill downwards from the highest slash, then count the bytes.
    found |= found >> 8;
    found |= found >> 16;
    found |= found >> 32;
    ((found >> 7) & ONES).wrapping_mul(ONES) >> 56
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &[u8], junk: u8) {
        let mut bytes = [junk; 64];
        bytes[..text.len()].copy_from_slice(text);
        let length = text.len() as u64;
        let start = (0..length).step_by(8).fold(0, |start, begin| {
            let chunk = &bytes[begin as usize..][..8];
            let word = u64::from_le_bytes(chunk.try_into().unwrap());
            match behind_last_slash(word, length - begin) {
                0 => start,
                skip => begin + skip,
            }
        });
        let expect = text
            .iter()
            .rposition(|byte| *byte == b'/')
            .map_or(0, |slash| slash as u64 + 1);
        assert_eq!(start, expect, "{text:?}");
    }

    #[test]
    fn base_name_is_behind_the_last_slash() {
        check(b"", 0);
        check(b"ls", b'/');
        check(b"/bin/ls", 0);
        check(b"/usr/bin/env", b'/');
        check(b"dir/", b'/');
        check(b"/.......", 0);
        check(b"......./x", 0);
    }

    proptest! {
        #[test]
        fn base_name_agrees_with_a_search_from_the_right(
            text in proptest::collection::vec(prop_oneof![Just(b'/'), any::<u8>()], 0..64),
            junk in any::<u8>(),
        ) {
            check(&text, junk);
        }
    }
}
