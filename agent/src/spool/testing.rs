//! A file system that can be full, and that forgets what was not synced.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use super::files::{Files, SpoolFile};

#[derive(Debug, Default)]
struct Inode {
    content: Vec<u8>,
    synced: Vec<u8>,
}

#[derive(Debug, Default)]
struct Disk {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    synced_names: BTreeMap<String, usize>,
    /// Bytes that still fit; `None`: any number.
    room: Option<usize>,
}

/// The disk, which outlives whoever uses it.
#[derive(Debug, Clone, Default)]
pub struct MemoryFiles(Arc<Mutex<Disk>>);

#[derive(Debug)]
struct MemoryFile(Arc<Mutex<Disk>>, usize);

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl MemoryFiles {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap()
    }

    /// Lets so many more bytes be written; `None`: any number.
    pub fn set_room(&self, room: Option<usize>) {
        self.disk().room = room;
    }

    /// Cuts the power: of what was not synced, a part is there, as `keep`
    /// chooses between 0 and the number it is given.
    pub fn cut_power(&self, mut keep: impl FnMut(usize) -> usize) {
        let disk = &mut *self.disk();
        for inode in &mut disk.inodes {
            let unsynced = inode.content.len() - inode.synced.len();
            let kept = inode.synced.len() + keep(unsynced);
            inode.content.truncate(kept);
            // Blocks are allocated before they are written.
            if keep(4) == 0 && kept > inode.synced.len() {
                let from = inode.synced.len() + keep(kept - inode.synced.len());
                inode.content[from..].fill(0);
            }
            inode.synced = inode.content.clone();
        }
        let unsynced: Vec<String> = disk
            .names
            .keys()
            .filter(|name| !disk.synced_names.contains_key(*name))
            .cloned()
            .collect();
        for name in unsynced {
            if keep(1) == 0 {
                disk.names.remove(&name);
            }
        }
        disk.synced_names = disk.names.clone();
    }

    /// Flips a bit in one of the files that `chosen` admits; says whether
    /// there was one.
    pub fn flip(&self, chosen: impl Fn(&str) -> bool, at: usize) -> bool {
        let disk = &mut *self.disk();
        let inodes: Vec<usize> = disk
            .names
            .iter()
            .filter(|(name, _)| chosen(name))
            .map(|(_, inode)| *inode)
            .filter(|inode| !disk.inodes[*inode].content.is_empty())
            .collect();
        let Some(inode) = inodes.get(at % inodes.len().max(1)) else {
            return false;
        };
        let content = &mut disk.inodes[*inode].content;
        let index = at % content.len();
        content[index] ^= 1 << (at % 8);
        true
    }

    /// Appends to the last of the files that begin so.
    pub fn append(&self, prefix: &str, bytes: &[u8]) {
        let disk = &mut *self.disk();
        let inode = *disk
            .names
            .iter()
            .rfind(|(name, _)| name.contains(prefix))
            .unwrap()
            .1;
        disk.inodes[inode].content.extend_from_slice(bytes);
    }

    /// Returns how many bytes of a file a power cut would leave; `None`: not
    /// one.
    pub fn synced_bytes(&self, path: &str) -> Option<usize> {
        let disk = self.disk();
        let inode = disk.names.get(path)?;
        Some(disk.inodes[*inode].synced.len()).filter(|bytes| *bytes > 0)
    }

    /// Returns the paths of all files.
    pub fn paths(&self) -> Vec<String> {
        self.disk().names.keys().cloned().collect()
    }
}

impl Files for MemoryFiles {
    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let mut names: Vec<String> = self
            .disk()
            .names
            .keys()
            .filter_map(|path| match folder {
                "" => path.split('/').next().map(str::to_owned),
                folder => Some(path.strip_prefix(folder)?.strip_prefix('/')?.to_owned()),
            })
            .collect();
        names.dedup();
        Ok(names)
    }

    fn make_folder(&self, _folder: &str) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn SpoolFile>> {
        let disk = &mut *self.disk();
        disk.inodes.push(Inode::default());
        let inode = disk.inodes.len() - 1;
        disk.names.insert(path.to_owned(), inode);
        Ok(Arc::new(MemoryFile(Arc::clone(&self.0), inode)))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn SpoolFile>> {
        let inode = *self.disk().names.get(path).ok_or_else(missing)?;
        Ok(Arc::new(MemoryFile(Arc::clone(&self.0), inode)))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let disk = &mut *self.disk();
        let inode = disk.names.remove(path).ok_or_else(missing)?;
        disk.synced_names.remove(path);
        if let Some(room) = &mut disk.room {
            *room += disk.inodes[inode].content.len();
        }
        Ok(())
    }

    fn remove_folder(&self, folder: &str) -> io::Result<()> {
        match self.list(folder)?.is_empty() {
            true => Ok(()),
            false => Err(io::ErrorKind::DirectoryNotEmpty.into()),
        }
    }

    fn rename_folder(&self, from: &str, to: &str) -> io::Result<()> {
        let disk = &mut *self.disk();
        for names in [&mut disk.names, &mut disk.synced_names] {
            *names = std::mem::take(names)
                .into_iter()
                .map(|(path, inode)| match path.strip_prefix(from) {
                    Some(rest) => (format!("{to}{rest}"), inode),
                    None => (path, inode),
                })
                .collect();
        }
        Ok(())
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        let disk = &mut *self.disk();
        for (path, inode) in &disk.names {
            if path.starts_with(folder) {
                disk.synced_names.insert(path.clone(), *inode);
            }
        }
        Ok(())
    }
}

impl SpoolFile for MemoryFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().inodes[self.1].content.len() as u64)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let disk = &mut *self.0.lock().unwrap();
        let content = &mut disk.inodes[self.1].content;
        let offset = offset as usize;
        let end = offset + bytes.len();
        let more = end.saturating_sub(content.len());
        // As a real one, a full disk takes the beginning.
        let fits = disk.room.map_or(more, |room| room.min(more));
        content.resize(content.len() + fits, 0);
        let upto = end.min(content.len());
        content[offset..upto].copy_from_slice(&bytes[..upto - offset]);
        if let Some(room) = &mut disk.room {
            *room -= fits;
        }
        match fits < more {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let disk = self.0.lock().unwrap();
        let offset = offset as usize;
        let from = disk.inodes[self.1]
            .content
            .get(offset..offset + bytes.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(from);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let inode = &mut self.0.lock().unwrap().inodes[self.1];
        inode.synced = inode.content.clone();
        Ok(())
    }
}
