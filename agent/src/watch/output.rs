//! Pages of events on standard output, from a thread of their own: a reader
//! may be slow, and the kernel's ring must not wait for it on the runtime.

use std::{
    io::{self, IsTerminal as _, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::page::Page;

/// Pages that wait to be printed, a drain of the ring each: a reader who falls
/// further behind makes the ring fill, and the loss is counted there.
const PAGES_MAX: usize = 16;

/// Longest time for a reader to take what is left at the end: somebody who
/// stopped a pager must still be able to stop the watch.
pub(super) const FINISH_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the end is looked for.
const FINISH_LOOK: Duration = Duration::from_millis(10);

/// Where the pages go.
pub(super) struct Output {
    /// Takes pages; closed when nobody reads any more.
    pub(super) pages: mpsc::Sender<Page>,
    /// Pages that were printed and can be written on again.
    empties: mpsc::Receiver<Page>,
    printed: Arc<AtomicU64>,
    thread: JoinHandle<io::Result<()>>,
}

/// Says whether people read the lines, and want colours.
pub(super) fn wants_colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

impl Output {
    /// Starts printing to standard output.
    pub(super) fn start() -> io::Result<Self> {
        let (pages, queue) = mpsc::channel(PAGES_MAX);
        let (give_back, empties) = mpsc::channel(PAGES_MAX);
        let printed = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&printed);
        let thread = thread::Builder::new()
            .name("output".to_owned())
            .spawn(move || print(io::stdout().lock(), queue, &give_back, &count))?;
        Ok(Self {
            pages,
            empties,
            printed,
            thread,
        })
    }

    /// Returns a page without any line.
    pub(super) fn empty_page(&mut self) -> Page {
        self.empties.try_recv().unwrap_or_default()
    }

    /// Waits for everything to be printed, until `until` at most, and returns
    /// how many events that were. A reader that went away, or that does not read,
    /// is no error.
    pub(super) async fn finish(self, until: Instant) -> io::Result<u64> {
        drop(self.pages);
        while !self.thread.is_finished() && Instant::now() < until {
            tokio::time::sleep(FINISH_LOOK).await;
        }
        if self.thread.is_finished() {
            match self.thread.join() {
                Ok(result) => result?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(self.printed.load(Ordering::Relaxed))
    }
}

fn print(
    mut out: impl Write,
    mut queue: mpsc::Receiver<Page>,
    give_back: &mpsc::Sender<Page>,
    printed: &AtomicU64,
) -> io::Result<()> {
    let mut take = || -> io::Result<()> {
        while let Some(mut page) = queue.blocking_recv() {
            // One write for all of its lines, which no buffer need hold back.
            out.write_all(page.text())?;
            out.flush()?;
            // Only what has left is counted.
            printed.fetch_add(page.events(), Ordering::Relaxed);
            page.clear();
            // When there are enough of them it is not needed.
            let _ = give_back.try_send(page);
        }
        Ok(())
    };
    match take() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails with `kind` after some bytes.
    struct Failing(usize, io::ErrorKind);

    impl Write for Failing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(self.1.into());
            }
            let count = bytes.len().min(self.0);
            self.0 -= count;
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Prints a page of two lines and one of three.
    fn printed(out: Failing) -> io::Result<u64> {
        let (sender, queue) = mpsc::channel(4);
        let (give_back, mut empties) = mpsc::channel(4);
        for lines in [2, 3] {
            let mut page = Page::default();
            (0..lines).for_each(|_| page.add(|text| text.push(b'x')));
            sender.try_send(page).unwrap();
        }
        drop(sender);
        let printed = AtomicU64::new(0);
        print(out, queue, &give_back, &printed)?;
        while let Ok(page) = empties.try_recv() {
            assert_eq!((page.events(), page.text()), (0, &[][..]));
        }
        Ok(printed.into_inner())
    }

    #[test]
    fn everything_written_is_counted() {
        assert_eq!(printed(Failing(100, io::ErrorKind::Other)).unwrap(), 5);
    }

    #[test]
    fn reader_that_went_away_is_no_error() {
        assert_eq!(printed(Failing(3, io::ErrorKind::BrokenPipe)).unwrap(), 2);
    }

    #[test]
    fn full_disk_is_an_error() {
        printed(Failing(3, io::ErrorKind::StorageFull)).unwrap_err();
    }
}
