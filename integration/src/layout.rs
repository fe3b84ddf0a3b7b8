//! Where things lie under `target/shrike`.
//!
//! Everything that set-up prepares is kept there, whatever the build
//! directory is: toolchain, kernels and root file system do not depend on
//! what is being built, and `cargo clean` is the one way to lose them.

use std::path::{Path, PathBuf};

/// The folder that holds everything `cargo xtask` prepares.
#[derive(Clone, Debug)]
pub struct Layout {
    workspace: PathBuf,
}

impl Layout {
    /// Finds the workspace that this crate was built from.
    pub fn here() -> Self {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let workspace = manifest
            .parent()
            .expect("the integration crate lies inside the workspace");
        Self {
            workspace: workspace.to_owned(),
        }
    }

    /// The root of the workspace.
    pub fn workspace(&self) -> &Path {
        &self.workspace
    }

    /// `target/shrike`.
    pub fn prepared(&self) -> PathBuf {
        self.workspace.join("target/shrike")
    }

    /// The eBPF compiler and linker, where no nightly has them.
    pub fn toolchain(&self) -> PathBuf {
        self.prepared().join("toolchain")
    }

    /// A kernel's folder: `vmlinuz` and `initramfs`.
    pub fn kernel(&self, release: &str) -> PathBuf {
        self.prepared().join("kernels").join(release)
    }

    /// The image of a Debian userland that machines start from.
    pub fn userland(&self, name: &str) -> PathBuf {
        self.prepared().join(name).with_extension("ext4")
    }

    /// The OpenTelemetry receiver's virtual environment.
    pub fn receiver(&self) -> PathBuf {
        self.prepared().join("rotel")
    }

    /// What is known to be ready, and for which inputs.
    pub fn stamps(&self) -> PathBuf {
        self.prepared().join("stamps")
    }

    /// Consoles and logs of runs that failed.
    pub fn logs(&self) -> PathBuf {
        self.prepared().join("logs")
    }
}
