//! A Bloom filter over what a block's events mention: executables, paths,
//! process IDs. It may say "maybe" wrongly, never "no".
//!
//! Hashes are part of the store's format: FNV-1a over a tag byte and the
//! value, mixed by MurmurHash3's finaliser.

/// Bits for each distinct value: about 1 % wrong "maybe" with four probes.
const BITS_EACH: usize = 10;

const PROBES: u64 = 4;

/// 8 KiB: a block that mentions more than 6,500 distinct values lets more
/// queries through instead of growing.
const BYTES_MAX: usize = 8 << 10;

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// What kind of value a hash stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    /// Executable of the acting process.
    Executable = 1,
    /// A directory above the fact's path, with its trailing slash.
    Directory = 2,
    /// Thread group of the acting process.
    Tgid = 3,
}

/// Hashes one value.
pub fn hash(tag: Tag, value: &[u8]) -> u64 {
    finish(
        value
            .iter()
            .fold(start(tag), |state, byte| step(state, *byte)),
    )
}

/// Hashes every directory above `path`, from `/` down, each with its trailing
/// slash.
pub fn hash_directories(path: &[u8], mut each: impl FnMut(u64)) {
    let mut state = start(Tag::Directory);
    for byte in path {
        state = step(state, *byte);
        if *byte == b'/' {
            each(finish(state));
        }
    }
}

fn start(tag: Tag) -> u64 {
    step(FNV_OFFSET, tag as u8)
}

fn step(state: u64, byte: u8) -> u64 {
    (state ^ u64::from(byte)).wrapping_mul(FNV_PRIME)
}

fn finish(mut state: u64) -> u64 {
    state ^= state >> 33;
    state = state.wrapping_mul(0xff51_afd7_ed55_8ccd);
    state ^= state >> 33;
    state = state.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    state ^ (state >> 33)
}

/// The filter's bits; none at all means "nothing inside".
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bloom(Vec<u8>);

impl Bloom {
    /// Builds a filter over distinct hashes.
    pub fn build(hashes: &[u64]) -> Self {
        if hashes.is_empty() {
            return Self::default();
        }
        let bytes = (hashes.len() * BITS_EACH).div_ceil(8).clamp(8, BYTES_MAX);
        let mut bits = vec![0; bytes];
        for hash in hashes {
            for bit in probes(*hash, bytes) {
                bits[bit / 8] |= 1 << (bit % 8);
            }
        }
        Self(bits)
    }

    /// Reads a filter from a footer.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Returns the bits as they lie in a footer.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Says whether the value may be inside.
    pub fn may_contain(&self, hash: u64) -> bool {
        !self.0.is_empty()
            && probes(hash, self.0.len()).all(|bit| self.0[bit / 8] & (1 << (bit % 8)) != 0)
    }
}

/// Double hashing (Kirsch and Mitzenmacher, 2006): the two halves of one hash.
fn probes(hash: u64, bytes: usize) -> impl Iterator<Item = usize> {
    let bits = (bytes * 8) as u64;
    let (first, second) = (hash & 0xffff_ffff, (hash >> 32) | 1);
    (0..PROBES).map(move |probe| ((first + probe * second) % bits) as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_directory_above_a_path_is_hashed() {
        let mut hashes = Vec::new();
        hash_directories(b"/etc/ssl/key", |hash| hashes.push(hash));
        assert_eq!(
            hashes,
            [&b"/"[..], b"/etc/", b"/etc/ssl/"].map(|path| hash(Tag::Directory, path))
        );
    }

    #[test]
    fn hashes_are_part_of_the_format() {
        assert_eq!(
            hash(Tag::Executable, b"/usr/bin/cat"),
            0x7daf_5a12_5667_7de8
        );
    }

    #[test]
    fn most_strangers_are_told_apart() {
        let hashes: Vec<u64> = (0..1000u32)
            .map(|n| hash(Tag::Tgid, &n.to_le_bytes()))
            .collect();
        let bloom = Bloom::build(&hashes);
        let wrong = (1000..11_000u32)
            .filter(|n| bloom.may_contain(hash(Tag::Tgid, &n.to_le_bytes())))
            .count();
        assert!(wrong < 300, "{wrong} of 10000");
    }

    proptest! {
        #[test]
        fn what_is_inside_is_never_denied(hashes in prop::collection::vec(any::<u64>(), 0..500)) {
            let bloom = Bloom::build(&hashes);
            prop_assert!(hashes.iter().all(|hash| bloom.may_contain(*hash)));
        }

        #[test]
        fn garbage_never_panics(bits in prop::collection::vec(any::<u8>(), 0..40), hash: u64) {
            let _ = Bloom::from_bytes(bits).may_contain(hash);
        }
    }
}
