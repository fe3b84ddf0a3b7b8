//! The run's own files, as a raw tar archive on a disk.
//!
//! busybox unpacks it over the root file system before anything runs, so a
//! binary of a hundred megabytes costs a sequential read and no mount.

use std::fs;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

const BLOCK: u64 = 512;

/// A name longer than this does not go into a plain ustar header.
const NAME_MAX: usize = 100;

/// A file that goes into a machine before it starts.
#[derive(Clone, Debug)]
pub struct Placed {
    /// Where it is on this machine.
    pub from: PathBuf,
    /// Where it goes, absolute.
    pub to: String,
    /// Permission bits.
    pub mode: u32,
}

impl Placed {
    /// A program.
    pub fn program(from: impl AsRef<Path>, to: &str) -> Self {
        Self {
            from: from.as_ref().to_owned(),
            to: to.to_owned(),
            mode: 0o755,
        }
    }
}

/// Writes the archive, a whole number of disk sectors.
///
/// # Errors
/// When a file cannot be read or its place in the machine is not absolute,
/// or too long.
pub fn write(files: &[Placed], disk: &mut (impl Write + Seek)) -> Result<()> {
    for file in files {
        append(file, disk).with_context(|| format!("cannot pack {}", file.from.display()))?;
    }
    // Two empty blocks end an archive; the rest is for readers ahead.
    disk.write_all(&[0; 64 * 1024])?;
    disk.flush()?;
    Ok(())
}

fn append(file: &Placed, disk: &mut (impl Write + Seek)) -> Result<()> {
    let Some(name) = file.to.strip_prefix('/') else {
        bail!("{} is not an absolute path", file.to);
    };
    if name.is_empty() || name.len() >= NAME_MAX {
        bail!("{} is empty or longer than {NAME_MAX} bytes", file.to);
    }
    let mut source = fs::File::open(&file.from)?;
    let size = source.metadata()?.len();
    disk.write_all(&header(name, file.mode, size))?;
    let copied = io::copy(&mut (&mut source).take(size), disk)?;
    if copied != size {
        bail!("it changed while it was being read");
    }
    let padding = copied.next_multiple_of(BLOCK) - copied;
    disk.write_all(&[0; BLOCK as usize][..padding as usize])?;
    Ok(())
}

fn header(name: &str, mode: u32, size: u64) -> [u8; BLOCK as usize] {
    let mut header = [0; BLOCK as usize];
    let mut put = |at: usize, text: &str| {
        header[at..at + text.len()].copy_from_slice(text.as_bytes());
    };
    put(0, name);
    put(100, &format!("{mode:07o}"));
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{size:011o}"));
    put(136, "00000000000");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let checksum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    let text = format!("{checksum:06o}\0 ");
    header[148..156].copy_from_slice(text.as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_tar_reads_the_archive_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let from = folder.path().join("from");
        fs::write(&from, vec![b'x'; 1000]).expect("a file");
        let disk = folder.path().join("disk");
        let files = [
            Placed::program(&from, "/usr/bin/one"),
            Placed {
                from,
                to: "/etc/two".into(),
                mode: 0o600,
            },
        ];
        let mut out = fs::File::create(&disk).expect("a disk");
        write(&files, &mut out).expect("packed");

        let listing = std::process::Command::new("tar")
            .arg("-tvf")
            .arg(&disk)
            .output()
            .expect("tar runs");
        let listing = String::from_utf8(listing.stdout).expect("text");
        let lines: Vec<&str> = listing.lines().collect();
        assert_eq!(lines.len(), 2, "{listing}");
        assert!(lines[0].starts_with("-rwxr-xr-x") && lines[0].ends_with("usr/bin/one"));
        assert!(lines[1].starts_with("-rw-------") && lines[1].contains("1000"));
        let length = disk.metadata().expect("a disk").len();
        assert_eq!(length % BLOCK, 0);
    }

    #[test]
    fn a_relative_place_is_refused() {
        let file = Placed::program("/bin/true", "etc/x");
        let error = write(&[file], &mut io::Cursor::new(Vec::new())).expect_err("relative");
        assert!(format!("{error:#}").contains("not an absolute path"));
    }
}
