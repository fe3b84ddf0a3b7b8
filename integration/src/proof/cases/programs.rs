//! Executing what must not run.

use crate::proof::case::{BY_SIGNAL, Case, Ending, Must, Subject, Where};

/// The cases.
pub const CASES: &[Case] = &[
    Case::exec("exec-own-name", "its own name"),
    Case::exec("exec-relative", "relative to the working directory"),
    Case::exec(
        "exec-directory-descriptor",
        "execveat relative to a directory descriptor",
    ),
    Case::exec(
        "exec-empty-path",
        "execveat of a descriptor (`AT_EMPTY_PATH`)",
    ),
    Case::exec("exec-proc-fd", "`/proc/self/fd` of a descriptor (fexecve)"),
    Case::exec("exec-symlink", "a symbolic link"),
    Case::exec("exec-hard-link", "a hard link made before the policy"),
    Case::exec(
        "exec-hard-link-after",
        "a hard link made after the policy by an excepted program",
    )
    .unless(&["ln"]),
    Case::exec("exec-bind", "a bind mount of its directory"),
    Case::exec("exec-chroot", "in a changed root"),
    Case::exec("exec-directory", "below a forbidden directory")
        .about(Subject::Directory("guarded", "inner/program")),
    Case::exec("exec-command", "any file of a forbidden command name")
        .about(Subject::Command("shrike-forbidd")),
    Case::exec("exec-script", "a script, the rule on the script").about(Subject::File("script")),
    Case::exec("exec-interpreter", "a script, the rule on its interpreter"),
    Case::exec(
        "exec-loader",
        "handed to the dynamic loader (`ld.so program`)",
    ),
    Case::exec("exec-compat", "32-bit execve"),
    Case::exec("exec-compat-execveat", "32-bit execveat of a descriptor"),
    Case::exec("exec-thread", "from a thread that is not the leader"),
    Case::exec(
        "exec-after-leader",
        "from a thread after the leader has gone",
    ),
    Case::exec("exec-vforked", "from a vforked process"),
    Case::exec(
        "exec-daemon",
        "from a process forked twice and left to a subreaper",
    ),
    Case::exec("exec-user-namespace", "in a user namespace"),
    Case::exec("exec-pid-namespace", "in a PID namespace"),
    Case::exec("exec-helper", "by the kernel itself (core_pattern)").except(
        Where::RefusingKills,
        Must::Be(Ending {
            denied: true,
            killed: false,
            ..BY_SIGNAL
        }),
        "A helper that the kernel starts takes no signal before it runs (bpf_send_signal says \
         EPERM), and refused it never does.",
    ),
    Case::exec(
        "exec-overlay-merged",
        "on an overlay, the rule on the merged name",
    )
    .about(Subject::File("merged/program")),
    Case::exec(
        "exec-overlay-lower",
        "on an overlay, the rule on the lower file",
    )
    .about(Subject::File("lower/program")),
    Case::exec(
        "exec-overlay-directory",
        "on an overlay, the rule on the lower directory",
    )
    .about(Subject::Directory("lower", "program")),
    Case::exec(
        "exec-overlay-loader",
        "on an overlay, handed to the dynamic loader, the rule on the lower file",
    )
    .about(Subject::File("lower/program")),
    Case::exec(
        "exec-overlays-lowest",
        "on an overlay of an overlay, the rule on the lowest file",
    )
    .about(Subject::File("lower/program")),
    Case::exec(
        "exec-overlays-middle",
        "on an overlay of an overlay, the rule on the merged name of the lower one",
    )
    .about(Subject::File("merged/program")),
    Case::exec(
        "exec-memfd-command",
        "a copy in a memfd, under a forbidden command name",
    )
    .about(Subject::Command("forbidden-memfd")),
    left_alone(
        "exec-script-as-data",
        "a script handed to its interpreter (`sh script`)",
        "The kernel executes the interpreter, and opens the script like any other file: a rule \
         `on: open` is what stops it.",
    )
    .about(Subject::File("script")),
    left_alone(
        "exec-copy",
        "a copy under another name",
        "A copy is another file with another name; nothing in the kernel connects the two.",
    ),
    left_alone(
        "exec-memfd-copy",
        "a copy in a memfd",
        "A copy is another file; a memfd has a label (events show `memfd:NAME`) and no name in \
         any directory that a rule could give. Rules about command names hold for it.",
    ),
];

const fn left_alone(name: &'static str, says: &'static str, why: &'static str) -> Case {
    let case = Case::bystander(name, says, why).about(Subject::File("program"));
    case.on_exec()
}
