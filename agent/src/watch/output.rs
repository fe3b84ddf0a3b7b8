//! Events on standard output, from a thread of their own: a reader may be
//! slow, and the kernel's ring must not wait for it on the runtime.

use std::{
    io::{self, BufWriter, IsTerminal as _, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use shrike_proto::{
    event::{
        Event, StoredEvent,
        compact::{Colour, write_compact},
        json::write_json,
    },
    id::{Epoch, NodeId},
};
use tokio::sync::mpsc;

use crate::args;

/// Drains of the ring that wait to be printed: a reader who falls further
/// behind makes the ring fill, and the loss is counted there.
const DRAINS_MAX: usize = 16;

/// Longest time for a reader to take what is left at the end: somebody who
/// stopped a pager must still be able to stop the watch.
pub(super) const FINISH_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the end is looked for.
const FINISH_LOOK: Duration = Duration::from_millis(10);

/// Where the events go.
pub(super) struct Output {
    /// Takes events; closed when nobody reads any more.
    pub(super) events: mpsc::Sender<Vec<Event>>,
    printed: Arc<AtomicU64>,
    thread: JoinHandle<io::Result<()>>,
}

impl Output {
    /// Starts printing to standard output.
    pub(super) fn start(form: args::Output, node: NodeId, epoch: Epoch) -> io::Result<Self> {
        let colour = if io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
            Colour::Ansi
        } else {
            Colour::Plain
        };
        let (events, queue) = mpsc::channel(DRAINS_MAX);
        let printed = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&printed);
        let thread = thread::Builder::new()
            .name("output".to_owned())
            .spawn(move || {
                let out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
                print(out, queue, &count, |out, event| {
                    let stored = StoredEvent {
                        node: node.clone(),
                        epoch,
                        event,
                    };
                    match form {
                        args::Output::Compact => write_compact(out, &stored, colour),
                        args::Output::Json => write_json(out, &stored),
                    }
                })
            })?;
        Ok(Self {
            events,
            printed,
            thread,
        })
    }

    /// Waits for everything to be printed, until `until` at most, and returns
    /// how many events that were. A reader that went away, or that does not read,
    /// is no error.
    pub(super) async fn finish(self, until: Instant) -> io::Result<u64> {
        drop(self.events);
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

fn print<W: Write>(
    mut out: W,
    mut queue: mpsc::Receiver<Vec<Event>>,
    printed: &AtomicU64,
    mut write: impl FnMut(&mut W, Event) -> io::Result<()>,
) -> io::Result<()> {
    let mut take = || -> io::Result<()> {
        while let Some(events) = queue.blocking_recv() {
            let count = events.len() as u64;
            for event in events {
                write(&mut out, event)?;
            }
            out.flush()?;
            // Only what has left is counted.
            printed.fetch_add(count, Ordering::Relaxed);
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
    use shrike_proto::{
        event::{Fact, Open, Process},
        id::{Generation, SequenceNumber},
    };

    use super::*;

    fn events(count: u64) -> Vec<Event> {
        (1..=count)
            .map(|sequence| Event {
                sequence: SequenceNumber(sequence),
                time_unix_ns: 0,
                boot_time_ns: 0,
                cpu: 0,
                cpu_sequence: 0,
                generation: Generation::NONE,
                process: Process::default(),
                verdict: None,
                fact: Fact::Open(Open::default()),
            })
            .collect()
    }

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

    fn printed(out: Failing) -> io::Result<u64> {
        let (sender, queue) = mpsc::channel(4);
        sender.try_send(events(2)).unwrap();
        sender.try_send(events(3)).unwrap();
        drop(sender);
        let printed = AtomicU64::new(0);
        print(out, queue, &printed, |out, _| out.write_all(b"x"))?;
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
