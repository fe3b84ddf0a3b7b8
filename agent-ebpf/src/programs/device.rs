//! The device that a file is on, as stat(2) shows it: what tells it from
//! another file of the same inode number.
//!
//! For nearly every file that is its superblock's. btrfs numbers the files of
//! each subvolume anew under one superblock, gives a snapshot the generations
//! of its origin, and shows the number of the subvolume's own (anonymous)
//! device: `btrfs_getattr`, fs/btrfs/inode.c. Its structures are known only
//! once its module is there, so the agent tells where they are while the
//! programs run; until then, and for what is unreadable, the superblock's
//! device stands for all of them.

use shrike_agent_ebpf::offset::Subvolumes;

use crate::{
    global::Global,
    memory::{Unreadable, read},
    offsets::offset,
    typed::{Pointer, field},
};

#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.subvolumes")]
static SUBVOLUMES: Global<Subvolumes> = Global::new(Subvolumes::UNKNOWN);

/// `BTRFS_SUPER_MAGIC`, include/uapi/linux/magic.h.
const BTRFS: u64 = 0x9123_683e;

/// Returns the device of a file, given its inode.
#[inline(always)]
pub fn device_of(inode: u64) -> Result<u32, Unreadable> {
    let superblock = read::<u64>(inode, offset!(inode_super))?;
    let device = read::<u32>(superblock, offset!(super_device))?;
    let subvolumes = SUBVOLUMES.get();
    if subvolumes.is_known() && read::<u64>(superblock, offset!(super_magic))? == BTRFS {
        return Ok(subvolume(inode, subvolumes).unwrap_or(device));
    }
    Ok(device)
}

/// The same where the verifier knows the inode, which is asked for as a plain
/// number where it is on btrfs.
#[inline(always)]
pub fn device_of_typed(inode: Pointer, plain: impl FnOnce() -> u64) -> u32 {
    let superblock: Pointer = field!(inode, inode_super);
    let device: u32 = field!(superblock, super_device);
    let subvolumes = SUBVOLUMES.get();
    if !subvolumes.is_known() {
        return device;
    }
    let magic: u64 = field!(superblock, super_magic);
    if magic == BTRFS {
        return subvolume(plain(), subvolumes).unwrap_or(device);
    }
    device
}

/// Returns the device of an inode's subvolume.
#[inline(always)]
fn subvolume(inode: u64, subvolumes: Subvolumes) -> Result<u32, Unreadable> {
    let root = read::<u64>(inode.wrapping_sub(subvolumes.root_before_inode()), 0)?;
    read(root.wrapping_add(subvolumes.device_in_root()), 0)
}
