//! What the disk is still to do, and in what order.
//!
//! ```text
//!  push ──► write, write, write … ──► one at a time; one that fails stays at
//!             ▲ forgotten with          the head and is tried again
//!             │ its file
//!  remove ────┴────────► removals ──► run ahead of the writes
//! ```
//!
//! Writes keep their order, whatever fails: the journal's entry never reaches
//! the disk before the bytes that it names. Removals run ahead of them, since
//! they are what gives a full disk room again; what was still to be written to
//! a removed file is forgotten. State only: nobody waits here, and nothing
//! touches a file before [`Job::run`].

use std::{
    collections::VecDeque,
    io, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::spool::files::{Files, SpoolFile};

/// What an entry takes beside its bytes, about.
const ENTRY_BYTES: usize = 128;

/// Number of a write, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Ticket(u64);

/// Why a write fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// There is no room: whoever can give up something may.
    NoRoom,
    /// Anything else; nothing that is given up would help.
    Other,
}

/// A write that failed, and is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What kind of trouble that is.
    pub trouble: Trouble,
    /// What the system said.
    pub error: String,
    /// How many attempts failed, of whatever writes: tells this failure from
    /// the one before.
    pub attempt: u64,
}

impl Failure {
    fn new(error: &io::Error, attempt: u64) -> Self {
        let trouble = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Trouble::NoRoom,
            _ => Trouble::Other,
        };
        Self {
            trouble,
            error: error.to_string(),
            attempt,
        }
    }
}

/// A file, as far as the disk has it.
#[derive(Debug)]
pub struct Target {
    path: String,
    state: Mutex<TargetState>,
}

#[derive(Debug, Default)]
struct TargetState {
    /// Once it is there.
    opened: Option<Arc<dyn SpoolFile>>,
    /// Somebody has set out to make it.
    is_born: bool,
    /// Not written yet, in the order of their places.
    pieces: VecDeque<Piece>,
    waiting_bytes: usize,
    /// End of what was written.
    written: u64,
}

#[derive(Debug, Clone)]
struct Piece {
    offset: u64,
    bytes: Arc<[u8]>,
}

impl Piece {
    fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
}

impl Target {
    /// A file that is to be made.
    pub fn new(path: String) -> Self {
        Self {
            path,
            state: Mutex::default(),
        }
    }

    /// A file that is there, and how long it is.
    pub fn opened(path: String, file: Arc<dyn SpoolFile>, length: u64) -> Self {
        let state = TargetState {
            opened: Some(file),
            is_born: true,
            written: length,
            ..TargetState::default()
        };
        Self {
            path,
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, TargetState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many of its bytes the disk has.
    pub fn written(&self) -> u64 {
        self.state().written
    }

    /// Returns how many bytes wait to be written to it.
    pub fn waiting_bytes(&self) -> usize {
        self.state().waiting_bytes
    }

    /// Says whether nobody has set out to make it yet: nothing of it would be
    /// left if it were given up.
    pub fn is_unborn(&self) -> bool {
        !self.state().is_born
    }

    /// Fills the bytes from a place, whether the disk has them or not.
    ///
    /// # Errors
    /// What the system said; `UnexpectedEof` where the file ends before.
    pub fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        let (opened, pieces) = {
            let state = self.state();
            let first = state.pieces.partition_point(|piece| piece.end() <= offset);
            let pieces: Vec<Piece> = state
                .pieces
                .range(first..)
                .take_while(|piece| piece.offset < end)
                .cloned()
                .collect();
            (state.opened.clone(), pieces)
        };
        // What waits is the file's end.
        let begin = pieces.first().map_or(end, |piece| piece.offset.max(offset));
        let (written, mut rest) = bytes.split_at_mut((begin - offset) as usize);
        if !written.is_empty() {
            opened
                .ok_or(io::ErrorKind::UnexpectedEof)?
                .read_at(written, offset)?;
        }
        let mut at = begin;
        for piece in pieces {
            let from = at
                .checked_sub(piece.offset)
                .ok_or(io::ErrorKind::UnexpectedEof)? as usize;
            let part = piece.bytes.get(from..).unwrap_or_default();
            let part = &part[..part.len().min(rest.len())];
            rest[..part.len()].copy_from_slice(part);
            rest = &mut rest[part.len()..];
            at += part.len() as u64;
        }
        match rest.is_empty() {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Returns its length, whether the disk has all of it or not.
    pub fn length(&self) -> u64 {
        let state = self.state();
        state.pieces.back().map_or(state.written, Piece::end)
    }

    fn write_front(&self) -> io::Result<()> {
        let (file, piece) = {
            let state = self.state();
            (state.opened.clone(), state.pieces.front().cloned())
        };
        match (file, piece) {
            (Some(file), Some(piece)) => file.write_at(&piece.bytes, piece.offset),
            (None, _) => Err(io::ErrorKind::NotFound.into()),
            (Some(_), None) => Ok(()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        let file = self.state().opened.clone();
        // One that is gone before it came has nothing to sync.
        file.map_or(Ok(()), |file| file.sync())
    }

    fn note_written(&self) {
        let state = &mut *self.state();
        if let Some(piece) = state.pieces.pop_front() {
            state.waiting_bytes -= piece.bytes.len();
            state.written = piece.end();
        }
    }

    /// Forgets what waits but for the first `kept`.
    fn forget(&self, kept: usize) {
        let state = &mut *self.state();
        state.pieces.truncate(kept);
        state.waiting_bytes = state.pieces.iter().map(|piece| piece.bytes.len()).sum();
    }
}

/// Something that adds to the disk.
#[derive(Debug, Clone)]
pub enum Write {
    /// Makes a folder.
    MakeFolder(String),
    /// Makes a file.
    Create(Arc<Target>),
    /// Writes the first of the bytes that wait for a file.
    Append(Arc<Target>),
    /// Brings a file onto the disk.
    SyncFile(Arc<Target>),
    /// Brings a folder's names onto the disk.
    SyncFolder(String),
}

impl Write {
    fn target(&self) -> Option<&Arc<Target>> {
        match self {
            Self::Create(target) | Self::Append(target) | Self::SyncFile(target) => Some(target),
            Self::MakeFolder(_) | Self::SyncFolder(_) => None,
        }
    }

    fn is_about(&self, file: &Arc<Target>) -> bool {
        self.target()
            .is_some_and(|target| Arc::ptr_eq(target, file))
    }
}

/// Something that makes room on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// Of a file.
    File(String),
    /// Of an empty folder.
    Folder(String),
}

/// What is to be done next.
#[derive(Debug)]
pub enum Job {
    /// This write.
    Write(Write),
    /// This removal.
    Removal(Removal),
}

impl Job {
    /// Does it; that may take however long it takes.
    ///
    /// # Errors
    /// What the system said.
    pub fn run(&self, files: &dyn Files) -> io::Result<()> {
        match self {
            Self::Write(Write::MakeFolder(folder)) => files.make_folder(folder),
            Self::Write(Write::Create(target)) => {
                let file = files.create(&target.path)?;
                target.state().opened = Some(file);
                Ok(())
            }
            Self::Write(Write::Append(target)) => target.write_front(),
            Self::Write(Write::SyncFile(target)) => target.sync(),
            Self::Write(Write::SyncFolder(folder)) => files.sync_folder(folder),
            Self::Removal(removal) => {
                let (path, result) = match removal {
                    Removal::File(path) => (path, files.remove(path)),
                    Removal::Folder(path) => (path, files.remove_folder(path)),
                };
                match result {
                    // It was given up before it was made.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    // The next agent removes what no journal names.
                    Err(error) => {
                        tracing::warn!(path, %error, "something of the spool stays behind");
                    }
                    Ok(()) => {}
                }
                Ok(())
            }
        }
    }
}

/// Files to sync, once the writes before are done: data before journals.
#[derive(Debug, Default)]
pub struct SyncJob {
    after: Ticket,
    files: Vec<Arc<Target>>,
    folders: Vec<String>,
}

impl SyncJob {
    /// Brings everything onto the disk.
    ///
    /// # Errors
    /// What the system said.
    pub fn run(&self, files: &dyn Files) -> io::Result<()> {
        self.files.iter().try_for_each(|file| file.sync())?;
        self.folders
            .iter()
            .try_for_each(|folder| files.sync_folder(folder))
    }

    fn merge(&mut self, more: Self) {
        self.after = self.after.max(more.after);
        // A journal that is named again goes behind the data that was written
        // since.
        self.files
            .retain(|known| !more.files.iter().any(|file| Arc::ptr_eq(file, known)));
        self.files.extend(more.files);
        self.folders.retain(|known| !more.folders.contains(known));
        self.folders.extend(more.folders);
    }
}

#[derive(Debug)]
struct Entry {
    ticket: Ticket,
    write: Write,
    bytes: usize,
    /// Somebody waits for this one.
    is_awaited: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Running {
    #[default]
    Nothing,
    Removal,
    /// The first write.
    Write,
    /// The first write, of a file that was given up meanwhile.
    Forgotten,
}

/// What the disk is to do.
#[derive(Debug, Default)]
pub struct Queue {
    writes: VecDeque<Entry>,
    removals: VecDeque<Removal>,
    last: u64,
    bytes: usize,
    running: Running,
    failure: Option<Failure>,
    attempts: u64,
    /// The failure's write is not to be tried before somebody says so.
    is_waiting: bool,
    sync: Option<SyncJob>,
}

impl Queue {
    /// Puts a write behind the others.
    pub fn push(&mut self, write: Write) {
        self.push_entry(write, ENTRY_BYTES);
    }

    fn push_entry(&mut self, write: Write, bytes: usize) {
        self.last += 1;
        self.bytes += bytes;
        self.writes.push_back(Entry {
            ticket: Ticket(self.last),
            write,
            bytes,
            is_awaited: false,
        });
    }

    /// Puts bytes at the end of a file, behind the other writes.
    pub fn append(&mut self, target: &Arc<Target>, bytes: Vec<u8>, offset: u64) {
        let length = bytes.len();
        {
            let state = &mut *target.state();
            state.waiting_bytes += length;
            state.pieces.push_back(Piece {
                offset,
                bytes: bytes.into(),
            });
        }
        self.push_entry(Write::Append(Arc::clone(target)), ENTRY_BYTES + length);
    }

    /// Removes a file by its path, ahead of what is to be written.
    pub fn remove(&mut self, path: String) {
        self.removals.push_back(Removal::File(path));
    }

    /// Removes a file, and forgets what was to be written to it.
    pub fn remove_target(&mut self, target: &Arc<Target>) {
        self.forget(target);
        if !target.is_unborn() {
            self.remove(target.path.clone());
        }
    }

    /// Removes an empty folder, behind the removals before.
    pub fn remove_folder(&mut self, folder: &str) {
        self.cancel(
            |write| matches!(write, Write::MakeFolder(path) | Write::SyncFolder(path) if path == folder),
        );
        self.removals.push_back(Removal::Folder(folder.to_owned()));
    }

    /// Forgets what was to be done to a file; what the disk has of it stays.
    pub fn forget(&mut self, target: &Arc<Target>) {
        let is_appending = matches!(self.running, Running::Write | Running::Forgotten)
            && self.writes.front().is_some_and(|entry| {
                matches!(entry.write, Write::Append(_)) && entry.write.is_about(target)
            });
        self.cancel(|write| write.is_about(target));
        target.forget(is_appending.into());
    }

    fn cancel(&mut self, is_meant: impl Fn(&Write) -> bool) {
        let is_running = matches!(self.running, Running::Write | Running::Forgotten);
        let head = self.writes.front().map(|entry| entry.ticket);
        let (mut index, mut bytes) = (0, 0);
        self.writes.retain(|entry| {
            let is_kept = !is_meant(&entry.write) || index == 0 && is_running;
            if !is_kept {
                bytes += entry.bytes;
            }
            index += 1;
            is_kept
        });
        self.bytes -= bytes;
        match self.writes.front() {
            Some(entry) if is_running && is_meant(&entry.write) => {
                self.running = Running::Forgotten;
            }
            Some(entry) if Some(entry.ticket) == head => {}
            // What failed is not wanted any more.
            Some(_) | None => self.go_on(),
        }
    }

    fn go_on(&mut self) {
        self.failure = None;
        self.is_waiting = false;
    }

    /// Returns what is to be done next and counts it as under way, until
    /// [`finish`](Self::finish); `None`: nothing is, or what failed waits.
    pub fn next(&mut self) -> Option<Job> {
        assert_eq!(self.running, Running::Nothing, "one at a time");
        if let Some(removal) = self.removals.pop_front() {
            self.running = Running::Removal;
            return Some(Job::Removal(removal));
        }
        if self.is_waiting {
            return None;
        }
        let write = self.writes.front()?.write.clone();
        if let Write::Create(target) = &write {
            target.state().is_born = true;
        }
        self.running = Running::Write;
        Some(Job::Write(write))
    }

    /// Takes in what came of it. Says whether somebody waits for that.
    pub fn finish(&mut self, result: io::Result<()>) -> bool {
        match (mem::take(&mut self.running), result) {
            (Running::Nothing | Running::Removal, _) => false,
            (Running::Write, Err(error)) => {
                self.attempts += 1;
                self.failure = Some(Failure::new(&error, self.attempts));
                self.is_waiting = true;
                true
            }
            (Running::Forgotten, Err(_)) => {
                let entry = self.pop();
                if let Write::Append(target) = &entry.write {
                    target.forget(0);
                }
                entry.is_awaited
            }
            (Running::Write | Running::Forgotten, Ok(())) => {
                let had_failed = self.failure.is_some();
                let entry = self.pop();
                if let Write::Append(target) = &entry.write {
                    target.note_written();
                }
                entry.is_awaited || had_failed
            }
        }
    }

    fn pop(&mut self) -> Entry {
        self.go_on();
        let entry = self.writes.pop_front().expect("a write was under way");
        self.bytes -= entry.bytes;
        entry
    }

    /// Tries again what failed.
    pub fn retry(&mut self) {
        self.is_waiting = false;
    }

    /// Returns the failure that keeps the writes up, if one does.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// Returns the last write's ticket, and lets whoever does it tell.
    pub fn ticket(&mut self) -> Ticket {
        if let Some(entry) = self.writes.back_mut() {
            entry.is_awaited = true;
        }
        Ticket(self.last)
    }

    /// Returns the ticket up to which everything is done, or forgotten.
    pub fn done(&self) -> Ticket {
        let next = self.writes.front().map(|entry| entry.ticket.0 - 1);
        Ticket(next.unwrap_or(self.last))
    }

    /// Says whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.writes.is_empty() && self.removals.is_empty() && self.running == Running::Nothing
    }

    /// Returns how many bytes of memory the waiting writes take, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Lets files be synced once the writes before are done; data comes before
    /// the journals that name it.
    pub fn sync(&mut self, files: Vec<Arc<Target>>, folder: Option<String>) {
        let job = SyncJob {
            after: Ticket(self.last),
            files,
            folders: folder.into_iter().collect(),
        };
        match &mut self.sync {
            Some(waiting) => waiting.merge(job),
            None => self.sync = Some(job),
        }
    }

    /// Returns what is to be synced, if it is time.
    pub fn next_sync(&mut self) -> Option<SyncJob> {
        let done = self.done();
        self.sync.take_if(|job| job.after <= done)
    }
}

#[cfg(test)]
mod tests;
