//! The policies that the agent keeps on its own disk: what is in force, and
//! what was before it.
//!
//! ```text
//! /var/lib/shrike-agent/policy_<generation>      a PolicySet as it came, with its hash
//! ```
//!
//! A set is written before it is put into the kernel, so the one in force is
//! always among them; it leaves when two newer ones are there, since the ring
//! may hold events of the one before. A file is believed when its set has the
//! hash that it says.

mod keeper;

pub use keeper::PolicyKeeper;

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use prost::Message as _;
use shrike_proto::{id::Generation, policy::PolicySet, wire::policy as wire};

use crate::error::chain;

/// Sets that are kept.
const SETS_MAX: usize = 2;

const PREFIX: &str = "policy_";

/// Longest file that is read: as long as a message from the collector may be.
const BYTES_MAX: u64 = 6 << 20;

/// The folder with the sets.
#[derive(Debug, Clone)]
pub struct PolicyStore {
    folder: PathBuf,
}

impl PolicyStore {
    /// Keeps sets in this folder, which is made when there is something to
    /// keep.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Reads the sets that are whole, the newest first. What is not is logged.
    pub fn read(&self) -> Vec<PolicySet> {
        self.files()
            .into_iter()
            .filter_map(|(generation, path)| match read(&path) {
                Ok(set) if set.generation == generation => Some(set),
                Ok(_) => {
                    tracing::error!(path = %path.display(), "a kept policy is of another generation than its name says");
                    None
                }
                Err(error) => {
                    tracing::error!(path = %path.display(), error, "a kept policy cannot be read");
                    None
                }
            })
            .collect()
    }

    /// Keeps a set: when this returns it is on the disk.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(&self, set: &PolicySet) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)?;
        let new = self.folder.join("new");
        let mut file = File::create(&new)?;
        file.write_all(&wire::PolicySet::from(set.clone()).encode_to_vec())?;
        file.sync_all()?;
        fs::rename(&new, self.path(set.generation))?;
        File::open(&self.folder)?.sync_all()
    }

    /// Forgets all but the set in force and the one before it.
    pub fn forget_but(&self, in_force: Generation) {
        let mut kept = 1;
        for (generation, path) in self.files() {
            if generation == in_force {
                continue;
            }
            if generation < in_force && kept < SETS_MAX {
                kept += 1;
                continue;
            }
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "an old policy stays");
            }
        }
    }

    fn path(&self, generation: Generation) -> PathBuf {
        self.folder.join(format!("{PREFIX}{}", generation.0))
    }

    /// Returns the files, the newest generation first.
    fn files(&self) -> Vec<(Generation, PathBuf)> {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return Vec::new();
        };
        let mut files: Vec<_> = entries
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let number = path.file_name()?.to_str()?.strip_prefix(PREFIX)?;
                Some((Generation(number.parse().ok()?), path.clone()))
            })
            .collect();
        files.sort_unstable_by(|a, b| b.cmp(a));
        files
    }
}

fn read(path: &Path) -> Result<PolicySet, String> {
    let length = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > BYTES_MAX {
        return Err(format!("it has {length} bytes"));
    }
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let set = wire::PolicySet::decode(bytes.as_slice()).map_err(|error| error.to_string())?;
    PolicySet::try_from(set).map_err(|error| chain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(generation: u64) -> PolicySet {
        PolicySet::new(Generation(generation), Vec::new())
    }

    fn kept(store: &PolicyStore) -> Vec<u64> {
        store.read().iter().map(|set| set.generation.0).collect()
    }

    #[test]
    fn set_in_force_and_the_one_before_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let store = PolicyStore::new(folder.path().join("state"));
        assert_eq!(kept(&store), [0; 0]);
        for generation in [3, 9, 10, 11] {
            store.keep(&set(generation)).unwrap();
        }
        assert_eq!(kept(&store), [11, 10, 9, 3]);
        // A collector whose book was restored may go back.
        store.forget_but(Generation(10));
        assert_eq!(kept(&store), [10, 9]);
        assert_eq!(store.read()[0], set(10));
    }

    #[test]
    fn file_that_was_changed_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let store = PolicyStore::new(folder.path().to_owned());
        store.keep(&set(1)).unwrap();
        store.keep(&set(2)).unwrap();
        let path = store.path(Generation(2));
        let mut bytes = fs::read(&path).unwrap();
        for index in 0..bytes.len() {
            bytes[index] ^= 0x55;
            fs::write(&path, &bytes).unwrap();
            assert_eq!(kept(&store), [1], "byte {index}");
            bytes[index] ^= 0x55;
        }
        fs::rename(&path, store.path(Generation(7))).unwrap();
        assert_eq!(kept(&store), [1], "under another name");
    }
}
