//! Looking up the kernel's structure offsets in its own BTF.

use std::{collections::HashMap, fs, path::Path};

use btfparse::{Offset, Readable, TypeInformation, TypeVariant};
use shrike_agent_ebpf::offset::{ABSENT, FIELDS, Offsets};

use super::SensorError;

/// Where the kernel keeps its BTF.
const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";

/// BTF in memory.
struct Buffer(Vec<u8>);

impl Readable for Buffer {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> btfparse::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let part = start
            .checked_add(buffer.len())
            .and_then(|end| self.0.get(start..end))
            .ok_or_else(|| {
                btfparse::Error::new(btfparse::ErrorKind::EOF, "read past the end of the BTF")
            })?;
        buffer.copy_from_slice(part);
        Ok(())
    }
}

/// Looks up every field that the programs read.
///
/// # Errors
/// [`SensorError`] when there is no BTF, or a required field is not in it.
pub fn resolve() -> Result<Offsets, SensorError> {
    let bytes = fs::read(Path::new(BTF_PATH)).map_err(SensorError::NoBtf)?;
    let types = TypeInformation::new(&Buffer(bytes))
        .map_err(|error| SensorError::UnreadableBtf(format!("{:?}", error.kind())))?;
    from_types(&types)
}

fn from_types(types: &TypeInformation) -> Result<Offsets, SensorError> {
    // A function or a typedef may have the name of a structure, so `id_of`
    // would not do.
    let structures: HashMap<&str, u32> = types
        .get()
        .iter()
        .filter_map(|(id, kind)| match kind {
            TypeVariant::Struct(structure) => structure.name().as_deref().map(|name| (name, *id)),
            _ => None,
        })
        .collect();
    let mut values = [ABSENT; FIELDS.len()];
    for (value, field) in values.iter_mut().zip(FIELDS) {
        let found = structures.get(field.structure).and_then(|id| {
            field
                .members
                .iter()
                .find_map(|member| match types.offset_of(*id, member) {
                    Ok((_, Offset::ByteOffset(offset))) => Some(offset),
                    Ok((_, Offset::BitOffsetAndSize(..))) | Err(_) => None,
                })
        });
        match found {
            Some(offset) => *value = offset,
            None if field.required => {
                return Err(SensorError::MissingField {
                    structure: field.structure,
                    member: field.members[0],
                });
            }
            None => {}
        }
    }
    Ok(Offsets::from_values(&values))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_is_no_btf() {
        assert!(TypeInformation::new(&Buffer(vec![0; 64])).is_err());
        assert!(TypeInformation::new(&Buffer(Vec::new())).is_err());
    }
}
