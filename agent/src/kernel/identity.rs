//! Which file a path of this machine stands for.

use std::{fs, os::unix::fs::MetadataExt as _};

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
    })
}

/// Turns a device number of stat(2) into the kernel's own form
/// (include/linux/kdev_t.h: 12 bits major, 20 bits minor).
fn kernel_device(device: u64) -> Option<u32> {
    let (major, minor) = (libc::major(device), libc::minor(device));
    (major < 1 << 12 && minor < 1 << 20).then(|| major << 20 | minor)
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
