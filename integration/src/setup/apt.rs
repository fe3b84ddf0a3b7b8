//! Debian's packages: installed on the machine (as root, few) or unpacked
//! into a folder of ours (anyone, most of them).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::outside;
use crate::progress::{Step, megabytes};

/// How often the size of a growing download is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Whether apt can be asked to change the machine.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether the package lists know a package.
pub fn knows(package: &str) -> bool {
    show(package).is_ok_and(|text| text.contains("Package: "))
}

/// Installs packages with apt-get.
///
/// # Errors
/// When apt-get fails; for anyone but root, with the command to run.
pub fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if !is_root() {
        bail!(
            "missing on this machine: {list}\n  run this as root, then start again:\n  \
             apt-get update && apt-get install --no-install-recommends {list}"
        );
    }
    let mut step = Step::start("apt", &format!("installing {list}"));
    update_lists(&mut step)?;
    step.update(&format!("installing {list}"));
    let mut install = Command::new("apt-get");
    install
        .args(["install", "--yes", "--no-install-recommends"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive");
    outside::finish(&mut install).context(NO_NETWORK)?;
    step.done(&format!("installed {list}"));
    Ok(())
}

/// Makes sure that the package lists know these packages.
///
/// # Errors
/// When they do not even after an update, or only root could update.
pub fn ensure_known(packages: &[&str]) -> Result<()> {
    let missing = |packages: &[&str]| -> Vec<String> {
        let unknown = packages.iter().filter(|package| !knows(package));
        unknown.map(|package| (*package).to_owned()).collect()
    };
    let unknown = missing(packages);
    if unknown.is_empty() {
        return Ok(());
    }
    if !is_root() {
        bail!(
            "apt's lists do not know {}\n  run this as root, then start again:\n  apt-get update",
            unknown.join(" ")
        );
    }
    let mut step = Step::start("apt", "updating the package lists");
    update_lists(&mut step)?;
    step.done("package lists updated");
    let unknown = missing(packages);
    if !unknown.is_empty() {
        bail!(
            "apt does not offer {}\n  Debian 12's main and security archives have it: \
             are both in /etc/apt/sources.list?",
            unknown.join(" ")
        );
    }
    Ok(())
}

/// What a package depends on, by name, alternatives and versions left out.
pub fn depends(package: &str) -> Result<Vec<String>> {
    let text = outside::read(Command::new("apt-cache").args(["depends", package]))?;
    let names = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "));
    Ok(names
        .filter(|name| !name.starts_with('<'))
        .map(str::to_owned)
        .collect())
}

/// Downloads packages and unpacks them into `root`, without installing them.
///
/// # Errors
/// When a download or an unpacking fails.
pub fn unpack(packages: &[&str], root: &Path, step: &mut Step) -> Result<()> {
    let folder = tempfile::tempdir().context("cannot create a folder for downloads")?;
    let list = packages.join(" ");
    if download(packages, folder.path(), step).is_err() && is_root() {
        // Lists that are some days old name versions that the archive has
        // replaced since.
        update_lists(step)?;
    }
    download(packages, folder.path(), step)?;

    fs::create_dir_all(root).with_context(|| format!("cannot create {}", root.display()))?;
    for deb in debs(folder.path())? {
        step.update(&format!("unpacking {}", file_name(&deb)));
        outside::finish(Command::new("dpkg").arg("-x").arg(&deb).arg(root))
            .with_context(|| format!("cannot unpack {list}"))?;
    }
    Ok(())
}

const NO_NETWORK: &str = "set-up downloads packages from Debian's archive: is the network up?";

fn update_lists(step: &mut Step) -> Result<()> {
    step.update("updating the package lists");
    outside::finish(Command::new("apt-get").arg("update")).context(NO_NETWORK)?;
    Ok(())
}

fn download(packages: &[&str], folder: &Path, step: &mut Step) -> Result<()> {
    let expected: u64 = packages.iter().map(|package| size(package)).sum();
    let mut apt = Command::new("apt-get");
    apt.arg("download")
        .args(packages)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    if is_root() {
        // apt would hand the download to its own user, who may not write here.
        apt.args(["-o", "APT::Sandbox::User=root"]);
    }
    let mut child = apt
        .spawn()
        .with_context(|| format!("cannot start {}", outside::shown(&apt)))?;
    while child.try_wait()?.is_none() {
        std::thread::sleep(LOOK_INTERVAL);
        step.update(&format!(
            "downloading {} of {}",
            megabytes(bytes_in(folder)),
            megabytes(expected)
        ));
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "{} failed:\n{}\n{NO_NETWORK}",
            outside::shown(&apt),
            outside::tail(&output.stderr)
        );
    }
    Ok(())
}

fn show(package: &str) -> Result<String> {
    outside::read(Command::new("apt-cache").args(["show", "--no-all-versions", package]))
}

fn size(package: &str) -> u64 {
    let text = show(package).unwrap_or_default();
    let field = text.lines().find_map(|line| line.strip_prefix("Size: "));
    field.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}

fn debs(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn bytes_in(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files
        .filter_map(|entry| entry.metadata().ok())
        .map(|metadata| metadata.len())
        .sum()
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
