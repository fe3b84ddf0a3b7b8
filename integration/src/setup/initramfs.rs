//! The initramfs: busybox, the virtio modules and a script that mounts the
//! root file system, lays the run's own files over it and goes there.
//!
//! Debian's own initramfs generator would want the kernel installed, so the
//! archive (cpio, "newc") is written here, uncompressed: it is small, and
//! decompressing is slow in an emulated machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::elf;
use crate::outside;

/// What the script needs from the kernel beyond what is built in.
const MODULES: [&str; 8] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "virtio_net",
    "ext4",
    "overlay",
    "btrfs",
    "loop",
];

const INIT: &str = r#"#!/bin/busybox sh
export PATH=/bin
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t devtmpfs devtmpfs /dev
for module in $(busybox cat /modules/order); do
    busybox insmod "/modules/$module.ko" || echo "init: module $module does not load"
done
tries=0
while [ ! -b /dev/vda ] || [ ! -b /dev/vdb ]; do
    tries=$((tries + 1))
    if [ "$tries" -gt 200 ]; then
        echo "init: the disks do not appear"
        busybox poweroff -f
    fi
    busybox usleep 20000
done
busybox mount -t ext4 -o noatime /dev/vda /root || busybox poweroff -f
busybox tar -x -f /dev/vdb -C /root || busybox poweroff -f
busybox mount --move /dev /root/dev
busybox umount /proc /sys
exec busybox switch_root /root /usr/lib/shrike/guest init
"#;

/// Builds the archive from an unpacked kernel package's modules.
///
/// # Errors
/// When a file cannot be read or a module not be decompressed.
pub fn build(busybox: &Path, modules: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "modules", "proc", "root", "sys"] {
        archive.folder(folder);
    }
    let busybox =
        fs::read(busybox).with_context(|| format!("cannot read {}", busybox.display()))?;
    archive.file("bin/busybox", 0o755, &busybox);
    archive.file("init", 0o755, INIT.as_bytes());

    let available = find_modules(modules)?;
    let mut loaded = Vec::new();
    for name in MODULES {
        add_module(name, &available, &mut loaded, &mut archive)?;
    }
    archive.file("modules/order", 0o644, loaded.join("\n").as_bytes());
    Ok(archive.finish())
}

/// Adds a module after those that it needs. One that the package does not
/// have is built into the kernel.
fn add_module(
    name: &str,
    available: &BTreeMap<String, PathBuf>,
    loaded: &mut Vec<String>,
    archive: &mut Archive,
) -> Result<()> {
    let Some(path) = available.get(name) else {
        return Ok(());
    };
    if loaded.iter().any(|other| other == name) {
        return Ok(());
    }
    let module = read_module(path)?;
    for needed in elf::module_depends(&module) {
        add_module(&needed, available, loaded, archive)?;
    }
    archive.file(&format!("modules/{name}.ko"), 0o644, &module);
    loaded.push(name.to_owned());
    Ok(())
}

fn read_module(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_some_and(|extension| extension == "xz") {
        let output = outside::finish(Command::new("xz").arg("-dc").arg(path))?;
        return Ok(output.stdout);
    }
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Every module below a folder, by its name with underscores.
fn find_modules(folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                folders.push(path);
                continue;
            }
            let file = entry.file_name().to_string_lossy().into_owned();
            if let Some(name) = file
                .strip_suffix(".xz")
                .unwrap_or(&file)
                .strip_suffix(".ko")
            {
                found.insert(name.replace('-', "_"), path);
            }
        }
    }
    Ok(found)
}

/// A cpio archive in the "newc" format (kernel:
/// `Documentation/driver-api/early-userspace/buffer-format.rst`).
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn folder(&mut self, path: &str) {
        self.entry(path, 0o040_755, &[]);
    }

    fn file(&mut self, path: &str, mode: u32, contents: &[u8]) {
        self.entry(path, 0o100_000 | mode, contents);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entries = 0;
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, contents: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(contents.len()).expect("no file of an initramfs has 4 GiB");
        let name_size = u32::try_from(path.len() + 1).expect("paths are short");
        // inode, mode, uid, gid, links, mtime, size, device (2), rdev (2),
        // name size, checksum (unused by this format).
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            size,
            0,
            0,
            0,
            0,
            name_size,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    fn pad(&mut self) {
        let padded = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(padded, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_starts_on_a_word_and_the_trailer_ends_it() {
        let mut archive = Archive::default();
        archive.folder("bin");
        archive.file("bin/x", 0o755, b"12345");
        let bytes = archive.finish();

        assert_eq!(&bytes[..6], b"070701");
        // Header 110, "bin\0" 4, padded to 116; the file's header follows.
        assert_eq!(&bytes[116..122], b"070701");
        let name_at = 116 + 110;
        assert_eq!(&bytes[name_at..name_at + 6], b"bin/x\0");
        assert_eq!(&bytes[name_at + 6..name_at + 11], b"12345");
        assert_eq!(bytes.len() % 4, 0);
        let trailer = b"TRAILER!!!\0";
        assert!(bytes.windows(trailer.len()).any(|window| window == trailer));
    }

    #[test]
    fn a_module_comes_after_those_it_needs() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, depends) in [("virtio_net", "net-failover"), ("net-failover", "")] {
            let contents = format!("\0depends={}\0", depends.replace('-', "_"));
            fs::write(folder.path().join(format!("{name}.ko")), contents).expect("a file");
        }
        let available = find_modules(folder.path()).expect("modules");
        let mut loaded = Vec::new();
        add_module(
            "virtio_net",
            &available,
            &mut loaded,
            &mut Archive::default(),
        )
        .expect("both are there");
        assert_eq!(loaded, ["net_failover", "virtio_net"]);
    }
}
