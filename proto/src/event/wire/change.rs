//! Changes of files.

use super::WireError;
use crate::{
    event::{Change, ChangedName, Operation},
    wire::event as wire,
};

impl From<Change> for wire::Change {
    fn from(change: Change) -> Self {
        Self {
            operation: wire::Operation::from(change.operation).into(),
            result: change.result,
            file: Some(change.file.into()),
            name: wire::ChangedName::from(change.name).into(),
            other_path: change.other_path,
            other_unresolved: change.other_unresolved,
            mode: change.mode,
        }
    }
}

impl TryFrom<wire::Change> for Change {
    type Error = WireError;

    fn try_from(change: wire::Change) -> Result<Self, WireError> {
        Ok(Self {
            operation: operation(change.operation)?,
            result: change.result,
            file: change.file.ok_or(WireError::Missing("change.file"))?.into(),
            name: match wire::ChangedName::try_from(change.name) {
                Ok(wire::ChangedName::Old) => ChangedName::Old,
                Ok(wire::ChangedName::New) => ChangedName::New,
                Ok(wire::ChangedName::Unspecified) | Err(_) => {
                    return Err(WireError::UnknownValue {
                        field: "change.name",
                        value: change.name,
                    });
                }
            },
            other_path: change.other_path,
            other_unresolved: change.other_unresolved,
            mode: change.mode,
        })
    }
}

fn operation(value: i32) -> Result<Operation, WireError> {
    Operation::ALL
        .into_iter()
        .find(|operation| wire::Operation::from(*operation) as i32 == value)
        .ok_or(WireError::UnknownValue {
            field: "change.operation",
            value,
        })
}

impl From<Operation> for wire::Operation {
    fn from(operation: Operation) -> Self {
        match operation {
            Operation::Truncate => Self::Truncate,
            Operation::Unlink => Self::Unlink,
            Operation::Rmdir => Self::Rmdir,
            Operation::Rename => Self::Rename,
            Operation::Link => Self::Link,
            Operation::Symlink => Self::Symlink,
            Operation::Mkdir => Self::Mkdir,
            Operation::Mknod => Self::Mknod,
            Operation::Chmod => Self::Chmod,
            Operation::Chown => Self::Chown,
            Operation::Setxattr => Self::Setxattr,
            Operation::Removexattr => Self::Removexattr,
        }
    }
}

impl From<ChangedName> for wire::ChangedName {
    fn from(name: ChangedName) -> Self {
        match name {
            ChangedName::Old => Self::Old,
            ChangedName::New => Self::New,
        }
    }
}
