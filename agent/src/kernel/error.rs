//! What can go wrong between the agent and the kernel.

use std::io;

use super::{pins::PinError, rules::CompileError};

/// The sensor could not be started: this kernel lacks something, or the agent
/// may not use it.
#[derive(Debug, thiserror::Error)]
pub enum SensorError {
    /// The ring's size is not a power of two of whole pages.
    #[error("ring size {0} is not a power of two between 64 KiB and 1 GiB")]
    RingSize(u32),
    /// There is no BTF.
    #[error(
        "this kernel has no type information at /sys/kernel/btf/vmlinux: it needs CONFIG_DEBUG_INFO_BTF=y"
    )]
    NoBtf(#[source] io::Error),
    /// The BTF is not of its form.
    #[error("cannot read the kernel's type information: {0}")]
    UnreadableBtf(String),
    /// A structure's field that the programs cannot do without.
    #[error("this kernel's `struct {structure}` has no field `{member}`, which Shrike needs")]
    MissingField {
        /// The structure.
        structure: &'static str,
        /// The field, by its first name.
        member: &'static str,
    },
    /// A field that one instruction cannot reach.
    #[error(
        "this kernel's `struct {structure}` has its field `{member}` at {offset} bytes, farther than Shrike can read"
    )]
    FarField {
        /// The structure.
        structure: &'static str,
        /// The field, by its first name.
        member: &'static str,
        /// Bytes from the start of the structure.
        offset: u32,
    },
    /// No probes.
    #[error(
        "this kernel has no kprobes for eBPF: it needs CONFIG_KPROBES=y, CONFIG_KPROBE_EVENTS=y and CONFIG_BPF_EVENTS=y"
    )]
    NoKprobes,
    /// The process ID that the kernel knows the agent by cannot be told.
    #[error(
        "the agent runs in a PID namespace of its own: start it in the host's (in Kubernetes: hostPID: true)"
    )]
    PidNamespace,
    /// Not root, or without the capabilities.
    #[error(
        "the agent may not load eBPF programs: run it as root, or with CAP_BPF, CAP_PERFMON and CAP_SYS_RESOURCE ({operation})"
    )]
    NotPermitted {
        /// What was refused.
        operation: String,
        /// The refusal.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The object does not load: maps or BTF were refused.
    #[error(
        "the kernel does not take the eBPF maps: it needs CONFIG_BPF_SYSCALL=y and Linux 5.12 or later"
    )]
    LoadObject(#[source] Box<aya::EbpfError>),
    /// The object lacks a program or map: agent and object do not match.
    #[error("the eBPF object has no {0}: agent and object are not of one build")]
    ObjectPart(&'static str),
    /// A required hook could not be attached.
    #[error("cannot attach {hook}: {reason}")]
    Hook {
        /// Program and target.
        hook: String,
        /// Why, and what is missing.
        reason: String,
        /// What the kernel said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Which security modules are in use cannot be told.
    #[error(
        "cannot tell whether BPF LSM is active: /sys/kernel/security/lsm is not readable (mount securityfs)"
    )]
    LsmList {
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// BPF LSM is not among the security modules in use.
    #[error(
        "BPF LSM is not active: the security modules in use are {modules}; add bpf to them (kernel parameter lsm=…,bpf)"
    )]
    LsmInactive {
        /// Those in use.
        modules: String,
    },
    /// A map could not be opened.
    #[error("cannot use the eBPF map {map}")]
    Map {
        /// Its name.
        map: &'static str,
        /// What the kernel said.
        #[source]
        source: Box<aya::maps::MapError>,
    },
    /// Nothing can be pinned, or another agent runs.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// This process cannot be told from others.
    #[error("cannot read /proc/self/stat")]
    Proc(#[source] io::Error),
    /// Random numbers could not be had.
    #[error("the system has no random numbers")]
    Random,
    /// The ring's descriptor cannot be polled.
    #[error("cannot wait for events")]
    Poll(#[source] io::Error),
}

/// A policy set could not be put into the kernel; the one before stays.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// What decides cannot be attached, or not be pinned.
    #[error(transparent)]
    Arm(#[from] PinError),
    /// The node cannot carry it out as written.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// A map could not be read or written.
    #[error("cannot {operation} the policy map {map}")]
    Map {
        /// What was tried.
        operation: &'static str,
        /// The map's name.
        map: &'static str,
        /// What the kernel said.
        #[source]
        source: Box<aya::maps::MapError>,
    },
    /// What was read back is not what was written.
    #[error("the policy maps do not hold what was written: wrote {written}, read {read}")]
    ReadBack {
        /// Digest of what was written.
        written: String,
        /// Digest of what was read.
        read: String,
    },
    /// Random numbers could not be had.
    #[error("the system has no random numbers")]
    Random,
}
