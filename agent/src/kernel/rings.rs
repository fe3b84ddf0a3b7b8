//! Taking records out of the two rings, in the order that they were made and
//! without ever blocking the runtime.
//!
//! Opens have one ring, everything else the other (`programs/emit.rs`). The
//! process table wants them in order: an exit after the opens before it, a
//! fork before what the child does. Each ring is in the order in which its
//! records were given room, and a record's time was taken before. So of two
//! heads the earlier one is next, and the records that led to a record are
//! out before it:
//!
//! *Let `a` lead to `b` (one process, or parent and child). `a` was in its
//! ring before `b`'s time was taken, and so was whatever lies before `a`: all
//! of that is earlier than `b`. The merge takes it first, provided it looks at
//! the other ring after it has seen `b`, and takes a head that is still being
//! copied in for what it is.*
//!
//! Two things bound the order. A head that stays half copied for longer than
//! [`PATIENCE`] holds nobody up; and when the ring of what is worth most is
//! half full, it is emptied first, whatever the opens' ring holds: a loss
//! would be worse.

use std::{
    hint, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    thread,
    time::Duration,
};

use aya::maps::MapData;
use shrike_agent_ebpf::record::Header;
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, timeout_at},
};

use super::ring_memory::RingMemory;

/// Records taken in one call: some milliseconds of work, after which others
/// get their turn.
pub const RECORDS_PER_CALL_MAX: usize = 4096;

/// The programs wake the reader only when much is waiting or a verdict kills;
/// the reader looks on its own as often as this, which bounds the delay of an
/// event on a quiet machine.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Copying a record in takes microseconds, unless the kernel takes the
/// processor away in the middle.
const PATIENCE: Duration = Duration::from_millis(5);

/// What is at the front of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head<'a> {
    /// Nothing.
    Empty,
    /// A record that is being copied in.
    Busy,
    /// A record.
    Record(&'a [u8]),
}

/// A ring, as far as the order of its records goes.
pub trait Source {
    /// Looks at the front.
    fn head(&mut self) -> Head<'_>;
    /// Passes the record at the front.
    fn advance(&mut self);
    /// Says whether it is about to be full.
    fn is_pressed(&self) -> bool;
}

/// A ring and what says that it has something.
struct Ring {
    memory: RingMemory,
    ready: AsyncFd<OwnedFd>,
}

impl Ring {
    fn open(map: &MapData, bytes: u32) -> io::Result<Self> {
        let ring: BorrowedFd<'_> = map.fd().as_fd();
        // SAFETY: an owned descriptor stays the same and open for as long as it
        // lives.
        let ready = unsafe {
            AsyncFd::register_with_interest(ring.try_clone_to_owned()?, Interest::READABLE)
        }?;
        Ok(Self {
            memory: RingMemory::map(ring, bytes as usize)?,
            ready,
        })
    }

    async fn readable(&mut self) -> io::Result<()> {
        self.ready.readable_mut().await?.clear_ready();
        Ok(())
    }
}

/// Both rings, from the reader's side.
pub struct Rings {
    priority: Ring,
    opens: Ring,
    look_at: Instant,
}

impl Rings {
    /// Takes over the rings, each with its size in bytes. Must be called on a
    /// tokio runtime.
    ///
    /// # Errors
    /// When one cannot be mapped or polled.
    pub fn open(priority: (&MapData, u32), opens: (&MapData, u32)) -> io::Result<Self> {
        Ok(Self {
            priority: Ring::open(priority.0, priority.1)?,
            opens: Ring::open(opens.0, opens.1)?,
            look_at: Instant::now(),
        })
    }

    /// Returns how many records were taken out of either, by whomever.
    pub fn taken(&self) -> u64 {
        self.priority.memory.taken() + self.opens.memory.taken()
    }

    /// Returns the ring that keeps notes for a successor.
    pub fn notes(&self) -> &RingMemory {
        &self.priority.memory
    }

    /// Marks what was taken out of each ring up to here, and returns how many
    /// records that were: first out of the one of what is worth most.
    pub fn mark(&mut self) -> (u64, u64) {
        (self.priority.memory.mark(), self.opens.memory.mark())
    }

    /// Passes what is in the rings until so many records were taken out of
    /// each.
    pub fn skip_to(&mut self, priority: u64, opens: u64) {
        for (ring, upto) in [(&mut self.priority, priority), (&mut self.opens, opens)] {
            while ring.memory.taken() < upto && matches!(ring.memory.head(), Head::Record(_)) {
                ring.memory.advance();
            }
        }
        self.release();
    }

    /// Gives up what was taken: the kernel may use the room again.
    pub fn release(&mut self) {
        self.priority.memory.release();
        self.opens.memory.release();
    }

    /// Gives up what was taken before these marks were made.
    pub fn release_to(&mut self, priority: u64, opens: u64) {
        self.priority.memory.release_to(priority);
        self.opens.memory.release_to(opens);
    }

    /// Says whether nothing that was taken is held for a successor.
    pub fn are_released(&self) -> bool {
        self.priority.memory.is_released() && self.opens.memory.is_released()
    }

    /// Hands over what is in the rings, at most [`RECORDS_PER_CALL_MAX`]
    /// records, which stay there until [`release`](Self::release). Returns how
    /// many that were.
    pub fn drain(&mut self, take: impl FnMut(&[u8])) -> usize {
        let taken = drain(&mut self.priority.memory, &mut self.opens.memory, take);
        self.look_at = Instant::now() + LOOK_EVERY;
        taken
    }

    /// Waits until it is time to look into the rings: much is waiting, or the
    /// last look was long enough ago. Waiting again goes on where a cancelled
    /// wait ended.
    ///
    /// # Errors
    /// When a ring cannot be polled.
    pub async fn wait(&mut self) -> io::Result<()> {
        let (priority, opens) = (&mut self.priority, &mut self.opens);
        let either = async {
            tokio::select! {
                result = priority.readable() => result,
                result = opens.readable() => result,
            }
        };
        // When the time is over it is time to look, too.
        timeout_at(self.look_at, either).await.unwrap_or(Ok(()))
    }
}

fn drain(
    priority: &mut impl Source,
    opens: &mut impl Source,
    mut take: impl FnMut(&[u8]),
) -> usize {
    for taken in 0..RECORDS_PER_CALL_MAX {
        match next(priority, opens) {
            Some(Next::Priority) => pass(priority, &mut take),
            Some(Next::Opens) => pass(opens, &mut take),
            None => return taken,
        }
    }
    RECORDS_PER_CALL_MAX
}

fn pass(ring: &mut impl Source, take: &mut impl FnMut(&[u8])) {
    if let Head::Record(record) = ring.head() {
        take(record);
        ring.advance();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Priority,
    Opens,
}

/// The time of a ring's head, as far as there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Time {
    Never,
    Soon,
    At(u64),
}

/// Says which ring has the next record, if there is one.
fn next(priority: &mut impl Source, opens: &mut impl Source) -> Option<Next> {
    let mut until = None;
    loop {
        let first = time(priority);
        if matches!(first, Time::At(_)) && priority.is_pressed() {
            return Some(Next::Priority);
        }
        let second = time(opens);
        // The first ring was looked at before the second one: once more, now
        // that an open was seen.
        let first = match (first, second) {
            (Time::Never, Time::At(_)) => time(priority),
            _ => first,
        };
        let (hurried, of) = match (first, second) {
            (Time::At(priority), Time::At(open)) if open < priority => return Some(Next::Opens),
            (Time::At(_), Time::At(_) | Time::Never) => return Some(Next::Priority),
            (Time::Never, Time::At(_)) => return Some(Next::Opens),
            (Time::At(_), Time::Soon) => (Next::Priority, "opens"),
            (Time::Soon, Time::At(_)) => (Next::Opens, "priority"),
            (Time::Never | Time::Soon, Time::Never | Time::Soon) => return None,
        };
        let now = Instant::now();
        if now >= *until.get_or_insert(now + PATIENCE) {
            tracing::debug!(ring = of, "a record is not copied in for long");
            return Some(hurried);
        }
        hint::spin_loop();
        thread::yield_now();
    }
}

fn time(ring: &mut impl Source) -> Time {
    /// Where a record has its time.
    const AT: usize = std::mem::offset_of!(Header, boot_time_ns);
    match ring.head() {
        Head::Empty => Time::Never,
        Head::Busy => Time::Soon,
        Head::Record(record) => Time::At(
            record
                .get(AT..AT + 8)
                .and_then(|bytes| bytes.try_into().ok())
                // One that is too short for a time waits for none.
                .map_or(0, u64::from_ne_bytes),
        ),
    }
}

#[cfg(test)]
mod tests;
