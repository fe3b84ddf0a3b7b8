//! Whether machines are emulated or run on the processor itself.
//!
//! A `/dev/kvm` that exists may still not work (nested virtualisation that
//! is switched off, a container without the right to it), or work so badly
//! that nothing boots. So it counts only once a machine has booted with it
//! on this very boot of the host.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::{Machine, Spec};
use crate::layout::Layout;
use crate::setup::Kernel;

/// How a machine's instructions are carried out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Accel {
    /// By the processor (KVM).
    Kvm,
    /// By QEMU's translator.
    Tcg,
}

/// With KVM a machine is up in about two seconds.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(15);

/// What this machine can do, tried once for each boot of it.
pub(super) fn choose(layout: &Layout, runner: &Path) -> Result<Accel> {
    if !Path::new("/dev/kvm").exists() {
        return Ok(Accel::Tcg);
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let note = layout.stamps().join("accel");
    let known = fs::read_to_string(&note).unwrap_or_default();
    if let Some(choice) = known.strip_prefix(&boot) {
        return Ok(match choice {
            "kvm" => Accel::Kvm,
            _ => Accel::Tcg,
        });
    }
    let (accel, word) = match try_kvm(layout, runner) {
        true => (Accel::Kvm, "kvm"),
        false => (Accel::Tcg, "tcg"),
    };
    fs::create_dir_all(layout.stamps())?;
    fs::write(&note, format!("{boot}{word}"))?;
    Ok(accel)
}

fn try_kvm(layout: &Layout, runner: &Path) -> bool {
    let spec = Spec::new("kvm-trial", Kernel::V6_1);
    let machine = Machine::boot_with(layout, runner, spec, Accel::Kvm, TRIAL_TIMEOUT);
    machine.is_ok_and(|machine| machine.shell("true").is_ok())
}
