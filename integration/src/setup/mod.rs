//! Prepares a machine: everything that real kernels need, under
//! `target/shrike`, and the few programs that only apt can bring.
//!
//! Each piece looks first whether it is already there, says what it does
//! while it does it, and appears under its final name only when it is whole:
//! an interrupted set-up is simply run again. Nothing is ever installed on
//! the machine but the apt packages that are listed in `host`; no kernel, no
//! compiler.

mod apt;
mod elf;
mod host;
mod initramfs;
mod kernels;
pub mod receiver;
mod rootfs;
mod toolchain;

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};

pub use kernels::Kernel;
pub use rootfs::Userland;
pub use toolchain::Toolchain;

use crate::layout::Layout;
use crate::progress;

/// What a command needs prepared.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Need {
    /// Only what building the binaries takes.
    Build,
    /// That, and what booting machines and reading traces takes.
    Machines,
}

/// Prepares everything, or says what is missing and how to get it.
///
/// # Errors
/// When something is missing that this process may not or cannot bring.
pub fn prepare(layout: &Layout, need: Need) -> Result<()> {
    let _lock = lock(layout)?;
    eprintln!("setup:");
    host::prepare(need)?;
    toolchain::prepare(layout)?;
    if need == Need::Machines {
        for kernel in Kernel::ALL {
            kernels::prepare(layout, kernel)?;
        }
        rootfs::prepare(layout, Userland::Plain)?;
        receiver::prepare(layout)?;
    }
    Ok(())
}

/// Prepares the tools that the benchmark compares with, after [`prepare`].
///
/// # Errors
/// As for [`prepare`].
pub fn prepare_peers(layout: &Layout) -> Result<()> {
    let _lock = lock(layout)?;
    rootfs::prepare(layout, Userland::Peers)
}

/// Waits until no other set-up works in the same folder.
fn lock(layout: &Layout) -> Result<File> {
    let folder = layout.prepared();
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let path = &folder.join("setup.lock");
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    if file.try_lock().is_err() {
        progress::ready("waiting", "another set-up is at work in this folder");
        file.lock()
            .with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}

/// Whether a piece is ready for exactly these inputs.
fn is_stamped(layout: &Layout, piece: &str, inputs: &str) -> bool {
    fs::read_to_string(layout.stamps().join(piece)).is_ok_and(|found| found == inputs)
}

/// Records that a piece is ready for these inputs.
fn stamp(layout: &Layout, piece: &str, inputs: &str) -> Result<()> {
    let stamps = layout.stamps();
    fs::create_dir_all(&stamps)
        .and_then(|()| fs::write(stamps.join(piece), inputs))
        .with_context(|| format!("cannot write the stamp of {piece}"))
}

/// Empties a folder, or makes it.
fn fresh_folder(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))
}
