//! What stands behind a file of an overlay: the file of a layer, which rules
//! may know by its own name and inode. The overlay opens it with its own and
//! keeps it in `private_data`: `ovl_open`, fs/overlayfs/file.c, Linux 6.1 and
//! 6.12; from 6.13 on there is a `struct ovl_file` between them, whose first
//! member it is.

use crate::{
    memory::{Unreadable, read},
    offsets::{OVERLAY_FILES_ARE_BOXED, offset, setting},
    typed::{Pointer, field},
};

/// `OVERLAYFS_SUPER_MAGIC`, include/uapi/linux/magic.h.
const OVERLAY: u64 = 0x794c_7630;

/// Files that stand behind one another at most, with the uppermost:
/// `FILESYSTEM_MAX_STACK_DEPTH` + 1, include/linux/fs.h.
pub const FILES_MAX: u32 = 3;

/// Says whether a layer's file stands behind a file.
#[inline(always)]
pub fn is_merged(file: Pointer) -> bool {
    let inode: Pointer = field!(file, file_inode);
    let superblock: Pointer = field!(inode, inode_super);
    let magic: u64 = field!(superblock, super_magic);
    magic == OVERLAY
}

/// Returns the layer's file, a `struct file`, that stands behind a file; 0 for
/// none.
#[inline(always)]
pub fn behind(file: u64) -> u64 {
    try_behind(file).unwrap_or(0)
}

#[inline(always)]
fn try_behind(file: u64) -> Result<u64, Unreadable> {
    let inode = read::<u64>(file, offset!(file_inode))?;
    let superblock = read::<u64>(inode, offset!(inode_super))?;
    if read::<u64>(superblock, offset!(super_magic))? != OVERLAY {
        return Ok(0);
    }
    let kept = read::<u64>(file, offset!(file_private))?;
    if setting!(OVERLAY_FILES_ARE_BOXED) == 0 {
        return Ok(kept);
    }
    read(kept, 0)
}
