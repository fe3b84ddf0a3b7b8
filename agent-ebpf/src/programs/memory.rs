//! Reading kernel memory, and the few instructions that Rust's core has no
//! words for on eBPF.

use core::{arch::asm, mem::MaybeUninit};

use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_user};

/// A read failed; the event goes out without the field.
pub struct Unreadable;

/// Reads a value from a kernel structure.
#[inline(always)]
pub fn read<T: Copy>(base: u64, offset: u32) -> Result<T, Unreadable> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes at most `size_of::<T>()` bytes to `value`, and
    // fails instead of faulting when the source is no kernel memory.
    let result = unsafe {
        bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            (base + u64::from(offset)) as *const _,
        )
    };
    if result != 0 {
        return Err(Unreadable);
    }
    // SAFETY: the helper filled it; only integers are read.
    Ok(unsafe { value.assume_init() })
}

/// Reads a value from user memory of the current task.
#[inline(always)]
pub fn read_user<T: Copy>(address: u64) -> Result<T, Unreadable> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: as in `read`, for user memory.
    let result = unsafe {
        bpf_probe_read_user(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            address as *const _,
        )
    };
    if result != 0 {
        return Err(Unreadable);
    }
    // SAFETY: the helper filled it; only integers are read.
    Ok(unsafe { value.assume_init() })
}

/// Makes the compiler forget what it knows of a value, so that it keeps the
/// bounds check that the verifier wants to see. A real instruction, because
/// two entries of line information for one instruction are refused.
#[inline(always)]
pub fn hide(value: u64) -> u64 {
    let mut hidden = value;
    // SAFETY: copies a register onto itself.
    unsafe { asm!("{0} = {0}", inout(reg) hidden, options(nomem, nostack, preserves_flags)) };
    hidden
}

/// Adds to a counter that others on this CPU may add to as well.
///
/// # Safety
/// `cell` points to a live map value.
#[inline(always)]
pub unsafe fn atomic_add(cell: *mut u64, value: u64) {
    // SAFETY: the caller vouches for `cell`.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) cell, in(reg) value) };
}

/// Sets bits that others may set as well.
///
/// # Safety
/// `cell` points to a live map value.
#[inline(always)]
pub unsafe fn atomic_or(cell: *mut u64, bits: u64) {
    // SAFETY: the caller vouches for `cell`.
    unsafe { asm!("lock *(u64 *)({0} + 0) |= {1}", in(reg) cell, in(reg) bits) };
}

/// Adds to a counter and returns what it was before.
///
/// # Safety
/// `cell` points to a live map value.
#[inline(always)]
pub unsafe fn atomic_fetch_add(cell: *mut u64, value: u64) -> u64 {
    let mut old = value;
    // SAFETY: the caller vouches for `cell`.
    unsafe {
        asm!("{1} = atomic_fetch_add((u64 *)({0} + 0), {1})", in(reg) cell, inout(reg) old);
    }
    old
}

/// Puts a value in and returns the one that was there.
///
/// # Safety
/// `cell` points to a live map value.
#[inline(always)]
pub unsafe fn atomic_exchange(cell: *mut u64, value: u64) -> u64 {
    let mut old = value;
    // SAFETY: the caller vouches for `cell`.
    unsafe { asm!("{1} = xchg_64({0} + 0, {1})", in(reg) cell, inout(reg) old) };
    old
}
