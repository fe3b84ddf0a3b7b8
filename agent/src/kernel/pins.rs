//! What outlives the agent: programs, their links and their maps, pinned in
//! the BPF file system.
//!
//! ```text
//! /sys/fs/bpf/shrike/                         locked by the agent that owns it
//!   sensor_<digest>_<attachment>_<number>/
//!     prog_<program>   link_<program>   map_<map>
//! ```
//!
//! The digest is over the object and everything that is compiled into it, so
//! a folder that bears the wanted one can be taken over as it is. It gets its
//! name when it is complete; one that is half made is called `new_…`, and the
//! next agent clears it away. The kernel keeps names with a dot for itself.
//!
//! The lock is on the folder and goes with the process that holds it, however
//! that ends.

use std::{
    ffi::CString,
    fs::{self, File, TryLockError},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::{ffi::OsStrExt as _, fs::DirBuilderExt as _},
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use aya::maps::{Map, MapData, PerCpuArray};

use super::{
    Attachment,
    counters::{self, CpuCounters},
    hooks,
    programs::{Link, Loaded, Programs},
};
use crate::error::chain;

/// Where the agent of a machine has its pins.
pub const PINS: &str = "/sys/fs/bpf/shrike";

/// What cannot be done with the pins.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// There is no BPF file system, and none can be mounted.
    #[error(
        "no BPF file system is mounted above {path}, and the agent may not mount one: mount -t bpf bpf /sys/fs/bpf"
    )]
    NoBpfFs {
        /// Where the pins were to be.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another agent owns them.
    #[error("another agent runs on this machine and owns {path}")]
    Owned {
        /// The folder.
        path: PathBuf,
    },
    /// A folder or a pin cannot be made, read or removed.
    #[error("cannot {operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A program, link or map cannot be pinned or opened.
    #[error("cannot {operation} the pin {path}")]
    Bpf {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A program that was loaded cannot be attached.
    #[error("cannot attach the program {program}")]
    Attach {
        /// Its name.
        program: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A kernel before 5.15 attaches kprobes without a link.
    #[error(
        "this kernel cannot pin kprobes (it needs Linux 5.15): enforcement ends with the agent"
    )]
    NotPinnable,
}

/// The folder of the pins, owned by this process.
#[derive(Debug)]
pub struct Pins {
    root: PathBuf,
    _lock: File,
}

/// A folder with one sensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The folder.
    pub path: PathBuf,
    /// What its programs were made from.
    pub digest: String,
    /// How its decisions are attached.
    pub attachment: Attachment,
}

/// What a folder holds.
pub struct Pinned {
    /// Programs with their links; one that is to have a link and has none is
    /// left out.
    pub programs: Programs,
    /// Maps by their names, with a dash for each dot.
    pub maps: Vec<(String, Map)>,
}

impl Pins {
    /// Takes the folder, and makes it and the file system where they are
    /// missing.
    ///
    /// # Errors
    /// [`PinError`]: another agent has it, or it cannot be made.
    pub fn own(root: &Path) -> Result<Self, PinError> {
        if !root.exists() {
            mount_above(root)?;
            make_folder(root)?;
        }
        let pins = Self::lock(root)?;
        for entry in pins.folders()? {
            if name_of(&entry).starts_with("new_") {
                remove(&entry)?;
            }
        }
        Ok(pins)
    }

    /// Takes the folder if there is one.
    ///
    /// # Errors
    /// As [`own`](Self::own).
    pub fn own_existing(root: &Path) -> Result<Option<Self>, PinError> {
        if root.exists() {
            Self::lock(root).map(Some)
        } else {
            Ok(None)
        }
    }

    fn lock(root: &Path) -> Result<Self, PinError> {
        let folder = File::open(root).map_err(io_error("open", root))?;
        match folder.try_lock() {
            Ok(()) => Ok(Self {
                root: root.to_owned(),
                _lock: folder,
            }),
            Err(TryLockError::WouldBlock) => Err(PinError::Owned {
                path: root.to_owned(),
            }),
            Err(TryLockError::Error(source)) => Err(io_error("lock", root)(source)),
        }
    }

    /// Returns each sensor's folder.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn places(&self) -> Result<Vec<Place>, PinError> {
        Place::below(&self.root)
    }

    fn folders(&self) -> Result<Vec<PathBuf>, PinError> {
        list(&self.root)
    }

    /// Pins a sensor: from here on it does not need this process.
    ///
    /// # Errors
    /// [`PinError`]; what was pinned until then is removed.
    pub fn pin<'a>(
        &self,
        digest: &str,
        attachment: Attachment,
        programs: &mut Programs,
        maps: impl Iterator<Item = (&'a str, &'a Map)>,
    ) -> Result<Place, PinError> {
        // Of one that was tampered with there may be another.
        let path = (0..)
            .map(|number| {
                let name = format!("sensor_{digest}_{}_{number}", attachment.as_str());
                self.root.join(name)
            })
            .find(|path| !path.exists())
            .expect("a folder has an end");
        let new = self.root.join(format!("new_{digest}"));
        make_folder(&new)?;
        let result = pin_into(&new, programs, maps)
            .and_then(|()| fs::rename(&new, &path).map_err(io_error("rename", &new)));
        if let Err(error) = result {
            let _ = remove(&new);
            return Err(error);
        }
        Ok(Place {
            path,
            digest: digest.to_owned(),
            attachment,
        })
    }

    /// Removes everything, and says what that was. When it returns, no
    /// program runs any more.
    ///
    /// # Errors
    /// [`PinError`] for what cannot be removed.
    pub fn remove_all(self) -> Result<Vec<PathBuf>, PinError> {
        let mut removed = Vec::new();
        let mut held = Vec::new();
        for folder in self.folders()? {
            let links = list(&folder)?
                .into_iter()
                .filter(|pin| name_of(pin).starts_with("link_"));
            held.extend(links.filter_map(|pin| open_descriptor(&pin).ok()));
            removed.extend(remove(&folder)?);
        }
        let programs: Vec<u32> = held.iter().filter_map(program_number).collect();
        wait_for_pins();
        drop(held);
        wait_until_gone(&programs);
        fs::remove_dir(&self.root).map_err(io_error("remove", &self.root))?;
        removed.push(self.root);
        Ok(removed)
    }
}

impl Place {
    /// Returns each sensor's folder below one, whoever owns them.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn below(root: &Path) -> Result<Vec<Self>, PinError> {
        Ok(list(root)?.into_iter().filter_map(Self::named).collect())
    }

    fn named(path: PathBuf) -> Option<Self> {
        let rest = name_of(&path).strip_prefix("sensor_")?;
        let (digest, rest) = rest.split_once('_')?;
        let (attachment, _) = rest.split_once('_')?;
        Some(Self {
            digest: digest.to_owned(),
            attachment: Attachment::ALL
                .into_iter()
                .find(|one| one.as_str() == attachment)?,
            path,
        })
    }

    /// Reads what each hook counted on each CPU; nothing is taken over.
    ///
    /// # Errors
    /// [`PinError`] when the counters are not there or cannot be read.
    pub fn counted(&self) -> Result<Vec<CpuCounters>, PinError> {
        let path = self.path.join("map_COUNTERS");
        let map = MapData::from_pin(&path)
            .and_then(Map::from_map_data)
            .and_then(PerCpuArray::try_from)
            .map_err(bpf_error("open", &path))?;
        counters::read_by_cpu(&map).map_err(bpf_error("read", &path))
    }

    /// Opens what is pinned here.
    ///
    /// # Errors
    /// [`PinError`] when a pin is not what its name says.
    pub fn open(&self) -> Result<Pinned, PinError> {
        let mut loaded = Vec::new();
        let mut maps = Vec::new();
        for path in list(&self.path)? {
            let name = name_of(&path);
            if let Some(name) = name.strip_prefix("map_") {
                let map = MapData::from_pin(&path)
                    .and_then(Map::from_map_data)
                    .map_err(bpf_error("open", &path))?;
                maps.push((name.to_owned(), map));
            } else if let Some(name) = name.strip_prefix("prog_") {
                let (name, judges, program) =
                    hooks::open_pinned(name, &path).map_err(bpf_error("open", &path))?;
                let path = self.link(name);
                let link = if path.exists() {
                    let link = open_descriptor(&path).map_err(io_error("open", &path))?;
                    Some(Link::Descriptor(link))
                } else if judges.is_some() {
                    None
                } else {
                    continue;
                };
                loaded.push(Loaded {
                    name,
                    program,
                    link,
                    judges,
                    instructions: None,
                });
            }
        }
        Ok(Pinned {
            programs: Programs::new(loaded),
            maps,
        })
    }

    /// Returns where the link of a program is pinned.
    pub fn link(&self, program: &str) -> PathBuf {
        self.path.join(format!("link_{program}"))
    }

    /// Holds everything that is pinned here, to be looked after.
    ///
    /// # Errors
    /// [`PinError`] when a pin cannot be opened.
    pub fn guard(&self) -> Result<Guard, PinError> {
        let held = list(&self.path)?
            .into_iter()
            .map(|path| {
                let object = open_descriptor(&path).map_err(io_error("open", &path))?;
                let number = number_of(&object).map_err(io_error("examine", &path))?;
                Ok(Held {
                    path,
                    object,
                    number,
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Guard {
            folder: self.path.clone(),
            held,
        })
    }

    /// Removes the links: the programs are detached when nobody holds them
    /// any more. The maps stay.
    ///
    /// # Errors
    /// [`PinError`] for what cannot be removed.
    pub fn remove_links(&self) -> Result<(), PinError> {
        for pin in list(&self.path)? {
            if name_of(&pin).starts_with("link_") {
                fs::remove_file(&pin).map_err(io_error("remove", &pin))?;
            }
        }
        Ok(())
    }

    /// Removes the folder and what is in it.
    ///
    /// # Errors
    /// [`PinError`] for what cannot be removed.
    pub fn remove(&self) -> Result<(), PinError> {
        remove(&self.path).map(|_| ())
    }
}

/// The pins of a sensor, held by the agent that looks after them: what is
/// removed from the folder still exists, and can be pinned again.
pub struct Guard {
    folder: PathBuf,
    held: Vec<Held>,
}

struct Held {
    path: PathBuf,
    object: OwnedFd,
    /// The kernel's number of the program, link or map.
    number: String,
}

impl Guard {
    /// Makes pins again that somebody removed or replaced, and returns what
    /// that was.
    pub fn mend(&self) -> Option<String> {
        let is_there = |held: &&Held| {
            open_descriptor(&held.path)
                .and_then(|object| number_of(&object))
                .is_ok_and(|number| number == held.number)
        };
        let gone: Vec<&Held> = self.held.iter().filter(|held| !is_there(held)).collect();
        let first = gone.first()?;
        let result = make_folder(&self.folder).and_then(|()| {
            gone.iter().try_for_each(|held| {
                // What is there is not ours.
                let _ = fs::remove_file(&held.path);
                pin_descriptor(held.object.as_fd(), &held.path)
                    .map_err(io_error("make", &held.path))
            })
        });
        Some(format!(
            "{} pins were removed or replaced, among them {}; {}",
            gone.len(),
            name_of(&first.path),
            match result {
                Ok(()) => "they were made again".to_owned(),
                Err(error) => format!("they could not be made again: {}", chain(&error)),
            }
        ))
    }
}

/// Returns the kernel's number of a program, link or map: a link's own comes
/// before its program's.
fn number_of(object: &OwnedFd) -> io::Result<String> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", object.as_raw_fd()))?;
    let numbers: Vec<&str> = info
        .lines()
        .filter(|line| {
            ["link_id:", "prog_id:", "map_id:"]
                .iter()
                .any(|name| line.starts_with(name))
        })
        .collect();
    if numbers.is_empty() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(numbers.join(" "))
}

/// Waits until the kernel has let go of pins that were removed: whoever holds
/// a link then is the last, and closing it detaches the program at once.
pub(super) fn wait_for_pins() {
    /// Some grace periods of RCU.
    const PAUSE: Duration = Duration::from_millis(300);
    thread::sleep(PAUSE);
}

/// Returns the kernel's number of a link's program.
fn program_number(link: &OwnedFd) -> Option<u32> {
    let numbers = number_of(link).ok()?;
    let (_, number) = numbers.split_once("prog_id:")?;
    number.split_whitespace().next()?.parse().ok()
}

/// Waits until programs are gone, as far as this process may ask.
fn wait_until_gone(programs: &[u32]) {
    const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
    /// Far longer than the grace periods of the slowest machine take.
    const LONGEST: Duration = Duration::from_secs(30);
    const PAUSE: Duration = Duration::from_millis(20);
    let until = Instant::now() + LONGEST;
    for program in programs {
        // `union bpf_attr` of this command begins with the number.
        let arguments = [*program, 0, 0, 0];
        while Instant::now() < until {
            match call(BPF_PROG_GET_FD_BY_ID, &arguments) {
                // SAFETY: the kernel has just made it, for us alone.
                Ok(descriptor) => drop(unsafe { OwnedFd::from_raw_fd(descriptor) }),
                Err(_) => break,
            }
            thread::sleep(PAUSE);
        }
    }
}

fn pin_into<'a>(
    folder: &Path,
    programs: &mut Programs,
    maps: impl Iterator<Item = (&'a str, &'a Map)>,
) -> Result<(), PinError> {
    for (name, map) in maps {
        let path = folder.join(format!("map_{}", name.replace('.', "-")));
        map.pin(&path).map_err(bpf_error("make", &path))?;
    }
    for loaded in programs.iter() {
        let path = folder.join(format!("prog_{}", loaded.name));
        pin_descriptor(loaded.program.as_fd(), &path).map_err(io_error("make", &path))?;
    }
    programs.pin_links(|name| folder.join(format!("link_{name}")))
}

/// Mounts a BPF file system where the folder's parent is not in one.
fn mount_above(root: &Path) -> Result<(), PinError> {
    /// `BPF_FS_MAGIC`, include/uapi/linux/magic.h.
    const BPF_FS_MAGIC: u32 = 0xcafe_4a11;
    let parent = root.parent().unwrap_or(root);
    let error = |source: io::Error| PinError::NoBpfFs {
        path: root.to_owned(),
        source,
    };
    let system = rustix::fs::statfs(parent).map_err(|errno| error(errno.into()))?;
    if system.f_type as u32 == BPF_FS_MAGIC {
        return Ok(());
    }
    let target = c_path(parent).map_err(error)?;
    // SAFETY: the strings live until the call returns; it takes no data.
    let result = unsafe {
        libc::mount(
            c"bpf".as_ptr(),
            target.as_ptr(),
            c"bpf".as_ptr(),
            libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
            std::ptr::null(),
        )
    };
    if result != 0 {
        return Err(error(io::Error::last_os_error()));
    }
    tracing::info!(at = %parent.display(), "mounted a BPF file system");
    Ok(())
}

/// What `BPF_OBJ_PIN` and `BPF_OBJ_GET` are told (`union bpf_attr`,
/// include/uapi/linux/bpf.h).
#[repr(C)]
struct PinArguments {
    path: u64,
    descriptor: u32,
    flags: u32,
}

/// Pins a program or a link.
pub(super) fn pin_descriptor(descriptor: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    const BPF_OBJ_PIN: libc::c_int = 6;
    bpf(BPF_OBJ_PIN, path, descriptor.as_raw_fd()).map(|_| ())
}

/// Opens what is pinned.
pub(super) fn open_descriptor(path: &Path) -> io::Result<OwnedFd> {
    const BPF_OBJ_GET: libc::c_int = 7;
    let descriptor = bpf(BPF_OBJ_GET, path, 0)?;
    // SAFETY: the kernel has just made it, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn bpf(command: libc::c_int, path: &Path, descriptor: RawFd) -> io::Result<RawFd> {
    let path = c_path(path)?;
    let arguments = PinArguments {
        path: path.as_ptr() as u64,
        descriptor: descriptor as u32,
        flags: 0,
    };
    call(command, &arguments)
}

/// Calls bpf(2) with arguments that hold nothing but what the command reads.
pub(super) fn call<T>(command: libc::c_int, arguments: &T) -> io::Result<RawFd> {
    // SAFETY: the kernel reads the arguments, and what they point to, only
    // until the call returns.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            &raw const *arguments,
            size_of::<T>(),
        )
    };
    if result >= 0 {
        Ok(result as RawFd)
    } else {
        Err(io::Error::last_os_error())
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

fn make_folder(path: &Path) -> Result<(), PinError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(io_error("make", path))
}

/// Removes a sensor's folder, its links first, and returns what it was.
fn remove(folder: &Path) -> Result<Vec<PathBuf>, PinError> {
    let mut pins = list(folder)?;
    pins.sort_by_key(|pin| !name_of(pin).starts_with("link_"));
    for pin in &pins {
        fs::remove_file(pin).map_err(io_error("remove", pin))?;
    }
    fs::remove_dir(folder).map_err(io_error("remove", folder))?;
    pins.push(folder.to_owned());
    Ok(pins)
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, PinError> {
    let mut entries = fs::read_dir(folder)
        .and_then(|entries| {
            entries
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<io::Result<Vec<_>>>()
        })
        .map_err(io_error("read", folder))?;
    entries.sort();
    Ok(entries)
}

fn name_of(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}

pub(super) fn io_error(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> PinError {
    let path = path.to_owned();
    move |source| PinError::Io {
        operation,
        path: path.clone(),
        source,
    }
}

pub(super) fn bpf_error<E: std::error::Error + Send + Sync + 'static>(
    operation: &'static str,
    path: &Path,
) -> impl Fn(E) -> PinError {
    let path = path.to_owned();
    move |source| PinError::Bpf {
        operation,
        path: path.clone(),
        source: Box::new(source),
    }
}
