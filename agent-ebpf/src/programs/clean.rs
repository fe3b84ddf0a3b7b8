//! What is known to concern no rule: directories and files whose path was
//! matched, and hit nothing.
//!
//! Most opens are of files that no rule names, in directories that no rule
//! names, again and again. Their keys lie in one direct-mapped table: a word
//! that is there means that the path was walked under this generation of
//! rules, and that nothing has moved since.
//!
//! ```text
//! directory  = mount · namespace · its mount event · moves · inode · dentry
//! file       = directory · hash and length of the name · inode · i_generation
//! ```
//!
//! A mount that changes place gives its namespace a new event number, which
//! the kernel never gives out twice. A directory that changes place, or goes,
//! is counted in [`MOVES`]. An exec's place also has the command name that the
//! new image gets. See [`crate::hash`] for what the keys are worth.

use aya_ebpf::{macros::fexit, programs::FExitContext};

use crate::{
    global::Global,
    hash::{self, Hash},
    memory::{atomic_add, read},
    offsets::offset,
    typed::{Pointer, field, number},
};

/// Places of the table: 128 KiB. A busy machine opens files of some thousand
/// directories; one that lost its place is walked again.
const PLACE_BITS: u32 = 14;

static CLEAN: Global<[u64; 1 << PLACE_BITS]> = Global::new([0; 1 << PLACE_BITS]);

/// Directories that were renamed, exchanged, spliced or removed.
static MOVES: Global<u64> = Global::new(0);

/// Where something is, hashed.
#[derive(Clone, Copy)]
pub struct Place(Hash);

impl Place {
    /// Returns the directory of a name, as far as it can be told from others:
    /// under a generation's seed, in the mount and the task's namespace.
    #[inline(always)]
    pub fn directory(seed: u64, task: Pointer, mount: Pointer, dentry: Pointer) -> Option<Self> {
        let nsproxy: Pointer = field!(task, task_nsproxy);
        let namespace: Pointer = field!(nsproxy, nsproxy_mnt_ns);
        let event: u64 = field!(namespace, mnt_ns_event);
        if event == 0 {
            // Nothing tells this namespace from another one at its place.
            return None;
        }
        let parent: Pointer = field!(dentry, dentry_parent);
        let inode: Pointer = field!(parent, dentry_inode);
        let base = MOVES.place();
        Some(Self(
            Hash::start(seed)
                .word::<0>(number(mount, base))
                .word::<1>(number(namespace, base))
                .word::<2>(event)
                .word::<3>(MOVES.get())
                .word::<4>(field!(inode, inode_number))
                // One mount can show two directories of one number: btrfs
                // numbers the files of each subvolume anew.
                .word::<11>(number(parent, base)),
        ))
    }

    /// Returns a file in this directory.
    #[inline(always)]
    #[must_use]
    pub fn file(self, dentry: Pointer, inode: Pointer) -> Self {
        let name: u32 = field!(dentry, dentry_name_hash);
        let length: u32 = field!(dentry, dentry_name_length);
        let generation: u32 = field!(inode, inode_generation);
        Self(
            self.0
                .word::<5>(u64::from(name))
                .word::<6>(u64::from(length))
                .word::<7>(field!(inode, inode_number))
                .word::<8>(u64::from(generation)),
        )
    }

    /// Returns this place for execs of it under a command name.
    #[inline(always)]
    #[must_use]
    pub fn executed_as(self, comm: &[u64; 2]) -> Self {
        Self(self.0.word::<9>(comm[0]).word::<10>(comm[1]))
    }

    /// Returns the place's key, never 0.
    #[inline(always)]
    pub fn key(self) -> u64 {
        self.0.finish()
    }
}

/// Says whether the place of a key is known to concern no rule.
#[inline(always)]
pub fn contains(key: u64) -> bool {
    // SAFETY: the place of one word.
    unsafe { core::ptr::read_volatile(CLEAN.element(hash::place::<PLACE_BITS>(key))) == key }
}

/// Remembers that the place of a key concerns no rule.
#[inline(always)]
pub fn insert(key: u64) {
    // SAFETY: the place of one word.
    unsafe { core::ptr::write_volatile(CLEAN.element(hash::place::<PLACE_BITS>(key)), key) };
}

/// Says whether what a walk found out about a name may be remembered: the
/// mount is the task's namespace's, and a file that is a mount of its own is
/// not where its directory is. All are plain numbers.
#[inline(always)]
pub fn may_remember(vfsmount: u64, dentry: u64, task: u64) -> bool {
    mount_is_of_task(vfsmount, task) && !is_mount_root(vfsmount, dentry)
}

/// Says whether a mount belongs to the namespace of a task: only then the
/// namespace's event number stands for the mount's place. Both are plain
/// numbers.
#[inline(always)]
fn mount_is_of_task(vfsmount: u64, task: u64) -> bool {
    let mount = vfsmount.wrapping_sub(u64::from(offset!(mount_vfsmount)));
    let of_mount = read::<u64>(mount, offset!(mount_mnt_ns));
    let of_task = read::<u64>(task, offset!(task_nsproxy))
        .and_then(|nsproxy| read::<u64>(nsproxy, offset!(nsproxy_mnt_ns)));
    matches!((of_mount, of_task), (Ok(one), Ok(other)) if one == other && one != 0)
}

/// Says whether a name is the root of its mount. Both are plain numbers.
#[inline(always)]
fn is_mount_root(vfsmount: u64, dentry: u64) -> bool {
    !matches!(read::<u64>(vfsmount, offset!(vfsmount_root)), Ok(root) if root != dentry)
}

#[inline(always)]
fn moved() {
    // SAFETY: a live static.
    unsafe { atomic_add(MOVES.place(), 1) };
}

/// `S_IFMT` and `S_IFDIR`, include/uapi/linux/stat.h.
const S_IFMT: u16 = 0o170_000;
const S_IFDIR: u16 = 0o040_000;

/// `void __d_move(struct dentry *, struct dentry *target, bool exchange)`,
/// fs/dcache.c: every way in which a name changes its directory.
#[fexit]
pub fn dentry_moved(ctx: FExitContext) -> i32 {
    let (one, other): (Pointer, Pointer) = (ctx.arg(0), ctx.arg(1));
    if is_directory(one) || is_directory(other) {
        moved();
    }
    0
}

#[inline(always)]
fn is_directory(dentry: Pointer) -> bool {
    let inode: Pointer = field!(dentry, dentry_inode);
    let mode: u16 = field!(inode, inode_mode);
    mode & S_IFMT == S_IFDIR
}

/// `int vfs_rmdir(struct user_namespace *, struct inode *, struct dentry *)`,
/// fs/namei.c: the directory's inode number may come again.
#[fexit]
pub fn directory_removed(_: FExitContext) -> i32 {
    moved();
    0
}
