//! Random names in random trees: what a file is called is resolved by this
//! process itself, component by component (`realpath`), and compared with
//! what the events say.
//!
//! Only opens for reading count. Nothing else here opens for reading, so the
//! events of a process are its opens, one by one and in order.

use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use rustix::fs::{Mode, OFlags, fstat, major, minor, open};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use rustix::process::{chdir, chroot, getpid};
use shrike_integration::proof::attempt::Ended;
use shrike_integration::proof::fuzz::Opened;

use super::attempts::own_mounts;
use super::call::{Call, Entry, text};
use super::child;
use shrike_integration::random::Random;

/// Where the trees are.
const ROOT: &str = "/srv/fuzz";

/// Few names, so that random paths meet: each may be a file, a directory, a
/// link or a mount, at any depth.
const NAMES: [&str; 5] = ["a", "b", "c", "dd", "e e"];

const CHANGES_PER_ROUND: usize = 30;
const OPENS_PER_ROUND: usize = 40;

/// A tree is thrown away after so many rounds: deep down there are only dead
/// links left.
const ROUNDS_PER_TREE: usize = 8;

/// Opens at least `opens` names and prints what each was.
pub fn run(seed: u64, opens: usize) -> Result<()> {
    own_mounts()?;
    let mut random = Random::new(seed);
    let mut known = Vec::new();
    let mut done = 0;
    let mut round = 0;
    while done < opens {
        if round % ROUNDS_PER_TREE == 0 {
            // A mount of its own: what was mounted in it goes with it.
            if round > 0 {
                chdir("/")?;
                unmount(ROOT, UnmountFlags::DETACH)?;
            }
            fs::create_dir_all(ROOT)?;
            let kind = if random.once_in(2) {
                Some("tmpfs")
            } else {
                None
            };
            plant(kind)?;
            known = vec![ROOT.to_owned()];
        }
        round += 1;
        // The round's process starts where this one stood before the changes.
        let _ = chdir(&*place(&mut random, &known));
        // Changes as often as not hit nothing: that is what chance is for.
        for _ in 0..CHANGES_PER_ROUND {
            let _ = change(&mut random, &mut known);
        }
        let seed = random.below(usize::MAX) as u64;
        let child = child::fork(|| look_around(&mut Random::new(seed), &known))?;
        let ended = child::wait(child)?;
        ensure!(ended == Ended::Code(0), "a round ended with {ended:?}");
        done += OPENS_PER_ROUND;
    }
    chdir("/")?;
    unmount(ROOT, UnmountFlags::DETACH)?;
    Ok(())
}

/// An empty tree, in memory or on the disk.
fn plant(kind: Option<&str>) -> Result<()> {
    match kind {
        Some(kind) => mount(kind, ROOT, kind, MountFlags::empty(), None)?,
        None => {
            let there = format!("{ROOT}.disk");
            let _ = fs::remove_dir_all(&there);
            fs::create_dir_all(&there)?;
            mount_bind(&there, ROOT)?;
        }
    }
    Ok(())
}

/// Changes something somewhere, if it can be.
fn change(random: &mut Random, known: &mut Vec<String>) -> Result<()> {
    let here = new_place(random, known);
    let there = place(random, known);
    match random.below(16) {
        0..=4 | 12 => fs::create_dir(&here)?,
        5..=7 => {
            fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(&here)?;
        }
        8 => std::os::unix::fs::symlink(there, &here)?,
        9 => std::os::unix::fs::symlink(relative(random), &here)?,
        10 => fs::hard_link(there, &here)?,
        11 => fs::rename(there, &here)?,
        13 => mount_bind(&*there, &*mount_point(random, known)?)?,
        // It hides what was there, which is most of the tree sometimes.
        14 if random.once_in(3) => {
            let point = mount_point(random, known)?;
            mount("tmpfs", &*point, "tmpfs", MountFlags::empty(), None)?;
        }
        15 if random.once_in(2) => {
            unmount(&*mount_point(random, known)?, UnmountFlags::DETACH)?;
        }
        14 | 15 => {
            Entry::Native.call(Call::Unlink, &[(&text(there)).into()])?;
        }
        _ => unreachable!("below 16"),
    }
    known.push(here);
    Ok(())
}

/// Something to mount on, or to unmount. A link may lead out of the tree; a
/// mount there would hide it.
fn mount_point(random: &mut Random, known: &[String]) -> Result<String> {
    let point = place(random, known);
    let real = real_path(&point)?;
    ensure!(real.starts_with(&format!("{ROOT}/")), "{real} is outside");
    Ok(point)
}

/// A place in the tree where something may be.
fn place(random: &mut Random, known: &[String]) -> String {
    if random.once_in(8) {
        return new_place(random, known);
    }
    known[random.below(known.len())].clone()
}

/// A place in the tree where something may come to be.
fn new_place(random: &mut Random, known: &[String]) -> String {
    let parent = &known[random.below(known.len())];
    format!("{parent}/{}", random.one_of(&NAMES))
}

/// A way from somewhere to somewhere.
fn relative(random: &mut Random) -> String {
    let mut parts = Vec::new();
    for _ in 0..=random.below(5) {
        let part = match random.below(10) {
            0 | 1 => "..",
            2 => ".",
            // Doubled slashes.
            3 if !parts.is_empty() => "",
            _ => random.one_of(&NAMES),
        };
        parts.push(part);
    }
    parts.join("/")
}

/// Opens names from somewhere in the tree, perhaps with another root.
fn look_around(random: &mut Random, known: &[String]) -> Result<()> {
    // Where it stood may have been moved, which is fine, or cut off.
    if !stands_where_it_seems() {
        chdir("/")?;
    }
    let mut root = String::new();
    if random.once_in(3) {
        let place = place(random, known);
        if let Ok(real) = real_path(&place)
            && chroot(&*real).is_ok()
        {
            root = real;
            chdir("/")?;
        }
    }
    // With another root, what lies below it has a shorter name.
    let known: Vec<String> = known
        .iter()
        .map(|path| match path.strip_prefix(&root) {
            Some(inside) if inside.starts_with('/') => inside.to_owned(),
            Some(_) | None => path.clone(),
        })
        .collect();
    let mut opened = Vec::new();
    for _ in 0..OPENS_PER_ROUND {
        opened.push(open_one(random, &known, &root)?);
    }
    let mut out = std::io::stdout().lock();
    for opened in opened {
        serde_json::to_writer(&mut out, &opened)?;
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(())
}

/// Asks the kernel itself: a C library that is told `(unreachable)` searches
/// for the path, and opens directories on the way.
fn stands_where_it_seems() -> bool {
    let (Ok(path), Ok(here)) = (rustix::process::getcwd(Vec::new()), fs::metadata(".")) else {
        return false;
    };
    let path = std::path::Path::new(std::ffi::OsStr::from_bytes(path.to_bytes()));
    path.is_absolute()
        && fs::metadata(path)
            .is_ok_and(|there| (there.dev(), there.ino()) == (here.dev(), here.ino()))
}

/// From where a name is resolved.
enum From {
    Root,
    Working,
    /// A descriptor, and the path of its directory.
    Descriptor(std::os::fd::OwnedFd, String),
}

/// Opens a name for reading and says what it is.
fn open_one(random: &mut Random, known: &[String], root: &str) -> Result<Opened> {
    let (from, asked) = start(random, known);
    let descriptor = match &from {
        From::Root | From::Working => libc::AT_FDCWD,
        From::Descriptor(descriptor, _) => std::os::fd::AsRawFd::as_raw_fd(descriptor),
    };
    let name = text(asked.clone());
    let result = Entry::Native.call(
        Call::Openat,
        &[
            descriptor.into(),
            (&name).into(),
            (libc::O_RDONLY | libc::O_NONBLOCK | libc::O_CLOEXEC).into(),
        ],
    );
    let mut opened = Opened {
        pid: getpid().as_raw_nonzero().get().cast_unsigned(),
        directory: descriptor,
        asked,
        ..Opened::default()
    };
    let file = match result {
        Ok(descriptor) => descriptor,
        Err(error) => {
            opened.error = error.raw_os_error();
            return Ok(opened);
        }
    };
    // SAFETY: it was opened a moment ago and nobody else has it.
    let file = unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(file) };
    let found = fstat(&file)?;
    opened.device = format!("{}:{}", major(found.st_dev), minor(found.st_dev));
    opened.inode = found.st_ino;

    let whole = match &from {
        From::Root | From::Working => opened.asked.clone(),
        From::Descriptor(_, directory) => format!("{directory}/{}", opened.asked),
    };
    let real = real_path(&whole).with_context(|| format!("realpath {whole}"))?;
    let there = fs::metadata(&real)?;
    ensure!(
        (there.dev(), there.ino()) == (found.st_dev, found.st_ino),
        "realpath finds another file than open: {whole} is {real}"
    );
    opened.path = match (root, &*real) {
        ("" | "/", real) => real.to_owned(),
        (root, "/") => root.to_owned(),
        (root, real) => format!("{root}{real}"),
    };
    Ok(opened)
}

/// Chooses a start and a name to open from there.
fn start(random: &mut Random, known: &[String]) -> (From, String) {
    let directory = place(random, known);
    match random.below(4) {
        0 => (From::Root, slashed(random, &directory)),
        1 => {
            let further = relative(random);
            (From::Root, format!("{directory}/{further}"))
        }
        2 => {
            // Where it cannot go, it stays.
            let _ = chdir(&*directory);
            (From::Working, below(random, known, &directory))
        }
        _ => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = open(&*directory, flags, Mode::empty())
                .map_err(anyhow::Error::from)
                .and_then(|descriptor| Ok((descriptor, real_path(&directory)?)));
            match opened {
                Ok((descriptor, real)) => {
                    let from = From::Descriptor(descriptor, real);
                    (from, below(random, known, &directory))
                }
                Err(_) => (From::Root, directory),
            }
        }
    }
}

/// A name relative to a directory: of something below it, or any.
fn below(random: &mut Random, known: &[String], directory: &str) -> String {
    let names: Vec<&str> = known
        .iter()
        .filter_map(|path| path.strip_prefix(directory)?.strip_prefix('/'))
        .collect();
    if names.is_empty() || random.once_in(3) {
        return relative(random);
    }
    let name = random.one_of(&names);
    slashed(random, name)
}

/// The same path with more slashes.
fn slashed(random: &mut Random, path: &str) -> String {
    let mut longer = String::new();
    for byte in path.chars() {
        longer.push(byte);
        if byte == '/' && random.once_in(3) {
            longer.push_str(random.one_of(&["/", "./", "//"]));
        }
    }
    longer
}

/// realpath(3): resolves by itself, link by link.
fn real_path(path: &str) -> Result<String, Errno> {
    let real: Result<PathBuf, _> = fs::canonicalize(path);
    let real = real.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    real.into_os_string()
        .into_string()
        .map_err(|_| Errno::ILSEQ)
}
