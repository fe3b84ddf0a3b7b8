//! How much room the store's disk has left.
//!
//! Sled cannot go on after a write that failed, so the writer asks before it
//! writes: below the limit nothing is written and nothing is acknowledged.

use std::{io, path::PathBuf};

/// Finds out the free bytes of the store's disk.
pub type FreeBytes = Box<dyn Fn() -> io::Result<u64> + Send>;

/// Whether there is room to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// There is.
    Enough,
    /// There is not.
    Low {
        /// What is free.
        free_bytes: u64,
        /// What has to stay free.
        limit_bytes: u64,
    },
}

/// Guards the free bytes of the store's disk.
pub struct Disk {
    free_bytes: FreeBytes,
    limit_bytes: u64,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk")
            .field("limit_bytes", &self.limit_bytes)
            .finish_non_exhaustive()
    }
}

impl Disk {
    /// Guards the file system that holds `folder`.
    pub fn of(folder: PathBuf, limit_bytes: u64) -> Self {
        Self::measured_by(
            Box::new(move || {
                let found = rustix::fs::statvfs(&folder)?;
                // What an unprivileged process may still take.
                Ok(found.f_bavail.saturating_mul(found.f_frsize))
            }),
            limit_bytes,
        )
    }

    /// Guards whatever `free_bytes` measures.
    pub fn measured_by(free_bytes: FreeBytes, limit_bytes: u64) -> Self {
        Self {
            free_bytes,
            limit_bytes,
        }
    }

    /// Says whether `needed_bytes` may be written. A disk that cannot be
    /// measured counts as having room: the write itself will tell.
    pub fn room_for(&self, needed_bytes: u64) -> Room {
        match (self.free_bytes)() {
            Ok(free_bytes) if free_bytes < self.limit_bytes.saturating_add(needed_bytes) => {
                Room::Low {
                    free_bytes,
                    limit_bytes: self.limit_bytes,
                }
            }
            Ok(_) => Room::Enough,
            Err(error) => {
                tracing::warn!(%error, "cannot measure the store's disk");
                Room::Enough
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_stays_free() {
        let check = |free: u64, needed: u64, enough: bool| {
            let disk = Disk::measured_by(Box::new(move || Ok(free)), 100);
            assert_eq!(disk.room_for(needed) == Room::Enough, enough);
        };
        check(100, 0, true);
        check(99, 0, false);
        check(150, 50, true);
        check(150, 51, false);
    }

    #[test]
    fn real_file_system_is_measured() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::of(folder.path().to_owned(), u64::MAX);
        assert!(matches!(disk.room_for(1), Room::Low { free_bytes, .. } if free_bytes > 0));
    }
}
