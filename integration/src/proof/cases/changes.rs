//! Changing a protected file, its name or its rights.

use crate::proof::case::{Case, Class, Subject};

/// The cases.
pub const CASES: &[Case] = &[
    Case::changing_open("open-truncate", "open with `O_TRUNC`"),
    Case::changing_open("open-read-truncate", "open for reading with `O_TRUNC`"),
    Case::changing_open("creat", "creat"),
    Case::changing_open("compat-creat", "32-bit creat"),
    Case::changing_open("create", "create a protected name with `O_CREAT`"),
    Case::changing_open("create-below", "create a file in a protected directory")
        .about(Subject::Directory("guarded", "secret")),
    Case::changing_open("acct", "make the kernel account processes in it (acct)"),
    Case::changing_open(
        "core",
        "dump a process's memory into a protected directory (core_pattern)",
    )
    .about(Subject::Directory("guarded", "secret")),
    Case::change("truncate", "truncate", "truncate"),
    Case::change("truncate", "truncate-link", "truncate through a hard link"),
    Case::change("truncate", "compat-truncate", "32-bit truncate"),
    Case::change(
        "truncate",
        "ftruncate-before",
        "ftruncate of a descriptor that was opened before the policy",
    ),
    Case::change(
        "truncate",
        "ftruncate-inherited",
        "ftruncate of a descriptor that an excepted program opened before it executed another one",
    )
    .unless(&["opener"]),
    Case::open(
        Class::Changes,
        "ftruncate-passed",
        "ftruncate of a descriptor received over a socket",
    )
    .unless(&["opener"]),
    Case::change("unlink", "unlink", "unlink"),
    Case::change("unlink", "compat-unlink", "32-bit unlink"),
    Case::change("unlink", "unlink-below", "unlink in a protected directory")
        .about(Subject::Directory("guarded", "secret")),
    Case::change("unlink", "uring-unlink", "io_uring unlinkat"),
    Case::change("rename", "rename-away", "rename to another name"),
    Case::change("rename", "rename-over", "rename another file over it"),
    Case::change("rename", "rename-exchange", "exchange it with another file"),
    Case::change(
        "rename",
        "rename-into",
        "rename a file to a protected name that is free",
    ),
    Case::change("rename", "uring-rename-over", "io_uring renameat over it"),
    Case::change("rename", "compat-rename-over", "32-bit rename over it"),
    Case::change("link", "link", "make a hard link to it"),
    Case::change(
        "link",
        "link-descriptor",
        "make a hard link to an `O_PATH` descriptor of it",
    ),
    Case::change(
        "link",
        "link-into",
        "link a nameless file (`O_TMPFILE`) to a protected name",
    ),
    Case::change("link", "uring-link", "io_uring linkat"),
    Case::change(
        "symlink",
        "symlink-into",
        "make a symbolic link of a protected name",
    ),
    Case::change(
        "mkdir",
        "mkdir-into",
        "make a directory of a protected name",
    ),
    Case::change("mknod", "mknod-into", "make a FIFO of a protected name"),
    Case::change("chmod", "chmod", "chmod"),
    Case::change(
        "chmod",
        "chmod-descriptor",
        "chmod of `/proc/self/fd` of an `O_PATH` descriptor",
    ),
    Case::change("chown", "chown", "chown"),
    Case::change("setxattr", "setxattr", "set an extended attribute"),
    Case::change("removexattr", "removexattr", "remove an extended attribute"),
    Case::change("setxattr", "set-acl", "set an access control list"),
    Case::change("removexattr", "remove-acl", "remove an access control list"),
];
