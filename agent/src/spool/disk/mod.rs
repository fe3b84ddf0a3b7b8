//! The disk behind the spool: writes return at once, and are done in their
//! order by whoever drives the queue.
//!
//! ```text
//!  spool ── create, write, remove ──► queue ──► thread ──► Files
//!    ▲                                  │
//!    └────── read: what waits comes ◄───┘
//!            from memory
//! ```
//!
//! In production that is a thread of its own, so a disk that hangs holds up
//! nobody but that thread; a second one syncs, since a sync takes milliseconds
//! that writes need not wait for. What looks at the disk at the agent's start
//! (listing, opening, renaming) goes straight through: there is nobody to be
//! held up yet. Without a thread each call is done before it returns, for
//! tests and for whoever only looks.

mod queue;
mod thread;

pub use queue::{Failure, Ticket, Trouble};

use std::{
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use self::queue::{Queue, Target, Write};
use super::files::Files;

/// A file system that is written behind.
#[derive(Debug, Clone)]
pub struct Disk {
    files: Arc<dyn Files>,
    shared: Arc<Shared>,
    driver: Arc<Driver>,
}

/// What its users and its threads have in common.
#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// There is something to do, or nobody will want anything any more.
    work: Condvar,
    /// Something was done.
    done: Condvar,
    stopped: AtomicBool,
    /// Counts what somebody waited for.
    progress: watch::Sender<u64>,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

/// Who does what is queued.
#[derive(Debug)]
enum Driver {
    /// Threads, until the last user is gone.
    Threads(Arc<Shared>),
    /// Each caller at once, unless the disk is held.
    Callers { held: AtomicBool },
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Self::Threads(shared) = self {
            shared.stopped.store(true, Ordering::Release);
            // Whoever is between looking and waiting holds the lock.
            drop(shared.queue());
            shared.work.notify_all();
            shared.done.notify_all();
        }
    }
}

impl Disk {
    /// Writes behind, on threads that end when the last user is gone. What is
    /// queued then is not done: [`wait`](Self::wait) first.
    ///
    /// # Errors
    /// When the system has no room for a thread.
    pub fn threaded(files: Arc<dyn Files>) -> io::Result<Self> {
        let shared = Arc::new(Shared::new());
        thread::start(&shared, &files)?;
        let driver = Driver::Threads(Arc::clone(&shared));
        Ok(Self {
            files,
            shared,
            driver: Arc::new(driver),
        })
    }

    /// Does everything before the call returns that asks for it.
    pub fn immediate(files: Arc<dyn Files>) -> Self {
        Self {
            files,
            shared: Arc::new(Shared::new()),
            driver: Arc::new(Driver::Callers {
                held: AtomicBool::new(false),
            }),
        }
    }

    /// Lets an immediate disk do nothing, as one that hangs, until
    /// [`let_go`](Self::let_go).
    pub fn hold(&self) {
        self.set_held(true);
    }

    /// Lets it do so many things after all, and hang again.
    pub fn do_some(&self, count: usize) {
        let mut queue = self.shared.queue();
        queue.retry();
        for _ in 0..count {
            if let Some(job) = queue.next() {
                let result = job.run(&*self.files);
                queue.finish(result);
            }
        }
    }

    /// Lets it do everything that it was asked for meanwhile.
    pub fn let_go(&self) {
        self.set_held(false);
        self.drive(self.shared.queue());
    }

    fn set_held(&self, is_held: bool) {
        match &*self.driver {
            Driver::Threads(_) => {}
            Driver::Callers { held } => held.store(is_held, Ordering::Release),
        }
    }

    /// Gets done what is in the queue.
    fn drive(&self, mut queue: MutexGuard<'_, Queue>) {
        match &*self.driver {
            Driver::Threads(_) => {
                drop(queue);
                self.shared.work.notify_one();
            }
            Driver::Callers { held } => {
                // For want of a clock, what failed is tried again each time.
                queue.retry();
                while !held.load(Ordering::Acquire)
                    && let Some(job) = queue.next()
                {
                    let result = job.run(&*self.files);
                    queue.finish(result);
                }
                if !held.load(Ordering::Acquire)
                    && let Some(job) = queue.next_sync()
                {
                    thread::tell_unsynced(job.run(&*self.files).err().as_ref());
                }
            }
        }
    }

    fn push(&self, write: Write) {
        let mut queue = self.shared.queue();
        queue.push(write);
        self.drive(queue);
    }

    /// Returns the names in a folder as they are, whatever waits.
    ///
    /// # Errors
    /// What the system said.
    pub fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.files.list(folder)
    }

    /// Opens a file that is there.
    ///
    /// # Errors
    /// What the system said.
    pub fn open(&self, path: &str) -> io::Result<DiskFile> {
        let file = self.files.open(path)?;
        let length = file.length()?;
        Ok(self.file(Target::opened(path.to_owned(), file, length)))
    }

    /// Gives a folder another name, at once.
    ///
    /// # Errors
    /// What the system said.
    pub fn rename_folder(&self, from: &str, to: &str) -> io::Result<()> {
        self.files.rename_folder(from, to)
    }

    fn file(&self, target: Target) -> DiskFile {
        DiskFile {
            disk: self.clone(),
            target: Arc::new(target),
        }
    }

    /// Makes a folder.
    pub fn make_folder(&self, folder: &str) {
        self.push(Write::MakeFolder(folder.to_owned()));
    }

    /// Makes a file, empty.
    pub fn create(&self, path: String) -> DiskFile {
        let file = self.file(Target::new(path));
        self.push(Write::Create(Arc::clone(&file.target)));
        file
    }

    /// Removes a file that nobody uses, ahead of what is to be written.
    pub fn remove(&self, path: String) {
        let mut queue = self.shared.queue();
        queue.remove(path);
        self.drive(queue);
    }

    /// Removes an empty folder, behind the removals before.
    pub fn remove_folder(&self, folder: &str) {
        let mut queue = self.shared.queue();
        queue.remove_folder(folder);
        self.drive(queue);
    }

    /// Brings a folder's names onto the disk.
    pub fn sync_folder(&self, folder: &str) {
        self.push(Write::SyncFolder(folder.to_owned()));
    }

    /// Brings files, and a folder's names, onto the disk beside the writes that
    /// follow: data before the journals that name it.
    pub fn sync_beside(&self, files: &[DiskFile], folder: Option<&str>) {
        let files = files.iter().map(|file| Arc::clone(&file.target)).collect();
        let mut queue = self.shared.queue();
        queue.sync(files, folder.map(str::to_owned));
        self.shared.done.notify_all();
        self.drive(queue);
    }

    /// Returns the ticket of the last write, and lets
    /// [`progress`](Self::progress) tell when it is done.
    pub fn ticket(&self) -> Ticket {
        self.shared.queue().ticket()
    }

    /// Returns the ticket up to which everything is done.
    pub fn done(&self) -> Ticket {
        self.shared.queue().done()
    }

    /// Says whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.shared.queue().is_idle()
    }

    /// Returns how many bytes of memory the waiting writes take, about.
    pub fn waiting_bytes(&self) -> usize {
        self.shared.queue().bytes()
    }

    /// Returns why nothing can be written, if something was tried and failed.
    pub fn failure(&self) -> Option<Failure> {
        self.shared.queue().failure().cloned()
    }

    /// Tries again what failed, without waiting for its time.
    pub fn retry(&self) {
        let mut queue = self.shared.queue();
        queue.retry();
        self.drive(queue);
    }

    /// Waits until everything up to a ticket is done; false: the time is over.
    pub fn wait(&self, ticket: Ticket, timeout: Duration) -> bool {
        let until = Instant::now() + timeout;
        let mut queue = self.shared.queue();
        while queue.done() < ticket {
            let rest = until.saturating_duration_since(Instant::now());
            if rest.is_zero() || matches!(*self.driver, Driver::Callers { .. }) {
                return false;
            }
            queue = match self.shared.done.wait_timeout(queue, rest) {
                Ok((queue, _)) => queue,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        true
    }

    /// Returns what changes when a write is done that somebody took the ticket
    /// of, and when one fails.
    pub fn progress(&self) -> watch::Receiver<u64> {
        self.shared.progress.subscribe()
    }
}

impl Shared {
    fn new() -> Self {
        Self {
            queue: Mutex::default(),
            work: Condvar::new(),
            done: Condvar::new(),
            stopped: AtomicBool::new(false),
            progress: watch::Sender::new(0),
        }
    }
}

/// A file that is written from front to back, and read anywhere: what the disk
/// does not have yet comes from memory.
#[derive(Debug, Clone)]
pub struct DiskFile {
    disk: Disk,
    target: Arc<Target>,
}

impl DiskFile {
    /// Writes at the file's end, which is the place that is given.
    pub fn write_at(&self, bytes: Vec<u8>, offset: u64) {
        let mut queue = self.disk.shared.queue();
        queue.append(&self.target, bytes, offset);
        self.disk.drive(queue);
    }

    /// Fills the bytes from a place.
    ///
    /// # Errors
    /// What the system said; `UnexpectedEof` where the file ends before.
    pub fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.target.read_at(bytes, offset)
    }

    /// Returns its length in bytes, what waits included.
    pub fn length(&self) -> u64 {
        self.target.length()
    }

    /// Returns how many of its bytes the disk has.
    pub fn written(&self) -> u64 {
        self.target.written()
    }

    /// Returns how many of its bytes the disk does not have.
    pub fn waiting_bytes(&self) -> usize {
        self.target.waiting_bytes()
    }

    /// Says whether the disk has nothing of it, not even a name.
    pub fn is_unborn(&self) -> bool {
        self.target.is_unborn()
    }

    /// Brings it onto the disk, in the order of the writes.
    pub fn sync(&self) {
        self.disk.push(Write::SyncFile(Arc::clone(&self.target)));
    }

    /// Forgets what was to be written; what the disk has stays.
    pub fn forget(&self) {
        let mut queue = self.disk.shared.queue();
        queue.forget(&self.target);
        self.disk.drive(queue);
    }

    /// Removes it, ahead of what is to be written, and forgets what was to be
    /// written to it.
    pub fn remove(&self) {
        let mut queue = self.disk.shared.queue();
        queue.remove_target(&self.target);
        self.disk.drive(queue);
    }
}

#[cfg(test)]
mod tests;
