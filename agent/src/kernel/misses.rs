//! How often the kernel left out a program.
//!
//! Two counts, both the kernel's own: a program that would run inside of itself
//! on one CPU (`recursion_misses`, any kernel that we run on), and a kprobe that
//! is hit while the CPU handles another one (Linux 6.7 and later say so).

use std::{
    cell::Cell,
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
};

use super::{pins::call, programs::Link};

/// Returns how often a program was left out; what the kernel does not tell is
/// not in it.
pub fn of(program: &OwnedFd, link: Option<&Link>) -> u64 {
    let probe = link.and_then(|link| probe(link).ok().flatten());
    recursions(program).unwrap_or(0) + probe.unwrap_or(0)
}

/// Says whether the kernel tells how often it left out this link's kprobe.
pub fn are_told(link: &Link) -> bool {
    probe(link).is_ok_and(|misses| misses.is_some())
}

fn recursions(program: &OwnedFd) -> io::Result<u64> {
    let fd = program.as_fd().as_raw_fd();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
    Ok(info
        .lines()
        .find_map(|line| line.strip_prefix("recursion_misses:"))
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0))
}

/// `struct bpf_link_info` with its member `perf_event.kprobe`,
/// include/uapi/linux/bpf.h of Linux 6.7.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct LinkInfo {
    kind: u32,
    link: u32,
    program: u32,
    padding: u32,
    event_kind: u32,
    event_padding: u32,
    function_name: u64,
    name_length: u32,
    offset: u32,
    address: u64,
    missed: u64,
}

const _: () = assert!(std::mem::offset_of!(LinkInfo, missed) == 48);

/// `BPF_LINK_TYPE_PERF_EVENT`
const PERF_EVENT: u32 = 7;

/// `BPF_PERF_EVENT_KPROBE`
const KPROBE: u32 = 3;

/// Stands in the field until the kernel writes it, which an older one does not.
const UNTOLD: u64 = u64::MAX;

/// Returns how often a link's kprobe was left out; `None` when it is not one's,
/// or the kernel does not say.
fn probe(link: &Link) -> io::Result<Option<u64>> {
    const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
    let numbered;
    let link = match link {
        Link::Descriptor(link) => link,
        Link::Own(link) => {
            numbered = open_numbered(link.info().map_err(io::Error::other)?.id())?;
            &numbered
        }
        Link::Legacy(_) => return Ok(None),
    };
    let info = Cell::new(LinkInfo {
        missed: UNTOLD,
        ..LinkInfo::default()
    });
    // `union bpf_attr` of this command: a descriptor, a size, and a place.
    let arguments = [
        link.as_raw_fd() as u64 | (size_of::<LinkInfo>() as u64) << 32,
        info.as_ptr().expose_provenance() as u64,
    ];
    match call(BPF_OBJ_GET_INFO_BY_FD, &arguments) {
        Ok(_) => {
            let info = info.get();
            let is_told =
                info.kind == PERF_EVENT && info.event_kind == KPROBE && info.missed != UNTOLD;
            Ok(is_told.then_some(info.missed))
        }
        // The structure of an older kernel ends before, where ours is not empty.
        Err(error) if error.raw_os_error() == Some(libc::E2BIG) => Ok(None),
        Err(error) => Err(error),
    }
}

fn open_numbered(link: u32) -> io::Result<OwnedFd> {
    const BPF_LINK_GET_FD_BY_ID: libc::c_int = 30;
    let link = call(BPF_LINK_GET_FD_BY_ID, &[u64::from(link)])?;
    // SAFETY: the kernel has just made it, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(link) })
}
