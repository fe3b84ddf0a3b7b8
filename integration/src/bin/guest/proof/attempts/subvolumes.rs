//! Files of one number in subvolumes of one btrfs.
//!
//! ```text
//! ROOT/btrfs            the file system, with a subvolume for each case
//! FOLDER/btrfs          the case's, mounted
//!     one/guarded/secret    the target
//!     two/guarded/secret    another file, of the same inode numbers
//!     snapshot/…            of `one`
//! ```

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::mount::mount_bind;
use shrike_integration::proof::case::{ROOT, SECRET};

use super::super::stage::Stage;
use super::places::own_mounts;
use super::{Attempt, make_known, prepared};

/// The attempts.
pub const ATTEMPTS: &[Attempt] = &[
    prepared("subvolume", make, |stage| {
        make_known(&stage.below("btrfs/two/guarded/secret"))?;
        stage.open(&stage.path)
    }),
    prepared(
        "subvolume-hard-link",
        |stage| {
            make(stage)?;
            let alias = format!("{}/btrfs/one/alias", stage.folder);
            Ok(fs::hard_link(&stage.target, alias)?)
        },
        |stage| open_alias(stage, "btrfs/one/alias"),
    ),
    prepared("subvolume-directory", make, |stage| {
        open_bound(stage, "one")
    }),
    prepared("snapshot-origin", make, |stage| {
        make_known(&stage.below("btrfs/snapshot/guarded/secret"))?;
        stage.open(&stage.path)
    }),
    prepared("subvolume-other", make, |stage| {
        stage.open(&stage.below("btrfs/two/guarded/secret"))
    }),
    prepared("subvolume-other-directory", make, |stage| {
        open_bound(stage, "two")
    }),
    prepared("snapshot", make, |stage| {
        stage.open(&stage.below("btrfs/snapshot/guarded/secret"))
    }),
];

/// Bytes of the file system: mixed block groups need little.
const BYTES: u64 = 128 << 20;

fn open_alias(stage: &Stage, name: &str) -> Result<()> {
    stage.named(&format!("{}/{name}", stage.folder));
    stage.open(&stage.below(name))
}

/// Opens a secret below another mount of its directory.
fn open_bound(stage: &Stage, subvolume: &str) -> Result<()> {
    own_mounts()?;
    mount_bind(
        format!("{}/btrfs/{subvolume}/guarded", stage.folder),
        format!("{}/mount", stage.folder),
    )?;
    open_alias(stage, "mount/secret")
}

/// Mounts a subvolume over the folder that the target was put into, and makes
/// the target anew in it.
fn make(stage: &Stage) -> Result<()> {
    let top = file_system()?;
    let case = Path::new(&stage.folder)
        .file_name()
        .context("a case has a folder")?
        .to_string_lossy()
        .into_owned();
    run("btrfs", &["subvolume", "create", &format!("{top}/{case}")])?;
    let device = fs::read_to_string(device_file())?;
    let here = format!("{}/btrfs", stage.folder);
    fs::create_dir(format!("{}/mount", stage.folder))?;
    let options = format!("subvol={case}");
    run(
        "mount",
        &["-t", "btrfs", "-o", &options, device.trim(), &here],
    )?;
    // Making a subvolume ends a transaction, whose number is the generation of
    // what is made in it.
    for name in ["one", "two"] {
        run("btrfs", &["subvolume", "create", &format!("{here}/{name}")])?;
    }
    for name in ["one", "two"] {
        fs::create_dir(format!("{here}/{name}/guarded"))?;
        fs::write(format!("{here}/{name}/guarded/secret"), SECRET)?;
    }
    let (one, snapshot) = (format!("{here}/one"), format!("{here}/snapshot"));
    run("btrfs", &["subvolume", "snapshot", &one, &snapshot])?;
    let number = |name: &str| fs::metadata(format!("{here}/{name}/guarded/secret"));
    for name in ["two", "snapshot"] {
        ensure!(
            number(name)?.ino() == number("one")?.ino(),
            "the file in {name} has a number of its own"
        );
    }
    Ok(())
}

fn device_file() -> String {
    format!("{ROOT}/btrfs.device")
}

/// Makes the file system unless it is there, and returns where it is mounted.
fn file_system() -> Result<String> {
    let (image, top) = (format!("{ROOT}/btrfs.image"), format!("{ROOT}/btrfs"));
    if Path::new(&device_file()).exists() {
        return Ok(top);
    }
    fs::File::create(&image)?.set_len(BYTES)?;
    run("mkfs.btrfs", &["--quiet", "--mixed", &image])?;
    fs::create_dir(&top)?;
    run("mount", &["-t", "btrfs", "-o", "loop", &image, &top])?;
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let device = mounts
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find_map(|(device, rest)| rest.starts_with(&format!("{top} ")).then_some(device))
        .context("the file system is not mounted")?;
    fs::write(device_file(), device)?;
    Ok(top)
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    ensure!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
