//! The eBPF object, as the build script made it, and what has to be written
//! into it for the running kernel.

use object::{Object as _, ObjectSection as _, SectionKind};
use shrike_agent_ebpf::offset::{ABSENT, FIELDS, Placeholder};

use super::SensorError;

/// One object for every supported kernel.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/shrike-ebpf"));

/// Bytes of an instruction (RFC 9669, section 3.1).
const INSTRUCTION_BYTES: usize = 8;

/// Opcodes of `dst = *(size *)(src + displacement)` for 4, 2, 1 and 8 bytes
/// (RFC 9669, section 5.2: `{MEM, …, LDX}`).
const LOADS: [u8; 4] = [0x61, 0x69, 0x71, 0x79];

/// Returns the object with the fields' offsets, in the order of [`FIELDS`],
/// in the place of each load's [`Placeholder`].
///
/// # Errors
/// When the object is damaged, or a field that is loaded is not on this
/// kernel, or too far from its structure's start for one instruction.
pub fn relocate(offsets: &[u32; FIELDS.len()]) -> Result<Vec<u8>, SensorError> {
    let mut bytes = OBJECT.to_vec();
    for (start, length) in code(OBJECT)? {
        let instructions = bytes
            .get_mut(start..start + length)
            .ok_or(SensorError::ObjectPart("code"))?;
        for instruction in instructions.chunks_exact_mut(INSTRUCTION_BYTES) {
            let displacement = i16::from_le_bytes([instruction[2], instruction[3]]);
            if !LOADS.contains(&instruction[0]) {
                continue;
            }
            let Some((field, word)) = Placeholder::parse(displacement) else {
                continue;
            };
            let place = displacement_of(offsets[field], field, word)?;
            instruction[2..4].copy_from_slice(&place.to_le_bytes());
        }
    }
    Ok(bytes)
}

fn displacement_of(offset: u32, field: usize, word: usize) -> Result<i16, SensorError> {
    let name = &FIELDS[field];
    if offset == ABSENT {
        return Err(SensorError::MissingField {
            structure: name.structure,
            member: name.members[0],
        });
    }
    i16::try_from(offset as usize + word * 8).map_err(|_| SensorError::FarField {
        structure: name.structure,
        member: name.members[0],
        offset,
    })
}

/// Returns where instructions lie in the object: start and length in bytes.
fn code(bytes: &[u8]) -> Result<Vec<(usize, usize)>, SensorError> {
    let file = object::File::parse(bytes).map_err(|_| SensorError::ObjectPart("ELF header"))?;
    let sections = file
        .sections()
        .filter(|section| section.kind() == SectionKind::Text)
        .filter_map(|section| section.file_range());
    Ok(sections
        .map(|(start, length)| (start as usize, length as usize))
        .collect())
}

/// Lets the kernel take the object's pages back: they come from the program's
/// own file, should anybody look again.
pub fn let_go() {
    let page = rustix::param::page_size();
    let begin = (OBJECT.as_ptr() as usize).next_multiple_of(page);
    let end = OBJECT.as_ptr_range().end as usize / page * page;
    if begin < end {
        // SAFETY: whole pages of a file that nobody has written to; they hold
        // the same when they are read again.
        unsafe { libc::madvise(begin as *mut _, end - begin, libc::MADV_DONTNEED) };
    }
}

#[cfg(test)]
mod layout;

#[cfg(test)]
mod tests {
    use super::*;

    fn loads(bytes: &[u8]) -> Vec<i16> {
        code(bytes)
            .unwrap()
            .iter()
            .flat_map(|(start, length)| bytes[*start..start + length].chunks_exact(8))
            .filter(|instruction| LOADS.contains(&instruction[0]))
            .map(|instruction| i16::from_le_bytes([instruction[2], instruction[3]]))
            .collect()
    }

    #[test]
    fn every_placeholder_becomes_its_fields_offset() {
        let offsets = std::array::from_fn(|field| 1000 + field as u32);
        let before = loads(OBJECT);
        let after = loads(&relocate(&offsets).unwrap());
        assert_eq!(before.len(), after.len());
        let mut written = 0;
        for (before, after) in before.iter().zip(after) {
            match Placeholder::parse(*before) {
                Some((field, word)) => {
                    assert_eq!(usize::from(after.cast_unsigned()), 1000 + field + word * 8);
                    written += 1;
                }
                None => assert_eq!(*before, after),
            }
        }
        assert!(written > 100, "{written} loads of fields");
    }

    #[test]
    fn absent_or_far_fields_are_refused_by_name() {
        let check = |offset: u32, message: &str| {
            let error = relocate(&[offset; FIELDS.len()]).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        };
        check(ABSENT, "has no field");
        check(40_000, "40000 bytes");
    }
}
