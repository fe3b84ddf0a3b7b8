//! Where an attempt takes place, and how it says what it does.
//!
//! Every word is written to standard output, a pipe to the witness, the
//! moment it is true: a kill hides nothing that came before it. Words are
//! lines, so that a program that is executed can say `ran` with `echo`.

use std::ffi::CString;
use std::os::fd::{BorrowedFd, RawFd};

use anyhow::{Context, Result};
use rustix::io::Errno;
use shrike_integration::proof::case::{Case, EXEMPT, RAN, SECRET};

use super::call::{Call, Entry, text};

/// Where words go.
const WORDS: RawFd = 1;

/// One case, as its attempt sees it.
#[derive(Clone)]
pub struct Stage {
    /// Its folder.
    pub folder: String,
    /// What must not be touched.
    pub target: String,
    /// The same, for calls.
    pub path: CString,
    /// The same, opened before the policy, where the attempt needs it.
    pub opened_before: Option<RawFd>,
}

impl Stage {
    /// The stage of a case.
    pub fn of(case: &Case) -> Self {
        Self {
            folder: case.folder(),
            target: case.target(),
            path: text(case.target()),
            opened_before: None,
        }
    }

    /// A path in the case's folder.
    pub fn below(&self, name: &str) -> CString {
        text(format!("{}/{name}", self.folder))
    }

    /// Opens the target for reading under some name.
    pub fn open(&self, name: &CString) -> Result<()> {
        self.read_from(|| Entry::Native.call(Call::Open, &[name.into(), libc::O_RDONLY.into()]))
    }

    /// The act of an attempt that would read the secret.
    pub fn read_from(&self, open: impl FnOnce() -> Result<i32, Errno>) -> Result<()> {
        self.act()?;
        let opened = open();
        told(opened);
        if let Ok(descriptor) = opened {
            leak(descriptor);
        }
        Ok(())
    }

    /// Returns the descriptor from before the policy.
    pub fn descriptor(&self) -> Result<RawFd> {
        self.opened_before.context("nobody opened it before")
    }

    /// The act of an attempt that would change something.
    pub fn change(&self, change: impl FnOnce() -> Result<i32, Errno>) -> Result<()> {
        self.act()?;
        told(change());
        Ok(())
    }

    /// Executes the target under some name.
    pub fn execute(&self, name: &CString) -> Result<()> {
        self.change(|| execute(Entry::Native, name))
    }

    /// Says that this process, and no other, is the one that acts.
    pub fn act(&self) -> Result<()> {
        act()
    }

    /// Says under which path the events must have it.
    pub fn named(&self, path: &str) {
        tell("named", path);
    }
}

/// Says that this process, and no other, is the one that acts.
///
/// Its number is asked of /proc, which counts as the machine's first processes
/// do, whatever namespace the process is in.
pub fn act() -> Result<()> {
    // Who left /proc behind has said so before.
    if let Ok(link) = std::fs::read_link("/proc/self") {
        let pid = link.to_str().context("/proc/self is a number")?;
        tell("actor", pid);
    }
    Ok(())
}

/// Executes something that says [`RAN`] when it is let.
pub fn execute(entry: Entry, name: &CString) -> Result<i32, Errno> {
    let argv = [text("program"), text(RAN)];
    entry.call(
        Call::Execve,
        &[
            name.into(),
            super::call::Word::Strings(&argv),
            super::call::Word::Strings(&[]),
        ],
    )
}

/// A program that rules except.
pub fn exempt(name: &str) -> String {
    format!("{EXEMPT}/{name}")
}

/// Says how the act ended.
pub fn told(result: Result<i32, Errno>) {
    match result {
        Ok(_) => tell("result", "ok"),
        Err(errno) => tell("result", &error_name(errno)),
    }
}

/// Reads what can be read, and says so when it is the secret.
pub fn leak(descriptor: RawFd) {
    let mut read = [0; 64];
    // SAFETY: nobody closes the descriptor during the call; a wrong one is an
    // error of `read`.
    let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
    if let Ok(length) = rustix::io::read(descriptor, &mut read)
        && read[..length].starts_with(SECRET)
    {
        tell("leaked", "");
    }
}

/// Says a word.
pub fn tell(word: &str, more: &str) {
    let line = format!("{word} {}\n", more.replace('\n', " "));
    // SAFETY: nothing of an attempt closes its standard output.
    let words = unsafe { BorrowedFd::borrow_raw(WORDS) };
    // Without a witness there is nobody to tell. A line is shorter than
    // PIPE_BUF, save for the longest paths, which one process says alone.
    let mut rest = line.as_bytes();
    while let Ok(written @ 1..) = rustix::io::write(words, rest) {
        rest = &rest[written..];
    }
}

/// An error as errno(3) calls it.
fn error_name(errno: Errno) -> String {
    let name = match errno {
        Errno::PERM => "EPERM",
        Errno::ACCESS => "EACCES",
        Errno::NOENT => "ENOENT",
        Errno::EXIST => "EEXIST",
        Errno::INVAL => "EINVAL",
        Errno::NAMETOOLONG => "ENAMETOOLONG",
        Errno::NOSYS => "ENOSYS",
        Errno::CANCELED => "ECANCELED",
        _ => return format!("errno {}", errno.raw_os_error()),
    };
    name.to_owned()
}
