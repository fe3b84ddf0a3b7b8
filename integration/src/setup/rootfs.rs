//! The Debian userland that every machine starts from: one ext4 image, made
//! once, never written to by a machine (each has a snapshot of its own).

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::{apt, fresh_folder, is_stamped, stamp};
use crate::layout::Layout;
use crate::outside;
use crate::progress::{self, Step};

const SUITE: &str = "bookworm";

/// What is added to a minimal Debian: the programs that the demo and the
/// tests run, watch and forbid.
const PACKAGES: &str = "iproute2,netcat-openbsd,procps,python3-minimal";

/// Room for the userland, the binaries under test (unstripped) and what
/// they write. The file is sparse.
const IMAGE_SIZE: &str = "2G";

/// Raised when the contents of the image change for another reason than the
/// packages.
const FORMAT: &str = "1";

/// A maintainer script must not start a service in the folder that becomes
/// the image.
const POLICY_RC_D: &str = "#!/bin/sh\nexit 101\n";

/// Makes the image where it is not there.
///
/// # Errors
/// Without root, which debootstrap needs, and when a step fails.
pub fn prepare(layout: &Layout) -> Result<()> {
    let inputs = format!("{FORMAT} {SUITE} {PACKAGES} {IMAGE_SIZE}");
    if layout.rootfs().is_file() && is_stamped(layout, "rootfs", &inputs) {
        progress::ready("rootfs", "made");
        return Ok(());
    }
    if !apt::is_root() {
        bail!(
            "making the machines' root file system takes root (debootstrap), once\n  \
             run as root, then start again:\n  cargo xtask setup"
        );
    }
    let mut step = Step::start("rootfs", "making a Debian 12 userland (about a minute)");
    let folder = layout.prepared().join("rootfs.partial");
    fresh_folder(&folder)?;
    debootstrap(&folder, &mut step)?;
    trim(&folder)?;

    step.update("writing the image");
    let partial = layout.prepared().join("rootfs.ext4.partial");
    let _ = fs::remove_file(&partial);
    // No journal: an image is thrown away after each run, and a journal only
    // makes an emulated machine slower.
    let mkfs = outside::which("mkfs.ext4").context("mkfs.ext4 is missing")?;
    outside::finish(
        Command::new(mkfs)
            .args([
                "-q",
                "-F",
                "-L",
                "shrike",
                "-m",
                "0",
                "-O",
                "^has_journal",
                "-d",
            ])
            .arg(&folder)
            .arg(&partial)
            .arg(IMAGE_SIZE),
    )?;
    fs::rename(&partial, layout.rootfs()).context("cannot keep the image")?;
    fs::remove_dir_all(&folder).context("cannot remove the userland's folder")?;
    stamp(layout, "rootfs", &inputs)?;
    step.done("Debian 12 userland made");
    Ok(())
}

fn debootstrap(folder: &Path, step: &mut Step) -> Result<()> {
    let mut command = Command::new("debootstrap");
    command
        .args(["--variant=minbase", &format!("--include={PACKAGES}"), SUITE])
        .arg(folder)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    if let Some(mirror) = mirror() {
        command.arg(mirror);
    }
    let mut child = command.spawn().context("cannot start debootstrap")?;
    let stdout = child.stdout.take().expect("stdout is a pipe");
    let mut said = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("debootstrap's output is not text")?;
        step.update(line.trim_start_matches("I: "));
        said.push(line);
    }
    let status = child.wait()?;
    if !status.success() {
        bail!(
            "debootstrap failed ({status}):\n{}\n  it downloads packages from Debian's archive: \
             is the network up?",
            outside::tail(said.join("\n").as_bytes())
        );
    }
    Ok(())
}

/// The archive that this machine's apt takes the suite from; debootstrap has
/// its own idea where there is none.
fn mirror() -> Option<String> {
    let mut targets = Command::new("apt-get");
    targets.args([
        "indextargets",
        "--format",
        "$(CODENAME) $(REPO_URI)",
        "Created-By: Packages",
    ]);
    let text = outside::read(&mut targets).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{SUITE} ")))?;
    Some(line.to_owned())
}

fn trim(root: &Path) -> Result<()> {
    for folder in [
        "var/cache/apt/archives",
        "var/lib/apt/lists",
        "usr/share/doc",
        "usr/share/man",
    ] {
        let folder = root.join(folder);
        if folder.exists() {
            fresh_folder(&folder)?;
        }
    }
    fs::write(root.join("usr/sbin/policy-rc.d"), POLICY_RC_D)
        .context("cannot write policy-rc.d")?;
    // A machine reaches nothing that has a name.
    fs::write(root.join("etc/resolv.conf"), "").context("cannot write resolv.conf")?;
    Ok(())
}
