//! One ring's memory, from the reader's side (kernel/bpf/ringbuf.c).
//!
//! ```text
//! page 0    position of the reader, notes    written here only
//! page 1    position of the writers          written by the kernel only
//! page 2 …  the records: length and flags (4 bytes), 4 bytes, the record, to 8
//! ```
//!
//! The kernel offers the records twice in a row, so that none is ever in two
//! pieces. They are mapped once: twice would count as memory of the agent's
//! twice, and one record in a hundred thousand has two pieces.
//!
//! The reader's position lives in the ring, not here: who opens a ring that
//! another one read goes on where that one stopped. The kernel looks at the
//! first word of that page and at nothing else, so the rest holds what a
//! successor has to know: how many records were taken, and [`NOTES`] words of
//! the reader's own.
//!
//! ```text
//! word 0        position
//!      1, 2     a position, and how many records were taken up to it
//!      3, 4     the same: the one that is written is never the one in use, so
//!               a reader that dies between two stores leaves no lie
//!      8 …      notes
//! ```
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

/// Words that a reader can leave to its successor.
pub const NOTES: usize = 256;
/// Where they begin.
const NOTES_AT: usize = 8;

/// A ring that is mapped.
pub struct RingMemory {
    positions: Mapping,
    records: Mapping,
    page: usize,
    capacity: usize,
    /// A record that lies at the end and at the beginning, in one piece.
    joined: Vec<u8>,
    /// Of the reader; what the shared page says, since nobody else writes it.
    position: usize,
    /// Records taken since the ring was made, by whomever.
    taken: usize,
    /// Which of the two pairs was written last: 0 or 1.
    pair: usize,
}

impl RingMemory {
    /// Maps a ring of `capacity` bytes, a power of two.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn map(ring: BorrowedFd<'_>, capacity: usize) -> io::Result<Self> {
        let page = rustix::param::page_size();
        let positions = Mapping::new(ring, 0, page, libc::PROT_READ | libc::PROT_WRITE)?;
        let records = Mapping::new(ring, page, page + capacity, libc::PROT_READ)?;
        let mut memory = Self {
            positions,
            records,
            page,
            capacity,
            joined: Vec::new(),
            position: 0,
            taken: 0,
            pair: 0,
        };
        memory.position = memory.shared(0).load(Ordering::Acquire);
        let known = (0..2)
            .find(|pair| memory.shared(1 + 2 * pair).load(Ordering::Acquire) == memory.position);
        // Another reader than ours was here: what it took is nobody's.
        let pair = known.ok_or(io::ErrorKind::InvalidData)?;
        memory.pair = pair;
        memory.taken = memory.shared(2 + 2 * pair).load(Ordering::Acquire);
        Ok(memory)
    }

    /// Returns how many records were taken since the ring was made.
    pub fn taken(&self) -> u64 {
        self.taken as u64
    }

    /// Returns a word that this reader or the one before it left.
    pub fn note(&self, index: usize) -> u64 {
        assert!(index < NOTES);
        self.shared(NOTES_AT + index).load(Ordering::Relaxed) as u64
    }

    /// Leaves a word to the successor.
    pub fn set_note(&self, index: usize, value: u64) {
        assert!(index < NOTES);
        self.shared(NOTES_AT + index)
            .store(value as usize, Ordering::Relaxed);
    }

    /// Returns how many bytes wait, those being copied in included.
    pub fn waiting(&self) -> usize {
        self.write_position()
            .load(Ordering::Acquire)
            .wrapping_sub(self.position)
    }

    /// Returns a word of the reader's page.
    fn shared(&self, index: usize) -> &AtomicUsize {
        assert!(index < NOTES_AT + NOTES);
        // SAFETY: the page has 512 words.
        let word = unsafe { self.positions.start.cast::<AtomicUsize>().add(index) };
        // SAFETY: it lives as long as self.
        unsafe { word.as_ref() }
    }

    fn write_position(&self) -> &AtomicUsize {
        // SAFETY: as above; the mapping begins with the writers' page.
        unsafe { self.records.start.cast().as_ref() }
    }

    /// Returns what the ring says of the place at the reader's position.
    fn word(&self) -> u32 {
        let place = self.data(self.position & (self.capacity - 1));
        // SAFETY: places are multiples of 8, and the kernel writes this word
        // with an exchange.
        let word = unsafe { place.cast::<AtomicU32>().as_ref() };
        word.load(Ordering::Acquire)
    }

    /// Returns a place among the records, `offset` bytes from the first one.
    fn data(&self, offset: usize) -> NonNull<u8> {
        assert!(offset < self.capacity, "an offset is below the capacity");
        // SAFETY: the records lie behind the first page.
        unsafe { self.records.start.add(self.page + offset) }
    }

    /// Returns a piece of a record that was copied in whole.
    fn piece(&self, offset: usize, length: usize) -> &[u8] {
        assert!(length <= self.capacity - offset, "a piece is in the ring");
        // SAFETY: the kernel does not use the room again before the reader's
        // position passes it.
        unsafe { NonNull::slice_from_raw_parts(self.data(offset), length).as_ref() }
    }

    /// Returns the record at the reader's position.
    fn record(&mut self, length: usize) -> &[u8] {
        let start = (self.position + HEADER) & (self.capacity - 1);
        let behind = self.capacity - start;
        if length <= behind {
            return self.piece(start, length);
        }
        let mut joined = std::mem::take(&mut self.joined);
        joined.clear();
        joined.extend_from_slice(self.piece(start, behind));
        joined.extend_from_slice(self.piece(0, length - behind));
        self.joined = joined;
        &self.joined
    }

    fn pass(&mut self, length: u32, records: usize) {
        self.position = self
            .position
            .wrapping_add((HEADER + length as usize).next_multiple_of(8));
        self.taken += records;
        self.pair ^= 1;
        let pair = 1 + 2 * self.pair;
        self.shared(pair + 1).store(self.taken, Ordering::Release);
        self.shared(pair).store(self.position, Ordering::Release);
        self.shared(0).store(self.position, Ordering::Release);
    }
}

impl Source for RingMemory {
    fn head(&mut self) -> Head<'_> {
        loop {
            if self.waiting() == 0 {
                return Head::Empty;
            }
            let word = self.word();
            if word & BUSY != 0 {
                return Head::Busy;
            }
            if word & DISCARDED != 0 {
                self.pass(word & !DISCARDED, 0);
                continue;
            }
            let length = (word as usize).min(self.capacity);
            return Head::Record(self.record(length));
        }
    }

    fn advance(&mut self) {
        self.pass(self.word() & !(BUSY | DISCARDED), 1);
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

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd as _, os::unix::fs::FileExt as _};

    use proptest::prelude::*;

    use super::*;

    const CAPACITY: usize = 4096;

    /// A file that is laid out like a ring, and written as the kernel does.
    struct Writer {
        file: File,
        position: usize,
    }

    impl Writer {
        fn new() -> Self {
            let file = tempfile::tempfile().unwrap();
            let page = rustix::param::page_size();
            file.set_len((2 * page + CAPACITY) as u64).unwrap();
            Self { file, position: 0 }
        }

        fn write(&mut self, record: &[u8], flags: u32) {
            let page = rustix::param::page_size();
            let header = u64::from(record.len() as u32 | flags).to_ne_bytes();
            for (index, byte) in header.iter().chain(record).enumerate() {
                let place = 2 * page + (self.position + index) % CAPACITY;
                self.file.write_all_at(&[*byte], place as u64).unwrap();
            }
            self.position += (HEADER + record.len()).next_multiple_of(8);
            let position = self.position.to_ne_bytes();
            self.file.write_all_at(&position, page as u64).unwrap();
        }
    }

    proptest! {
        #[test]
        fn every_record_comes_out_whole_wherever_it_lies(
            records in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 1..900), any::<bool>()), 1..60),
        ) {
            let mut writer = Writer::new();
            let mut reader = RingMemory::map(writer.file.as_fd(), CAPACITY).unwrap();
            for (record, discarded) in &records {
                writer.write(record, if *discarded { DISCARDED } else { 0 });
                if !discarded {
                    prop_assert_eq!(reader.head(), Head::Record(record.as_slice()));
                    reader.advance();
                }
                prop_assert_eq!(reader.head(), Head::Empty);
            }
        }
    }

    #[test]
    fn a_record_that_is_copied_in_is_busy_and_a_successor_goes_on_there() {
        let mut writer = Writer::new();
        writer.write(b"first", 0);
        writer.write(b"second", BUSY);
        let mut reader = RingMemory::map(writer.file.as_fd(), CAPACITY).unwrap();
        assert_eq!(reader.head(), Head::Record(b"first"));
        reader.advance();
        let mut successor = RingMemory::map(writer.file.as_fd(), CAPACITY).unwrap();
        assert_eq!(successor.head(), Head::Busy);
        assert_eq!(successor.waiting(), 16);
    }
}
