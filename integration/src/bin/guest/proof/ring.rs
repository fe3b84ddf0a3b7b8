//! io_uring by its system calls: one ring, one submission at a time.
//!
//! Source: include/uapi/linux/io_uring.h (6.12).

use std::ffi::CStr;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;

const SETUP_SQPOLL: u32 = 1 << 1;
const FEAT_SINGLE_MMAP: u32 = 1 << 0;
const ENTER_GETEVENTS: u32 = 1 << 0;
const ENTER_SQ_WAKEUP: u32 = 1 << 1;
const OFFSET_SQES: i64 = 0x1000_0000;
const REGISTER_FILES: u32 = 2;

/// Do the operation in an io worker.
pub const ASYNC: u8 = 1 << 4;
/// The next operation waits for this one's success.
pub const LINK: u8 = 1 << 2;
/// The descriptor is a slot of the ring's own table.
pub const FIXED_FILE: u8 = 1 << 0;

const ENTRIES: u32 = 8;

/// Who takes submissions out of the ring.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Taker {
    /// The process that submits.
    Submitter,
    /// A kernel thread.
    KernelThread,
}

/// A submission (`struct io_uring_sqe`).
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Submission {
    operation: u8,
    flags: u8,
    priority: u16,
    descriptor: i32,
    offset: u64,
    address: u64,
    length: u32,
    operation_flags: u32,
    user_data: u64,
    buffer: u16,
    personality: u16,
    slot: u32,
    more: [u64; 2],
}

impl Submission {
    /// openat(2); with a slot, into the ring's own table.
    pub fn openat(path: &CStr, flags: i32, slot: Option<u32>) -> Self {
        Self {
            operation: 18,
            descriptor: libc::AT_FDCWD,
            address: path.as_ptr() as u64,
            operation_flags: flags.cast_unsigned(),
            slot: slot.map_or(0, |slot| slot + 1),
            ..Self::default()
        }
    }

    /// openat2(2); `how` is a `struct open_how`.
    pub fn openat2(path: &CStr, how: &[u8]) -> Self {
        Self {
            operation: 28,
            descriptor: libc::AT_FDCWD,
            address: path.as_ptr() as u64,
            length: how.len() as u32,
            offset: how.as_ptr() as u64,
            ..Self::default()
        }
    }

    /// read(2) from the start.
    pub fn read(descriptor: i32, room: &mut [u8]) -> Self {
        Self {
            operation: 22,
            descriptor,
            address: room.as_mut_ptr() as u64,
            length: room.len() as u32,
            ..Self::default()
        }
    }

    /// write(2) of memory that need not be filled before it runs.
    pub fn write(descriptor: i32, bytes: &[u8]) -> Self {
        Self {
            operation: 23,
            descriptor,
            address: bytes.as_ptr() as u64,
            length: bytes.len() as u32,
            // A pipe has no position.
            offset: u64::MAX,
            ..Self::default()
        }
    }

    /// renameat(2).
    pub fn rename(from: &CStr, to: &CStr) -> Self {
        Self {
            operation: 35,
            descriptor: libc::AT_FDCWD,
            address: from.as_ptr() as u64,
            length: libc::AT_FDCWD.cast_unsigned(),
            offset: to.as_ptr() as u64,
            ..Self::default()
        }
    }

    /// unlinkat(2).
    pub fn unlink(path: &CStr) -> Self {
        Self {
            operation: 36,
            descriptor: libc::AT_FDCWD,
            address: path.as_ptr() as u64,
            ..Self::default()
        }
    }

    /// linkat(2).
    pub fn link(from: &CStr, to: &CStr) -> Self {
        Self {
            operation: 39,
            ..Self::rename(from, to)
        }
    }

    /// With a flag.
    pub fn with(mut self, flag: u8) -> Self {
        self.flags |= flag;
        self
    }
}

/// A ring.
pub struct Ring {
    descriptor: i32,
    rings: *mut u8,
    submissions: *mut Submission,
    parameters: [u32; 30],
}

// Word offsets in `struct io_uring_params`, each ring's offsets in bytes.
const FLAGS: usize = 2;
const IDLE: usize = 4;
const FEATURES: usize = 5;
const SQ_HEAD: usize = 10;
const SQ_TAIL: usize = 11;
const SQ_MASK: usize = 12;
const SQ_ARRAY: usize = 16;
const CQ_HEAD: usize = 20;
const CQ_TAIL: usize = 21;
const CQ_MASK: usize = 22;
const CQ_ENTRIES: usize = 1;
const CQES: usize = 25;
/// `struct io_uring_cqe`: user data, result, flags.
const CQE_BYTES: usize = 16;

impl Ring {
    /// Sets one up.
    pub fn new(taker: Taker) -> Result<Self> {
        let mut parameters = [0_u32; 30];
        if taker == Taker::KernelThread {
            parameters[FLAGS] = SETUP_SQPOLL;
            // Milliseconds: longer than an attempt takes.
            parameters[IDLE] = 10_000;
        }
        // SAFETY: the kernel fills `struct io_uring_params`, 120 bytes.
        let descriptor =
            unsafe { libc::syscall(libc::SYS_io_uring_setup, ENTRIES, parameters.as_mut_ptr()) };
        ensure!(
            descriptor >= 0,
            "io_uring_setup: {}",
            io::Error::last_os_error()
        );
        ensure!(
            parameters[FEATURES] & FEAT_SINGLE_MMAP != 0,
            "the kernel maps its rings apart (before 5.4)"
        );
        let descriptor = i32::try_from(descriptor).context("a descriptor")?;
        let of_submissions = parameters[SQ_ARRAY] as usize + 4 * parameters[0] as usize;
        let of_completions =
            parameters[CQES] as usize + CQE_BYTES * parameters[CQ_ENTRIES] as usize;
        let rings = map(descriptor, of_submissions.max(of_completions), 0)?;
        let submissions = map(
            descriptor,
            size_of::<Submission>() * parameters[0] as usize,
            OFFSET_SQES,
        )?;
        Ok(Self {
            descriptor,
            rings,
            submissions: submissions.cast(),
            parameters,
        })
    }

    /// Makes an empty table of the ring's own with one slot.
    pub fn register_slot(&self) -> Result<()> {
        let empty = [-1_i32];
        // SAFETY: the kernel reads one descriptor.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                self.descriptor,
                REGISTER_FILES,
                empty.as_ptr(),
                1,
            )
        };
        ensure!(
            result == 0,
            "io_uring_register: {}",
            io::Error::last_os_error()
        );
        Ok(())
    }

    /// Submits, waits for the ends, and returns the last operation's result.
    ///
    /// What the submissions point to must live until then.
    pub fn submit(&mut self, submissions: &[Submission]) -> Result<i32, Errno> {
        assert!(submissions.len() <= ENTRIES as usize);
        let tail = self.word(SQ_TAIL);
        let first = tail.load(Ordering::Relaxed);
        for (index, submission) in (0_u32..).zip(submissions) {
            let place = first.wrapping_add(index) & self.word(SQ_MASK).load(Ordering::Relaxed);
            let mut submission = *submission;
            submission.user_data = u64::from(index);
            // SAFETY: `place` is below the number of entries, by the mask.
            let entry = unsafe { self.submissions.add(place as usize) };
            // SAFETY: the kernel reads it only once the tail has moved.
            unsafe { entry.write(submission) };
            let array = self.parameters[SQ_ARRAY] as usize + 4 * place as usize;
            self.at(array).store(place, Ordering::Relaxed);
        }
        let count = submissions.len() as u32;
        tail.store(first.wrapping_add(count), Ordering::Release);

        let polled = self.parameters[FLAGS] & SETUP_SQPOLL != 0;
        let flags = ENTER_GETEVENTS | if polled { ENTER_SQ_WAKEUP } else { 0 };
        let mut last = Err(Errno::IO);
        let mut ended = 0;
        while ended < count {
            let head = self.word(SQ_HEAD).load(Ordering::Acquire);
            let left = first.wrapping_add(count).wrapping_sub(head);
            // SAFETY: it takes no memory but the ring's own.
            let entered = unsafe {
                libc::syscall(
                    libc::SYS_io_uring_enter,
                    self.descriptor,
                    left,
                    1,
                    flags,
                    ptr::null::<u8>(),
                    0,
                )
            };
            if entered < 0 {
                let error = io::Error::last_os_error().raw_os_error().unwrap_or(0);
                if error != libc::EINTR {
                    return Err(Errno::from_raw_os_error(error));
                }
            }
            while let Some((index, result)) = self.completion() {
                ended += 1;
                if index == u64::from(count - 1) {
                    last = if result < 0 {
                        Err(Errno::from_raw_os_error(-result))
                    } else {
                        Ok(result)
                    };
                }
            }
        }
        last
    }

    fn completion(&self) -> Option<(u64, i32)> {
        let head = self.word(CQ_HEAD);
        let at = head.load(Ordering::Relaxed);
        if at == self.word(CQ_TAIL).load(Ordering::Acquire) {
            return None;
        }
        let place = (at & self.word(CQ_MASK).load(Ordering::Relaxed)) as usize;
        let entry = self.parameters[CQES] as usize + place * CQE_BYTES;
        let index = self.at(entry).load(Ordering::Relaxed);
        let result = self.at(entry + 8).load(Ordering::Relaxed);
        head.store(at.wrapping_add(1), Ordering::Release);
        Some((u64::from(index), result.cast_signed()))
    }

    /// A word of the rings, by where its offset stands in the parameters.
    fn word(&self, parameter: usize) -> &AtomicU32 {
        self.at(self.parameters[parameter] as usize)
    }

    fn at(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: the kernel's offsets lie within the mapping.
        let word = unsafe { self.rings.add(offset) };
        // SAFETY: words of the rings are aligned, and the kernel changes
        // them atomically.
        unsafe { &*word.cast::<AtomicU32>() }
    }
}

fn map(descriptor: i32, length: usize, offset: i64) -> Result<*mut u8> {
    // SAFETY: a new mapping touches nothing that exists.
    let start = unsafe {
        libc::mmap(
            ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_POPULATE,
            descriptor,
            offset,
        )
    };
    ensure!(
        start != libc::MAP_FAILED,
        "cannot map the ring: {}",
        io::Error::last_os_error()
    );
    Ok(start.cast())
}
