//! The Debian userlands that machines start from: ext4 images, each made
//! once, never written to by a machine (each has a snapshot of its own).

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::{apt, fresh_folder, is_stamped, kernels, stamp};
use crate::layout::Layout;
use crate::outside;
use crate::progress::{self, Step};

const SUITE: &str = "bookworm";

/// Raised when the contents of an image change for another reason than the
/// packages.
const FORMAT: &str = "1";

/// A maintainer script must not start a service in the folder that becomes
/// the image.
const POLICY_RC_D: &str = "#!/bin/sh\nexit 101\n";

/// What a machine finds on its disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Userland {
    /// A minimal Debian and the programs that the demo and the tests run,
    /// watch and forbid.
    Plain,
    /// That, and the tools that the benchmark compares with.
    Peers,
}

impl Userland {
    /// The image.
    pub fn image(self, layout: &Layout) -> PathBuf {
        layout.userland(self.piece())
    }

    fn piece(self) -> &'static str {
        match self {
            Self::Plain => "rootfs",
            Self::Peers => "peers",
        }
    }

    /// What is added to a minimal Debian.
    fn packages(self) -> &'static str {
        match self {
            Self::Plain => "btrfs-progs,iproute2,netcat-openbsd,procps,python3-minimal",
            // The libraries at the end are what auditd needs.
            Self::Peers => {
                "btrfs-progs,iproute2,netcat-openbsd,procps,python3-minimal,bpftrace,bpfcc-tools,libbpf-tools,\
                 libauparse0,libcap-ng0,libgssapi-krb5-2,libkrb5-3,libwrap0"
            }
        }
    }

    /// Room for the userland, the binaries under test (unstripped) and what
    /// they write. The file is sparse.
    fn size(self) -> &'static str {
        match self {
            Self::Plain => "2G",
            Self::Peers => "4G",
        }
    }

    fn description(self) -> &'static str {
        match self {
            Self::Plain => "a Debian 12 userland (about a minute)",
            Self::Peers => "a Debian 12 userland with the benchmark's peers (some minutes)",
        }
    }
}

/// Makes an image where it is not there.
///
/// # Errors
/// Without root, which debootstrap needs, and when a step fails.
pub fn prepare(layout: &Layout, userland: Userland) -> Result<()> {
    let (piece, packages, size) = (userland.piece(), userland.packages(), userland.size());
    let inputs = format!("{FORMAT} {SUITE} {packages} {size}");
    let image = userland.image(layout);
    if image.is_file() && is_stamped(layout, piece, &inputs) {
        progress::ready(piece, "made");
        return Ok(());
    }
    if !apt::is_root() {
        bail!(
            "making the machines' root file system takes root (debootstrap), once\n  \
             run as root, then start again:\n  cargo xtask setup"
        );
    }
    let mut step = Step::start(piece, &format!("making {}", userland.description()));
    let folder = layout.prepared().join(format!("{piece}.partial"));
    fresh_folder(&folder)?;
    debootstrap(&folder, packages, &mut step)?;
    if userland == Userland::Peers {
        add_unconfigured(&folder, &mut step)?;
    }
    trim(&folder)?;

    step.update("writing the image");
    let partial = layout.prepared().join(format!("{piece}.ext4.partial"));
    let _ = fs::remove_file(&partial);
    // No journal: an image is thrown away after each run, and a journal only
    // makes an emulated machine slower.
    let mkfs = outside::which("mkfs.ext4").context("mkfs.ext4 is missing")?;
    outside::finish(
        Command::new(mkfs)
            .args(["-q", "-F", "-L", "shrike", "-m", "0"])
            .args(["-O", "^has_journal", "-d"])
            .arg(&folder)
            .arg(&partial)
            .arg(size),
    )?;
    fs::rename(&partial, image).context("cannot keep the image")?;
    fs::remove_dir_all(&folder).context("cannot remove the userland's folder")?;
    stamp(layout, piece, &inputs)?;
    step.done("Debian 12 userland made");
    Ok(())
}

/// Unpacks what must not be configured here: auditd's scripts could hand
/// rules to the kernel of this machine. And the kernels' headers, which bcc
/// compiles with, without the compiler that they depend on.
fn add_unconfigured(root: &Path, step: &mut Step) -> Result<()> {
    let mut packages = vec!["auditd".to_owned()];
    for kernel in kernels::Kernel::ALL {
        packages.extend(kernel.header_packages()?);
    }
    let names: Vec<&str> = packages.iter().map(String::as_str).collect();
    apt::ensure_known(&names)?;
    // Beside the root: some packages have files in /lib, which is a link in
    // the root, and dpkg would put a folder in its place.
    let aside = root.with_extension("aside");
    fresh_folder(&aside)?;
    apt::unpack(&names, &aside, step)?;
    for (from, to) in [
        ("sbin", "usr/sbin"),
        ("lib/modules", "usr/lib/modules"),
        ("usr", "usr"),
    ] {
        let to = root.join(to);
        fs::create_dir_all(&to).with_context(|| format!("cannot create {}", to.display()))?;
        outside::finish(
            Command::new("cp")
                .arg("--archive")
                .arg(aside.join(from).join("."))
                .arg(&to),
        )?;
    }
    fs::remove_dir_all(&aside).context("cannot remove the unpacked packages")
}

fn debootstrap(folder: &Path, packages: &str, step: &mut Step) -> Result<()> {
    let mut command = Command::new("debootstrap");
    command
        .args(["--variant=minbase", &format!("--include={packages}"), SUITE])
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
