//! What this machine is, as hellos tell it.

use std::{fs, io};

/// Where the kernel keeps the ID of this boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Facts that hold from boot to shutdown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// Random for each boot.
    pub boot_id: String,
    /// For example `6.1.0-37-cloud-amd64`.
    pub kernel_release: String,
    /// As the kernel has it; may differ from the node's name.
    pub hostname: String,
}

impl NodeFacts {
    /// Reads them from the running kernel.
    ///
    /// # Errors
    /// When /proc is not mounted.
    pub fn read() -> io::Result<Self> {
        Ok(Self {
            boot_id: fs::read_to_string(BOOT_ID)?.trim().to_owned(),
            kernel_release: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            hostname: hostname(),
        })
    }
}

/// Returns the machine's host name.
pub fn hostname() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}
