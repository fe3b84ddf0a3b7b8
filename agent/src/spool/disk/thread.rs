//! The threads that do what is queued: one writes, one syncs.
//!
//! They are plain threads: a runtime's blocking pool would wait for one that
//! the disk holds when the agent stops.

use std::{
    io,
    sync::{Arc, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::{Files, Queue, Shared};

/// What failed is tried again after this, if nobody says so before.
const RETRY: Duration = Duration::from_secs(1);

/// Starts both.
///
/// # Errors
/// When the system has no room for one.
pub fn start(shared: &Arc<Shared>, files: &Arc<dyn Files>) -> io::Result<()> {
    spawn("spool-write", write, shared, files)?;
    spawn("spool-sync", sync, shared, files)
}

fn spawn(
    name: &str,
    run: fn(&Shared, &dyn Files),
    shared: &Arc<Shared>,
    files: &Arc<dyn Files>,
) -> io::Result<()> {
    let (shared, files) = (Arc::clone(shared), Arc::clone(files));
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || run(&shared, &*files))?;
    Ok(())
}

fn write(shared: &Shared, files: &dyn Files) {
    let mut retry_at = None;
    let mut queue = shared.queue();
    while !shared.is_stopped() {
        if let Some(job) = queue.next() {
            drop(queue);
            let result = job.run(files);
            queue = shared.queue();
            if queue.finish(result) {
                shared.progress.send_modify(|count| *count += 1);
            }
            shared.done.notify_all();
            retry_at = None;
            continue;
        }
        if queue.failure().is_none() {
            queue = shared
                .work
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        let now = Instant::now();
        let at = *retry_at.get_or_insert(now + RETRY);
        if now >= at {
            queue.retry();
        } else {
            queue = wait_at_most(shared, queue, at - now);
        }
    }
}

fn wait_at_most<'a>(
    shared: &'a Shared,
    queue: MutexGuard<'a, Queue>,
    time: Duration,
) -> MutexGuard<'a, Queue> {
    match shared.work.wait_timeout(queue, time) {
        Ok((queue, _)) => queue,
        Err(poisoned) => poisoned.into_inner().0,
    }
}

fn sync(shared: &Shared, files: &dyn Files) {
    let mut queue = shared.queue();
    while !shared.is_stopped() {
        if let Some(job) = queue.next_sync() {
            drop(queue);
            tell_unsynced(job.run(files).err().as_ref());
            queue = shared.queue();
        } else {
            queue = shared
                .done
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Says that something could not be synced.
pub fn tell_unsynced(error: Option<&io::Error>) {
    if let Some(error) = error {
        tracing::error!(%error, "the spool cannot be synced: a power cut may lose events");
    }
}
