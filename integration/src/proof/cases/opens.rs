//! Opening by every system call, and as every kind of process.

use crate::proof::case::{Case, Class};

/// The cases.
pub const CASES: &[Case] = &[
    entry("open", "open"),
    entry("openat", "openat"),
    entry("openat2", "openat2"),
    entry("open-for-writing", "open for writing, then write"),
    entry("open-by-handle", "open_by_handle_at"),
    entry("compat-open", "32-bit open"),
    entry("compat-openat", "32-bit openat"),
    entry("compat-openat2", "32-bit openat2"),
    entry("compat-open-by-handle", "32-bit open_by_handle_at"),
    entry("uring-openat", "io_uring openat"),
    entry("uring-openat2", "io_uring openat2"),
    entry("uring-worker", "io_uring openat in an io worker"),
    entry(
        "uring-sqpoll",
        "io_uring openat, submitted by a kernel thread",
    ),
    entry(
        "uring-slot",
        "io_uring openat into the ring's own table, then read",
    ),
    entry(
        "uring-chain",
        "io_uring openat, read and write in one chain",
    )
    .perhaps_done_under_signals(IN_KERNEL),
    entry(
        "uring-sqpoll-chain",
        "the same chain, submitted by a kernel thread",
    )
    .perhaps_done_under_signals(IN_KERNEL),
    entry(
        "passed-descriptor",
        "a descriptor received over a socket and first used",
    )
    .unless(&["opener"]),
    actor("thread", "a thread that is not the leader"),
    actor("thread-after-leader", "a thread after the leader has gone"),
    actor("forked", "a forked process"),
    actor("vforked", "a vforked process"),
    actor("daemon", "a process forked twice and left to a subreaper"),
    actor("shared-memory", "a process that shares its parent's memory"),
    actor(
        "shared-table",
        "a process whose descriptor table a sibling shares and reads from",
    )
    .perhaps_done_under_signals(
        "The descriptor is in the shared table before the signal is delivered, and the sibling \
         is not the process that the verdict is about.",
    ),
    actor(
        "deaf",
        "a process that blocks and ignores every signal it can",
    ),
    actor("other-user", "an unprivileged user"),
    actor("user-namespace", "in a user namespace"),
    actor(
        "pid-namespace-init",
        "as the first process of a PID namespace",
    ),
    actor(
        "pid-namespace-member",
        "as another process of a PID namespace",
    ),
    actor("all-namespaces", "in new namespaces of every kind"),
];

/// Why a signal may come too late for io_uring.
const IN_KERNEL: &str = "The kernel carries a chain on by itself; the signal ends the process, \
                         perhaps after the chain.";

const fn entry(name: &'static str, says: &'static str) -> Case {
    Case::open(Class::Entries, name, says)
}

const fn actor(name: &'static str, says: &'static str) -> Case {
    Case::open(Class::Processes, name, says)
}
