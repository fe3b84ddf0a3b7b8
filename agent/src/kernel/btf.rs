//! Reading the kernel's type information, as far as finding a field goes.
//!
//! One pass notes where each type lies; nothing is copied. A general BTF
//! library builds a tree of all hundred thousand types first, which takes
//! seconds on a slow machine. The format: Documentation/bpf/btf.rst.
//!
//! Any bytes give a result or an error, never a panic or an endless loop.

use std::collections::HashMap;

/// Type information that is not of its form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    /// It does not begin as it should.
    #[error("it does not begin with BTF's magic number for this machine's byte order")]
    Magic,
    /// A section reaches past the end.
    #[error("it ends inside of its {0}")]
    Truncated(&'static str),
    /// A kind of type that this reader cannot skip.
    #[error("type {id} is of the unknown kind {kind}")]
    UnknownKind {
        /// Number of the type.
        id: u32,
        /// Its kind.
        kind: u32,
    },
}

const MAGIC: u16 = 0xeb9f;

/// Names behind typedefs and qualifiers, and structures inside of structures,
/// that are followed at most: the kernel's go a handful deep.
const DEPTH_MAX: usize = 32;

const STRUCT: u32 = 4;
const UNION: u32 = 5;

/// Type information, indexed.
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// What the kernel's own has in front of a module's; empty for itself.
    strings_before: &'a [u8],
    /// Number of the first type: 1, or what comes behind the kernel's own.
    first: usize,
    /// Where each type begins, from the first one on.
    starts: Vec<usize>,
    structures: HashMap<&'a [u8], u32>,
}

/// What every type begins with.
struct Head {
    kind: u32,
    members: usize,
    bit_fields: bool,
    /// For what refers to another type.
    refers_to: u32,
}

/// A field of a structure or union.
struct Member<'a> {
    name: &'a [u8],
    kind: u32,
    /// `None` for a bit field.
    offset: Option<u32>,
}

impl<'a> Btf<'a> {
    /// Indexes type information.
    ///
    /// # Errors
    /// [`BtfError`] when it is not of its form.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        Self::parse_behind(bytes, 1, &[])
    }

    /// Indexes the type information of a module, whose types and names go on
    /// from the kernel's own. The kernel's types are not looked into: a field
    /// that lies in one of them is not found.
    ///
    /// # Errors
    /// [`BtfError`] when it is not of its form.
    pub fn parse_module(bytes: &'a [u8], kernel: &Self) -> Result<Self, BtfError> {
        Self::parse_behind(bytes, kernel.first + kernel.starts.len(), kernel.strings)
    }

    fn parse_behind(
        bytes: &'a [u8],
        first: usize,
        strings_before: &'a [u8],
    ) -> Result<Self, BtfError> {
        const HEADER: BtfError = BtfError::Truncated("header");
        let magic = bytes.first_chunk().ok_or(HEADER)?;
        if u16::from_ne_bytes(*magic) != MAGIC {
            return Err(BtfError::Magic);
        }
        let word = |index: usize| word(bytes, 4 + index * 4).map(widen).ok_or(HEADER);
        let [header, types_at, types_length, strings_at, strings_length] =
            [word(0)?, word(1)?, word(2)?, word(3)?, word(4)?];
        let section = |offset: usize, length: usize, name| {
            let start = header.checked_add(offset);
            start
                .and_then(|start| bytes.get(start..start.checked_add(length)?))
                .ok_or(BtfError::Truncated(name))
        };
        let types = section(types_at, types_length, "types")?;
        let strings = section(strings_at, strings_length, "strings")?;
        let mut btf = Self {
            types,
            strings,
            strings_before,
            first,
            starts: Vec::new(),
            structures: HashMap::new(),
        };
        btf.index()?;
        Ok(btf)
    }

    fn index(&mut self) -> Result<(), BtfError> {
        let mut at = 0;
        while at < self.types.len() {
            let id = u32::try_from(self.first + self.starts.len())
                .expect("a type has 12 bytes of 4 GiB");
            let name = word(self.types, at).ok_or(BtfError::Truncated("types"))?;
            let head = self.head_at(at).ok_or(BtfError::Truncated("types"))?;
            let size = extra_bytes(&head).ok_or(BtfError::UnknownKind {
                id,
                kind: head.kind,
            })?;
            self.starts.push(at);
            if head.kind == STRUCT {
                self.structures.insert(self.string(name), id);
            }
            at += 12 + size;
        }
        if at != self.types.len() {
            return Err(BtfError::Truncated("types"));
        }
        Ok(())
    }

    /// Returns the offset in bytes of a field, by a dotted path of names;
    /// fields of unnamed structures count as their parent's. `None` when there
    /// is no such field, or it is a bit field.
    pub fn offset_of(&self, structure: &str, path: &str) -> Option<u32> {
        let mut id = *self.structures.get(structure.as_bytes())?;
        let mut offset = 0_u32;
        for name in path.split('.') {
            let (kind, inside) = self.find(id, name.as_bytes(), DEPTH_MAX)?;
            id = kind;
            offset = offset.checked_add(inside)?;
        }
        Some(offset)
    }

    /// Finds a field: its type, and its offset.
    fn find(&self, id: u32, name: &[u8], depth: usize) -> Option<(u32, u32)> {
        let depth = depth.checked_sub(1)?;
        if name.is_empty() {
            return None;
        }
        let (id, head) = self.without_qualifiers(id)?;
        if head.kind != STRUCT && head.kind != UNION {
            return None;
        }
        let members = || (0..head.members).filter_map(|index| self.member(id, &head, index));
        members()
            .find(|member| member.name == name)
            .and_then(|member| Some((member.kind, member.offset?)))
            .or_else(|| {
                members()
                    .filter(|member| member.name.is_empty())
                    .find_map(|member| {
                        let (kind, inside) = self.find(member.kind, name, depth)?;
                        Some((kind, member.offset?.checked_add(inside)?))
                    })
            })
    }

    /// Follows typedefs and qualifiers.
    fn without_qualifiers(&self, id: u32) -> Option<(u32, Head)> {
        let mut id = id;
        for _ in 0..DEPTH_MAX {
            let head = self.head(id)?;
            // Typedef, volatile, const, restrict, type tag.
            if !matches!(head.kind, 8..=11 | 18) {
                return Some((id, head));
            }
            id = head.refers_to;
        }
        None
    }

    fn member(&self, id: u32, head: &Head, index: usize) -> Option<Member<'a>> {
        let at = self.start(id)? + 12 + index * 12;
        let place = word(self.types, at + 8)?;
        let (bits, bit_field) = if head.bit_fields {
            (place & 0x00ff_ffff, place >> 24 != 0)
        } else {
            (place, false)
        };
        Some(Member {
            name: self.string(word(self.types, at)?),
            kind: word(self.types, at + 4)?,
            offset: (!bit_field && bits % 8 == 0).then_some(bits / 8),
        })
    }

    fn start(&self, id: u32) -> Option<usize> {
        // Type 0 is `void` and lies nowhere.
        let index = widen(id).checked_sub(self.first)?;
        self.starts.get(index).copied()
    }

    fn head(&self, id: u32) -> Option<Head> {
        self.head_at(self.start(id)?)
    }

    fn head_at(&self, at: usize) -> Option<Head> {
        let info = word(self.types, at + 4)?;
        Some(Head {
            kind: info >> 24 & 0x1f,
            members: widen(info & 0xffff),
            bit_fields: info >> 31 != 0,
            refers_to: word(self.types, at + 8)?,
        })
    }

    /// Returns a NUL-terminated string; an empty one where there is none.
    fn string(&self, offset: u32) -> &'a [u8] {
        let rest = match widen(offset).checked_sub(self.strings_before.len()) {
            Some(own) => self.strings.get(own..),
            None => self.strings_before.get(widen(offset)..),
        };
        let rest = rest.unwrap_or_default();
        rest.split(|byte| *byte == 0).next().unwrap_or_default()
    }
}

/// Returns what follows a type's head.
fn extra_bytes(head: &Head) -> Option<usize> {
    Some(match head.kind {
        // Pointer, forward, typedef, volatile, const, restrict, function,
        // float, type tag.
        2 | 7..=12 | 16 | 18 => 0,
        // Integer, variable, declaration tag.
        1 | 14 | 17 => 4,
        // Array.
        3 => 12,
        // Structure, union, section, 64-bit enumeration.
        STRUCT | UNION | 15 | 19 => head.members * 12,
        // Enumeration, function prototype.
        6 | 13 => head.members * 8,
        _ => return None,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map(|bytes| u32::from_ne_bytes(*bytes))
}

fn widen(number: u32) -> usize {
    usize::try_from(number).expect("the agent runs on 64-bit machines")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Builds type information by hand.
    #[derive(Default)]
    struct Builder {
        types: Vec<u8>,
        strings: Vec<u8>,
        /// Bytes of names that come before.
        behind: u32,
    }

    impl Builder {
        fn name(&mut self, name: &str) -> u32 {
            if self.strings.is_empty() {
                self.strings.push(0);
            }
            if name.is_empty() {
                return 0;
            }
            let offset = self.behind + self.strings.len() as u32;
            self.strings.extend(name.as_bytes());
            self.strings.push(0);
            offset
        }

        fn add(&mut self, name: &str, kind: u32, info: u32, refers_to: u32, rest: &[u32]) {
            let name = self.name(name);
            for word in [name, kind << 24 | info, refers_to].iter().chain(rest) {
                self.types.extend(word.to_ne_bytes());
            }
        }

        fn add_structure(&mut self, name: &str, kind: u32, members: &[(&str, u32, u32)]) {
            let rest: Vec<u32> = members
                .iter()
                .flat_map(|(name, kind, bits)| [self.name(name), *kind, *bits])
                .collect();
            self.add(name, kind, members.len() as u32, 0, &rest);
        }

        fn build(&self) -> Vec<u8> {
            let mut bytes = Vec::new();
            bytes.extend(MAGIC.to_ne_bytes());
            bytes.extend([1, 0]);
            let types = self.types.len() as u32;
            for word in [24, 0, types, types, self.strings.len() as u32] {
                bytes.extend(word.to_ne_bytes());
            }
            bytes.extend(&self.types);
            bytes.extend(&self.strings);
            bytes
        }
    }

    /// 1 int, 2 inner, 3 typedef of 2, 4 an unnamed union, 5 outer.
    fn sample() -> Vec<u8> {
        let mut builder = Builder::default();
        builder.add("int", 1, 0, 4, &[0]);
        builder.add_structure("inner", STRUCT, &[("first", 1, 0), ("second", 1, 32)]);
        builder.add("inner_t", 8, 0, 2, &[]);
        builder.add_structure("", UNION, &[("hidden", 3, 0), ("other", 1, 0)]);
        builder.add_structure("outer", STRUCT, &[("a", 1, 0), ("b", 3, 64), ("", 4, 128)]);
        // A function of the same name does not hide the structure.
        builder.add("outer", 12, 0, 0, &[]);
        builder.build()
    }

    #[test]
    fn fields_are_found_through_names_and_unnamed_parts() {
        let bytes = sample();
        let btf = Btf::parse(&bytes).unwrap();
        let check = |path: &str, offset: Option<u32>| {
            assert_eq!(btf.offset_of("outer", path), offset, "{path}");
        };
        check("a", Some(0));
        check("b", Some(8));
        check("b.second", Some(12));
        check("hidden.second", Some(20));
        check("other", Some(16));
        check("a.first", None);
        check("nothing", None);
        check("", None);
        assert_eq!(btf.offset_of("nothing", "a"), None);
    }

    #[test]
    fn a_modules_types_go_on_from_the_kernels() {
        let bytes = sample();
        let kernel = Btf::parse(&bytes).unwrap();
        let mut module = Builder {
            behind: kernel.strings.len() as u32,
            ..Builder::default()
        };
        // Types 1 to 6 are the kernel's; 7 is the module's own.
        module.add_structure("own", STRUCT, &[("deep", 1, 32)]);
        module.add_structure("whole", STRUCT, &[("b", 5, 0), ("", 7, 640)]);
        let bytes = module.build();
        let module = Btf::parse_module(&bytes, &kernel).unwrap();
        assert_eq!(module.offset_of("whole", "b"), Some(0));
        assert_eq!(module.offset_of("whole", "deep"), Some(84));
        assert_eq!(module.offset_of("whole", "b.a"), None);
        assert_eq!(module.offset_of("outer", "a"), None);
        // A name of the kernel's.
        assert_eq!(module.string(1), b"int");
    }

    #[test]
    fn structure_inside_of_itself_ends() {
        let mut builder = Builder::default();
        builder.add_structure("loop", STRUCT, &[("", 1, 0)]);
        builder.add("turn", 8, 0, 2, &[]);
        let bytes = builder.build();
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.offset_of("loop", "x"), None);
    }

    #[test]
    fn malformed_information_says_what_is_wrong() {
        let check = |bytes: &[u8], expect: BtfError| {
            assert_eq!(Btf::parse(bytes).err(), Some(expect));
        };
        let good = sample();
        check(&[], BtfError::Truncated("header"));
        check(&[0; 64], BtfError::Magic);
        check(&good[..20], BtfError::Truncated("header"));
        check(&good[..100], BtfError::Truncated("types"));
        check(&good[..good.len() - 1], BtfError::Truncated("strings"));
        let mut unknown = Builder::default();
        unknown.add("x", 31, 0, 0, &[]);
        check(&unknown.build(), BtfError::UnknownKind { id: 1, kind: 31 });
    }

    proptest! {
        #[test]
        fn damaged_information_never_panics(
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut bytes = sample();
            for (index, byte) in damage {
                let at = index.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(btf) = Btf::parse(&bytes) {
                let _ = btf.offset_of("outer", "hidden.second");
                let _ = btf.offset_of("inner", "second");
            }
        }
    }
}
