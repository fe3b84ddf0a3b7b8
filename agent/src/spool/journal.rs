//! The journal of an epoch: the one place that says what the spool holds.
//!
//! ```text
//! frame   length of the body, u32 LE │ CRC-32C of the body, u32 LE │ body
//! body    a Record, Protocol Buffers
//! ```
//!
//! A file begins with an [`Opening`], which says everything that the files
//! before it said and that still matters, so that those can go. A
//! [`Commit`] names the bytes that belong to the numbers it covers: nothing in
//! a data file counts without one. Whatever follows the last whole frame is
//! torn, and nobody was ever told of it.

use prost::{Message, Oneof};
use shrike_proto::wire::event as wire;

use super::disk::DiskFile;
use crate::kernel::RingMark;

/// Version of the format. A spool of another version is set aside.
pub const VERSION: u32 = 1;

/// Bytes before a body.
pub const FRAME_HEADER: usize = 8;

/// Longest body: an opening with the most lost ranges that are kept apart.
const BODY_BYTES_MAX: usize = 1 << 20;

/// One entry.
#[derive(Clone, PartialEq, Message)]
pub struct Record {
    /// What it says.
    #[prost(oneof = "What", tags = "1, 2, 3, 4, 5, 6")]
    pub what: Option<What>,
}

/// What an entry says.
#[derive(Clone, PartialEq, Oneof)]
pub enum What {
    /// The file begins.
    #[prost(message, tag = "1")]
    Opening(Opening),
    /// Events were taken in.
    #[prost(message, tag = "2")]
    Commit(Commit),
    /// Events of a class were given up for room.
    #[prost(message, tag = "3")]
    Evicted(Evicted),
    /// Events were given up for another reason.
    #[prost(message, tag = "4")]
    Lost(Lost),
    /// What was counted.
    #[prost(message, tag = "5")]
    Count(Count),
    /// From where on no collector can know numbers.
    #[prost(message, tag = "6")]
    Unheard(Unheard),
}

/// State at the beginning of a file.
#[derive(Clone, PartialEq, Message)]
pub struct Opening {
    /// [`VERSION`]
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub epoch: Vec<u8>,
    /// The boot in which the epoch's events happened.
    #[prost(string, tag = "3")]
    pub boot_id: String,
    /// Number that the next event gets.
    #[prost(uint64, tag = "4")]
    pub next_sequence: u64,
    /// Up to where each class was given up.
    #[prost(message, repeated, tag = "5")]
    pub evicted: Vec<Evicted>,
    /// Other ranges that were given up.
    #[prost(message, repeated, tag = "6")]
    pub lost: Vec<Lost>,
    /// The last count.
    #[prost(message, optional, tag = "7")]
    pub count: Option<Count>,
    /// The last marks.
    #[prost(message, repeated, tag = "8")]
    pub marks: Vec<Mark>,
    /// What an epoch before this one held is being carried over, until a
    /// commit without parts. If none follows, that epoch has all of it.
    #[prost(bool, tag = "9")]
    pub is_carrying: bool,
    /// That was done: the epoch before this one is void.
    #[prost(bool, tag = "11")]
    pub has_carried: bool,
    /// The last [`Unheard`].
    #[prost(uint64, tag = "10")]
    pub unheard_from: u64,
}

/// Events that were taken in at once.
#[derive(Clone, PartialEq, Message)]
pub struct Commit {
    /// Number of the first event.
    #[prost(uint64, tag = "1")]
    pub first_sequence: u64,
    /// Batches, in the order of their numbers.
    #[prost(message, repeated, tag = "2")]
    pub parts: Vec<Part>,
    /// How far the rings were read.
    #[prost(message, repeated, tag = "3")]
    pub marks: Vec<Mark>,
}

/// Where a batch's payload lies.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Part {
    /// Place in `Class::ALL`.
    #[prost(uint32, tag = "1")]
    pub class: u32,
    /// Number of the class's data file.
    #[prost(uint64, tag = "2")]
    pub segment: u64,
    /// First byte in it.
    #[prost(uint64, tag = "3")]
    pub offset: u64,
    /// How many bytes.
    #[prost(uint32, tag = "4")]
    pub bytes: u32,
    /// How many events, at least one.
    #[prost(uint32, tag = "5")]
    pub events: u32,
    /// CRC-32C of the bytes.
    #[prost(fixed32, tag = "6")]
    pub crc32c: u32,
}

/// How many records were taken out of a set of programs' rings.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Mark {
    /// Which set: a random number that its rings keep.
    #[prost(uint64, tag = "1")]
    pub instance: u64,
    /// Out of the ring of verdicts and processes.
    #[prost(uint64, tag = "2")]
    pub priority: u64,
    /// Out of the ring of opens.
    #[prost(uint64, tag = "3")]
    pub opens: u64,
}

impl From<RingMark> for Mark {
    fn from(mark: RingMark) -> Self {
        let RingMark {
            instance,
            priority,
            opens,
        } = mark;
        Self {
            instance,
            priority,
            opens,
        }
    }
}

impl From<Mark> for RingMark {
    fn from(mark: Mark) -> Self {
        let Mark {
            instance,
            priority,
            opens,
        } = mark;
        Self {
            instance,
            priority,
            opens,
        }
    }
}

/// From where on no collector can know the numbers that the journal has: the
/// agents that gave them had not set out to send any.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Unheard {
    /// First number; 0: there is none.
    #[prost(uint64, tag = "1")]
    pub from: u64,
}

/// Up to where a class was given up for room.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Evicted {
    /// Place in `Class::ALL`.
    #[prost(uint32, tag = "1")]
    pub class: u32,
    /// Last number.
    #[prost(uint64, tag = "2")]
    pub upto: u64,
    /// How many of them no acknowledgement covered, in an entry of its own.
    #[prost(uint64, tag = "3")]
    pub events: u64,
}

/// Numbers that were given up.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Lost {
    /// First number.
    #[prost(uint64, tag = "1")]
    pub first_sequence: u64,
    /// How many.
    #[prost(uint64, tag = "2")]
    pub count: u64,
    /// Why.
    #[prost(enumeration = "wire::LossReason", tag = "3")]
    pub reason: i32,
}

/// What was counted up to a moment.
#[derive(Clone, PartialEq, Message)]
pub struct Count {
    /// The node's ledger.
    #[prost(message, optional, tag = "1")]
    pub ledger: Option<wire::Ledger>,
    /// What was given up and acknowledged as such.
    #[prost(message, repeated, tag = "2")]
    pub settled: Vec<wire::LossCount>,
    /// Everything up to here was acknowledged.
    #[prost(uint64, tag = "3")]
    pub acknowledged: u64,
    /// Events that were given up for room and no acknowledgement covers.
    #[prost(uint64, tag = "4")]
    pub evicted: u64,
}

impl Record {
    /// Returns the entry as a frame.
    pub fn frame(what: What) -> Vec<u8> {
        let body = Self { what: Some(what) }.encode_to_vec();
        let mut frame = Vec::with_capacity(FRAME_HEADER + body.len());
        frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
        frame.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        frame.extend_from_slice(&body);
        frame
    }
}

/// Reads the frame at a place in a file of this length; `None`: there is no
/// whole one.
pub fn read(file: &DiskFile, offset: u64, length: u64) -> Option<(What, u64)> {
    let mut header = [0; FRAME_HEADER];
    if length.saturating_sub(offset) < FRAME_HEADER as u64 {
        return None;
    }
    file.read_at(&mut header, offset).ok()?;
    let (body_length, checksum) = header.split_at(4);
    let body_length = u32::from_le_bytes(body_length.try_into().ok()?) as usize;
    let checksum = u32::from_le_bytes(checksum.try_into().ok()?);
    let behind = offset + FRAME_HEADER as u64;
    if body_length > BODY_BYTES_MAX || (length - behind) < body_length as u64 {
        return None;
    }
    let mut body = vec![0; body_length];
    file.read_at(&mut body, behind).ok()?;
    if crc32c::crc32c(&body) != checksum {
        return None;
    }
    let what = Record::decode(body.as_slice()).ok()?.what?;
    Some((what, behind + body_length as u64))
}
