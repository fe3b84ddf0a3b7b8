//! Whether a task's root directory is the root of its mount namespace: then
//! the path as the task sees it is the path.

use aya_ebpf::{macros::map, maps::Array};

use crate::{
    clean::mix,
    memory::read,
    offsets::{SEEN_SEED, offset, setting},
    typed::{Pointer, field, number},
};

/// Words of the table. There is one root for each container.
const SLOTS: u32 = 1 << 10;

/// Roots that were looked at and found to be their namespace's, by mount,
/// directory, namespace and the namespace's mount event.
#[map]
static ROOTS: Array<u64> = Array::with_max_entries(SLOTS, 0);

/// Says whether the task's root is its namespace's.
#[inline(always)]
pub fn is_namespace_root(task: Pointer) -> bool {
    let Some(base) = ROOTS.get_ptr(0) else {
        return false;
    };
    let fs: Pointer = field!(task, task_fs);
    let mount: Pointer = field!(fs, fs_root_mnt);
    let dentry: Pointer = field!(fs, fs_root_dentry);
    let nsproxy: Pointer = field!(task, task_nsproxy);
    let namespace: Pointer = field!(nsproxy, nsproxy_mnt_ns);
    let event: u64 = field!(namespace, mnt_ns_event);
    let mut key = mix(setting!(SEEN_SEED), number(mount, base));
    key = mix(key, number(dentry, base));
    key = mix(key, number(namespace, base));
    key = mix(key, event) | 1;
    let Some(place) = ROOTS.get_ptr_mut((key >> 40) as u32 & (SLOTS - 1)) else {
        return false;
    };
    // SAFETY: a live map value of one word.
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
