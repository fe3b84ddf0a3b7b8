//! Opening one file under its many names, and what must be left alone.

use crate::proof::case::{Case, Class, Subject};

/// The cases.
pub const CASES: &[Case] = &[
    named("own-name", "its own name"),
    named("relative", "relative to the working directory"),
    named("directory-descriptor", "relative to a directory descriptor"),
    named("dot-dot", "`..` on the way"),
    named("doubled-slashes", "doubled slashes and `.`"),
    named("symlink", "a symbolic link"),
    named("symlink-after", "a symbolic link made after the policy"),
    named("symlink-chain", "symbolic links to symbolic links"),
    named("symlink-directory", "a symbolic link to its directory"),
    named("proc-root", "`/proc/self/root`"),
    named("proc-cwd", "`/proc/self/cwd`"),
    named("proc-fd", "`/proc/self/fd` of an `O_PATH` descriptor"),
    named("proc-fd-directory", "`/proc/self/fd` of its directory"),
    named("renamed-directory", "its directory renamed").about(Subject::File("inner/secret")),
    named("renamed-back", "its directory renamed away and back")
        .about(Subject::File("inner/secret")),
    named(
        "swapped-directory",
        "another file where it was, by a renamed directory",
    )
    .about(Subject::File("inner/secret")),
    named("replaced", "replaced by rename, by an excepted program").unless(&["mv"]),
    named(
        "replaced-then-linked",
        "replaced by rename, then a hard link to the replacement, by excepted programs",
    )
    .unless(&["mv", "ln"]),
    named(
        "swapped-warm",
        "another file where it was, known from its place before",
    )
    .about(Subject::File("inner/secret")),
    placed(
        "bind-over",
        "a known directory, bound over the one that is protected",
    )
    .about(Subject::File("guarded/secret")),
    placed(
        "mount-moved",
        "a known mount, moved over the directory that is protected",
    )
    .about(Subject::File("guarded/secret")),
    placed(
        "parent-mount-moved",
        "a known mount, in a mount that is moved to where it is protected",
    )
    .about(Subject::File("guarded/inner/secret")),
    placed(
        "pivot-into",
        "a known file, in a root in which its name is protected",
    )
    .about(Subject::File("guarded/secret")),
    placed("hard-link-before", "a hard link made before the policy"),
    placed(
        "hard-link-after",
        "a hard link made after the policy by an excepted program",
    )
    .unless(&["ln"]),
    placed(
        "bind-before",
        "a bind mount of its directory made before the policy",
    ),
    placed("bind-file", "a bind mount of the file"),
    placed("bind-directory", "a bind mount of its directory"),
    placed(
        "bind-below",
        "a bind mount of a directory below a protected one",
    )
    .about(Subject::Directory("guarded", "inner/secret")),
    placed("bind-root", "a recursive bind mount of the whole system"),
    placed("mount-namespace", "in a mount namespace of its own"),
    placed("chroot", "in a changed root"),
    placed("pivot-root", "in a pivoted root"),
    placed(
        "detached-tree",
        "in a mount that is attached nowhere (open_tree)",
    ),
    placed(
        "detached-below",
        "in a mount that is attached nowhere, of a directory below a protected one",
    )
    .about(Subject::Directory("guarded", "inner/secret")),
    placed(
        "detached-lazily",
        "in a mount that was detached while in use",
    ),
    placed(
        "subvolume",
        "in a btrfs subvolume, right after the file of its numbers in another one",
    )
    .about(Subject::File("btrfs/one/guarded/secret")),
    placed(
        "subvolume-hard-link",
        "in a btrfs subvolume, a hard link made before the policy",
    )
    .about(Subject::File("btrfs/one/guarded/secret")),
    placed(
        "subvolume-directory",
        "in a btrfs subvolume that is protected, by a bind mount of a directory in it",
    )
    .about(Subject::Directory("btrfs/one", "guarded/secret")),
    placed(
        "snapshot-origin",
        "in a btrfs subvolume, right after the file of its numbers in a snapshot",
    )
    .about(Subject::File("btrfs/one/guarded/secret")),
    placed(
        "overlay-merged",
        "on an overlay, the rule on the merged name",
    )
    .about(Subject::File("merged/secret")),
    placed("overlay-lower", "on an overlay, the rule on the lower file")
        .about(Subject::File("lower/secret")),
    placed("overlay-upper", "on an overlay, the rule on the upper file")
        .about(Subject::File("upper/secret")),
    placed(
        "overlay-lower-directory",
        "on an overlay, the rule on the lower directory",
    )
    .about(Subject::Directory("lower", "secret")),
    limit("longest-path", "a path of 4095 bytes, of names of 255").about(Subject::Longest),
    limit("deep", "200 directories below a protected one").about(Subject::Deep(200)),
    limit("deepest", "256 names deep, the most that are resolved").about(Subject::Deep(251)),
    limit("too-deep", "300 directories deep: `on_unknown` decides").about(Subject::Deep(300)),
    limit(
        "beyond-longest",
        "reached step by step, its path longer than 4096 bytes",
    )
    .about(Subject::BeyondLongest),
    limit(
        "racing-name",
        "the name rewritten by another thread meanwhile",
    ),
    limit(
        "untouched-page",
        "the name in memory that was never touched",
    ),
    Case::bystander(
        "innocent-sibling",
        "another file in the same directory",
        "No rule is about it.",
    ),
    Case::bystander(
        "longer-directory-name",
        "a directory whose name only begins like a protected one's",
        "Directory rules match whole names.",
    )
    .about(Subject::Directory("guarded", "secret")),
    Case::bystander(
        "reused-inode",
        "a new file with the inode number of a protected one that is gone",
        "It is another file: the number says nothing once its file is gone.",
    )
    .unless(&["rm"]),
    Case::bystander(
        "excepted-program",
        "a program that the rule excepts",
        "`unless` excepts it.",
    )
    .unless(&["cat"]),
    Case::bystander("subvolume-other", SUBVOLUME, ITS_OWN)
        .about(Subject::File("btrfs/one/guarded/secret")),
    Case::bystander(
        "subvolume-other-directory",
        "the same by a bind mount of a directory, the rule on a whole subvolume",
        ITS_OWN,
    )
    .about(Subject::Directory("btrfs/one", "guarded/secret")),
    Case::bystander(
        "snapshot",
        "the file of the same numbers in a btrfs snapshot of the protected one's subvolume",
        ITS_OWN,
    )
    .about(Subject::File("btrfs/one/guarded/secret")),
    Case::bystander(
        "opened-before",
        "reading from a descriptor that was opened before the policy",
        "Rules are about opening and changing; the kernel asks nobody again who has a file open.",
    ),
    Case::bystander(
        "overlay-lower-directly",
        "the lower file of an overlay, the rule on the merged name",
        "The merged file and the lower file are two files to the kernel, with a name and an inode \
         each; a rule on one does not name the other.",
    )
    .about(Subject::File("merged/secret")),
];

const SUBVOLUME: &str = "the file of the same numbers in another btrfs subvolume of the same mount";

/// Why a subvolume is no alias.
const ITS_OWN: &str = "Every subvolume numbers files of its own, and a snapshot's are copies: the \
                       device that the kernel shows for it (`stat`) tells them apart.";

const fn named(name: &'static str, says: &'static str) -> Case {
    Case::open(Class::Names, name, says)
}

const fn placed(name: &'static str, says: &'static str) -> Case {
    Case::open(Class::Places, name, says)
}

const fn limit(name: &'static str, says: &'static str) -> Case {
    Case::open(Class::Limits, name, says)
}
