//! Keyed 128-bit digests of path components, paths and command names.
//!
//! The policy maps are keyed by digests, because a map key that held a path
//! would need 4096 bytes. Two lanes of multiply and xor-shift, eight bytes a
//! step: a 64-bit multiplication is all that eBPF has. The seed is random for
//! each generation and never leaves the machine, so that nobody can look for
//! two names with one digest.
//!
//! ```text
//! component  = start(seed) · word · word … · length
//! path       = start(seed) · component("usr") · component("bin") …
//! ```

/// Longest component, as in the kernel (`NAME_MAX`).
pub const COMPONENT_BYTES_MAX: usize = 255;

/// Words that hold the longest component.
pub const COMPONENT_WORDS_MAX: usize = COMPONENT_BYTES_MAX.div_ceil(8);

/// What a digest starts from.
pub type Seed = [u64; 2];

/// A running or finished digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Digest {
    /// First lane.
    pub a: u64,
    /// Second lane.
    pub b: u64,
}

impl Digest {
    /// Starts a digest.
    #[inline(always)]
    pub fn start(seed: Seed) -> Self {
        Self {
            a: seed[0],
            b: seed[1],
        }
    }

    /// Takes in eight bytes.
    #[inline(always)]
    #[must_use]
    pub fn word(self, word: u64) -> Self {
        // Odd constants of good spread: 2^64 divided by the golden ratio, and
        // the first multiplier of MurmurHash3's finaliser.
        let a = (self.a ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let b = (self.b ^ word.rotate_left(32)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        Self {
            a: a ^ (a >> 29),
            b: b ^ (b >> 32),
        }
    }

    /// Takes in another digest.
    #[inline(always)]
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        self.word(other.a).word(other.b)
    }

    /// Digests a name that lies in whole words; what follows its `length`
    /// bytes may be anything.
    #[inline(always)]
    pub fn name<const WORDS: usize>(seed: Seed, words: &[u64; WORDS], length: usize) -> Self {
        let mut digest = Self::start(seed);
        let mut index = 0;
        while index < WORDS {
            let begin = index * 8;
            if begin >= length {
                break;
            }
            digest = digest.word(words[index] & first_bytes(length - begin));
            index += 1;
        }
        digest.word(length as u64)
    }

    /// Digests a name from bytes: what user space does with a policy.
    ///
    /// # Panics
    /// When the name is longer than [`COMPONENT_BYTES_MAX`].
    pub fn component(seed: Seed, name: &[u8]) -> Self {
        assert!(
            name.len() <= COMPONENT_BYTES_MAX,
            "components are checked before"
        );
        let mut words = [0_u64; COMPONENT_WORDS_MAX];
        for (word, bytes) in words.iter_mut().zip(name.chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_le_bytes(whole);
        }
        Self::name(seed, &words, name.len())
    }

    /// Digests a whole path, component by component.
    pub fn path(seed: Seed, path: &[u8]) -> Self {
        components(path).fold(Self::start(seed), |digest, name| {
            digest.join(Self::component(seed, name))
        })
    }
}

/// Returns the components of a path, root first.
pub fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty())
}

/// Masks all but the first `count` bytes of a little-endian word.
#[inline(always)]
fn first_bytes(count: usize) -> u64 {
    if count >= 8 {
        u64::MAX
    } else {
        (1_u64 << (count * 8)) - 1
    }
}

/// What a digest is of: the maps hold all of them side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Dimension {
    /// The file opened or executed, exactly.
    PathExact = 0,
    /// A directory above the file opened or executed.
    PathBelow = 1,
    /// The executable of the acting process, exactly.
    ExeExact = 2,
    /// A directory above the executable of the acting process.
    ExeBelow = 3,
    /// A command name.
    Comm = 4,
    /// A directory in which a rule names a file.
    Parent = 5,
    /// A file by its inode and device.
    Identity = 6,
    /// A directory by its inode and device.
    IdentityBelow = 7,
    /// A file on a file system that does not tell the generation of an inode.
    IdentityAny = 8,
    /// A directory on such a file system.
    IdentityBelowAny = 9,
}

/// Key of the policy map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Key {
    /// First lane of the digest.
    pub a: u64,
    /// Second lane of the digest.
    pub b: u64,
    /// Slot of the generation that the key belongs to.
    pub slot: u32,
    /// A [`Dimension`].
    pub dimension: u32,
}

const _: () = assert!(size_of::<Key>() == 24);

impl Key {
    /// Says whether it is about an inode, and not about a name.
    pub fn is_of_inode(&self) -> bool {
        self.dimension >= Dimension::Identity as u32
    }

    /// Builds the key of a file or directory that is known by its inode;
    /// `generation` tells it from others that had or will have the number, and
    /// is 0 where that is not known.
    #[inline(always)]
    pub fn of_inode(slot: u32, dimension: u32, device: u32, inode: u64, generation: u32) -> Self {
        Self {
            a: inode,
            b: (generation as u64) << 32 | device as u64,
            slot,
            dimension,
        }
    }

    /// Builds a key.
    #[inline(always)]
    pub fn new(slot: u32, dimension: Dimension, digest: Digest) -> Self {
        Self {
            a: digest.a,
            b: digest.b,
            slot,
            dimension: dimension as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEED: Seed = [1, 2];

    #[test]
    fn length_tells_a_name_from_its_padded_twin() {
        assert_ne!(
            Digest::component(SEED, b"a"),
            Digest::component(SEED, b"a\0")
        );
    }

    #[test]
    fn component_boundaries_count() {
        assert_ne!(Digest::path(SEED, b"/ab/c"), Digest::path(SEED, b"/a/bc"));
        assert_eq!(Digest::path(SEED, b"/"), Digest::start(SEED));
    }

    #[test]
    fn seed_changes_every_digest() {
        assert_ne!(Digest::path([1, 2], b"/etc"), Digest::path([1, 3], b"/etc"));
    }

    proptest! {
        #[test]
        fn bytes_after_the_name_do_not_count(name in proptest::collection::vec(any::<u8>(), 0..=15), junk in any::<u8>()) {
            let mut padded = [junk; 16];
            padded[..name.len()].copy_from_slice(&name);
            let words = [
                u64::from_le_bytes(padded[..8].try_into().unwrap()),
                u64::from_le_bytes(padded[8..].try_into().unwrap()),
            ];
            prop_assert_eq!(Digest::name(SEED, &words, name.len()), Digest::component(SEED, &name));
        }

        #[test]
        fn different_names_have_different_digests(one in ".{0,40}", other in ".{0,40}") {
            prop_assert_eq!(
                Digest::component(SEED, one.as_bytes()) == Digest::component(SEED, other.as_bytes()),
                one == other
            );
        }
    }
}
