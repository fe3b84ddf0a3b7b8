//! What the agent tells the programs before it loads them. The verifier takes
//! these as constants, so a switch that is off costs nothing.

use shrike_agent_ebpf::{HASH_WORDS, offset::Offsets};

/// Where the running kernel keeps its fields.
#[unsafe(no_mangle)]
pub static OFFSETS: Offsets = Offsets::UNKNOWN;

/// 0: only opens that a rule matches are events. Else [`OPENS_ALL`] or
/// [`OPENS_FIRST`].
#[unsafe(no_mangle)]
pub static RECORD_OPENS: u32 = OPENS_ALL;

/// Every open is an event.
pub const OPENS_ALL: u32 = 1;
/// The first open of each process, file and access is an event.
pub const OPENS_FIRST: u32 = 2;

/// 1: every exec, fork and exit is an event. 0: only those that a rule matches
/// are, and the exits of processes that a rule ended.
#[unsafe(no_mangle)]
pub static RECORD_PROCESSES: u32 = 1;

/// Random, odd, and the agent's secret: see [`crate::hash`].
#[unsafe(no_mangle)]
pub static HASH_KEYS: [u64; HASH_WORDS] = [0; HASH_WORDS];

/// 1: the names of a new image's variables are read.
#[unsafe(no_mangle)]
pub static EXEC_ENVIRONMENT: u32 = 0;

/// Kills of one rule within a minute before it is only observed; 0: no limit.
#[unsafe(no_mangle)]
pub static KILLS_PER_MINUTE: u32 = 0;

/// 1: an overlay keeps the file of a layer behind a structure of its own.
#[unsafe(no_mangle)]
pub static OVERLAY_FILES_ARE_BOXED: u32 = 0;

/// Reads a value that the agent set. Volatile, or the compiler would put in
/// the value that it sees here.
macro_rules! setting {
    ($($place:tt)+) => {{
        let place = &raw const $($place)+;
        // SAFETY: `place` points to an initialised static.
        unsafe { core::ptr::read_volatile(place) }
    }};
}

/// Reads the offset of a field.
macro_rules! offset {
    ($field:ident) => {
        $crate::offsets::setting!($crate::offsets::OFFSETS.$field)
    };
}

pub(crate) use {offset, setting};
