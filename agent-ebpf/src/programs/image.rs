//! What a new image starts with: credentials, namespaces, terminal, working
//! directory, script, and on request the names of its variables.

use shrike_agent_ebpf::record::{
    Call, FLAG_DELETED, IMAGE_ENVIRONMENT_TRUNCATED, IMAGE_HAS_BEFORE, IMAGE_HAS_ENVIRONMENT,
    IMAGE_HAS_SCRIPT, Image,
};

use crate::{
    emit, environment,
    file_open::identity,
    memory::{Unreadable, read},
    offsets::{EXEC_ENVIRONMENT, offset, setting},
    progress::ExecInProgress,
    scratch::Scratch,
    typed::{Pointer, field, optional_field},
    walk,
};

/// `PIDTYPE_SID`, include/linux/pid_types.h: the session's place among a
/// group's numbers.
const SESSION: u32 = 3;

/// Nobody logged in: `INVALID_UID`.
const NOBODY: u32 = u32::MAX;

/// Reads the number of a namespace.
macro_rules! namespace {
    ($base:expr, $pointer:ident, $number:ident) => {
        match optional_field!($base, $pointer) {
            Some::<u64>(namespace) => optional_field!(namespace, $number).unwrap_or(0),
            None => 0,
        }
    };
}
/// Writes what needs no bytes behind the body. Returns flags about the
/// executable.
#[inline(always)]
pub fn describe(image: &mut Image, task: Pointer, exec: Option<&ExecInProgress>) -> u32 {
    image.padding = 0;
    image.facts = 0;
    image.permitted_before = 0;
    image.effective_before = 0;
    if let Some(exec) = exec {
        image.facts |= IMAGE_HAS_BEFORE;
        image.permitted_before = exec.before.permitted;
        image.effective_before = exec.before.effective;
    }
    let cred: Pointer = field!(task, task_cred);
    image.permitted = field!(cred, cred_permitted);
    image.effective = field!(cred, cred_effective);
    image.saved_uid = field!(cred, cred_suid);
    image.saved_gid = field!(cred, cred_sgid);
    image.fs_uid = field!(cred, cred_fsuid);
    image.fs_gid = field!(cred, cred_fsgid);
    image.login_uid = optional_field!(task, task_loginuid).unwrap_or(NOBODY);
    image.session_id = session(task as u64).unwrap_or(0);
    image.pid_namespace = pid_namespace(task as u64).unwrap_or(0);
    image.user_namespace = namespace!(cred, cred_user_ns, user_ns_inum);
    let nsproxy: Pointer = field!(task, task_nsproxy);
    image.network_namespace = namespace!(nsproxy, nsproxy_net_ns, net_ns_inum);
    image.uts_namespace = namespace!(nsproxy, nsproxy_uts_ns, uts_ns_inum);
    image.ipc_namespace = namespace!(nsproxy, nsproxy_ipc_ns, ipc_ns_inum);
    image.cgroup_namespace = namespace!(nsproxy, nsproxy_cgroup_ns, cgroup_ns_inum);

    let mm: Pointer = field!(task, task_mm);
    let file: Pointer = field!(mm, mm_exe_file);
    let inode: Pointer = field!(file, file_inode);
    image.file_mode = field!(inode, inode_mode);
    image.links = field!(inode, inode_links);
    image.owner_uid = field!(inode, inode_uid);
    image.owner_gid = field!(inode, inode_gid);
    let dentry: Pointer = field!(file, file_dentry);
    let parent: Pointer = field!(dentry, dentry_parent);
    let hash: u64 = field!(dentry, dentry_hash);
    if hash == 0 && parent != dentry {
        return u32::from(FLAG_DELETED);
    }
    0
}

/// Returns the session's number in the first PID namespace.
#[inline(always)]
fn session(task: u64) -> Result<u32, Unreadable> {
    let signal = read::<u64>(task, offset!(task_signal))?;
    let session = read::<u64>(signal, offset!(signal_pids) + SESSION * POINTER)?;
    read(session, offset!(pid_numbers) + offset!(upid_number))
}

const POINTER: u32 = size_of::<u64>() as u32;

/// Returns the number of the PID namespace that the task is in; `nsproxy` has
/// the one of its children.
#[inline(always)]
fn pid_namespace(task: u64) -> Result<u32, Unreadable> {
    if offset!(pid_ns_inum) == shrike_agent_ebpf::offset::ABSENT {
        return Ok(0);
    }
    let pid = read::<u64>(task, offset!(task_thread_pid))?;
    let level = read::<u32>(pid, offset!(pid_level))?;
    let stride = offset!(upid_ns) + POINTER;
    let innermost = pid + u64::from(offset!(pid_numbers)) + u64::from(level) * u64::from(stride);
    let namespace = read::<u64>(innermost, offset!(upid_ns))?;
    read(namespace, offset!(pid_ns_inum))
}

/// Appends the bytes behind the body.
#[inline(always)]
pub fn append(
    slot: u32,
    scratch: *mut Scratch,
    image: &mut Image,
    exec: &ExecInProgress,
    task: Pointer,
    file: Pointer,
) {
    image.script_length = 0;
    image.script_inode = 0;
    image.script_device = 0;
    // The kernel lets go of a script's file when it finds the interpreter, but
    // keeps it until the task returns to user space; one that never was there
    // keeps nothing.
    if exec.first_file != 0 && exec.first_file != file as u64 && exec.call != Call::None as u32 {
        image.facts |= IMAGE_HAS_SCRIPT;
        (image.script_device, image.script_inode) = identity(exec.first_file);
        walk::aim(scratch, exec.first_file);
        walk::walk_text(slot, walk::UP_TO_NAMESPACE);
        image.script_length = emit::append_text(slot) as u16;
    }
    let fs: Pointer = field!(task, task_fs);
    let directory: Pointer = field!(fs, fs_pwd_dentry);
    let mount: Pointer = field!(fs, fs_pwd_mnt);
    image.directory_length = walk::append_path(slot, scratch, directory, mount, task) as u16;
    image.tty_length = append_tty(slot, task as u64).unwrap_or(0) as u16;
    image.environment_length = 0;
    if setting!(EXEC_ENVIRONMENT) != 0 {
        let (length, whole) = environment::append(slot, task as u64).unwrap_or((0, false));
        image.environment_length = length as u16;
        image.facts |= IMAGE_HAS_ENVIRONMENT;
        if !whole {
            image.facts |= IMAGE_ENVIRONMENT_TRUNCATED;
        }
    }
}

/// Appends the name of the controlling terminal.
#[inline(always)]
fn append_tty(slot: u32, task: u64) -> Result<u32, Unreadable> {
    if offset!(signal_tty) == shrike_agent_ebpf::offset::ABSENT
        || offset!(tty_name) == shrike_agent_ebpf::offset::ABSENT
    {
        return Ok(0);
    }
    let signal = read::<u64>(task, offset!(task_signal))?;
    let tty = read::<u64>(signal, offset!(signal_tty))?;
    if tty == 0 {
        return Ok(0);
    }
    Ok(emit::append_kernel_string(
        slot,
        tty + u64::from(offset!(tty_name)),
    ))
}
