//! The layout of one record in the ring.
//!
//! ```text
//! ┌────────────┬──────────────────┬────────────────────────────┐
//! │ Header     │ Open, Exec, …    │ bytes, in the order of the │
//! │ (120 bytes)│                  │ lengths in the body        │
//! └────────────┴──────────────────┴────────────────────────────┘
//! ```
//!
//! Only the bytes used are sent. All integers are little-endian, every
//! padding byte is named. The records travel through memory of one machine
//! only, so there is no version: agent and object are built together.

/// Longest path as asked or resolved, without its NUL (`PATH_MAX` less 1).
pub const PATH_BYTES_MAX: usize = 4095;

/// Most components of a path that the programs walk.
pub const PATH_COMPONENTS_MAX: usize = 256;

/// Longest interpreter name.
pub const INTERPRETER_BYTES_MAX: usize = 1023;

/// Most argument bytes, their NULs included.
pub const ARGV_BYTES_MAX: usize = 8192;

/// Most arguments that are read from user memory when an exec fails.
pub const ARGV_COUNT_MAX: usize = 64;

/// Most bytes of the names of variables, their NULs included.
pub const ENVIRONMENT_BYTES_MAX: usize = 4096;

/// Most variables whose names are read.
pub const ENVIRONMENT_COUNT_MAX: usize = 128;

/// Longest record that is always whole: an [`Image`] has what room there is.
pub const RECORD_BYTES_MAX: usize = size_of::<Header>()
    + size_of::<Exec>()
    + 2 * PATH_BYTES_MAX
    + INTERPRETER_BYTES_MAX
    + ARGV_BYTES_MAX;

/// No rule: there is no verdict.
pub const RULE_NONE: u16 = u16::MAX;

/// What a record tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// [`Open`]
    Open = 1,
    /// [`Exec`]
    Exec = 2,
    /// [`Fork`]
    Fork = 3,
    /// [`Exit`]
    Exit = 4,
    /// [`Change`]
    Change = 5,
}

/// The system call that it happened in, or the one that stands for all that do
/// the same: a file that is changed without being opened is an event where a
/// rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Call {
    /// None was seen: io_uring, a handle, the kernel itself.
    None = 0,
    /// open(2)
    Open = 1,
    /// creat(2)
    Creat = 2,
    /// openat(2)
    Openat = 3,
    /// openat2(2)
    Openat2 = 4,
    /// execve(2)
    Execve = 5,
    /// execveat(2)
    Execveat = 6,
    /// truncate(2)
    Truncate = 7,
    /// unlink(2)
    Unlink = 8,
    /// rmdir(2)
    Rmdir = 9,
    /// rename(2)
    Rename = 10,
    /// link(2)
    Link = 11,
    /// symlink(2)
    Symlink = 12,
    /// mkdir(2)
    Mkdir = 13,
    /// mknod(2)
    Mknod = 14,
    /// chmod(2)
    Chmod = 15,
    /// chown(2)
    Chown = 16,
    /// setxattr(2)
    Setxattr = 17,
    /// recvmsg(2)
    Recvmsg = 18,
    /// mmap(2)
    Mmap = 19,
    /// removexattr(2)
    Removexattr = 20,
}

impl Call {
    /// Every call, in the order of their numbers.
    pub const ALL: [Self; 21] = [
        Self::None,
        Self::Open,
        Self::Creat,
        Self::Openat,
        Self::Openat2,
        Self::Execve,
        Self::Execveat,
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
        Self::Recvmsg,
        Self::Mmap,
        Self::Removexattr,
    ];

    /// Returns the name in the manual; empty for none.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Open => "open",
            Self::Creat => "creat",
            Self::Openat => "openat",
            Self::Openat2 => "openat2",
            Self::Execve => "execve",
            Self::Execveat => "execveat",
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
            Self::Recvmsg => "recvmsg",
            Self::Mmap => "mmap",
            Self::Removexattr => "removexattr",
        }
    }
}

/// What was done about a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// Nothing was asked but to note it.
    Noted = 0,
    /// Observe mode: nothing was touched.
    Observed = 1,
    /// `bpf_send_signal` was called; its result is beside.
    Signalled = 2,
    /// PID 1 is never killed.
    SparedInit = 3,
    /// Kernel threads are never killed.
    SparedKernelThread = 4,
    /// The agent is never killed.
    SparedAgent = 5,
    /// The operation was refused, and nothing else done.
    Denied = 6,
    /// The process's program is never killed.
    SparedProtected = 7,
    /// The rule killed too many processes within a minute: nothing was
    /// touched, and nothing will be until the next generation.
    BreakerOpen = 8,
}

/// The path is longer or deeper than the programs walk, or unreadable.
pub const FLAG_PATH_UNRESOLVED: u16 = 1 << 0;
/// The path as asked is longer than the record holds.
pub const FLAG_ASKED_TRUNCATED: u16 = 1 << 1;
/// There were more arguments than the record holds.
pub const FLAG_ARGV_TRUNCATED: u16 = 1 << 2;
/// Path or arguments were read from user memory.
pub const FLAG_FROM_USER_MEMORY: u16 = 1 << 3;
/// The 32-bit entry of the system call.
pub const FLAG_COMPAT: u16 = 1 << 4;
/// There is a file: device and inode are its own.
pub const FLAG_HAS_FILE: u16 = 1 << 5;
/// The directory descriptor is what the caller gave.
pub const FLAG_HAS_DIRECTORY: u16 = 1 << 6;

/// The operation was refused.
pub const FLAG_DENIED: u16 = 1 << 7;

/// The file has no name any more.
pub const FLAG_DELETED: u16 = 1 << 8;

/// The name is the one that a file gets, and not the one that it has.
pub const FLAG_NEW_NAME: u16 = 1 << 9;

/// The other name is longer or deeper than the programs walk, or unreadable.
pub const FLAG_OTHER_UNRESOLVED: u16 = 1 << 10;

/// An [`Image`] follows the [`Exec`].
pub const FLAG_HAS_IMAGE: u16 = 1 << 11;

/// Behind everything else, up to the record's end: the path of the executable
/// that the process ran.
pub const FLAG_HAS_EXECUTABLE: u16 = 1 << 12;

/// What every record begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Header {
    /// Of the whole record.
    pub length: u32,
    /// A [`Kind`].
    pub kind: u8,
    /// A [`Call`].
    pub call: u8,
    /// `FLAG_*`
    pub flags: u16,
    /// CPU that the hook ran on.
    pub cpu: u32,
    /// 0, or a negative errno.
    pub result: i32,
    /// Number of the record on its CPU, taken before it could be lost.
    pub cpu_sequence: u64,
    /// `CLOCK_BOOTTIME`
    pub boot_time_ns: u64,
    /// Policy generation that judged.
    pub generation: u64,
    /// The winning rule's number, or [`RULE_NONE`].
    pub rule: u16,
    /// A [`crate::matching::Action`], 0 for none.
    pub action: u8,
    /// An [`Outcome`].
    pub outcome: u8,
    /// Result of `bpf_send_signal`.
    pub signal_result: i32,
    /// Who acted.
    pub process: Process,
}

/// Who acted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Process {
    /// Thread group.
    pub tgid: u32,
    /// Thread.
    pub tid: u32,
    /// Start of the group's leader, boot nanoseconds.
    pub start_boot_ns: u64,
    /// Start of the parent, boot nanoseconds.
    pub parent_start_boot_ns: u64,
    /// Cgroup of the unified hierarchy.
    pub cgroup_id: u64,
    /// Thread group of the parent.
    pub parent_tgid: u32,
    /// Real user.
    pub uid: u32,
    /// Real group.
    pub gid: u32,
    /// Effective user.
    pub euid: u32,
    /// Effective group.
    pub egid: u32,
    /// Number of the mount namespace, 0 where unknown.
    pub mount_namespace: u32,
    /// Command name, NUL-padded.
    pub comm: [u8; 16],
}

/// A file was opened, or could not be. Bytes: path as asked, resolved path,
/// path as the task sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Open {
    /// open(2) flags as asked.
    pub flags: u32,
    /// open(2) mode as asked.
    pub mode: u32,
    /// Directory descriptor as asked.
    pub directory_fd: i32,
    /// Kernel device number.
    pub device: u32,
    /// Inode number.
    pub inode: u64,
    /// Bytes of the path as asked.
    pub asked_length: u16,
    /// Bytes of the resolved path.
    pub path_length: u16,
    /// Bytes of the path as the task sees it, 0 where that is the same.
    pub task_path_length: u16,
    /// Type and permissions of the file.
    pub file_mode: u16,
    /// Names of the file.
    pub links: u32,
    /// Owner of the file.
    pub owner_uid: u32,
    /// Owning group of the file.
    pub owner_gid: u32,
    /// Always 0.
    pub padding: u32,
}

/// A file was changed without being opened, or could not be. Bytes: the name
/// that was judged, resolved, and the other one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Change {
    /// Inode number, 0 for a name without a file.
    pub inode: u64,
    /// Kernel device number.
    pub device: u32,
    /// Type and permissions of the file.
    pub file_mode: u16,
    /// Type and permissions as asked.
    pub mode: u16,
    /// Bytes of the resolved path.
    pub path_length: u16,
    /// Bytes of the other name.
    pub other_length: u16,
    /// Names of the file.
    pub links: u32,
    /// Owner of the file.
    pub owner_uid: u32,
    /// Owning group of the file.
    pub owner_gid: u32,
}

/// What a new image starts with; only of an exec that succeeded. Bytes, behind
/// those of [`Exec`]: script, working directory, terminal, names of variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Image {
    /// Permitted capabilities before.
    pub permitted_before: u64,
    /// Effective capabilities before.
    pub effective_before: u64,
    /// Permitted capabilities.
    pub permitted: u64,
    /// Effective capabilities.
    pub effective: u64,
    /// Inode number of the script.
    pub script_inode: u64,
    /// Its kernel device number.
    pub script_device: u32,
    /// Saved user.
    pub saved_uid: u32,
    /// Saved group.
    pub saved_gid: u32,
    /// User for access to files.
    pub fs_uid: u32,
    /// Group for access to files.
    pub fs_gid: u32,
    /// Who logged in, as audit knows it; `u32::MAX` for nobody.
    pub login_uid: u32,
    /// Session, as the first PID namespace numbers it.
    pub session_id: u32,
    /// Number of the PID namespace; like each of these, 0 where unknown.
    pub pid_namespace: u32,
    /// Number of the network namespace.
    pub network_namespace: u32,
    /// Number of the user namespace.
    pub user_namespace: u32,
    /// Number of the UTS namespace.
    pub uts_namespace: u32,
    /// Number of the IPC namespace.
    pub ipc_namespace: u32,
    /// Number of the cgroup namespace.
    pub cgroup_namespace: u32,
    /// Names of the executable.
    pub links: u32,
    /// Its owner.
    pub owner_uid: u32,
    /// Its owning group.
    pub owner_gid: u32,
    /// Its type and permissions.
    pub file_mode: u16,
    /// Bytes of the script's resolved path.
    pub script_length: u16,
    /// Bytes of the working directory's resolved path, 0 where it was not.
    pub directory_length: u16,
    /// Bytes of the terminal's name, 0 for none.
    pub tty_length: u16,
    /// Bytes of the names of variables, each with its NUL.
    pub environment_length: u16,
    /// `IMAGE_*`
    pub facts: u16,
    /// Always 0.
    pub padding: u32,
}

/// The capabilities before are known.
pub const IMAGE_HAS_BEFORE: u16 = 1 << 0;
/// A script was executed, and the file is its interpreter.
pub const IMAGE_HAS_SCRIPT: u16 = 1 << 1;
/// The names of variables were asked for.
pub const IMAGE_HAS_ENVIRONMENT: u16 = 1 << 2;
/// There were more of them than the record holds, or longer ones.
pub const IMAGE_ENVIRONMENT_TRUNCATED: u16 = 1 << 3;

/// An exec that succeeded, with its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct ExecWithImage {
    /// As of every exec.
    pub exec: Exec,
    /// Of this one.
    pub image: Image,
}

/// A program was executed, or could not be. Bytes: path as asked, resolved
/// path, interpreter, arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Exec {
    /// execveat(2) flags.
    pub flags: u32,
    /// Directory descriptor as asked.
    pub directory_fd: i32,
    /// Inode number.
    pub inode: u64,
    /// Kernel device number.
    pub device: u32,
    /// Bytes of the path as asked.
    pub asked_length: u16,
    /// Bytes of the resolved path.
    pub path_length: u16,
    /// Bytes of the interpreter's name.
    pub interpreter_length: u16,
    /// Bytes of the arguments, each with its NUL.
    pub argv_length: u16,
    /// Always 0.
    pub padding: u32,
}

/// A process was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Fork {
    /// Start of the child, boot nanoseconds.
    pub child_start_boot_ns: u64,
    /// Thread group of the child.
    pub child_tgid: u32,
    /// First thread of the child.
    pub child_tid: u32,
}

/// A process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Exit {
    /// As wait(2) gives it.
    pub wait_status: u32,
    /// 1: the whole group was made to end.
    pub group_exit: u32,
    /// Opens that were no events of their own.
    pub repeated_opens: u64,
}

const _: () = {
    assert!(size_of::<Process>() == 72);
    assert!(size_of::<Header>() == 120);
    assert!(size_of::<Open>() == 48);
    assert!(size_of::<Change>() == 32);
    assert!(size_of::<Exec>() == 32);
    assert!(size_of::<Image>() == 120);
    assert!(size_of::<ExecWithImage>() == 152);
    assert!(size_of::<Fork>() == 16);
    assert!(size_of::<Exit>() == 16);
    assert!(core::mem::offset_of!(Header, cpu_sequence) == 16);
    assert!(core::mem::offset_of!(Header, rule) == 40);
    assert!(core::mem::offset_of!(Header, process) == 48);
    assert!(core::mem::offset_of!(Process, comm) == 56);
};
