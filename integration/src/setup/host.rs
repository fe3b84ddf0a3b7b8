//! The machine itself: the distribution, and the programs that set-up and
//! the virtual machines are run with.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use super::{Need, apt};
use crate::outside;
use crate::progress;

/// A program that is run, and the Debian package that has it.
struct Program {
    name: &'static str,
    package: &'static str,
    need: Need,
}

const PROGRAMS: [Program; 7] = [
    Program {
        name: "cc",
        package: "gcc",
        need: Need::Build,
    },
    Program {
        name: "dpkg",
        package: "dpkg",
        need: Need::Build,
    },
    Program {
        name: "qemu-system-x86_64",
        package: "qemu-system-x86",
        need: Need::Machines,
    },
    Program {
        name: "debootstrap",
        package: "debootstrap",
        need: Need::Machines,
    },
    Program {
        name: "mkfs.ext4",
        package: "e2fsprogs",
        need: Need::Machines,
    },
    Program {
        name: "xz",
        package: "xz-utils",
        need: Need::Machines,
    },
    Program {
        name: "setpriv",
        package: "util-linux",
        need: Need::Machines,
    },
];

/// Checks the distribution and brings the programs that are missing.
///
/// # Errors
/// On another distribution or processor, and when a package is missing that
/// only root may install.
pub fn prepare(need: Need) -> Result<()> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    check_distribution(&release)?;
    if std::env::consts::ARCH != "x86_64" {
        bail!(
            "set-up knows x86_64 machines; this one is {}",
            std::env::consts::ARCH
        );
    }

    let missing = missing_packages(need);
    if !missing.is_empty() {
        apt::install(&missing.into_iter().collect::<Vec<_>>())?;
        let still: Vec<&str> = missing_packages(need).into_iter().collect();
        if !still.is_empty() {
            bail!("still missing after apt-get install: {}", still.join(" "));
        }
    }
    let user = if apt::is_root() { "root" } else { "not root" };
    progress::ready(
        "machine",
        &format!("Debian 12, {user}, every program is there"),
    );
    Ok(())
}

fn missing_packages(need: Need) -> BTreeSet<&'static str> {
    let needed = PROGRAMS
        .iter()
        .filter(|program| program.need == Need::Build || need == Need::Machines);
    let mut missing: BTreeSet<&str> = needed
        .filter(|program| outside::which(program.name).is_none())
        .map(|program| program.package)
        .collect();
    // The receiver of traces comes from PyPI, into an environment of its own.
    if need == Need::Machines && !has_python_venv() {
        missing.insert("python3-venv");
    }
    missing
}

fn has_python_venv() -> bool {
    let import = Command::new("python3")
        .args(["-c", "import venv, ensurepip"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    import.is_ok_and(|status| status.success())
}

fn check_distribution(os_release: &str) -> Result<()> {
    let field = |key: &str| {
        let line = os_release
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or("").trim_matches('"').to_owned()
    };
    if field("ID") == "debian" && field("VERSION_ID") == "12" {
        return Ok(());
    }
    let name = match field("PRETTY_NAME") {
        name if name.is_empty() => "unknown (no /etc/os-release)".to_owned(),
        name => name,
    };
    bail!(
        "this machine runs {name}; set-up knows Debian 12 (bookworm) only, whose kernels and \
         compiler it takes from apt\n  a Debian 12 container or virtual machine will do"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(os_release: &str, expect: Result<(), &str>) {
        match (check_distribution(os_release), expect) {
            (Ok(()), Ok(())) => {}
            (Err(error), Err(words)) => {
                let text = error.to_string();
                assert!(text.contains(words), "{text}");
            }
            (found, expect) => panic!("{os_release:?}: {found:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn other_distributions_are_named_and_refused() {
        check("ID=debian\nVERSION_ID=\"12\"\n", Ok(()));
        check(
            "PRETTY_NAME=\"Fedora Linux 42\"\nID=fedora\nVERSION_ID=42\n",
            Err("Fedora Linux 42"),
        );
        check(
            "PRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nID=debian\nVERSION_ID=\"13\"\n",
            Err("trixie"),
        );
        check("", Err("unknown"));
    }
}
