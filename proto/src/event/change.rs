//! What is done to a file without opening it: only under a rule, because the
//! kernel is asked about no other.

use super::ResolvedPath;

/// A file was changed without being opened, or could not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What was done.
    pub operation: Operation,
    /// 0, or a negative errno.
    pub result: i32,
    /// The name that was judged. One that is only about to be given has a path
    /// and no inode, but for what is there already.
    pub file: ResolvedPath,
    /// Which of the operation's names that is.
    pub name: ChangedName,
    /// The other name of a rename or link; what a symbolic link says, as
    /// written. Empty where there is none.
    pub other_path: Vec<u8>,
    /// The other name is longer or deeper than is read, or unreadable.
    pub other_unresolved: bool,
    /// Type and permissions as asked by mkdir(2), mknod(2) and chmod(2).
    pub mode: u32,
}

impl Change {
    /// Returns the names in the order of the system call: what there is, and
    /// what is made of it. `None` where there is only one.
    pub fn names(&self) -> (&[u8], Option<&[u8]>) {
        let (judged, other) = (&*self.file.path, &*self.other_path);
        match self.name {
            _ if other.is_empty() && !self.other_unresolved => (judged, None),
            ChangedName::Old => (judged, Some(other)),
            ChangedName::New => (other, Some(judged)),
        }
    }
}

/// What was done, by the system call that stands for all that do the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// truncate(2)
    Truncate,
    /// unlink(2)
    Unlink,
    /// rmdir(2)
    Rmdir,
    /// rename(2)
    Rename,
    /// link(2)
    Link,
    /// symlink(2)
    Symlink,
    /// mkdir(2)
    Mkdir,
    /// mknod(2), also the creation of a file by open(2)
    Mknod,
    /// chmod(2)
    Chmod,
    /// chown(2)
    Chown,
    /// setxattr(2), also of an access control list
    Setxattr,
    /// removexattr(2), also of an access control list
    Removexattr,
}

impl Operation {
    /// Every operation, in the order of their numbers on the wire, from 1.
    pub const ALL: [Self; 12] = [
        Self::Truncate,
        Self::Unlink,
        Self::Rmdir,
        Self::Rename,
        Self::Link,
        Self::Symlink,
        Self::Mkdir,
        Self::Mknod,
        Self::Chmod,
        Self::Chown,
        Self::Setxattr,
        Self::Removexattr,
    ];

    /// Returns the name in the manual.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Truncate => "truncate",
            Self::Unlink => "unlink",
            Self::Rmdir => "rmdir",
            Self::Rename => "rename",
            Self::Link => "link",
            Self::Symlink => "symlink",
            Self::Mkdir => "mkdir",
            Self::Mknod => "mknod",
            Self::Chmod => "chmod",
            Self::Chown => "chown",
            Self::Setxattr => "setxattr",
            Self::Removexattr => "removexattr",
        }
    }
}

/// Which of an operation's names is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangedName {
    /// The name that the file has.
    Old,
    /// The name that the file gets.
    New,
}
