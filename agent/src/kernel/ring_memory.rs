//! One ring's memory, from the reader's side (kernel/bpf/ringbuf.c).
//!
//! ```text
//! page 0    position of the reader, notes    written here only
//! page 1    position of the writers          written by the kernel only
//! page 2 …  the records: length and flags (4 bytes), 4 bytes, the record, to 8
//!           the same pages once more, so that no record is in two pieces
//! ```
//!
//! Of the records a window is mapped, which moves along with the reader:
//! mapped pages count as the agent's memory, whether it looks at them or not,
//! and the largest part of a ring is there for the hour when it is needed.
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
    collections::VecDeque,
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
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

// SAFETY: what its pointer refers to is its own mapping.
unsafe impl Send for RingMemory {}

/// A ring that is mapped.
pub struct RingMemory {
    ring: OwnedFd,
    positions: Mapping,
    written: Mapping,
    window: Window,
    window_bytes: usize,
    page: usize,
    capacity: usize,
    /// Of the reader: ahead of what the shared page says until that is told.
    position: usize,
    /// The record at that position, once it was seen there whole.
    front: Option<NonNull<[u8]>>,
    /// Records taken since the ring was made, by whomever.
    taken: usize,
    /// Which of the two pairs was written last: 0 or 1.
    pair: usize,
    /// How many records were taken, and up to where, when a mark was made that
    /// was not released yet: one for each commit that waits for the disk.
    marks: VecDeque<(usize, usize)>,
}

impl RingMemory {
    /// Maps a ring of `capacity` bytes, a power of two.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn map(ring: BorrowedFd<'_>, capacity: usize) -> io::Result<Self> {
        Self::map_with(ring, capacity, WINDOW)
    }

    fn map_with(ring: BorrowedFd<'_>, capacity: usize, window_bytes: usize) -> io::Result<Self> {
        let page = rustix::param::page_size();
        let positions = Mapping::new(ring, 0, page, libc::PROT_READ | libc::PROT_WRITE)?;
        let written = Mapping::new(ring, page, page, libc::PROT_READ)?;
        let mut memory = Self {
            ring: ring.try_clone_to_owned()?,
            positions,
            written,
            window: Window::default(),
            window_bytes,
            page,
            capacity,
            position: 0,
            front: None,
            taken: 0,
            pair: 0,
            marks: VecDeque::new(),
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

    /// Marks what was taken up to here, so that it can be
    /// [released](Self::release_to) alone, and returns how many records that
    /// were since the ring was made.
    pub fn mark(&mut self) -> u64 {
        let last = self.marks.back().map(|(_, position)| *position);
        let last = last.unwrap_or_else(|| self.shared(0).load(Ordering::Relaxed));
        if last != self.position {
            self.marks.push_back((self.taken, self.position));
        }
        self.taken()
    }

    /// Says whether nothing that was taken is held for a successor.
    pub fn is_released(&self) -> bool {
        self.shared(0).load(Ordering::Relaxed) == self.position
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
        // SAFETY: the page begins with it.
        unsafe { self.written.start.cast().as_ref() }
    }

    /// Returns what the ring says of the place at the reader's position.
    fn word(&mut self) -> io::Result<u32> {
        let place = self.data(self.position & (self.capacity - 1), HEADER)?;
        // SAFETY: places are multiples of 8, and the kernel writes this word
        // with an exchange.
        let word = unsafe { place.cast::<AtomicU32>().as_ref() };
        Ok(word.load(Ordering::Acquire))
    }

    /// Looks at the record at the reader's position, which was copied in whole.
    fn record(&mut self, length: usize) -> io::Result<NonNull<[u8]>> {
        let start = (self.position & (self.capacity - 1)) + HEADER;
        let record = NonNull::slice_from_raw_parts(self.data(start, length)?, length);
        self.front = Some(record);
        Ok(record)
    }

    /// Returns a place among the records, `offset` bytes from the first one,
    /// with `length` bytes behind it; moves the window there.
    fn data(&mut self, offset: usize, length: usize) -> io::Result<NonNull<u8>> {
        if !self.window.contains(offset, length) {
            let end = 2 * self.capacity;
            if length > end - offset {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let begin = offset - offset % self.page;
            let wanted = (offset - begin + length).next_multiple_of(self.page);
            let bytes = wanted.max(self.window_bytes).min(end - begin);
            // The one before goes first, or both would be mapped at once.
            self.window = Window::default();
            let behind = 2 * self.page + begin;
            self.window = Window {
                mapping: Some(Mapping::new(
                    self.ring.as_fd(),
                    behind,
                    bytes,
                    libc::PROT_READ,
                )?),
                begin,
            };
        }
        self.window
            .place(offset)
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn pass(&mut self, length: usize, records: usize) {
        self.front = None;
        self.position = self
            .position
            .wrapping_add((HEADER + length).next_multiple_of(8));
        self.taken += records;
    }

    /// Gives up what was taken: the kernel may use the room again, and a
    /// successor begins behind it.
    pub fn release(&mut self) {
        self.marks.clear();
        self.tell(self.taken, self.position);
    }

    /// Gives up what was taken before this mark was made.
    pub fn release_to(&mut self, mark: u64) {
        let mut last = None;
        while let Some(passed) = self.marks.pop_front_if(|(taken, _)| *taken as u64 <= mark) {
            last = Some(passed);
        }
        if let Some((taken, position)) = last {
            self.tell(taken, position);
        }
    }

    fn tell(&mut self, taken: usize, position: usize) {
        if self.shared(0).load(Ordering::Relaxed) == position {
            return;
        }
        self.pair ^= 1;
        let pair = 1 + 2 * self.pair;
        self.shared(pair + 1).store(taken, Ordering::Release);
        self.shared(pair).store(position, Ordering::Release);
        self.shared(0).store(position, Ordering::Release);
    }

    fn try_head(&mut self) -> io::Result<Head<'_>> {
        let record = match self.front {
            Some(record) => record,
            None => match self.look()? {
                Ok(record) => record,
                Err(other) => return Ok(other),
            },
        };
        // SAFETY: the kernel does not use the room again before the reader's
        // position passes it, and until then the window stays where it is.
        Ok(Head::Record(unsafe { record.as_ref() }))
    }

    /// Looks for a record at the reader's position; or else what is there.
    fn look(&mut self) -> io::Result<Result<NonNull<[u8]>, Head<'static>>> {
        loop {
            if self.waiting() == 0 {
                return Ok(Err(Head::Empty));
            }
            let word = self.word()?;
            if word & BUSY != 0 {
                return Ok(Err(Head::Busy));
            }
            if word & DISCARDED != 0 {
                self.pass((word & !DISCARDED) as usize, 0);
                continue;
            }
            return self.record(word as usize).map(Ok);
        }
    }
}

impl Source for RingMemory {
    fn head(&mut self) -> Head<'_> {
        // Without a window there is nothing to be had, and nothing is lost:
        // whoever looks again tries again.
        self.try_head().unwrap_or_else(|error| {
            tracing::error!(%error, "cannot map the ring's memory");
            Head::Empty
        })
    }

    fn advance(&mut self) {
        if let Some(record) = self.front {
            self.pass(record.len(), 1);
        }
    }

    fn is_pressed(&self) -> bool {
        self.waiting() > self.capacity / 2
    }
}

/// Bytes of the window: several hundred records, so that moving it costs them
/// next to nothing.
const WINDOW: usize = 256 << 10;

/// The part of the records that is mapped.
#[derive(Default)]
struct Window {
    mapping: Option<Mapping>,
    /// Where it begins, in bytes behind the first record.
    begin: usize,
}

impl Window {
    fn contains(&self, offset: usize, length: usize) -> bool {
        self.mapping.as_ref().is_some_and(|mapping| {
            let behind = offset.wrapping_sub(self.begin);
            behind <= mapping.length && length <= mapping.length - behind
        })
    }

    fn place(&self, offset: usize) -> Option<NonNull<u8>> {
        let mapping = self.mapping.as_ref()?;
        let behind = offset.checked_sub(self.begin)?;
        // SAFETY: it is below the mapping's length.
        (behind < mapping.length).then(|| unsafe { mapping.start.add(behind) })
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

    const CAPACITY: usize = 16_384;
    const SMALL: usize = 4096;

    /// A file that is laid out like a ring, and written as the kernel does.
    struct Writer {
        file: File,
        records: Vec<u8>,
        position: usize,
    }

    impl Writer {
        fn new() -> Self {
            let file = tempfile::tempfile().unwrap();
            let page = rustix::param::page_size();
            file.set_len((2 * page + 2 * CAPACITY) as u64).unwrap();
            Self {
                file,
                records: vec![0; CAPACITY],
                position: 0,
            }
        }

        fn write(&mut self, record: &[u8], flags: u32) {
            let page = rustix::param::page_size();
            let header = u64::from(record.len() as u32 | flags).to_ne_bytes();
            for (index, byte) in header.iter().chain(record).enumerate() {
                self.records[(self.position + index) % CAPACITY] = *byte;
            }
            // The kernel shows one page in two places.
            for copy in [0, CAPACITY] {
                let place = (2 * page + copy) as u64;
                self.file.write_all_at(&self.records, place).unwrap();
            }
            self.position += (HEADER + record.len()).next_multiple_of(8);
            let position = self.position.to_ne_bytes();
            self.file.write_all_at(&position, page as u64).unwrap();
        }
    }

    proptest! {
        #[test]
        fn every_record_comes_out_whole_wherever_it_lies(
            records in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 1..5000), any::<bool>()), 1..60),
        ) {
            let mut writer = Writer::new();
            let mut reader = RingMemory::map_with(writer.file.as_fd(), CAPACITY, SMALL).unwrap();
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
    fn a_record_that_is_copied_in_is_busy_and_a_successor_goes_on_where_it_was_released() {
        let mut writer = Writer::new();
        writer.write(b"first", 0);
        writer.write(b"second", BUSY);
        let mut reader = RingMemory::map(writer.file.as_fd(), CAPACITY).unwrap();
        assert_eq!(reader.head(), Head::Record(b"first"));
        reader.advance();
        let mut early = RingMemory::map(writer.file.as_fd(), CAPACITY).unwrap();
        assert_eq!(early.head(), Head::Record(b"first"), "it was not released");
        reader.release();
        let mut successor = RingMemory::map(writer.file.as_fd(), CAPACITY).unwrap();
        assert_eq!(successor.head(), Head::Busy);
        assert_eq!(successor.waiting(), 16);
    }

    #[test]
    fn what_was_taken_behind_a_mark_stays_for_a_successor() {
        let mut writer = Writer::new();
        for record in [b"one", b"two", b"six"] {
            writer.write(record, 0);
        }
        let mut reader = RingMemory::map(writer.file.as_fd(), CAPACITY).unwrap();
        let mut marks = Vec::new();
        for _ in 0..3 {
            assert!(matches!(reader.head(), Head::Record(_)));
            reader.advance();
            marks.push(reader.mark());
        }
        assert_eq!(marks, [1, 2, 3]);
        let left = || {
            let mut successor = RingMemory::map(writer.file.as_fd(), CAPACITY).unwrap();
            let is_left = matches!(successor.head(), Head::Record(_));
            (successor.taken(), is_left)
        };
        reader.release_to(0);
        assert_eq!(left(), (0, true));
        reader.release_to(marks[1]);
        assert_eq!(left(), (2, true));
        reader.release_to(marks[0]);
        assert_eq!(left(), (2, true), "what is released is gone");
        reader.release();
        assert_eq!(left(), (3, false));
        reader.release_to(marks[2]);
        assert_eq!(left(), (3, false));
    }
}
