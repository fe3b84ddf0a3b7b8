//! What happened: an exec, an open, a change, a fork or an exit, or what the
//! agent found out itself.

use std::borrow::Cow;

use super::{Alert, Change, Comm, Image, Receipt};

/// What a process can be seen doing, and what the agent has to say about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// A program was executed, or could not be.
    Exec(Exec),
    /// A file was opened, or could not be.
    Open(Open),
    /// A file was changed without being opened, or could not be.
    Change(Change),
    /// A process was created.
    Fork(Fork),
    /// A process ended.
    Exit(Exit),
    /// A person must see this.
    Alert(Alert),
}

impl Fact {
    /// Returns the kind, for filters and names.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Exec(_) => Kind::Exec,
            Self::Open(_) => Kind::Open,
            Self::Change(_) => Kind::Change,
            Self::Fork(_) => Kind::Fork,
            Self::Exit(_) => Kind::Exit,
            Self::Alert(_) => Kind::Alert,
        }
    }

    /// Returns the file that the fact is about: as resolved, or as asked
    /// where it was not resolved.
    pub fn path(&self) -> Option<&[u8]> {
        let (file, asked) = match self {
            Self::Exec(exec) => (&exec.file, &exec.path_as_asked),
            Self::Open(open) => (&open.file, &open.path_as_asked),
            Self::Change(change) => return Some(&change.file.path),
            Self::Fork(_) | Self::Exit(_) | Self::Alert(_) => return None,
        };
        match file {
            Some(file) if !file.path.is_empty() => Some(&file.path),
            Some(_) | None => Some(asked),
        }
    }
}

/// The kind of a fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// [`Fact::Exec`]
    Exec,
    /// [`Fact::Open`]
    Open,
    /// [`Fact::Change`]
    Change,
    /// [`Fact::Fork`]
    Fork,
    /// [`Fact::Exit`]
    Exit,
    /// [`Fact::Alert`]
    Alert,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::Exec,
        Self::Open,
        Self::Change,
        Self::Fork,
        Self::Exit,
        Self::Alert,
    ];

    /// Returns the lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Open => "open",
            Self::Change => "change",
            Self::Fork => "fork",
            Self::Exit => "exit",
            Self::Alert => "alert",
        }
    }
}

/// A file as the kernel resolved it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResolvedPath {
    /// From the root of the mount namespace; empty when unresolved.
    pub path: Vec<u8>,
    /// Kernel device number: `major << 20 | minor` (include/linux/kdev_t.h).
    pub device: u64,
    /// Inode number on that device.
    pub inode: u64,
    /// The path is longer than 4096 bytes or 256 components, or could not be
    /// read.
    pub unresolved: bool,
    /// The path as the task sees it, below its own root directory; empty where
    /// that is the same.
    pub task_path: Vec<u8>,
    /// Type and permissions as in stat(2), 0 where unknown.
    pub mode: u32,
    /// Names of the file, 0 where unknown.
    pub links: u32,
    /// Owner of the file.
    pub owner_uid: u32,
    /// Owning group of the file.
    pub owner_gid: u32,
    /// The file has no name any more.
    pub deleted: bool,
}

impl ResolvedPath {
    /// Says whether the file is one of memfd_create(2): it is in no directory,
    /// so that its name stands without a slash, and begins as the kernel has
    /// it (`MFD_NAME_PREFIX`, mm/memfd.c).
    pub fn is_memfd(&self) -> bool {
        self.path.starts_with(b"memfd:")
    }
}

/// A program was executed, or could not be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exec {
    /// System call, for example `execve`; empty where the kernel itself
    /// executed.
    pub syscall: Cow<'static, str>,
    /// 0, or a negative errno.
    pub result: i32,
    /// The path as the caller wrote it.
    pub path_as_asked: Vec<u8>,
    /// `None` when there was no such file.
    pub file: Option<ResolvedPath>,
    /// The interpreter where it differs from the path as asked; else empty.
    pub interpreter: Vec<u8>,
    /// The arguments, the first being the program's own name.
    pub argv: Vec<Vec<u8>>,
    /// There were more than the record holds (64 arguments, 8 KiB).
    pub argv_truncated: bool,
    /// Path and arguments were read from user memory, which another thread
    /// may change.
    pub from_user_memory: bool,
    /// Directory descriptor, -100 (`AT_FDCWD`) for none.
    pub directory_fd: i32,
    /// execveat(2) flags.
    pub flags: u32,
    /// Of an exec that succeeded. In a box, so that opens stay small.
    pub image: Option<Box<Image>>,
}

/// A file was opened, or could not be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Open {
    /// System call, for example `openat`; empty where none was seen
    /// (io_uring, the kernel itself).
    pub syscall: Cow<'static, str>,
    /// 0, or a negative errno.
    pub result: i32,
    /// The path as the caller wrote it.
    pub path_as_asked: Vec<u8>,
    /// The path as asked is longer than the record holds.
    pub path_as_asked_truncated: bool,
    /// `None` when the open failed.
    pub file: Option<ResolvedPath>,
    /// open(2) flags as asked.
    pub flags: u32,
    /// open(2) mode as asked.
    pub mode: u32,
    /// Directory descriptor, -100 (`AT_FDCWD`) for none.
    pub directory_fd: i32,
    /// The path was read from user memory: the open failed before the kernel
    /// made its own copy.
    pub from_user_memory: bool,
}

/// A process was created.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fork {
    /// Thread group of the child.
    pub child_tgid: u32,
    /// First thread of the child.
    pub child_tid: u32,
    /// Start of the child, boot nanoseconds.
    pub child_start_boot_ns: u64,
    /// Command name of the child.
    pub child_comm: Comm,
}

/// A process ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exit {
    /// Exit status, when no signal ended it.
    pub code: u32,
    /// Signal that ended it, 0 for none.
    pub signal: u32,
    /// It left a core dump.
    pub core_dumped: bool,
    /// From start to exit in nanoseconds, 0 where unknown.
    pub duration_ns: u64,
    /// What came of a kill verdict of this process.
    pub receipt: Option<Receipt>,
    /// Opens that were no events of their own: the process had opened the same
    /// file for the same access before.
    pub repeated_opens: u64,
    /// The kernel says that the whole group was made to end, by exit_group(2)
    /// or a signal. Recent kernels say so of a last thread that ended on its
    /// own too (`synchronize_group_exit`, kernel/exit.c).
    pub group_exit: bool,
}
