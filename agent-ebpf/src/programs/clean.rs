//! What is known to concern no rule: directories and files whose path was
//! matched, and hit nothing.
//!
//! Most opens are of files that no rule names, in directories that no rule
//! names, again and again. Their keys lie in one direct-mapped table: a word
//! that is there means that the path was walked under this generation of
//! rules, and that nothing has moved since.
//!
//! ```text
//! directory  = mount · namespace · its mount event · inode · i_generation · moves
//! file       = directory · inode · i_generation · hash and length of the name
//! ```
//!
//! A mount that changes place gives its namespace a new event number, which
//! the kernel never gives out twice. A directory that changes place, or goes,
//! is counted in [`MOVES`]. A key is 64 bits under the generation's secret
//! seed: nobody outside can look for two with one value.

use aya_ebpf::{
    macros::{fexit, map},
    maps::Array,
    programs::FExitContext,
};

use crate::{
    memory::{atomic_add, read},
    offsets::offset,
    typed::{Pointer, field, number},
};

/// Words of the table: 128 KiB. A busy machine opens files of some thousand
/// directories; one that lost its place is walked again.
const SLOTS: u32 = 1 << 14;

#[map]
static CLEAN: Array<u64> = Array::with_max_entries(SLOTS, 0);

/// Directories that were renamed, exchanged, spliced or removed.
#[map]
static MOVES: Array<u64> = Array::with_max_entries(1, 0);

/// Mixes a word into a key. The finaliser's constants are MurmurHash3's.
#[inline(always)]
pub fn mix(key: u64, word: u64) -> u64 {
    let mixed = (key ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ (mixed >> 32)
}

/// Returns the key of a file's directory.
#[inline(always)]
pub fn directory_key(seed: u64, task: Pointer, mount: Pointer, dentry: Pointer) -> u64 {
    let Some(moves) = MOVES.get_ptr(0) else {
        return 0;
    };
    let nsproxy: Pointer = field!(task, task_nsproxy);
    let namespace: Pointer = field!(nsproxy, nsproxy_mnt_ns);
    let event: u64 = field!(namespace, mnt_ns_event);
    if event == 0 {
        // Nothing tells this namespace from another one at its place.
        return 0;
    }
    let parent: Pointer = field!(dentry, dentry_parent);
    let inode: Pointer = field!(parent, dentry_inode);
    // SAFETY: a live map value; a torn read is impossible for one word.
    let moved = unsafe { core::ptr::read_volatile(moves) };
    let mut key = mix(seed, number(mount, moves));
    key = mix(key, number(namespace, moves));
    key = mix(key, event);
    let generation: u32 = field!(inode, inode_generation);
    key = mix(key, moved << 32 | u64::from(generation));
    key = mix(key, field!(inode, inode_number));
    key | 1
}

/// Returns the key of a file in a directory.
#[inline(always)]
pub fn file_key(directory: u64, dentry: Pointer, inode: Pointer) -> u64 {
    let hash: u32 = field!(dentry, dentry_name_hash);
    let length: u32 = field!(dentry, dentry_name_length);
    let mut key = mix(directory, u64::from(hash) << 32 | u64::from(length));
    let generation: u32 = field!(inode, inode_generation);
    key = mix(key, u64::from(generation));
    key = mix(key, field!(inode, inode_number));
    key | 1
}

/// Says whether a key is known.
#[inline(always)]
pub fn contains(key: u64) -> bool {
    CLEAN
        .get_ptr((key >> 40) as u32 & (SLOTS - 1))
        // SAFETY: a live map value of one word.
        .is_some_and(|place| unsafe { core::ptr::read_volatile(place) } == key)
}

/// Remembers a key.
#[inline(always)]
pub fn insert(key: u64) {
    if let Some(place) = CLEAN.get_ptr_mut((key >> 40) as u32 & (SLOTS - 1)) {
        // SAFETY: a live map value of one word.
        unsafe { core::ptr::write_volatile(place, key) };
    }
}

/// Says whether a mount belongs to the namespace of a task: only then the
/// namespace's event number stands for the mount's place. Both are plain
/// numbers.
#[inline(always)]
pub fn mount_is_of_task(vfsmount: u64, task: u64) -> bool {
    let mount = vfsmount.wrapping_sub(u64::from(offset!(mount_vfsmount)));
    let of_mount = read::<u64>(mount, offset!(mount_mnt_ns));
    let of_task = read::<u64>(task, offset!(task_nsproxy))
        .and_then(|nsproxy| read::<u64>(nsproxy, offset!(nsproxy_mnt_ns)));
    matches!((of_mount, of_task), (Ok(one), Ok(other)) if one == other && one != 0)
}

/// Says whether a name is the root of its mount. Both are plain numbers.
#[inline(always)]
pub fn is_mount_root(vfsmount: u64, dentry: u64) -> bool {
    !matches!(read::<u64>(vfsmount, offset!(vfsmount_root)), Ok(root) if root != dentry)
}

#[inline(always)]
fn moved() {
    if let Some(moves) = MOVES.get_ptr_mut(0) {
        // SAFETY: a live map value.
        unsafe { atomic_add(moves, 1) };
    }
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
/// fs/namei.c: an inode number may come again, on file systems without
/// generations in the same guise.
#[fexit]
pub fn directory_removed(_: FExitContext) -> i32 {
    moved();
    0
}
