//! What the spool asks of a file system, and the one that the machine has.
//!
//! A trait, so that tests can put a disk beneath the spool that fills up,
//! forgets what was not synced, and gives back other bytes than it was given.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::PathBuf,
    sync::Arc,
};

/// A file system, below one folder. Paths have at most one slash.
pub trait Files: fmt::Debug + Send + Sync {
    /// Returns the names in a folder (`""`: the topmost one); none where it
    /// does not exist.
    ///
    /// # Errors
    /// What the system said.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;

    /// Makes a folder; that it exists is no error.
    ///
    /// # Errors
    /// What the system said.
    fn make_folder(&self, folder: &str) -> io::Result<()>;

    /// Makes a file, empty; one of this name is replaced.
    ///
    /// # Errors
    /// What the system said.
    fn create(&self, path: &str) -> io::Result<Arc<dyn SpoolFile>>;

    /// Opens a file.
    ///
    /// # Errors
    /// What the system said.
    fn open(&self, path: &str) -> io::Result<Arc<dyn SpoolFile>>;

    /// Removes a file.
    ///
    /// # Errors
    /// What the system said.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Removes an empty folder.
    ///
    /// # Errors
    /// What the system said.
    fn remove_folder(&self, folder: &str) -> io::Result<()>;

    /// Gives a folder another name.
    ///
    /// # Errors
    /// What the system said.
    fn rename_folder(&self, from: &str, to: &str) -> io::Result<()>;

    /// Returns when the folder's names, too, are on the disk.
    ///
    /// # Errors
    /// What the system said.
    fn sync_folder(&self, folder: &str) -> io::Result<()>;
}

/// A file that is written from front to back and read anywhere.
pub trait SpoolFile: fmt::Debug + Send + Sync {
    /// Returns its length in bytes.
    ///
    /// # Errors
    /// What the system said.
    fn length(&self) -> io::Result<u64>;

    /// Writes all bytes at a place.
    ///
    /// # Errors
    /// What the system said; a part may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Fills the bytes from a place.
    ///
    /// # Errors
    /// What the system said; `UnexpectedEof` where the file ends before.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;

    /// Returns when what was written is on the disk.
    ///
    /// # Errors
    /// What the system said.
    fn sync(&self) -> io::Result<()>;
}

/// The machine's file system, below a folder that is made when there is
/// something to keep.
#[derive(Debug, Clone)]
pub struct Folder(pub PathBuf);

impl Files for Folder {
    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        match fs::read_dir(self.0.join(folder)) {
            Ok(entries) => entries
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn make_folder(&self, folder: &str) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(self.0.join(folder))
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn SpoolFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(self.0.join(path))?;
        Ok(Arc::new(file))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn SpoolFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.0.join(path))?;
        Ok(Arc::new(file))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.0.join(path))
    }

    fn remove_folder(&self, folder: &str) -> io::Result<()> {
        fs::remove_dir(self.0.join(folder))
    }

    fn rename_folder(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.0.join(from), self.0.join(to))
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        File::open(self.0.join(folder))?.sync_all()
    }
}

/// A folder that is only looked at: nothing in it can be changed.
#[derive(Debug, Clone)]
pub struct LookedAt(pub PathBuf);

impl LookedAt {
    fn refuse<T>() -> io::Result<T> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

impl Files for LookedAt {
    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        Folder(self.0.clone()).list(folder)
    }

    fn make_folder(&self, _folder: &str) -> io::Result<()> {
        Self::refuse()
    }

    fn create(&self, _path: &str) -> io::Result<Arc<dyn SpoolFile>> {
        Self::refuse()
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn SpoolFile>> {
        Ok(Arc::new(File::open(self.0.join(path))?))
    }

    fn remove(&self, _path: &str) -> io::Result<()> {
        Self::refuse()
    }

    fn remove_folder(&self, _folder: &str) -> io::Result<()> {
        Self::refuse()
    }

    fn rename_folder(&self, _from: &str, _to: &str) -> io::Result<()> {
        Self::refuse()
    }

    fn sync_folder(&self, _folder: &str) -> io::Result<()> {
        Self::refuse()
    }
}

impl SpoolFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
