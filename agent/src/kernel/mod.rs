//! The kernel side, from user space: loading the programs, reading what they
//! write, and handing them policies.
//!
//! Everything that knows aya or the layout of a map is in this folder. It
//! decides nothing: matching happens in the kernel, and what an event means
//! is for the stages behind. When a [`Sensor`] is dropped, programs, maps and
//! probes are gone, unless they are pinned: then the next one takes them over.
//!
//! ```text
//! PolicySet → rules → policy maps          hooks → rings → decode → Event
//! ```

mod btf;
mod continuity;
mod counters;
mod decode;
mod error;
mod guard_rails;
mod hooks;
mod identity;
mod misses;
mod object;
mod offsets;
mod options;
mod overlap;
mod pins;
mod policy_maps;
mod programs;
mod release;
mod ring_memory;
mod rings;
mod rules;
mod running;
mod sensor;
mod subvolumes;

pub use continuity::Miscount;
pub use counters::{CpuCounters, HookCounters, KernelCounters};
pub use decode::{DecodeError, Sample, VerdictSample, decode};
pub use error::{ApplyError, SensorError};
pub use hooks::{Attachment, HookState};
pub use options::{
    ExecEnvironment, KILLS_PER_MINUTE_DEFAULT, Opens, PRIORITY_RING_BYTES_DEFAULT, Processes,
    RING_BYTES_DEFAULT, SensorOptions, never_kill_default,
};
pub use pins::{PINS, PinError, Pins, Place};
pub use policy_maps::AppliedPolicy;
pub use rules::{CompileError, RuleTable};
pub use running::RingMark;
pub use sensor::{Resumed, Sensor};
