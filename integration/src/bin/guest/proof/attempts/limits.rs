//! Names that are long, deep, or change while they are read.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;

use anyhow::{Result, ensure};
use rustix::io::Errno;
use shrike_integration::proof::case::SECRET;

use super::super::call::{Call, Entry, Word};
use super::super::scene::reach;
use super::super::stage::{Stage, leak, tell, told};
use super::{Attempt, plain, prepared};

/// The attempts.
pub const ATTEMPTS: &[Attempt] = &[
    plain("longest-path", |stage| stage.open(&stage.path)),
    plain("deep", |stage| stage.open(&stage.path)),
    plain("deepest", |stage| stage.open(&stage.path)),
    plain("too-deep", |stage| {
        tell("nameless", "");
        stage.open(&stage.path)
    }),
    plain("beyond-longest", |stage| {
        tell("nameless", "");
        let (folder, name) = reach(&stage.target)?;
        stage.read_from(|| {
            Entry::Native.call(
                Call::Openat,
                &[
                    folder.as_raw_fd().into(),
                    (&name).into(),
                    libc::O_RDONLY.into(),
                ],
            )
        })
    }),
    prepared(
        "racing-name",
        // As long as the protected name, and different in one byte.
        |stage| Ok(fs::write(format!("{}/secreT", stage.folder), "innocent")?),
        race,
    ),
    prepared(
        "untouched-page",
        |stage| {
            Ok(fs::write(
                format!("{}/name", stage.folder),
                stage.path.as_bytes_with_nul(),
            )?)
        },
        untouched,
    ),
];

/// Most opens of a race. Both names are found in some dozens on two
/// processors; an emulated machine that is swamped gets more.
const RACE_OPENS_MAX: usize = 200_000;

/// Opens a name whose last byte another thread keeps changing, until the
/// protected file was opened or refused.
fn race(stage: &Stage) -> Result<()> {
    let name: &'static [AtomicU8] = stage
        .path
        .as_bytes_with_nul()
        .iter()
        .map(|&byte| AtomicU8::new(byte))
        .collect::<Vec<_>>()
        .leak();
    let last = &name[name.len() - 2];
    last.store(b'T', Ordering::Relaxed);
    thread::spawn(move || {
        loop {
            last.store(b't', Ordering::Relaxed);
            last.store(b'T', Ordering::Relaxed);
        }
    });
    stage.act()?;
    let address = Word::Number(name.as_ptr() as i64);
    let arguments = [address, libc::O_RDONLY.into()];
    for _ in 0..RACE_OPENS_MAX {
        match Entry::Native.call(Call::Open, &arguments) {
            Ok(descriptor) => {
                let mut read = [0; 64];
                let length = read_some(descriptor, &mut read);
                let is_secret = read[..length].starts_with(SECRET);
                if is_secret {
                    told(Ok(descriptor));
                    tell("leaked", "");
                    return Ok(());
                }
            }
            Err(error) => {
                told(Err(error));
                return Ok(());
            }
        }
    }
    ensure!(false, "{RACE_OPENS_MAX} opens never met the protected name");
    Ok(())
}

fn read_some(descriptor: i32, into: &mut [u8]) -> usize {
    use std::os::fd::{FromRawFd, OwnedFd};
    // SAFETY: the descriptor was opened a moment ago and nobody else has it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
    rustix::io::read(descriptor, into).unwrap_or(0)
}

/// Opens a name on a page of a file that this process has never touched: a
/// probe that reads it without faulting the page in reads nothing.
fn untouched(stage: &Stage) -> Result<()> {
    let path = format!("{}/name", stage.folder);
    let file = fs::File::open(Path::new(std::ffi::OsStr::from_bytes(path.as_bytes())))?;
    // SAFETY: a new mapping touches nothing that exists.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ,
            libc::MAP_PRIVATE,
            file.as_raw_fd(),
            0,
        )
    };
    ensure!(
        page != libc::MAP_FAILED,
        "cannot map the name: {}",
        io::Error::last_os_error()
    );
    stage.act()?;
    let opened: Result<i32, Errno> = Entry::Native.call(
        Call::Open,
        &[Word::Number(page as i64), libc::O_RDONLY.into()],
    );
    told(opened);
    if let Ok(descriptor) = opened {
        leak(descriptor);
    }
    Ok(())
}
