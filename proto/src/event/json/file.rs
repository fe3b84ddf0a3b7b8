//! Files, and what is done to them without a program being run.

use std::{borrow::Cow, fmt};

use serde::Serialize;

use super::{Shown, known, known_text};
use crate::{
    escape::lossless,
    event::{Change, ChangedName, Open, ResolvedPath, errno},
};

#[derive(Serialize)]
pub(super) struct OpenView<'a> {
    syscall: Option<&'a str>,
    result: i32,
    error: Option<&'static str>,
    path_as_asked: Cow<'a, str>,
    path_as_asked_truncated: bool,
    file: Option<FileView<'a>>,
    access: &'static str,
    flags: u32,
    mode: u32,
    directory_fd: i32,
    from_user_memory: bool,
}

impl<'a> From<&'a Open> for OpenView<'a> {
    fn from(open: &'a Open) -> Self {
        Self {
            syscall: known_text(&open.syscall),
            result: open.result,
            error: errno::name(open.result),
            path_as_asked: lossless(&open.path_as_asked),
            path_as_asked_truncated: open.path_as_asked_truncated,
            file: open.file.as_ref().map(Into::into),
            access: access_name(open.flags),
            flags: open.flags,
            mode: open.mode,
            directory_fd: open.directory_fd,
            from_user_memory: open.from_user_memory,
        }
    }
}

/// Returns what open(2) flags ask for: `read`, `write`, `read-write`, or
/// `path` for a descriptor that can do neither.
///
/// Source: include/uapi/asm-generic/fcntl.h; these bits are the same on every
/// architecture that Shrike builds for.
pub(in crate::event) fn access_name(flags: u32) -> &'static str {
    const O_ACCMODE: u32 = 0o3;
    const O_WRONLY: u32 = 0o1;
    const O_RDWR: u32 = 0o2;
    const O_PATH: u32 = 0o10_000_000;
    if flags & O_PATH != 0 {
        return "path";
    }
    match flags & O_ACCMODE {
        O_WRONLY => "write",
        // 3 asks for the permission to do both, and gets neither (open(2)).
        O_RDWR | O_ACCMODE => "read-write",
        _ => "read",
    }
}

#[derive(Serialize)]
pub(super) struct ChangeView<'a> {
    operation: &'static str,
    result: i32,
    error: Option<&'static str>,
    file: FileView<'a>,
    name: &'static str,
    other_path: Option<Cow<'a, str>>,
    other_unresolved: bool,
    mode: Option<String>,
}

impl<'a> From<&'a Change> for ChangeView<'a> {
    fn from(change: &'a Change) -> Self {
        Self {
            operation: change.operation.as_str(),
            result: change.result,
            error: errno::name(change.result),
            file: (&change.file).into(),
            name: match change.name {
                ChangedName::Old => "old",
                ChangedName::New => "new",
            },
            other_path: known(&change.other_path),
            other_unresolved: change.other_unresolved,
            mode: octal(change.mode),
        }
    }
}

#[derive(Serialize)]
pub(super) struct FileView<'a> {
    path: Option<Cow<'a, str>>,
    device: Shown<Device>,
    inode: u64,
    unresolved: bool,
    task_path: Option<Cow<'a, str>>,
    mode: Option<String>,
    links: u32,
    owner_uid: u32,
    owner_gid: u32,
    deleted: bool,
}

impl<'a> From<&'a ResolvedPath> for FileView<'a> {
    fn from(file: &'a ResolvedPath) -> Self {
        Self {
            path: known(&file.path),
            device: Shown(Device(file.device)),
            inode: file.inode,
            unresolved: file.unresolved,
            task_path: known(&file.task_path),
            mode: octal(file.mode),
            links: file.links,
            owner_uid: file.owner_uid,
            owner_gid: file.owner_gid,
            deleted: file.deleted,
        }
    }
}

fn octal(mode: u32) -> Option<String> {
    (mode != 0).then(|| format!("{mode:o}"))
}

struct Device(u64);

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // include/linux/kdev_t.h: MINORBITS is 20.
        write!(f, "{}:{}", self.0 >> 20, self.0 & 0xf_ffff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_follows_the_flags() {
        let check = |flags: u32, expect: &str| assert_eq!(access_name(flags), expect);
        check(0, "read");
        check(0o1 | 0o100, "write");
        check(0o2, "read-write");
        check(0o3, "read-write");
        check(0o10_000_000, "path");
    }
}
