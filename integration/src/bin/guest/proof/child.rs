//! Processes and threads of the kinds that attempts need.
//!
//! The witness has one thread, so a forked child may do whatever it likes.
//! Nothing here outlives [`PATIENCE_SECONDS`]: an attempt that hangs is ended
//! by its own alarm and reported as such.

use std::ffi::{c_int, c_void};
use std::io;

use anyhow::{Context, Result};
use rustix::process::{Pid, WaitOptions};
use shrike_integration::proof::attempt::Ended;

use super::stage;

/// An emulated machine on a busy host needs tens of milliseconds.
const PATIENCE_SECONDS: u32 = 30;

/// What a child that shares its parent's memory may use.
const STACK_BYTES: usize = 512 << 10;

/// Starts a process that does `work` and exits.
pub fn fork(work: impl FnOnce() -> Result<()>) -> Result<Pid> {
    // SAFETY: the caller has one thread, so that no lock is held by another.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        finish(work);
    }
    if pid < 0 {
        return Err(io::Error::last_os_error()).context("cannot fork");
    }
    Ok(Pid::from_raw(pid).expect("a child's number is above 0"))
}

/// Starts a process that shares with its parent what `flags` (clone(2)) say.
pub fn clone(flags: c_int, work: impl FnOnce() -> Result<()>) -> Result<Pid> {
    extern "C" fn start<W: FnOnce() -> Result<()>>(work: *mut c_void) -> c_int {
        // SAFETY: `clone` made it from a box and nobody else takes it back.
        let work = unsafe { Box::from_raw(work.cast::<W>()) };
        finish(*work)
    }
    fn run<W: FnOnce() -> Result<()>>(flags: c_int, work: W) -> c_int {
        // Both are left to the child, which may outlive this call.
        let stack = Vec::leak(vec![0_u128; STACK_BYTES / 16]).as_mut_ptr_range();
        let work = Box::into_raw(Box::new(work));
        // SAFETY: the stack is the child's alone, and the caller has one
        // thread, or the child shares no memory that others change.
        unsafe {
            libc::clone(
                start::<W>,
                stack.end.cast(),
                flags | libc::SIGCHLD,
                work.cast(),
            )
        }
    }
    let pid = run(flags, work);
    if pid < 0 {
        return Err(io::Error::last_os_error()).context("cannot clone");
    }
    Ok(Pid::from_raw(pid).expect("a child's number is above 0"))
}

fn finish(work: impl FnOnce() -> Result<()>) -> ! {
    // SAFETY: it only sets a timer.
    unsafe { libc::alarm(PATIENCE_SECONDS) };
    let code = match work() {
        Ok(()) => 0,
        Err(error) => {
            stage::tell("broken", &format!("{error:#}"));
            3
        }
    };
    // SAFETY: it never returns; nothing of the parent's is to be unwound or
    // flushed here.
    unsafe { libc::_exit(code) }
}

/// Ends the calling thread only, the first one included.
pub fn end_thread() -> ! {
    loop {
        // SAFETY: the kernel ends the thread; memory that it borrowed is never
        // given back, and the others may use it still.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
}

/// Waits for one child.
pub fn wait(pid: Pid) -> Result<Ended> {
    let (_, status) = rustix::process::waitpid(Some(pid), WaitOptions::empty())
        .context("cannot wait")?
        .context("nothing ended")?;
    Ok(ended(status))
}

/// Waits for a child that acts, and says how it ended: its number is not
/// always one that the witness knows.
pub fn witness(pid: Pid) -> Result<()> {
    let ended = wait(pid)?;
    stage::tell("ended", &serde_json::to_string(&ended)?);
    Ok(())
}

/// Waits for every child, and everyone who was left to this process.
pub fn wait_for_all() -> Result<Vec<(u32, Ended)>> {
    let mut all = Vec::new();
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) => {
                all.push((pid.as_raw_nonzero().get().cast_unsigned(), ended(status)));
            }
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CHILD) => return Ok(all),
            Err(error) => return Err(error).context("cannot wait"),
        }
    }
}

fn ended(status: rustix::process::WaitStatus) -> Ended {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ended::Code(code),
        (None, Some(signal)) => Ended::Signal(signal),
        (None, None) => Ended::Code(-1),
    }
}
