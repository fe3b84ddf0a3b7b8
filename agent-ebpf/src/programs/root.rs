//! Whether a task's root directory is the root of its mount namespace: then
//! the path as the task sees it is the path.

use crate::{
    global::Global,
    hash::{self, Hash},
    memory::read,
    offsets::offset,
    typed::{Pointer, field, number},
};

/// Places of the table. There is one root for each container.
const PLACE_BITS: u32 = 10;

/// Roots that were looked at and found to be their namespace's, by mount,
/// directory, namespace and the namespace's mount event.
static ROOTS: Global<[u64; 1 << PLACE_BITS]> = Global::new([0; 1 << PLACE_BITS]);

/// Says whether the task's root is its namespace's.
#[inline(always)]
pub fn is_namespace_root(task: Pointer) -> bool {
    let fs: Pointer = field!(task, task_fs);
    let mount: Pointer = field!(fs, fs_root_mnt);
    let dentry: Pointer = field!(fs, fs_root_dentry);
    let nsproxy: Pointer = field!(task, task_nsproxy);
    let namespace: Pointer = field!(nsproxy, nsproxy_mnt_ns);
    let event: u64 = field!(namespace, mnt_ns_event);
    let base = ROOTS.element(0);
    let key = Hash::start(0)
        .word::<0>(number(mount, base))
        .word::<1>(number(dentry, base))
        .word::<2>(number(namespace, base))
        .word::<3>(event)
        .finish();
    let place = ROOTS.element(hash::place::<PLACE_BITS>(key));
    // SAFETY: the place of one word.
    if unsafe { core::ptr::read_volatile(place) } == key {
        return true;
    }
    let found = looks_like_root(mount as u64, dentry as u64);
    if found && event != 0 {
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(place, key) };
    }
    found
}

/// Says whether nothing but mounts is above a directory.
#[inline(always)]
fn looks_like_root(vfsmount: u64, dentry: u64) -> bool {
    let mut mount = vfsmount.wrapping_sub(u64::from(offset!(mount_vfsmount)));
    let mut dentry = dentry;
    // The first file system of a machine lies below the one in use; a
    // container's root is seldom deeper.
    let mut steps = 0;
    while steps < 8 {
        let vfsmount = mount.wrapping_add(u64::from(offset!(mount_vfsmount)));
        match read::<u64>(vfsmount, offset!(vfsmount_root)) {
            Ok(root) if root == dentry => {}
            _ => return false,
        }
        let Ok(parent) = read::<u64>(mount, offset!(mount_parent)) else {
            return false;
        };
        if parent == mount {
            return true;
        }
        let Ok(mountpoint) = read::<u64>(mount, offset!(mount_mountpoint)) else {
            return false;
        };
        dentry = mountpoint;
        mount = parent;
        steps += 1;
    }
    false
}
