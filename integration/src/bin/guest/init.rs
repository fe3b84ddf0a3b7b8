//! Process 1: mounts what Linux expects, brings the network up, starts the
//! runner and from then on only collects orphans.
//!
//! The runner is a process of its own because it waits for its children one
//! by one, and process 1 has to wait for everybody's.
//!
//! One of its threads reads the files whose names are written into a FIFO:
//! that process 1 is never killed can only be shown by process 1 breaking a
//! rule.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::mount::{MountFlags, mount};
use rustix::process::WaitOptions;
use rustix::system::RebootCommand;
use shrike_integration::vm::READ_BY_INIT;

const MOUNTS: [(&str, &str, &str); 10] = [
    ("proc", "/proc", "proc"),
    ("sysfs", "/sys", "sysfs"),
    ("devpts", "/dev/pts", "devpts"),
    ("securityfs", "/sys/kernel/security", "securityfs"),
    ("tmpfs", "/dev/shm", "tmpfs"),
    ("tmpfs", "/run", "tmpfs"),
    ("tmpfs", "/tmp", "tmpfs"),
    ("cgroup2", "/sys/fs/cgroup", "cgroup2"),
    ("bpf", "/sys/fs/bpf", "bpf"),
    ("tracefs", "/sys/kernel/tracing", "tracefs"),
];

/// The address that QEMU's user-mode network gives its guest.
const NETWORK: [&[&str]; 3] = [
    &["link", "set", "lo", "up"],
    &["address", "add", "10.0.2.15/24", "dev", "eth0"],
    &["link", "set", "eth0", "up"],
];

/// Never returns while the runner lives.
pub fn run() -> Result<()> {
    for (source, target, kind) in MOUNTS {
        fs::create_dir_all(target).ok();
        mount(source, target, kind, MountFlags::empty(), None)
            .with_context(|| format!("cannot mount {target}"))?;
    }
    let name = name_from(&fs::read_to_string("/proc/cmdline")?);
    rustix::system::sethostname(name.as_bytes())?;
    fs::write("/etc/hostname", format!("{name}\n"))?;
    fs::write("/etc/hosts", format!("127.0.0.1 localhost {name}\n"))?;
    rename_first_interface()?;
    for arguments in NETWORK {
        let status = Command::new("ip").args(arguments).status()?;
        if !status.success() {
            eprintln!("init: ip {} failed ({status})", arguments.join(" "));
        }
    }

    let runner = Command::new(std::env::current_exe().context("no name of its own")?)
        .arg("serve")
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("HOME", "/root")
        .env("LANG", "C.UTF-8")
        .env_remove("TERM")
        .current_dir("/root")
        .spawn()
        .context("cannot start the runner")?;
    mknodat(CWD, READ_BY_INIT, FileType::Fifo, Mode::from(0o600), 0)
        .with_context(|| format!("cannot make {READ_BY_INIT}"))?;
    thread::spawn(read_on_demand);
    // From here on waiting is by number only: `Child::wait` would race.
    let runner = runner.id();
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get().cast_unsigned() == runner => {
                eprintln!("init: the runner ended ({status:?})");
                break;
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                eprintln!("init: cannot wait: {error}");
                break;
            }
        }
    }
    rustix::system::reboot(RebootCommand::PowerOff).context("cannot power off")
}

/// Reads the file whose name somebody writes into the FIFO, again and again.
fn read_on_demand() {
    loop {
        let read = fs::read_to_string(READ_BY_INIT).and_then(|name| fs::read(name.trim()));
        if let Err(error) = read {
            eprintln!("init: cannot read what I was asked to: {error}");
        }
    }
}

fn name_from(cmdline: &str) -> String {
    let name = cmdline
        .split_whitespace()
        .find_map(|word| word.strip_prefix("shrike.name="));
    name.unwrap_or("machine").to_owned()
}

/// Without udev the interface is called eth0 already; a kernel that names it
/// by its slot is put right.
fn rename_first_interface() -> Result<()> {
    if Path::new("/sys/class/net/eth0").exists() {
        return Ok(());
    }
    for entry in fs::read_dir("/sys/class/net").context("no network devices")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "lo" {
            Command::new("ip")
                .args(["link", "set", &name, "name", "eth0"])
                .status()?;
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_name_comes_from_the_kernels_command_line() {
        assert_eq!(
            name_from("console=ttyS0 shrike.name=node-a panic=-1\n"),
            "node-a"
        );
        assert_eq!(name_from("console=ttyS0\n"), "machine");
    }
}
