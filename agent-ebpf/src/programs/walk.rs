//! From a file up to the root of its mount namespace, component by component.
//!
//! Each step is a global function of one number: the verifier looks at it
//! once, however often it is called.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use shrike_agent_ebpf::{
    digest::{COMPONENT_BYTES_MAX, COMPONENT_WORDS_MAX, Digest},
    record::{FLAG_PATH_UNRESOLVED, PATH_COMPONENTS_MAX},
};

use crate::{
    emit, judge,
    memory::{Unreadable, hide, read},
    offsets::offset,
    root,
    scratch::{self, Scratch, TEXT_END},
    typed::{Pointer, field},
};

/// Components and mount points that a walk passes at most.
const STEPS_MAX: u32 = PATH_COMPONENTS_MAX as u32 + 64;

const AGAIN: i32 = 1;
/// The same, and the walk crossed into the mount above.
const CROSSED: i32 = 2;
const DONE: i32 = 0;
const FAILED: i32 = -1;

/// Stands at a name in a mount.
#[inline(always)]
pub fn start(scratch: *mut Scratch, dentry: u64, vfsmount: u64) -> Result<(), Unreadable> {
    let root = read::<u64>(vfsmount, offset!(vfsmount_root))?;
    // SAFETY: `scratch` is a live map value that this program took.
    let scratch = unsafe { &mut *scratch };
    scratch.dentry = dentry;
    scratch.mount = vfsmount - u64::from(offset!(mount_vfsmount));
    scratch.mount_root = root;
    scratch.depth = 0;
    scratch.path.start = TEXT_END;
    Ok(())
}

/// Makes a file the target. One that cannot be read is at address 0, where no
/// walk comes far.
#[inline(always)]
pub fn aim(scratch: *mut Scratch, file: u64) {
    // SAFETY: `scratch` is a live map value that this program took.
    let scratch = unsafe { &mut *scratch };
    scratch.target_dentry = read(file, offset!(file_dentry)).unwrap_or(0);
    scratch.target_mount = read(file, offset!(file_mnt)).unwrap_or(0);
    scratch.target_inode = read(file, offset!(file_inode)).unwrap_or(0);
}

/// A component's place and length.
struct Component {
    name: u64,
    length: u64,
}

enum Step {
    Component(Component),
    /// A file that is in no directory: a memfd, a pipe. It has a name, but not
    /// a path.
    Loose(Component),
    Crossed,
    Root,
}

#[inline(always)]
fn step(scratch: &mut Scratch) -> Result<Step, Unreadable> {
    let dentry = scratch.dentry;
    if dentry == scratch.end_dentry && scratch.mount == scratch.end_mount {
        return Ok(Step::Root);
    }
    if dentry == scratch.mount_root {
        let parent = read::<u64>(scratch.mount, offset!(mount_parent))?;
        if parent == scratch.mount {
            return Ok(Step::Root);
        }
        scratch.dentry = read(scratch.mount, offset!(mount_mountpoint))?;
        scratch.mount_root = read(
            parent + u64::from(offset!(mount_vfsmount)),
            offset!(vfsmount_root),
        )?;
        scratch.mount = parent;
        return Ok(Step::Crossed);
    }
    let parent = read::<u64>(dentry, offset!(dentry_parent))?;
    let component = Component {
        name: read(dentry, offset!(dentry_name))?,
        length: u64::from(read::<u32>(dentry, offset!(dentry_name_length))?),
    };
    if parent != dentry {
        scratch.dentry = parent;
        return Ok(Step::Component(component));
    }
    if scratch.depth == 0 {
        return Ok(Step::Loose(component));
    }
    Ok(Step::Root)
}

/// Digests one component.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_digest_step(slot: u32) -> i32 {
    let Some(scratch) = scratch::get(slot) else {
        return FAILED;
    };
    // SAFETY: a live map value, taken by the program that calls this.
    let scratch = unsafe { &mut *scratch };
    scratch.crossed = scratch.dentry;
    let component = match step(scratch) {
        Ok(Step::Component(component)) => component,
        Ok(Step::Crossed) => return CROSSED,
        // No rule names what has no path.
        Ok(Step::Loose(_) | Step::Root) => return DONE,
        Err(Unreadable) => return FAILED,
    };
    let length = hide(component.length);
    if length > COMPONENT_BYTES_MAX as u64 {
        return FAILED;
    }
    // SAFETY: `name` holds COMPONENT_BYTES_MAX bytes and more.
    let result = unsafe {
        bpf_probe_read_kernel(
            scratch.name.as_mut_ptr().cast(),
            length as u32,
            component.name as *const _,
        )
    };
    if result != 0 {
        return FAILED;
    }
    let depth = hide(scratch.depth);
    if depth >= PATH_COMPONENTS_MAX as u64 {
        return FAILED;
    }
    let mut digest = Digest::start(scratch.seed);
    let mut index = 0;
    while index < COMPONENT_WORDS_MAX {
        let begin = index as u64 * 8;
        if begin >= length {
            break;
        }
        let left = length - begin;
        let mut word = scratch.name[index];
        if left < 8 {
            word &= (1 << (left * 8)) - 1;
        }
        digest = digest.word(word);
        index += 1;
    }
    digest = digest.word(length);
    // SAFETY: `depth` was checked against the array's length.
    let place = unsafe { scratch.digests.as_mut_ptr().add(depth as usize) };
    // SAFETY: as above.
    unsafe { *place = digest };
    scratch.depth = depth + 1;
    AGAIN
}

/// Looks up the directories above the root of a mount, up to the root of its
/// file system, by their inodes: the path does not name them where the mount
/// is a part of it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn match_above(slot: u32, mount_root: u64) -> i32 {
    let mut dentry = mount_root;
    let mut steps = 0;
    while steps < PATH_COMPONENTS_MAX as u32 {
        let Ok(parent) = read::<u64>(dentry, offset!(dentry_parent)) else {
            return FAILED;
        };
        if parent == dentry {
            return DONE;
        }
        judge::match_directory(slot, parent);
        dentry = parent;
        steps += 1;
    }
    FAILED
}

/// Digests every component, leaf first, and looks up the directories by their
/// inodes where rules know some.
#[inline(always)]
pub fn digest(slot: u32, scratch: *mut Scratch) -> Result<(), Unreadable> {
    // SAFETY: `scratch` is a live map value that this program took.
    let by_identity = unsafe { (*scratch).identities } != 0;
    let mut steps = 0;
    while steps < STEPS_MAX {
        let went = walk_digest_step(slot);
        if by_identity {
            match went {
                // SAFETY: as above.
                AGAIN => judge::match_directory(slot, unsafe { (*scratch).dentry }),
                // The last one may be attached nowhere.
                CROSSED | DONE => {
                    // SAFETY: as above.
                    match_above(slot, unsafe { (*scratch).crossed });
                }
                _ => {}
            }
        }
        match went {
            AGAIN | CROSSED => {}
            DONE => return Ok(()),
            _ => return Err(Unreadable),
        }
        steps += 1;
    }
    Err(Unreadable)
}

/// Writes one component in front of the text.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_text_step(slot: u32) -> i32 {
    let Some(scratch) = scratch::get(slot) else {
        return FAILED;
    };
    // SAFETY: a live map value, taken by the program that calls this.
    let scratch = unsafe { &mut *scratch };
    let (component, loose) = match step(scratch) {
        Ok(Step::Component(component)) => (component, false),
        Ok(Step::Loose(component)) => (component, true),
        Ok(Step::Crossed) => return AGAIN,
        Ok(Step::Root) => return DONE,
        Err(Unreadable) => return FAILED,
    };
    let length = hide(component.length);
    if length > COMPONENT_BYTES_MAX as u64 {
        return FAILED;
    }
    let end = scratch.path.start;
    if end < length + 1 {
        return FAILED;
    }
    let start = hide(end - length - 1);
    if start > TEXT_END {
        return FAILED;
    }
    // SAFETY: `start` is at most TEXT_END, and the text is a component longer.
    let slash = unsafe { scratch.path.bytes.as_mut_ptr().add(start as usize) };
    // SAFETY: as above.
    unsafe { *slash = b'/' };
    // SAFETY: as above.
    let place = unsafe { slash.add(1) };
    // SAFETY: `place` and `length` bytes behind it are inside of the text.
    let result =
        unsafe { bpf_probe_read_kernel(place.cast(), length as u32, component.name as *const _) };
    if result != 0 {
        return FAILED;
    }
    scratch.depth += 1;
    if loose {
        // Its name stands without a slash.
        scratch.path.start = start + 1;
        return DONE;
    }
    scratch.path.start = start;
    if scratch.depth > PATH_COMPONENTS_MAX as u64 {
        return FAILED;
    }
    AGAIN
}

/// Resolves the path of the target in the scratch buffer into its text. A path
/// that is too long, too deep or unreadable leaves no text and a flag.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_text(slot: u32, up_to: u32) -> i32 {
    let Some(scratch) = scratch::get(slot) else {
        return FAILED;
    };
    let (dentry, vfsmount) = {
        // SAFETY: a live map value, taken by the program that calls this.
        let state = unsafe { &mut *scratch };
        if up_to == UP_TO_TASK {
            state.end_dentry = state.task_root;
            state.end_mount = state.task_root_mount - u64::from(offset!(mount_vfsmount));
        }
        (state.target_dentry, state.target_mount)
    };
    let text = try_text(slot, scratch, dentry, vfsmount);
    // SAFETY: as above.
    unsafe { (*scratch).end_dentry = 0 };
    if text.is_ok() {
        return DONE;
    }
    // SAFETY: a live map value, taken by the program that calls this.
    let scratch = unsafe { &mut *scratch };
    scratch.path.start = TEXT_END;
    scratch.flags |= u64::from(FLAG_PATH_UNRESOLVED);
    FAILED
}

#[inline(always)]
fn try_text(
    slot: u32,
    scratch: *mut Scratch,
    dentry: u64,
    vfsmount: u64,
) -> Result<(), Unreadable> {
    start(scratch, dentry, vfsmount)?;
    try_rest(slot, scratch)
}

/// Goes on from where the walk is.
#[inline(always)]
fn try_rest(slot: u32, scratch: *mut Scratch) -> Result<(), Unreadable> {
    let mut steps = 0;
    while steps < STEPS_MAX {
        match walk_text_step(slot) {
            AGAIN => {}
            DONE => {
                root_is_a_slash(scratch);
                return Ok(());
            }
            _ => return Err(Unreadable),
        }
        steps += 1;
    }
    Err(Unreadable)
}

/// How far up a path goes.
pub const UP_TO_NAMESPACE: u32 = 0;
/// To the task's root directory.
pub const UP_TO_TASK: u32 = 1;

/// Makes a file that the verifier knows the target.
#[inline(always)]
pub fn aim_typed(scratch: *mut Scratch, file: Pointer, task: Pointer) {
    let dentry: u64 = field!(file, file_dentry);
    let mount: u64 = field!(file, file_mnt);
    let inode: u64 = field!(file, file_inode);
    let fs: Pointer = field!(task, task_fs);
    let root: u64 = field!(fs, fs_root_dentry);
    let root_mount: u64 = field!(fs, fs_root_mnt);
    // SAFETY: `scratch` is a live map value that this program took.
    let scratch = unsafe { &mut *scratch };
    scratch.target_dentry = dentry;
    scratch.target_mount = mount;
    scratch.target_inode = inode;
    scratch.task_root = root;
    scratch.task_root_mount = root_mount;
}

/// Appends the path of a name in a mount to the record. Returns its length.
#[inline(always)]
pub fn append_path(
    slot: u32,
    scratch: *mut Scratch,
    dentry: Pointer,
    mount: Pointer,
    task: Pointer,
) -> u32 {
    {
        // SAFETY: `scratch` is a live map value that this program took.
        let state = unsafe { &mut *scratch };
        state.target_dentry = dentry as u64;
        state.target_mount = mount as u64;
    }
    if root::is_namespace_root(task) {
        walk_typed(slot, scratch, dentry, mount, task);
    } else {
        walk_text(slot, UP_TO_NAMESPACE);
    }
    emit::append_text(slot)
}

/// Components that [`walk_typed`] passes by itself.
const TYPED_STEPS: u32 = 16;

/// Does what [`walk_text`] does for the target, `dentry` in `mount`, where that
/// is the mount of the task's root, which is the namespace's: without a helper
/// call for each pointer.
#[inline(always)]
pub fn walk_typed(
    slot: u32,
    scratch: *mut Scratch,
    mut dentry: Pointer,
    mount: Pointer,
    task: Pointer,
) {
    let fs: Pointer = field!(task, task_fs);
    let root_mount: Pointer = field!(fs, fs_root_mnt);
    let root: Pointer = field!(fs, fs_root_dentry);
    if mount != root_mount {
        walk_text(slot, UP_TO_NAMESPACE);
        return;
    }
    // SAFETY: `scratch` is a live map value that this program took.
    let state = unsafe { &mut *scratch };
    let mut start = TEXT_END;
    let mut steps = 0;
    while steps < TYPED_STEPS {
        if dentry == root {
            state.path.start = start;
            if steps == 0 {
                state.depth = 0;
                root_is_a_slash(scratch);
            }
            return;
        }
        let parent: Pointer = field!(dentry, dentry_parent);
        if parent == dentry {
            break;
        }
        let name: u64 = field!(dentry, dentry_name);
        let length: u32 = field!(dentry, dentry_name_length);
        let length = hide(u64::from(length));
        if length > COMPONENT_BYTES_MAX as u64 || start < length + 1 {
            break;
        }
        start = hide(start - length - 1);
        if start > TEXT_END {
            break;
        }
        // SAFETY: `start` is at most TEXT_END, and the text is a component
        // longer.
        let slash = unsafe { state.path.bytes.as_mut_ptr().add(start as usize) };
        // SAFETY: as above.
        unsafe { *slash = b'/' };
        // SAFETY: as above.
        let place = unsafe { slash.add(1) };
        // SAFETY: `place` and `length` bytes behind it are inside of the text.
        let result =
            unsafe { bpf_probe_read_kernel(place.cast(), length as u32, name as *const _) };
        if result != 0 {
            break;
        }
        dentry = parent;
        steps += 1;
    }
    // Deeper, longer, or without a directory: from the beginning.
    walk_text(slot, UP_TO_NAMESPACE);
}

/// The root itself has no component, but a name.
#[inline(always)]
fn root_is_a_slash(scratch: *mut Scratch) {
    // SAFETY: `scratch` is a live map value that this program took.
    let scratch = unsafe { &mut *scratch };
    if scratch.depth == 0 {
        scratch.path.start = TEXT_END - 1;
        scratch.path.bytes[TEXT_END as usize - 1] = b'/';
    }
}
