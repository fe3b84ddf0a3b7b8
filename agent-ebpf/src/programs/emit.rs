//! Records: header, appended bytes, the way into the ring, and the counts.

use aya_ebpf::{
    helpers::generated::{
        bpf_get_current_cgroup_id, bpf_get_smp_processor_id, bpf_ktime_get_boot_ns,
        bpf_probe_read_kernel, bpf_probe_read_kernel_str, bpf_probe_read_user,
        bpf_probe_read_user_str, bpf_ringbuf_output, bpf_ringbuf_query,
    },
    macros::map,
    maps::{PerCpuArray, RingBuf},
};
use shrike_agent_ebpf::{
    counter::{Counters, Hook},
    record::{
        ARGV_BYTES_MAX, FLAG_HAS_EXECUTABLE, Header, INTERPRETER_BYTES_MAX, Kind, PATH_BYTES_MAX,
        RULE_NONE,
    },
};

use crate::{
    memory::{atomic_add, atomic_fetch_add, hide},
    offsets::{RECORD_PROCESSES, setting},
    progress::Judged,
    scratch::{self, RECORD_CAPACITY, Scratch, TEXT_END},
    typed::{Pointer, current_task, field},
    walk,
};

/// Opens that no rule matched, on their way to user space. The agent sets its
/// size.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(16 * 1024 * 1024, 0);

/// All other records: execs, forks, exits and verdicts. They are few, and each
/// is worth more than an open, so a flood of opens must not cost one. The agent
/// sets its size.
#[map]
static PRIORITY: RingBuf = RingBuf::with_byte_size(2 * 1024 * 1024, 0);

/// The number of the next record of each CPU.
#[map]
static SEQUENCE: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

#[map]
static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(HOOKS, 0);

const HOOKS: u32 = Hook::ALL.len() as u32;

/// The reader looks into the ring on its own every few milliseconds, so it is
/// woken only when much is waiting: a wake-up for each event would cost more
/// than the event.
const WAKE_UP_BYTES: u64 = 256 * 1024;

const BPF_RB_NO_WAKEUP: u64 = 1;
const BPF_RB_FORCE_WAKEUP: u64 = 2;
const BPF_RB_AVAIL_DATA: u64 = 0;

/// Why a record came to nothing.
#[derive(Clone, Copy)]
pub enum Count {
    Seen,
    Filtered,
    Repeated,
    LostPendingFull,
    LostUnreadable,
    Missed,
}

/// Counts one record of a hook.
#[inline(always)]
pub fn count(hook: Hook, what: Count) {
    let Some(counters) = COUNTERS.get_ptr_mut(hook as u32) else {
        return;
    };
    // SAFETY: a live map value; the counters are only ever added to, and
    // atomically.
    let counters = unsafe { &mut *counters };
    let cell = match what {
        Count::Seen => &raw mut counters.seen,
        Count::Filtered => &raw mut counters.filtered,
        Count::Repeated => &raw mut counters.repeated,
        Count::LostPendingFull => &raw mut counters.lost_pending_full,
        Count::LostUnreadable => &raw mut counters.lost_unreadable,
        Count::Missed => &raw mut counters.missed,
    };
    // SAFETY: `cell` is inside of a live map value.
    unsafe { atomic_add(cell, 1) };
}

/// Counts a record that a hook set out to write and could not: a structure is
/// unreadable.
#[inline(always)]
pub fn count_unreadable(hook: Hook) {
    count(hook, Count::Seen);
    count(hook, Count::LostUnreadable);
}

/// Returns the record's header.
#[inline(always)]
fn header(scratch: *mut Scratch) -> *mut Header {
    // SAFETY: `scratch` is a live map value; the record is 8-byte aligned.
    unsafe { (&raw mut (*scratch).record).cast() }
}

/// Returns the place of the body behind the header.
#[inline(always)]
pub fn body<T>(scratch: *mut Scratch) -> *mut T {
    // SAFETY: the record is longer than any header and body.
    unsafe { header(scratch).add(1) }.cast()
}

/// Begins a record of the current task: everything in its header but flags,
/// verdict and length.
#[inline(always)]
pub fn begin_record(scratch: *mut Scratch, kind_and_call: u32, result: i32) {
    let task = current_task();
    // SAFETY: the scratch buffer is taken by the program that calls this.
    let header = unsafe { &mut *header(scratch) };
    header.kind = (kind_and_call & 0xff) as u8;
    header.call = (kind_and_call >> 8) as u8;
    header.result = result;
    // SAFETY: no precondition.
    header.cpu = unsafe { bpf_get_smp_processor_id() };
    // SAFETY: no precondition.
    header.boot_time_ns = unsafe { bpf_ktime_get_boot_ns() };
    // SAFETY: no precondition.
    header.process.cgroup_id = unsafe { bpf_get_current_cgroup_id() };
    header.cpu_sequence = match SEQUENCE.get_ptr_mut(0) {
        // SAFETY: `cell` is a live map value.
        Some(cell) => unsafe { atomic_fetch_add(cell, 1) },
        None => 0,
    };
    let process = &mut header.process;
    let comm: [u64; 2] = [field!(task, task_comm), field!(task, task_comm, 1)];
    // SAFETY: both are 16 bytes, aligned to 8.
    unsafe { *process.comm.as_mut_ptr().cast::<[u64; 2]>() = comm };
    process.tgid = field!(task, task_tgid);
    process.tid = field!(task, task_pid);
    let leader: Pointer = field!(task, task_group_leader);
    process.start_boot_ns = field!(leader, task_start);
    let parent: Pointer = field!(leader, task_real_parent);
    process.parent_tgid = field!(parent, task_tgid);
    let parent_leader: Pointer = field!(parent, task_group_leader);
    process.parent_start_boot_ns = field!(parent_leader, task_start);
    let cred: Pointer = field!(task, task_cred);
    process.uid = field!(cred, cred_uid);
    process.gid = field!(cred, cred_gid);
    process.euid = field!(cred, cred_euid);
    process.egid = field!(cred, cred_egid);
    let nsproxy: Pointer = field!(task, task_nsproxy);
    let namespace: Pointer = field!(nsproxy, nsproxy_mnt_ns);
    process.mount_namespace = field!(namespace, mnt_ns_inum);
}

/// Puts a verdict into the header.
#[inline(always)]
pub fn set_verdict(scratch: *mut Scratch, judged: &Judged) {
    let header = header(scratch);
    // SAFETY: the scratch buffer is taken by this program.
    let header = unsafe { &mut *header };
    header.generation = judged.generation;
    header.rule = judged.rule as u16;
    header.action = judged.action as u8;
    header.outcome = judged.outcome as u8;
    header.signal_result = judged.signal_result;
}

/// Says in the header that nothing was judged, and under which generation.
#[inline(always)]
pub fn set_no_verdict(scratch: *mut Scratch, generation: u64) {
    let header = header(scratch);
    // SAFETY: the scratch buffer is taken by this program.
    let header = unsafe { &mut *header };
    header.generation = generation;
    header.rule = RULE_NONE;
    header.action = 0;
    header.outcome = 0;
    header.signal_result = 0;
}

/// Appends the kernel's string at `address`, without its NUL. Returns its
/// length, 0 when it cannot be read.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn append_kernel_string(slot: u32, address: u64) -> u32 {
    let Some(place) = place(slot, PATH_BYTES_MAX + 1) else {
        return 0;
    };
    // SAFETY: there is room for as many bytes behind `place`.
    let written = unsafe {
        bpf_probe_read_kernel_str(place.cast(), PATH_BYTES_MAX as u32 + 1, address as *const _)
    };
    grow(slot, written, PATH_BYTES_MAX)
}

/// Appends an interpreter's name.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn append_interpreter(slot: u32, address: u64) -> u32 {
    let Some(place) = place(slot, INTERPRETER_BYTES_MAX + 1) else {
        return 0;
    };
    // SAFETY: there is room for as many bytes behind `place`.
    let written = unsafe {
        bpf_probe_read_kernel_str(
            place.cast(),
            INTERPRETER_BYTES_MAX as u32 + 1,
            address as *const _,
        )
    };
    grow(slot, written, INTERPRETER_BYTES_MAX)
}

/// Appends the string at `address` in user memory, without its NUL.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn append_user_string(slot: u32, address: u64) -> u32 {
    let Some(place) = place(slot, PATH_BYTES_MAX + 1) else {
        return 0;
    };
    // SAFETY: there is room for as many bytes behind `place`.
    let written = unsafe {
        bpf_probe_read_user_str(place.cast(), PATH_BYTES_MAX as u32 + 1, address as *const _)
    };
    grow(slot, written, PATH_BYTES_MAX)
}

/// Appends one argument from user memory with its NUL. Returns the bytes
/// added, 0 when it cannot be read.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn append_user_argument(slot: u32, address: u64) -> u32 {
    let Some(place) = place(slot, ARGUMENT_BYTES_MAX) else {
        return 0;
    };
    // SAFETY: there is room for as many bytes behind `place`.
    let written = unsafe {
        bpf_probe_read_user_str(place.cast(), ARGUMENT_BYTES_MAX as u32, address as *const _)
    };
    if written <= 0 {
        return 0;
    }
    // The helper ends a cut string with a NUL as well.
    grow(slot, written + 1, ARGUMENT_BYTES_MAX)
}

/// One argument of a failed exec: the rest of the 8 KiB is for the others.
pub const ARGUMENT_BYTES_MAX: usize = 1024;

/// Appends raw user memory, at most [`ARGV_BYTES_MAX`] bytes. Returns 0 when
/// it cannot be read.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn append_user_bytes(slot: u32, address: u64, length: u64) -> u32 {
    let length = hide(length);
    if length > ARGV_BYTES_MAX as u64 {
        return 0;
    }
    let Some(place) = place(slot, ARGV_BYTES_MAX) else {
        return 0;
    };
    // SAFETY: there is room for as many bytes behind `place`.
    let result = unsafe { bpf_probe_read_user(place.cast(), length as u32, address as *const _) };
    if result != 0 {
        return 0;
    }
    grow(slot, length as i64 + 1, ARGV_BYTES_MAX)
}

/// Appends the text that a walk left in the scratch buffer.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn append_text(slot: u32) -> u32 {
    let Some(scratch) = scratch::get(slot) else {
        return 0;
    };
    // SAFETY: taken by the program that calls this.
    let start = hide(unsafe { (*scratch).path.start });
    if start > TEXT_END {
        return 0;
    }
    let length = hide(TEXT_END - start);
    if length > PATH_BYTES_MAX as u64 {
        return 0;
    }
    let Some(place) = place(slot, PATH_BYTES_MAX + 1) else {
        return 0;
    };
    // SAFETY: taken by the program that calls this.
    let text = unsafe { &raw const (*scratch).path.bytes }.cast::<u8>();
    // SAFETY: `start` lies inside of the text.
    let text = unsafe { text.add(start as usize) };
    // SAFETY: there is room for as many bytes behind `place`.
    let result = unsafe { bpf_probe_read_kernel(place.cast(), length as u32, text.cast()) };
    if result != 0 {
        return 0;
    }
    grow(slot, length as i64 + 1, PATH_BYTES_MAX)
}

/// Appends the path of the current process's executable. Returns its length,
/// 0 when there is none.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn append_executable(slot: u32) -> u32 {
    let Some(scratch) = scratch::get(slot) else {
        return 0;
    };
    let mm: Pointer = field!(current_task(), task_mm);
    let file: Pointer = field!(mm, mm_exe_file);
    if file.is_null() {
        return 0;
    }
    walk::aim(scratch, file as u64);
    walk::walk_text(slot, walk::UP_TO_NAMESPACE);
    append_text(slot)
}

/// Returns the end of the record if `room` bytes fit behind it.
#[inline(always)]
pub fn place(slot: u32, room: usize) -> Option<*mut u8> {
    let scratch = scratch::get(slot)?;
    // SAFETY: taken by the program that calls this.
    let length = hide(unsafe { (*scratch).length });
    if length > (RECORD_CAPACITY - room) as u64 {
        return None;
    }
    // SAFETY: taken by the program that calls this.
    let record = unsafe { &raw mut (*scratch).record }.cast::<u8>();
    // SAFETY: `length` was checked against the record's capacity.
    Some(unsafe { record.add(length as usize) })
}

/// Grows the record by `written` bytes less one, a string's NUL.
#[inline(always)]
pub fn grow(slot: u32, written: i64, max: usize) -> u32 {
    if written <= 1 {
        return 0;
    }
    let added = written as u64 - 1;
    if added > max as u64 {
        return 0;
    }
    if let Some(scratch) = scratch::get(slot) {
        // SAFETY: taken by the program that calls this.
        unsafe { (*scratch).length += added };
    }
    added as u32
}

/// Ends a record and sends it; `urgent` wakes the reader at once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn submit(slot: u32, hook: u32, flags: u32, urgent: u32) -> i32 {
    let Some(scratch) = scratch::get(slot) else {
        return 0;
    };
    let header = header(scratch);
    // Where execs are no events, nobody else knows what the process runs.
    let flags = if setting!(RECORD_PROCESSES) == 0 && append_executable(slot) > 0 {
        flags | u32::from(FLAG_HAS_EXECUTABLE)
    } else {
        flags
    };
    // SAFETY: taken by the program that calls this.
    let length = hide(unsafe { (*scratch).length });
    if length > RECORD_CAPACITY as u64 || length < size_of::<Header>() as u64 {
        if let Some(counters) = COUNTERS.get_ptr_mut(hook) {
            // SAFETY: a live map value.
            unsafe { atomic_add(&raw mut (*counters).lost_oversize, 1) };
        }
        return 0;
    }
    // SAFETY: as above.
    let fields = unsafe { &mut *header };
    fields.length = length as u32;
    fields.flags = flags as u16;
    let first = urgent != 0 || fields.kind != Kind::Open as u8 || fields.rule != RULE_NONE;
    // What finds no room there takes its chance with the opens.
    let taken =
        first && send(&PRIORITY, header, length, urgent) || send(&EVENTS, header, length, urgent);
    let Some(counters) = COUNTERS.get_ptr_mut(hook) else {
        return 0;
    };
    // SAFETY: as in `count`.
    let counters = unsafe { &mut *counters };
    let cell = if taken {
        &raw mut counters.submitted
    } else {
        &raw mut counters.lost_ring_full
    };
    // SAFETY: `cell` is inside of a live map value.
    unsafe { atomic_add(cell, 1) };
    0
}

/// Puts a record into a ring. Returns whether there was room.
#[inline(always)]
fn send(ring: &'static RingBuf, record: *mut Header, length: u64, urgent: u32) -> bool {
    let ring = (&raw const *ring).cast_mut().cast();
    // SAFETY: the map is a ring buffer.
    let waiting = unsafe { bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA) };
    // Once on the way up: a reader that is at work must not be interrupted for
    // each record. When two CPUs race past the mark, it looks on its own.
    let crossing = waiting < WAKE_UP_BYTES && waiting + length >= WAKE_UP_BYTES;
    let wake_up = if urgent != 0 || crossing {
        BPF_RB_FORCE_WAKEUP
    } else {
        BPF_RB_NO_WAKEUP
    };
    // SAFETY: `length` bytes of the record are inside of its capacity.
    unsafe { bpf_ringbuf_output(ring, record.cast(), length, wake_up) == 0 }
}

/// Sets how many bytes of the record are header and body.
#[inline(always)]
pub fn set_body_length<T>(scratch: *mut Scratch) {
    // SAFETY: the scratch buffer is taken by this program.
    unsafe { (*scratch).length = (size_of::<Header>() + size_of::<T>()) as u64 };
}

/// Packs what a record is about for [`begin_record`].
#[inline(always)]
pub const fn kind_and_call(kind: u32, call: u32) -> u32 {
    kind | call << 8
}
