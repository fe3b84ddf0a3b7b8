//! Per-CPU buffers: the stack of an eBPF program has 512 bytes.
//!
//! Kprobes and tracepoints run with preemption off and do not nest in
//! themselves, so one buffer for each of the two kinds would do; fexit
//! programs can be preempted by another task's. So every program takes its
//! buffer with an atomic exchange and gives it back, and a hook that finds
//! none is counted as missed.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use shrike_agent_ebpf::{
    digest::{COMPONENT_WORDS_MAX, Digest},
    matching::Evaluation,
    plan::Entry,
    record::PATH_COMPONENTS_MAX,
};

use crate::memory::atomic_exchange;

/// Room for a record, with some to spare so that each append can be checked
/// against one constant.
pub const RECORD_CAPACITY: usize = 18 * 1024;

/// Where the text of a path ends; it is written from the leaf up.
pub const TEXT_END: u64 = 4095;

/// A path, written from the leaf up.
#[repr(C)]
pub struct PathText {
    /// Where it starts; it ends at [`TEXT_END`].
    pub start: u64,
    /// Its bytes, and room for the longest component.
    pub bytes: [u8; 4352],
}

/// Everything that a program works with.
#[repr(C)]
pub struct Scratch {
    /// 1 while a program uses it.
    pub busy: u64,

    /// Where the walk is.
    pub dentry: u64,
    /// The mount that it is in.
    pub mount: u64,
    /// The root of that mount.
    pub mount_root: u64,
    /// Components seen so far.
    pub depth: u64,

    /// Slot of the plan that judges.
    pub plan_slot: u64,
    /// A `matching::Trigger`.
    pub trigger: u64,
    /// `ACCESS_*`
    pub access: u64,
    /// The name that is judged.
    pub target_dentry: u64,
    /// The mount that it is in.
    pub target_mount: u64,
    /// The inode that is opened; 0 for the name's own. They differ where an
    /// overlay opens the file of a layer under the merged name (before 6.5).
    pub target_inode: u64,
    /// The task's root directory, and the mount that it is in.
    pub task_root: u64,
    /// See there.
    pub task_root_mount: u64,
    /// Where the walk ends early: a directory and its mount, or 0.
    pub end_dentry: u64,
    /// See there.
    pub end_mount: u64,
    /// The last root of a mount that the walk came to.
    pub crossed: u64,
    /// Not 0: directories above are looked up by their inodes, too.
    pub identities: u64,
    /// What rules have to do with the path: `judge::A_RULE` and its like.
    pub concerns: u64,
    /// 1: nothing but the command name and the path as resolved had a say.
    pub settled: u64,
    /// 1: a rule names a file in the directory.
    pub names_children: u64,
    /// The command name, zero-padded.
    pub comm: [u64; 2],
    /// Bytes of the command name.
    pub comm_length: u64,
    /// Seed of the plan's digests.
    pub seed: [u64; 2],
    /// Digest of the path so far, on the way down.
    pub digest: Digest,
    /// Depths that the plan's rules name, of the path being matched.
    pub depths_exact: u64,
    /// The same for directories.
    pub depths_below: u64,
    /// 0 for the path, 2 for the executable: added to the `Dimension`.
    pub dimension: u64,
    /// Rules that the word being matched hits.
    pub hits: Entry,
    /// Rules that the path itself hits: not those that know the inode.
    pub path_hits: Entry,
    /// Rules left.
    pub evaluation: Evaluation,
    /// `FLAG_*` that the walk found out.
    pub flags: u64,

    /// Generation that judged.
    pub generation: u64,
    /// The winning rule, or `RULE_NONE`.
    pub rule: u64,
    /// A `matching::Action`, 0 for none.
    pub action: u64,
    /// A `record::Outcome`.
    pub outcome: u64,
    /// Result of `bpf_send_signal`.
    pub signal_result: i64,

    /// Bytes of the record so far.
    pub length: u64,
    /// Takes a value through memory, which makes it a plain number.
    pub spare: u64,

    /// One component, in words.
    pub name: [u64; COMPONENT_WORDS_MAX + 2],
    /// Digests of the components, leaf first.
    pub digests: [Digest; PATH_COMPONENTS_MAX],
    /// A path.
    pub path: PathText,
    /// The record.
    pub record: [u8; RECORD_CAPACITY],
}

// The per-CPU allocator takes at most 32 KiB a piece.
const _: () = assert!(size_of::<Scratch>() <= 32 * 1024);

#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(SLOTS, 0);

const SLOTS: u32 = RETURN + POOL;

/// For kprobes.
pub const KPROBE: u32 = 0;
/// For raw tracepoints.
pub const TRACEPOINT: u32 = 1;
/// For LSM, fentry and fexit programs, and those behind it too.
const RETURN: u32 = 2;
/// Programs of different tasks that can wait on one CPU, each preempted by the
/// next, and hold a buffer.
const POOL: u32 = 4;

/// Returns a buffer without taking it: for the steps that a program calls.
#[inline(always)]
pub fn get(slot: u32) -> Option<*mut Scratch> {
    SCRATCH.get_ptr_mut(slot)
}

/// Takes a buffer.
#[inline(always)]
pub fn acquire(slot: u32) -> Option<*mut Scratch> {
    let scratch = get(slot)?;
    // SAFETY: `scratch` is a live map value.
    let busy = unsafe { &raw mut (*scratch).busy };
    // SAFETY: as above.
    (unsafe { atomic_exchange(busy, 1) } == 0).then_some(scratch)
}

/// Takes a buffer for a program that can be preempted, and says which.
#[inline(always)]
pub fn acquire_for_return() -> Option<(u32, *mut Scratch)> {
    let mut slot = RETURN;
    while slot < SLOTS {
        if let Some(scratch) = acquire(slot) {
            return Some((slot, scratch));
        }
        slot += 1;
    }
    None
}

/// Gives a buffer back.
#[inline(always)]
pub fn release(scratch: *mut Scratch) {
    // SAFETY: `scratch` is a live map value that this program took.
    let busy = unsafe { &raw mut (*scratch).busy };
    // SAFETY: as above.
    unsafe { core::ptr::write_volatile(busy, 0) };
}
