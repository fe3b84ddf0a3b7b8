//! Telling the programs how to tell btrfs's subvolumes apart.
//!
//! btrfs is a module that may come after the programs, so this is no constant
//! of theirs like other offsets: it is looked up when it is there.

use std::{fs, io, path::Path};

use aya::maps::{Array, MapData, MapError};
use shrike_agent_ebpf::offset::Subvolumes;

use super::{btf::Btf, offsets};

/// The map that the programs look into.
pub const MAP: &str = ".data.subvolumes";

/// Type information of the module.
const MODULE_BTF: &str = "/sys/kernel/btf/btrfs";

/// There where the kernel has btrfs, as a module or built in.
const FEATURES: &str = "/sys/fs/btrfs";

/// What the programs are told.
pub struct Teller {
    told: Array<MapData, Subvolumes>,
    found: Found,
}

enum Found {
    /// There is no btrfs yet.
    NotYet,
    /// There is one whose structures cannot be looked up.
    Never,
    Known(Subvolumes),
}

impl Teller {
    /// Takes over the map.
    pub fn new(told: Array<MapData, Subvolumes>) -> Self {
        Self {
            told,
            found: Found::NotYet,
        }
    }

    /// Looks up what was not there before, and tells the programs. Returns
    /// whether they had been told something else.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn tell(&mut self) -> Result<bool, MapError> {
        if matches!(self.found, Found::NotYet) && Path::new(FEATURES).exists() {
            self.found = match look_up() {
                Ok(subvolumes) => Found::Known(subvolumes),
                Err(error) => {
                    tracing::error!(%error, "btrfs is there, and where it keeps its subvolumes' devices cannot be looked up: rules by inode take files of one number in two subvolumes for one");
                    Found::Never
                }
            };
        }
        let Found::Known(subvolumes) = self.found else {
            return Ok(false);
        };
        let before = self.told.get(&0, 0)?;
        if before == subvolumes {
            return Ok(false);
        }
        self.told.set(0, subvolumes, 0)?;
        Ok(before != Subvolumes::UNKNOWN)
    }
}

fn look_up() -> io::Result<Subvolumes> {
    let kernel = fs::read(offsets::BTF_PATH)?;
    let kernel = Btf::parse(&kernel).map_err(io::Error::other)?;
    let found = match fs::read(MODULE_BTF) {
        Ok(module) => Btf::parse_module(&module, &kernel)
            .map(|module| subvolumes(&module))
            .map_err(io::Error::other)?,
        // It may be built in.
        Err(error) if error.kind() == io::ErrorKind::NotFound => subvolumes(&kernel),
        Err(error) => return Err(error),
    };
    found.ok_or_else(|| io::Error::other("its type information lacks them"))
}

fn subvolumes(btf: &Btf<'_>) -> Option<Subvolumes> {
    Subvolumes::new(
        btf.offset_of("btrfs_inode", "root")?,
        btf.offset_of("btrfs_inode", "vfs_inode")?,
        btf.offset_of("btrfs_root", "anon_dev")?,
    )
}
