//! Direct loads from kernel structures.
//!
//! Programs whose arguments the verifier knows as pointers into kernel
//! structures (LSM, fentry and fexit) read a field with one instruction
//! instead of a helper call. The agent writes the field's offset into that
//! instruction, as a loader does with CO-RE. A load that faults gives zero. A pointer keeps
//! its kind in registers and on the stack only: once it went through a map
//! it is a plain number, for [`crate::memory::read`].
//!
//! **What may be null.** An LSM program's arguments, and some fields reached
//! through them, count as never null: a load through them is a plain one that
//! crashes the kernel where they are, and the verifier throws a comparison
//! with null away. Linux 6.12 thinks so of `dentry.d_inode`
//! (`BTF_TYPE_SAFE_TRUSTED`, kernel/bpf/verifier.c), which is null for a name
//! without a file, and of the file that `mmap_file` gets, which is null for
//! memory without one. Such a pointer is read as a plain number.

use core::{arch::asm, ffi::c_void};

use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_probe_read_kernel};

use shrike_agent_ebpf::offset::Placeholder;

use crate::{memory::read, offsets::offset};

/// `TS_COMPAT`, arch/x86/include/asm/thread_info.h: in a 32-bit system call.
pub const TS_COMPAT: u32 = 2;

/// Points into a kernel structure of a kind that the verifier knows.
pub type Pointer = *const u8;

/// Loads word `WORD` of field number `FIELD`: one instruction, whose
/// displacement the agent writes before it loads the programs.
#[inline(always)]
pub fn load<T: Copy, const FIELD: usize, const WORD: usize>(base: Pointer) -> T {
    const { assert!(size_of::<T>() <= 8) };
    let value: u64;
    macro_rules! load {
        ($instruction:literal) => {
            // SAFETY: the verifier checks the displacement against the
            // structure's type, and gives zero for memory that is not there.
            unsafe {
                asm!(
                    $instruction,
                    value = lateout(reg) value,
                    base = in(reg) base,
                    place = const -Placeholder::of(FIELD, WORD).0,
                    options(pure, readonly, nostack, preserves_flags)
                )
            }
        };
    }
    match size_of::<T>() {
        1 => load!("{value} = *(u8 *)({base} - {place})"),
        2 => load!("{value} = *(u16 *)({base} - {place})"),
        4 => load!("{value} = *(u32 *)({base} - {place})"),
        _ => load!("{value} = *(u64 *)({base} - {place})"),
    }
    if size_of::<T>() < 8 {
        // SAFETY: the load clears the rest of the register.
        unsafe { core::hint::assert_unchecked(value >> (8 * size_of::<T>() % 64) == 0) };
    }
    // SAFETY: only integers and pointers are loaded, and the low bytes of the
    // register are the value.
    unsafe { core::mem::transmute_copy(&value) }
}

/// Loads a field by its name in `Offsets`, or one of its 8-byte words.
macro_rules! field {
    ($base:expr, $field:ident) => {
        $crate::typed::field!($base, $field, 0)
    };
    ($base:expr, $field:ident, $word:literal) => {{
        const FIELD: usize =
            core::mem::offset_of!(shrike_agent_ebpf::offset::Offsets, $field) / size_of::<u32>();
        $crate::typed::load::<_, FIELD, $word>($base)
    }};
}

/// Reads an optional field; `None` where the kernel has no such field. With a
/// helper: a load of what is not there would keep the programs out.
macro_rules! optional_field {
    ($base:expr, $field:ident) => {
        if $crate::offsets::offset!($field) == shrike_agent_ebpf::offset::ABSENT {
            None
        } else {
            $crate::memory::read($base as u64, $crate::offsets::offset!($field)).ok()
        }
    };
}

pub(crate) use {field, optional_field};

/// Returns the current task.
#[inline(always)]
pub fn current_task() -> Pointer {
    // SAFETY: no precondition.
    unsafe { bpf_get_current_task_btf() }.cast()
}

/// Returns an argument of the program as a plain number: the only form in
/// which one that may be null can be looked at.
#[inline(always)]
pub fn argument(context: *const c_void, index: usize) -> u64 {
    let place = context.wrapping_byte_add(index * 8);
    read(place as u64, 0).unwrap_or(0)
}

/// Returns what a name stands for as a plain number, 0 for nothing.
#[inline(always)]
pub fn inode_of(dentry: Pointer) -> u64 {
    read(dentry as u64, offset!(dentry_inode)).unwrap_or(0)
}

/// Says whether a pointer is a plain number. The verifier allows no more than
/// to compare the two, and a compiler would do arithmetic.
#[inline(always)]
pub fn is_at(pointer: Pointer, address: u64) -> bool {
    let same: u64;
    // SAFETY: sets a register, and jumps over one instruction of its own.
    unsafe {
        asm!(
            "{same} = 1",
            "if {pointer} == {address} goto +1",
            "{same} = 0",
            same = out(reg) same,
            pointer = in(reg) pointer,
            address = in(reg) address,
            options(pure, nomem, nostack)
        );
    }
    same != 0
}

/// Makes a plain number of what the verifier knows as a pointer, so that it can
/// be compared and calculated with.
#[inline(always)]
pub fn plain(pointer: u64) -> u64 {
    let mut place = core::mem::MaybeUninit::<u64>::uninit();
    // SAFETY: the helper copies eight bytes from one place to the other.
    unsafe {
        bpf_probe_read_kernel(place.as_mut_ptr().cast(), 8, (&raw const pointer).cast());
    }
    // SAFETY: filled above; the source is this program's stack.
    unsafe { place.assume_init() }
}

/// Makes a plain number of a pointer, the same one for as long as the map
/// value `base` stays where it is: the verifier allows no arithmetic on a
/// pointer but to subtract another one.
#[inline(always)]
pub fn number(pointer: Pointer, base: *const u64) -> u64 {
    let mut difference = pointer as u64;
    // SAFETY: arithmetic on registers.
    unsafe {
        asm!("{0} -= {1}", inout(reg) difference, in(reg) base, options(nomem, nostack, preserves_flags));
    }
    difference
}
