//! Which file a path of this machine stands for.

use std::{ffi::CString, fs, os::unix::fs::MetadataExt as _};

use shrike_proto::policy::PathPattern;

use super::rules::Identity;

/// Returns the file or directory that a rule names, links followed. None when
/// there is none, or it is not what the rule says: a rule about a file holds
/// for no directory.
pub fn identify(pattern: &PathPattern) -> Option<Identity> {
    let metadata = fs::metadata(pattern.as_str()).ok()?;
    if metadata.is_dir() != pattern.is_directory() {
        return None;
    }
    Some(Identity {
        device: kernel_device(metadata.dev())?,
        inode: metadata.ino(),
        generation: generation(pattern.as_str()),
    })
}

/// Returns the inode's generation where the file system tells it in its file
/// handles: as the second of two words (`FILEID_INO32_GEN` and its variant
/// with the parent, include/linux/exportfs.h; ext4, f2fs and most others), or
/// behind 64 bits of inode number (xfs), or in front of them (tmpfs), or behind
/// 64 bits of inode number and as many of subvolume (btrfs).
fn generation(path: &str) -> Option<u32> {
    const HANDLE_BYTES_MAX: usize = 128;
    const FILEID_INO32_GEN: i32 = 1;
    const FILEID_INO32_GEN_PARENT: i32 = 2;
    const XFS_FILEID_INO64_GEN: i32 = 0x81;
    const FILEID_BTRFS_WITHOUT_PARENT: i32 = 0x4d;
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        words: [u32; HANDLE_BYTES_MAX / 4],
    }
    let mut handle = Handle {
        bytes: HANDLE_BYTES_MAX as u32,
        kind: 0,
        words: [0; HANDLE_BYTES_MAX / 4],
    };
    let path = CString::new(path).ok()?;
    let mut mount = 0;
    // SAFETY: the handle has as many bytes as it says.
    let result = unsafe {
        libc::name_to_handle_at(
            libc::AT_FDCWD,
            path.as_ptr(),
            (&raw mut handle).cast(),
            &raw mut mount,
            libc::AT_SYMLINK_FOLLOW,
        )
    };
    if result != 0 {
        return None;
    }
    match (handle.kind, handle.bytes) {
        (FILEID_INO32_GEN, 8) | (FILEID_INO32_GEN_PARENT, 16) => Some(handle.words[1]),
        (FILEID_INO32_GEN, 12) => Some(handle.words[0]),
        (XFS_FILEID_INO64_GEN, 12) => Some(handle.words[2]),
        (FILEID_BTRFS_WITHOUT_PARENT, 20) => Some(handle.words[4]),
        _ => None,
    }
}

/// Turns a device number of stat(2) into the kernel's own form
/// (include/linux/kdev_t.h: 12 bits major, 20 bits minor).
fn kernel_device(device: u64) -> Option<u32> {
    let (major, minor) = (libc::major(device), libc::minor(device));
    (major < 1 << 12 && minor < 1 << 20).then_some(major << 20 | minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_become_the_kernels() {
        assert_eq!(kernel_device(libc::makedev(8, 1)), Some(8 << 20 | 1));
        assert_eq!(kernel_device(libc::makedev(0, 0xfffff)), Some(0xfffff));
        assert_eq!(kernel_device(libc::makedev(4096, 0)), None);
    }

    #[test]
    fn file_and_directory_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let directory = PathPattern::parse(&format!("{path}/")).unwrap();
        let file = PathPattern::parse(path).unwrap();
        assert!(identify(&directory).is_some());
        assert_eq!(identify(&file), None);
        let missing = PathPattern::parse(&format!("{path}/missing")).unwrap();
        assert_eq!(identify(&missing), None);
    }
}
