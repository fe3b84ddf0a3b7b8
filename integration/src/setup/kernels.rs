//! Debian's cloud kernels, unpacked: an image and a small initramfs each.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{apt, fresh_folder, initramfs, is_stamped, stamp};
use crate::layout::Layout;
use crate::progress::{self, Step};

/// Raised when the contents of the initramfs change.
const FORMAT: &str = "4";

/// A kernel that machines boot.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Kernel {
    /// Debian 12's own.
    #[value(name = "6.1")]
    V6_1,
    /// The newer one that Debian offers beside it.
    #[value(name = "6.12")]
    V6_12,
}

impl Kernel {
    /// Every kernel that Shrike is tested on.
    pub const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    /// The release as people say it.
    pub fn release(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }

    /// The package that depends on the newest build of this kernel.
    fn package(self) -> &'static str {
        match self {
            Self::V6_1 => "linux-image-cloud-amd64",
            Self::V6_12 => "linux-image-6.12-cloud-amd64",
        }
    }

    /// The package that holds the newest build of this kernel.
    fn image_package(self) -> Result<String> {
        apt::depends(self.package())?
            .into_iter()
            .find(|package| package.starts_with("linux-image-"))
            .with_context(|| format!("{} depends on no kernel", self.package()))
    }

    /// The packages with this kernel's headers: its own and the ones that all
    /// kernels of its version share.
    pub(super) fn header_packages(self) -> Result<[String; 2]> {
        let own = self
            .image_package()?
            .replace("linux-image-", "linux-headers-");
        let shared = own.replace("-cloud-amd64", "-common");
        Ok([own, shared])
    }

    /// The image to boot.
    pub fn image(self, layout: &Layout) -> PathBuf {
        layout.kernel(self.release()).join("vmlinuz")
    }

    /// The initramfs that brings the root file system up.
    pub fn initramfs(self, layout: &Layout) -> PathBuf {
        layout.kernel(self.release()).join("initramfs")
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.release())
    }
}

/// Fetches a kernel and makes its initramfs.
pub(super) fn prepare(layout: &Layout, kernel: Kernel) -> Result<()> {
    let name = format!("kernel {kernel}");
    let piece = format!("kernel-{kernel}");
    if kernel.image(layout).is_file() && is_stamped(layout, &piece, FORMAT) {
        progress::ready(&name, "unpacked");
        return Ok(());
    }

    apt::ensure_known(&[kernel.package(), "busybox-static"])?;
    let image_package = kernel.image_package()?;

    let mut step = Step::start(&name, &format!("fetching {image_package}"));
    let folder = layout.kernel(kernel.release());
    let partial = folder.with_extension("partial");
    let root = partial.join("root");
    fresh_folder(&partial)?;
    apt::unpack(&[&image_package, "busybox-static"], &root, &mut step)?;

    step.update("making the initramfs");
    let busybox = root.join("bin/busybox");
    let modules = only_folder(&root.join("lib/modules"))?;
    fs::write(
        partial.join("initramfs"),
        initramfs::build(&busybox, &modules)?,
    )
    .context("cannot write the initramfs")?;
    let image = only_kernel(&root.join("boot"))?;
    fs::rename(&image, partial.join("vmlinuz")).context("cannot keep the kernel image")?;
    fs::remove_dir_all(&root).context("cannot remove the unpacked package")?;

    if folder.exists() {
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::rename(&partial, &folder).with_context(|| format!("cannot create {}", folder.display()))?;
    stamp(layout, &piece, FORMAT)?;
    step.done(&format!("{image_package} unpacked"));
    Ok(())
}

fn only_folder(parent: &Path) -> Result<PathBuf> {
    let mut folders = fs::read_dir(parent)
        .with_context(|| format!("the kernel package has no {}", parent.display()))?;
    let first = folders
        .next()
        .context("the kernel package has no modules")?;
    Ok(first?.path())
}

fn only_kernel(boot: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(boot).context("the kernel package has no /boot")? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("vmlinuz-") {
            return Ok(path);
        }
    }
    bail!("the kernel package has no vmlinuz")
}
