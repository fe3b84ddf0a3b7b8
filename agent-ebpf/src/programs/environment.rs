//! The names of a new image's variables, from where the kernel put them.
//! Values stay where they are.

use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_user_str};
use shrike_agent_ebpf::record::{ENVIRONMENT_BYTES_MAX, ENVIRONMENT_COUNT_MAX};

use crate::{
    emit,
    file_open::zero_at,
    memory::{Unreadable, hide, read},
    offsets::offset,
    scratch,
};

/// Longest name that is read; a longer one is cut.
const NAME_BYTES_MAX: u64 = 255;

/// Bytes of a variable that are read at once.
const CHUNK_BYTES: u32 = 4096;

/// `=` in each byte.
const EQUALS: u64 = 0x3d3d_3d3d_3d3d_3d3d;

/// Appends the names, each with a NUL, and says whether those were all.
#[inline(always)]
pub fn append(slot: u32, task: u64) -> Result<(u32, bool), Unreadable> {
    let mm = read::<u64>(task, offset!(task_mm))?;
    let mut place = read::<u64>(mm, offset!(mm_env_start))?;
    let end = read::<u64>(mm, offset!(mm_env_end))?;
    let mut length = 0;
    let mut inside = 0;
    let mut count = 0;
    while count < ENVIRONMENT_COUNT_MAX {
        if place >= end {
            return Ok((length, true));
        }
        if length > ENVIRONMENT_BYTES_MAX as u32 - (NAME_BYTES_MAX as u32 + 1) {
            break;
        }
        let passed = append_name(slot, place, inside);
        if passed == 0 {
            break;
        }
        length += (passed >> 32) as u32;
        let passed = passed & 0xffff_ffff;
        place += passed;
        // What was cut goes on.
        inside = u32::from(passed == u64::from(CHUNK_BYTES) - 1);
        count += 1;
    }
    Ok((length, false))
}

/// Appends the name of the variable at an address in user memory. Returns how
/// many bytes the variable has there, and in the upper half how many were
/// appended; 0 when nothing can be read or taken. `inside`: the address is not
/// the beginning of a variable.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn append_name(slot: u32, address: u64, inside: u32) -> u64 {
    let Some(scratch) = scratch::get(slot) else {
        return 0;
    };
    // SAFETY: taken by the program that calls this.
    let state = unsafe { &mut *scratch };
    // SAFETY: the text has room for as many bytes.
    let read = unsafe {
        bpf_probe_read_user_str(
            state.path.bytes.as_mut_ptr().cast(),
            CHUNK_BYTES,
            address as *const _,
        )
    };
    if read <= 0 || read > i64::from(CHUNK_BYTES) {
        return 0;
    }
    let text = read as u64 - 1;
    // A cut one goes on where its last byte would be.
    let passed = if read == i64::from(CHUNK_BYTES) {
        text
    } else {
        read as u64
    };
    if inside != 0 {
        return passed;
    }
    let mut length = if text > NAME_BYTES_MAX {
        NAME_BYTES_MAX
    } else {
        text
    };
    let words = state.path.bytes.as_ptr().cast::<u64>();
    let mut index = 0;
    while index < (NAME_BYTES_MAX as usize + 1) / 8 {
        // SAFETY: the text is longer than the longest name.
        let word = unsafe { words.add(index) };
        // SAFETY: as above; the text is aligned to 8 bytes.
        let at = zero_at(unsafe { *word } ^ EQUALS);
        if at < 8 {
            let found = index as u64 * 8 + at;
            if found < length {
                length = found;
            }
            break;
        }
        index += 1;
    }
    let length = hide(length);
    if length > NAME_BYTES_MAX {
        return 0;
    }
    let Some(place) = emit::place(slot, NAME_BYTES_MAX as usize + 1) else {
        return 0;
    };
    // SAFETY: there is room for as many bytes behind `place`.
    let result = unsafe { bpf_probe_read_kernel(place.cast(), length as u32, words.cast()) };
    if result != 0 {
        return 0;
    }
    // SAFETY: there is room for the name and its NUL behind `place`.
    let end = unsafe { place.add(length as usize) };
    // SAFETY: as above.
    unsafe { *end = 0 };
    let added = emit::grow(slot, length as i64 + 2, NAME_BYTES_MAX as usize + 1);
    passed | u64::from(added) << 32
}
