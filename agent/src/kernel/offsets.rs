//! Looking up the kernel's structure offsets in its own BTF.

use std::fs;

use shrike_agent_ebpf::offset::{ABSENT, FIELDS, Offsets};

use super::{SensorError, btf::Btf};

/// Where the kernel keeps its type information.
pub const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";

/// Looks up every field that the programs read.
///
/// # Errors
/// [`SensorError`] when there is no BTF, or a required field is not in it.
pub fn resolve() -> Result<Table, SensorError> {
    let bytes = fs::read(BTF_PATH).map_err(SensorError::NoBtf)?;
    let btf = Btf::parse(&bytes).map_err(|error| SensorError::UnreadableBtf(error.to_string()))?;
    from_btf(&btf)
}

/// The offsets, with the fields' names.
#[derive(Debug, Clone)]
pub struct Table {
    values: [u32; FIELDS.len()],
}

impl Table {
    /// Returns what the programs are told.
    pub fn offsets(&self) -> Offsets {
        Offsets::from_values(&self.values)
    }

    /// Returns the offsets in the order of [`FIELDS`].
    pub fn values(&self) -> &[u32; FIELDS.len()] {
        &self.values
    }

    /// Returns each field's name and offset; `None`: it is not in this kernel.
    pub fn iter(&self) -> impl Iterator<Item = (String, Option<u32>)> {
        FIELDS.iter().zip(self.values).map(|(field, offset)| {
            let name = format!("{}.{}", field.structure, field.members[0]);
            (name, (offset != ABSENT).then_some(offset))
        })
    }
}

fn from_btf(btf: &Btf<'_>) -> Result<Table, SensorError> {
    let mut values = [ABSENT; FIELDS.len()];
    for (value, field) in values.iter_mut().zip(FIELDS) {
        let found = field
            .members
            .iter()
            .find_map(|member| btf.offset_of(field.structure, member));
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
    Ok(Table { values })
}
