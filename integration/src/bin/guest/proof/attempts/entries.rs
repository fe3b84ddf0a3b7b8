//! Every system call that opens.

use std::fs::File;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use shrike_integration::proof::case::SECRET;

use super::super::call::{Call, Entry, Word, text};
use super::super::child;
use super::super::ring::{self, Ring, Submission, Taker};
use super::super::stage::{Stage, exempt, leak, tell, told};
use super::{Attempt, plain};

/// The attempts.
pub const ATTEMPTS: &[Attempt] = &[
    plain("open", |stage| open(stage, Entry::Native)),
    plain("openat", |stage| openat(stage, Entry::Native)),
    plain("openat2", |stage| openat2(stage, Entry::Native)),
    plain("open-for-writing", |stage| {
        stage.act()?;
        let opened = Entry::Native.call(Call::Open, &[(&stage.path).into(), libc::O_WRONLY.into()]);
        told(opened);
        if let Ok(descriptor) = opened {
            // SAFETY: the descriptor is open until the process ends.
            let file = unsafe { std::os::fd::BorrowedFd::borrow_raw(descriptor) };
            rustix::io::write(file, b"overwritten")?;
        }
        Ok(())
    }),
    plain("open-by-handle", |stage| by_handle(stage, Entry::Native)),
    plain("compat-open", |stage| open(stage, Entry::Compat)),
    plain("compat-openat", |stage| openat(stage, Entry::Compat)),
    plain("compat-openat2", |stage| openat2(stage, Entry::Compat)),
    plain("compat-open-by-handle", |stage| {
        by_handle(stage, Entry::Compat)
    }),
    plain("uring-openat", |stage| {
        uring(
            stage,
            Taker::Submitter,
            Submission::openat(&stage.path, libc::O_RDONLY, None),
        )
    }),
    plain("uring-openat2", |stage| {
        let how = open_how(libc::O_RDONLY);
        uring(
            stage,
            Taker::Submitter,
            Submission::openat2(&stage.path, &how),
        )
    }),
    plain("uring-worker", |stage| {
        let submission = Submission::openat(&stage.path, libc::O_RDONLY, None);
        uring(stage, Taker::Submitter, submission.with(ring::ASYNC))
    }),
    plain("uring-sqpoll", |stage| {
        uring(
            stage,
            Taker::KernelThread,
            Submission::openat(&stage.path, libc::O_RDONLY, None),
        )
    }),
    plain("uring-slot", |stage| {
        let mut ring = Ring::new(Taker::Submitter)?;
        ring.register_slot()?;
        let mut read = [0_u8; 64];
        stage.act()?;
        let opened = ring.submit(&[Submission::openat(&stage.path, libc::O_RDONLY, Some(0))]);
        told(opened);
        if opened.is_ok() {
            let submission = Submission::read(0, &mut read).with(ring::FIXED_FILE);
            ring.submit(&[submission])?;
            if read.starts_with(SECRET) {
                tell("leaked", "");
            }
        }
        Ok(())
    }),
    plain("uring-chain", |stage| chain(stage, Taker::Submitter)),
    plain("uring-sqpoll-chain", |stage| {
        chain(stage, Taker::KernelThread)
    }),
    plain("passed-descriptor", |stage| {
        receive(stage, Wants::Reading, |descriptor| {
            told(Ok(0));
            leak(descriptor);
        })
    }),
];

fn open(stage: &Stage, entry: Entry) -> Result<()> {
    stage.read_from(|| entry.call(Call::Open, &[(&stage.path).into(), libc::O_RDONLY.into()]))
}

fn openat(stage: &Stage, entry: Entry) -> Result<()> {
    stage.read_from(|| {
        entry.call(
            Call::Openat,
            &[
                libc::AT_FDCWD.into(),
                (&stage.path).into(),
                libc::O_RDONLY.into(),
            ],
        )
    })
}

fn openat2(stage: &Stage, entry: Entry) -> Result<()> {
    let how = open_how(libc::O_RDONLY);
    stage.read_from(|| {
        entry.call(
            Call::Openat2,
            &[
                libc::AT_FDCWD.into(),
                (&stage.path).into(),
                Word::Bytes(&how),
                (how.len() as i32).into(),
            ],
        )
    })
}

/// `struct open_how` (include/uapi/linux/openat2.h): flags, mode, resolve.
fn open_how(flags: i32) -> [u8; 24] {
    let mut how = [0; 24];
    how[..8].copy_from_slice(&u64::from(flags.cast_unsigned()).to_ne_bytes());
    how
}

/// Opens by a handle that the file's name was turned into before.
fn by_handle(stage: &Stage, entry: Entry) -> Result<()> {
    let mount = File::open(&stage.folder)?;
    let handle = super::super::scene::handle(&stage.path)?;
    stage.read_from(|| {
        entry.call(
            Call::OpenByHandleAt,
            &[
                mount.as_raw_fd().into(),
                Word::Bytes(&handle),
                libc::O_RDONLY.into(),
            ],
        )
    })
}

fn uring(stage: &Stage, taker: Taker, submission: Submission) -> Result<()> {
    let mut ring = Ring::new(taker)?;
    stage.read_from(|| ring.submit(&[submission]))
}

/// Opens, reads and writes to the witness without coming back in between.
fn chain(stage: &Stage, taker: Taker) -> Result<()> {
    let mut ring = Ring::new(taker)?;
    ring.register_slot()?;
    let mut read = [0_u8; SECRET.len()];
    let submissions = [
        Submission::openat(&stage.path, libc::O_RDONLY, Some(0)).with(ring::LINK),
        Submission::read(0, &mut read).with(ring::FIXED_FILE | ring::LINK),
        // The secret itself is a word that the witness knows.
        Submission::write(1, &read),
    ];
    stage.act()?;
    let ended = ring.submit(&submissions);
    // An operation whose forerunner failed is cancelled.
    told(match ended {
        Err(Errno::CANCELED) => Err(Errno::PERM),
        other => other,
    });
    Ok(())
}

/// What a descriptor is opened for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wants {
    Reading,
    Writing,
}

/// Takes a descriptor from a program that may open the file, and uses it.
pub fn receive(stage: &Stage, wants: Wants, first_use: impl FnOnce(i32)) -> Result<()> {
    let (ours, theirs) = UnixStream::pair()?;
    let path = stage.path.clone();
    // Not waited for here: it waits for the attempt to take the descriptor.
    child::fork(move || {
        rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty())?;
        let argv = ["opener", "proof", "hand-over", "--socket"].map(text);
        let socket = text(theirs.as_raw_fd().to_string());
        let write: &[_] = match wants {
            Wants::Reading => &[],
            Wants::Writing => &[text("--write")],
        };
        let argv = [&argv[..], &[socket, path], write].concat();
        let failed = Entry::Native.call(
            Call::Execve,
            &[
                (&text(exempt("opener"))).into(),
                Word::Strings(&argv),
                Word::Strings(&[]),
            ],
        );
        failed.map(drop).context("the opener does not start")
    })?;
    // Until the opener is there, nothing is received.
    let mut ready = [0];
    std::io::Read::read_exact(&mut &ours, &mut ready).context("the opener is silent")?;
    ensure!(ready == *b"o", "the opener could not open it");
    stage.act()?;
    let received = take_descriptor(&ours);
    match received {
        Ok(Some(descriptor)) => first_use(descriptor.as_raw_fd()),
        // A refused descriptor is left out of the message (scm_detach_fds).
        Ok(None) => told(Err(Errno::PERM)),
        Err(error) => told(Err(error)),
    }
    Ok(())
}

fn take_descriptor(socket: &UnixStream) -> Result<Option<OwnedFd>, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::empty(),
    )?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
            return Ok(descriptors.next());
        }
    }
    Ok(None)
}
