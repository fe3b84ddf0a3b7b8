//! QEMU's command line.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::{Accel, Clock, Spec, wire};
use crate::layout::Layout;
use crate::{offspring, outside};

/// The runner's end of the virtio-serial port, in the machine's folder.
pub(super) const SOCKET: &str = "runner";

/// The disk whose writes are logged, and their log, in the machine's folder.
pub(super) const LOGGED_DISK: &str = "logged";
pub(super) const WRITE_LOG: &str = "writes";

/// What the kernel prints, in the machine's folder.
pub(super) const CONSOLE: &str = "console";

/// Builds the command.
pub(super) fn command(
    layout: &Layout,
    spec: &Spec,
    accel: Accel,
    folder: &Path,
) -> Result<Command> {
    let kernel = spec.kernel.image(layout);
    let userland = spec.userland.image(layout);
    if !kernel.is_file() || !userland.is_file() {
        bail!("the machines are not prepared; run: cargo xtask setup");
    }
    let qemu = outside::which("qemu-system-x86_64")
        .context("qemu-system-x86_64 is missing; run: cargo xtask setup")?;
    let in_folder = |name: &str| quoted(&folder.join(name));

    let mut command = offspring::mortal(qemu.as_os_str());
    command.args([
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
    ]);
    match (accel, spec.clock) {
        (_, Clock::Instructions) => {
            command.args(["-accel", "tcg", "-icount", "shift=1,sleep=off", "-smp", "1"]);
            command.args(["-cpu", "max"]);
        }
        (Accel::Tcg, Clock::Wall) => {
            command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"]);
        }
        (Accel::Kvm, Clock::Wall) => {
            command.args(["-accel", "kvm", "-cpu", "host", "-smp", "2"]);
        }
    }
    command.args(["-m", &spec.memory_mib.to_string()]);
    command.arg("-kernel").arg(kernel);
    command.arg("-initrd").arg(spec.kernel.initramfs(layout));
    command.args([
        "-append",
        &format!(
            "console=ttyS0 loglevel=4 panic=-1 random.trust_cpu=on shrike.name={}",
            spec.name
        ),
    ]);
    disk(&mut command, "root", &quoted(&userland), "snapshot=on");
    disk(&mut command, "files", &in_folder("files"), "readonly=on");
    if spec.logged_disk_bytes.is_some() {
        logged_disk(&mut command, &in_folder(LOGGED_DISK), &in_folder(WRITE_LOG));
    }
    for (number, image) in spec.images.iter().enumerate() {
        let id = format!("image{number}");
        disk(&mut command, &id, &quoted(image), "snapshot=on");
    }
    // No romfile: the network boot ROMs are a package of their own.
    command.args(["-netdev", "user,id=net"]);
    command.args(["-device", "virtio-net-pci,netdev=net,romfile="]);
    command.args(["-device", "virtio-serial-pci"]);
    command.args([
        "-chardev",
        &format!(
            "socket,id=runner,path={},server=on,wait=off",
            in_folder(SOCKET)
        ),
        "-device",
        &format!("virtserialport,chardev=runner,name={}", wire::PORT),
        "-chardev",
        &format!("file,id=console,path={}", in_folder(CONSOLE)),
        "-serial",
        "chardev:console",
    ]);
    // The snapshot's file goes where it is removed with the machine.
    command.env("TMPDIR", folder);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    Ok(command)
}

fn disk(command: &mut Command, id: &str, file: &str, option: &str) {
    command.args([
        "-drive",
        &format!("file={file},format=raw,if=none,id={id},cache=unsafe,{option}"),
        "-device",
        &format!("virtio-blk-pci,drive={id}"),
    ]);
}

/// A disk that QEMU's blklogwrites driver listens to. What is flushed goes no
/// farther than the log: this machine's own power is not at stake.
fn logged_disk(command: &mut Command, disk: &str, log: &str) {
    for (name, file) in [("logged-file", disk), ("logged-log", log)] {
        command.args([
            "-blockdev",
            &format!("driver=file,node-name={name},filename={file},cache.no-flush=on"),
        ]);
    }
    command.args([
        "-blockdev",
        "driver=blklogwrites,node-name=logged,file=logged-file,log=logged-log",
        "-device",
        "virtio-blk-pci,drive=logged",
    ]);
}

/// A path inside a QEMU option: a comma is written twice.
fn quoted(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}
