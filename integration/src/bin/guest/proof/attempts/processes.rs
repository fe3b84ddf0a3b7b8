//! The same open by every kind of process and thread.

use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::ptr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use shrike_integration::proof::case::SECRET;

use super::super::call::{Call, Entry};
use super::super::child;
use super::super::stage::{Stage, tell, told};
use super::{Attempt, plain};

/// The attempts.
pub const ATTEMPTS: &[Attempt] = &[
    plain("thread", |stage| {
        in_thread(stage, |stage| stage.open(&stage.path))
    }),
    plain("thread-after-leader", |stage| {
        after_leader(stage, |stage| stage.open(&stage.path))
    }),
    plain("forked", |stage| {
        let child = child::fork(|| stage.open(&stage.path))?;
        child::witness(child)
    }),
    plain("vforked", |stage| {
        vforked(stage, |stage| stage.open(&stage.path))
    }),
    plain("daemon", |stage| {
        daemon(stage, |stage| stage.open(&stage.path))
    }),
    plain("shared-memory", |stage| {
        let stage = stage.clone();
        let child = child::clone(libc::CLONE_VM, move || stage.open(&stage.path))?;
        child::witness(child)
    }),
    plain("shared-table", shared_table),
    plain("deaf", |stage| {
        let mut every = MaybeUninit::uninit();
        // SAFETY: it fills the set.
        unsafe { libc::sigfillset(every.as_mut_ptr()) };
        // SAFETY: the set is filled; the old one is not asked for.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, every.as_ptr(), ptr::null_mut()) };
        for signal in 1..libc::SIGRTMAX() {
            // SAFETY: SIG_IGN runs nothing. Two signals cannot be ignored.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
        stage.open(&stage.path)
    }),
    plain("other-user", |stage| {
        // SAFETY: numbers only; the process has one thread.
        let result = unsafe { libc::setresuid(1000, 1000, 1000) };
        ensure!(result == 0, "setresuid: {}", io::Error::last_os_error());
        stage.open(&stage.path)
    }),
    plain("user-namespace", |stage| {
        unshare(libc::CLONE_NEWUSER)?;
        stage.open(&stage.path)
    }),
    plain("pid-namespace-init", |stage| {
        unshare(libc::CLONE_NEWPID)?;
        child::fork(|| stage.open(&stage.path)).map(drop)
    }),
    plain("pid-namespace-member", |stage| {
        in_pid_namespace(stage, |stage| stage.open(&stage.path))
    }),
    plain("all-namespaces", |stage| {
        unshare(
            libc::CLONE_NEWUSER
                | libc::CLONE_NEWNS
                | libc::CLONE_NEWPID
                | libc::CLONE_NEWNET
                | libc::CLONE_NEWIPC
                | libc::CLONE_NEWUTS
                | libc::CLONE_NEWCGROUP,
        )?;
        child::fork(|| stage.open(&stage.path)).map(drop)
    }),
];

/// What is done somewhere else.
type Work = fn(&Stage) -> Result<()>;

/// Leaves namespaces behind.
pub fn unshare(what: c_int) -> Result<()> {
    // SAFETY: numbers only; the process has one thread.
    let result = unsafe { libc::unshare(what) };
    ensure!(result == 0, "unshare: {}", io::Error::last_os_error());
    Ok(())
}

/// In a thread that is not the leader.
pub fn in_thread(stage: &Stage, work: Work) -> Result<()> {
    let stage = stage.clone();
    thread::spawn(move || work(&stage))
        .join()
        .expect("an attempt does not panic")
}

/// In a thread, once the leader has gone.
pub fn after_leader(stage: &Stage, work: Work) -> Result<()> {
    let stage = stage.clone();
    let leader = rustix::process::getpid().as_raw_nonzero();
    thread::spawn(move || {
        let result = gone(leader.get()).and_then(|()| work(&stage));
        if let Err(error) = result {
            tell("broken", &format!("{error:#}"));
        }
        child::end_thread()
    });
    child::end_thread()
}

/// Waits until a leader is a zombie, which it stays while it has threads.
fn gone(leader: i32) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        let stat = std::fs::read_to_string(format!("/proc/{leader}/task/{leader}/stat"))?;
        if stat
            .rsplit_once(") ")
            .is_some_and(|(_, fields)| fields.starts_with('Z'))
        {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(1));
    }
    ensure!(false, "the leader does not end");
    Ok(())
}

/// In a child that borrows its parent, which waits.
pub fn vforked(stage: &Stage, work: Work) -> Result<()> {
    let stage = stage.clone();
    let flags = libc::CLONE_VM | libc::CLONE_VFORK;
    let child = child::clone(flags, move || work(&stage))?;
    child::witness(child)
}

/// In a process whose parent and grandparent have gone.
pub fn daemon(stage: &Stage, work: Work) -> Result<()> {
    child::fork(|| {
        rustix::process::setsid()?;
        let parent = rustix::process::getpid();
        child::fork(|| {
            let until = Instant::now() + Duration::from_secs(10);
            while rustix::process::getppid() == Some(parent) {
                ensure!(Instant::now() < until, "the parent does not end");
                thread::sleep(Duration::from_millis(1));
            }
            work(stage)
        })
        .map(drop)
    })
    .map(drop)
}

/// In a process of a PID namespace that is not its first.
pub fn in_pid_namespace(stage: &Stage, work: Work) -> Result<()> {
    unshare(libc::CLONE_NEWPID)?;
    let first = child::fork(|| {
        let member = child::fork(|| work(stage))?;
        child::witness(member)
    })?;
    child::wait(first).map(drop)
}

/// Opens while a sibling, which shares the table, reads whatever appears in
/// it.
fn shared_table(stage: &Stage) -> Result<()> {
    // The lowest free descriptor is the next one that is handed out.
    let next = {
        let probe = std::fs::File::open("/dev/null")?;
        std::os::fd::AsRawFd::as_raw_fd(&probe)
    };
    let opener = rustix::process::getpid();
    child::clone(libc::CLONE_FILES, move || {
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until {
            let mut read = [0; 64];
            // SAFETY: a descriptor that is not open is an error of `read`.
            let descriptor = unsafe { BorrowedFd::borrow_raw(next) };
            if let Ok(length) = rustix::io::read(descriptor, &mut read)
                && read[..length].starts_with(SECRET)
            {
                tell("leaked", "");
                return Ok(());
            }
            // Once the opener has gone, one more look is enough.
            if rustix::process::getppid() != Some(opener) {
                return Ok(());
            }
        }
        Ok(())
    })?;
    // Let the sibling come up: its first look is before the act.
    thread::sleep(Duration::from_millis(20));
    stage.act()?;
    told(Entry::Native.call(Call::Open, &[(&stage.path).into(), libc::O_RDONLY.into()]));
    thread::sleep(Duration::from_millis(50));
    Ok(())
}
