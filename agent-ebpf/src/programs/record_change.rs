//! Events of files that are changed without being opened. Only what a rule
//! matches is one.

use shrike_agent_ebpf::{
    counter::Hook,
    matching::Action,
    record::{Change, FLAG_NEW_NAME, FLAG_OTHER_UNRESOLVED, FLAG_PATH_UNRESOLVED, Kind},
};

use crate::{
    device::device_of,
    emit::{self, Count, count, kind_and_call},
    guard_change::{Asked, Other},
    memory::{Unreadable, read},
    offsets::offset,
    progress::Judged,
    record_open::REFUSED,
    scratch::Scratch,
    typed::{field, inode_of},
    walk,
};

/// Writes the event of a verdict about the target in the scratch buffer.
#[inline(always)]
pub fn changed(slot: u32, scratch: *mut Scratch, asked: &Asked, judged: &Judged, refused: bool) {
    count(Hook::OtherOpen, Count::Seen);
    emit::begin_record(
        scratch,
        kind_and_call(Kind::Change as u32, asked.call as u32),
        if refused { REFUSED } else { 0 },
    );
    emit::set_body_length::<Change>(scratch);
    // SAFETY: taken by this program.
    let body = unsafe { &mut *emit::body::<Change>(scratch) };
    body.device = 0;
    body.inode = 0;
    body.file_mode = 0;
    body.links = 0;
    body.owner_uid = 0;
    body.owner_gid = 0;
    body.other_length = 0;
    body.mode = asked.mode as u16;
    // A name that is about to be given has a path, and no inode yet.
    let _ = describe(body, inode_of(asked.dentry));
    let mut flags = judged.flags;
    if asked.is_new_name {
        flags |= u32::from(FLAG_NEW_NAME);
    }
    // SAFETY: taken by this program.
    unsafe { (*scratch).flags = 0 };
    walk::walk_text(slot, walk::UP_TO_NAMESPACE);
    body.path_length = emit::append_text(slot) as u16;
    // SAFETY: taken by this program.
    flags |= unsafe { (*scratch).flags } as u32;
    match asked.other {
        Other::None => {}
        Other::Name { dentry, mount } => {
            {
                // SAFETY: taken by this program.
                let state = unsafe { &mut *scratch };
                state.flags = 0;
                state.target_dentry = dentry as u64;
                state.target_mount = field!(mount, path_mnt);
            }
            walk::walk_text(slot, walk::UP_TO_NAMESPACE);
            body.other_length = emit::append_text(slot) as u16;
            // SAFETY: taken by this program.
            if unsafe { (*scratch).flags } & u64::from(FLAG_PATH_UNRESOLVED) != 0 {
                flags |= u32::from(FLAG_OTHER_UNRESOLVED);
            }
        }
        Other::Text(text) => body.other_length = emit::append_kernel_string(slot, text) as u16,
    }
    emit::set_verdict(scratch, judged);
    emit::submit(
        slot,
        Hook::OtherOpen as u32,
        flags,
        u32::from(judged.action >= Action::Deny as u32),
    );
}

/// Writes what an inode says of a file.
#[inline(always)]
fn describe(body: &mut Change, inode: u64) -> Result<(), Unreadable> {
    body.device = device_of(inode)?;
    body.inode = read(inode, offset!(inode_number))?;
    body.file_mode = read(inode, offset!(inode_mode))?;
    body.links = read(inode, offset!(inode_links))?;
    body.owner_uid = read(inode, offset!(inode_uid))?;
    body.owner_gid = read(inode, offset!(inode_gid))?;
    Ok(())
}
