//! The files that attempts are about: made before a policy is there, and
//! looked at when the agent has gone.
//!
//! Looking at them while a policy is in force would need an exception in
//! every rule, and so rest on what is to be proven.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, major, minor, mkdirat, openat, statat};
use rustix::mount::{UnmountFlags, unmount};
use shrike_integration::proof::attempt::{Scene, State};
use shrike_integration::proof::case::{Case, EXEMPT, ROOT, SECRET, Subject, Trigger};
use shrike_integration::proof::cases;

use super::attempts;
use super::call::text;
use super::stage::Stage;

/// What attempts set on a file.
pub const ATTRIBUTE: &str = "user.proof";

/// A file's access control list (acl(5)).
pub const ACCESS_LIST: &str = "system.posix_acl_access";

/// Contents up to this size are told.
const CONTENTS_MAX: u64 = 256;

/// Makes every case's files anew and returns how they are.
pub fn prepare() -> Result<Vec<Scene>> {
    clear()?;
    fs::create_dir_all(EXEMPT)?;
    for program in ["cat", "ln", "mv", "rm"] {
        copy_program(&format!("/usr/bin/{program}"), program)?;
    }
    let own = std::env::current_exe().context("no name of its own")?;
    copy_program(&own.display().to_string(), "opener")?;
    for case in cases::all() {
        prepare_one(case).with_context(|| format!("cannot prepare {}", case.name))?;
    }
    inspect()
}

/// Returns how every case's files are.
pub fn inspect() -> Result<Vec<Scene>> {
    cases::all()
        .map(|case| look(case).with_context(|| format!("cannot look at {}", case.name)))
        .collect()
}

fn clear() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let below = format!("{ROOT}/");
    for line in mounts.lines().rev() {
        let Some(place) = line.split(' ').nth(1) else {
            bail!("/proc/self/mounts has a line without a place: {line}");
        };
        if place.starts_with(&below) {
            unmount(place, UnmountFlags::DETACH)
                .with_context(|| format!("cannot unmount {place}"))?;
        }
    }
    match fs::remove_dir_all(ROOT) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context("cannot clear the proof's folder")
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn copy_program(from: &str, name: &str) -> Result<()> {
    fs::copy(from, format!("{EXEMPT}/{name}")).with_context(|| format!("cannot copy {from}"))?;
    Ok(())
}

fn prepare_one(case: &Case) -> Result<()> {
    let attempt = attempts::find(case.name).context("nobody attempts it")?;
    let (folder, name) = make_way(&case.target())?;
    let contents = match case.trigger {
        Trigger::Exec => fs::read("/usr/bin/echo")?,
        Trigger::Open => SECRET.to_vec(),
    };
    let mode = match case.trigger {
        Trigger::Exec => 0o755,
        Trigger::Open => 0o644,
    };
    let file = openat(
        &folder,
        &name,
        OFlags::CREATE | OFlags::WRONLY | OFlags::EXCL | OFlags::CLOEXEC,
        Mode::from_raw_mode(mode),
    )?;
    let file = File::from(file);
    io::Write::write_all(&mut &file, &contents)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    drop(file);
    (attempt.prepare)(&Stage::of(case))
}

/// Makes every directory on the way to a file, step by step: the path may be
/// longer than any system call takes.
fn make_way(path: &str) -> Result<(OwnedFd, CString)> {
    walk(path, |folder, name| {
        match mkdirat(folder, name, Mode::from_raw_mode(0o755)) {
            Err(error) if error != rustix::io::Errno::EXIST => Err(error).context("cannot mkdir"),
            Ok(()) | Err(_) => Ok(()),
        }
    })
}

/// Walks to a file's directory; returns it with the file's name.
pub fn reach(path: &str) -> Result<(OwnedFd, CString)> {
    walk(path, |_, _| Ok(()))
}

fn walk(
    path: &str,
    mut before: impl FnMut(&OwnedFd, &CString) -> Result<()>,
) -> Result<(OwnedFd, CString)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut folder = openat(CWD, "/", flags, Mode::empty())?;
    let (way, last) = path.rsplit_once('/').context("a path from the root")?;
    for name in way.split('/').filter(|name| !name.is_empty()) {
        let name = text(name);
        before(&folder, &name)?;
        folder = openat(&folder, &name, flags, Mode::empty())
            .with_context(|| format!("cannot walk to {}", name.to_string_lossy()))?;
    }
    Ok((folder, text(last)))
}

fn look(case: &Case) -> Result<Scene> {
    let mut entries = std::collections::BTreeSet::new();
    list(Path::new(&case.folder()), "", &mut entries)?;
    Ok(Scene {
        case: case.name.to_owned(),
        target: state(&case.target())?,
        // Long and deep names are about opening only.
        entries: match case.subject {
            Subject::File(_) | Subject::Directory(..) | Subject::Command(_) => entries,
            Subject::Longest | Subject::Deep(_) | Subject::BeyondLongest => Default::default(),
        },
    })
}

/// Lists a folder and the folders in it, no further.
fn list(
    folder: &Path,
    prefix: &str,
    entries: &mut std::collections::BTreeSet<String>,
) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if prefix.is_empty() && entry.file_type()?.is_dir() {
            list(&entry.path(), &format!("{name}/"), entries)?;
        }
        entries.insert(name);
    }
    Ok(())
}

fn state(path: &str) -> Result<Option<State>> {
    let Ok((folder, name)) = reach(path) else {
        // A directory on the way was moved.
        return Ok(None);
    };
    let found = match statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        found => found?,
    };
    let mode = found.st_mode;
    let is_file = mode & libc::S_IFMT == libc::S_IFREG;
    let mut state = State {
        device: format!("{}:{}", major(found.st_dev), minor(found.st_dev)),
        inode: found.st_ino,
        links: found.st_nlink,
        mode,
        uid: found.st_uid,
        size: found.st_size.cast_unsigned(),
        contents: None,
        attribute: false,
    };
    if is_file && state.size <= CONTENTS_MAX {
        let file = openat(
            &folder,
            &name,
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut contents = Vec::new();
        File::from(file.try_clone()?).read_to_end(&mut contents)?;
        state.contents = Some(String::from_utf8_lossy(&contents).into_owned());
        let mut value = [0_u8; 64];
        state.attribute = [ATTRIBUTE, ACCESS_LIST]
            .iter()
            .any(|&name| rustix::fs::fgetxattr(file.as_fd(), name, &mut value[..]).is_ok());
    }
    Ok(Some(state))
}

/// A file's handle, as open_by_handle_at(2) takes it.
pub fn handle(path: &CString) -> Result<Vec<u8>> {
    const BYTES_MAX: u32 = 128;
    let head = size_of::<u32>() + size_of::<i32>();
    let mut handle = vec![0; head + BYTES_MAX as usize];
    handle[..4].copy_from_slice(&BYTES_MAX.to_ne_bytes());
    let mut mount = 0;
    // SAFETY: the kernel writes at most as many bytes as the handle says that
    // it has room for, behind its head.
    let result = unsafe {
        libc::name_to_handle_at(
            CWD.as_raw_fd(),
            path.as_ptr(),
            handle.as_mut_ptr().cast(),
            &raw mut mount,
            0,
        )
    };
    ensure!(
        result == 0,
        "name_to_handle_at: {}",
        io::Error::last_os_error()
    );
    Ok(handle)
}
