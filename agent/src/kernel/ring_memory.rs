//! One ring's memory, from the reader's side (kernel/bpf/ringbuf.c).
//!
//! ```text
//! page 0    position of the reader           written here only
//! page 1    position of the writers          written by the kernel only
//! page 2 …  the records, mapped twice in a row, so that none is ever in two
//!           pieces: length and flags (4 bytes), 4 bytes, the record, to 8
//! ```
//!
//! The reader's position lives in the ring, not here: who opens a ring that
//! another one read goes on where that one stopped.
//!
//! aya has a reader, too. It says the same of a ring that is empty and of one
//! whose next record is still being copied in, and whoever merges two rings has
//! to know which.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicUsize, Ordering},
};

use super::rings::{Head, Source};

/// `BPF_RINGBUF_BUSY_BIT`: the record is being copied in.
const BUSY: u32 = 1 << 31;
/// `BPF_RINGBUF_DISCARD_BIT`: there is no record here.
const DISCARDED: u32 = 1 << 30;
/// `BPF_RINGBUF_HDR_SZ`.
const HEADER: usize = 8;

/// A ring that is mapped.
pub struct RingMemory {
    positions: Mapping,
    records: Mapping,
    page: usize,
    capacity: usize,
    /// Of the reader; what the shared page says, since nobody else writes it.
    position: usize,
}

impl RingMemory {
    /// Maps a ring of `capacity` bytes, a power of two.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn map(ring: BorrowedFd<'_>, capacity: usize) -> io::Result<Self> {
        let page = rustix::param::page_size();
        let positions = Mapping::new(ring, 0, page, libc::PROT_READ | libc::PROT_WRITE)?;
        let records = Mapping::new(ring, page, page + 2 * capacity, libc::PROT_READ)?;
        let mut memory = Self {
            positions,
            records,
            page,
            capacity,
            position: 0,
        };
        memory.position = memory.read_position().load(Ordering::Acquire);
        Ok(memory)
    }

    /// Returns how many bytes wait, those being copied in included.
    pub fn waiting(&self) -> usize {
        self.write_position()
            .load(Ordering::Acquire)
            .wrapping_sub(self.position)
    }

    fn read_position(&self) -> &AtomicUsize {
        // SAFETY: the page begins with the position, and lives as long as self.
        unsafe { self.positions.start.cast().as_ref() }
    }

    fn write_position(&self) -> &AtomicUsize {
        // SAFETY: as above; the mapping begins with the writers' page.
        unsafe { self.records.start.cast().as_ref() }
    }

    /// Returns what the ring says of the place at the reader's position, and
    /// where the record would begin.
    fn place(&self) -> (u32, NonNull<u8>) {
        let offset = self.page + (self.position & (self.capacity - 1));
        // SAFETY: the data lies behind the first page, twice.
        let place = unsafe { self.records.start.add(offset) };
        // SAFETY: places are multiples of 8, and the kernel writes this word
        // with an exchange.
        let word = unsafe { place.cast::<AtomicU32>().as_ref() };
        // SAFETY: a header is followed by its record, or by the second copy.
        let record = unsafe { place.add(HEADER) };
        (word.load(Ordering::Acquire), record)
    }

    fn pass(&mut self, length: u32) {
        self.position = self
            .position
            .wrapping_add((HEADER + length as usize).next_multiple_of(8));
        self.read_position().store(self.position, Ordering::Release);
    }
}

impl Source for RingMemory {
    fn head(&mut self) -> Head<'_> {
        loop {
            if self.waiting() == 0 {
                return Head::Empty;
            }
            let (word, record) = self.place();
            if word & BUSY != 0 {
                return Head::Busy;
            }
            if word & DISCARDED != 0 {
                self.pass(word & !DISCARDED);
                continue;
            }
            let length = (word as usize).min(self.capacity);
            // SAFETY: the record was copied in whole, and its room is not used
            // again before the reader's position passes it; the mapping holds
            // the data twice, so it is in one piece.
            return Head::Record(unsafe { NonNull::slice_from_raw_parts(record, length).as_ref() });
        }
    }

    fn advance(&mut self) {
        let (word, _) = self.place();
        self.pass(word & !(BUSY | DISCARDED));
    }

    fn is_pressed(&self) -> bool {
        self.waiting() > self.capacity / 2
    }
}

/// Shared memory of a file.
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: it is memory that belongs to no thread.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(file: BorrowedFd<'_>, offset: usize, length: usize, access: i32) -> io::Result<Self> {
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: the kernel picks the place; nothing of ours is replaced.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                access,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                offset,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { start, length })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nothing refers to it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}
