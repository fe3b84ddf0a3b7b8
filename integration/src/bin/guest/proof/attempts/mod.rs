//! How each case is carried out, under its name.

mod changes;
mod entries;
mod limits;
mod names;
mod places;
mod processes;
mod programs;
mod subvolumes;

use std::ffi::CString;
use std::os::fd::{FromRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};
pub use changes::ftruncate;
pub use places::own_mounts;
use shrike_integration::proof::attempt::Ended;
use shrike_integration::proof::case::Case;

use super::call::{Call, Entry, Word, text};
use super::child;
use super::stage::{Stage, exempt};

/// What is done before the policy is there, and what is attempted under it.
pub struct Attempt {
    /// The case.
    pub name: &'static str,
    /// Done with the target in place, unless it says otherwise.
    pub prepare: fn(&Stage) -> Result<()>,
    /// open(2) flags of a descriptor that the attempt has of its target from
    /// before the policy.
    pub opened_before: Option<i32>,
    /// Done in a process of its own.
    pub attempt: fn(&Stage) -> Result<()>,
}

/// Every attempt.
pub fn all() -> impl Iterator<Item = &'static Attempt> {
    [
        names::ATTEMPTS,
        places::ATTEMPTS,
        subvolumes::ATTEMPTS,
        limits::ATTEMPTS,
        entries::ATTEMPTS,
        processes::ATTEMPTS,
        programs::ATTEMPTS,
        changes::ATTEMPTS,
    ]
    .into_iter()
    .flatten()
}

/// The attempt of that name.
pub fn find(name: &str) -> Option<&'static Attempt> {
    all().find(|attempt| attempt.name == name)
}

/// Opens what a case's attempt has from before the policy.
pub fn open_before(case: &Case) -> Result<Option<OwnedFd>> {
    let Some(flags) = find(case.name).and_then(|attempt| attempt.opened_before) else {
        return Ok(None);
    };
    let flags = flags | libc::O_CLOEXEC;
    let opened = native(Call::Open, &[(&text(case.target())).into(), flags.into()])?;
    // SAFETY: it was opened a moment ago and nobody else has it.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(opened) }))
}

/// An attempt that needs nothing but its target.
const fn plain(name: &'static str, attempt: fn(&Stage) -> Result<()>) -> Attempt {
    prepared(name, |_| Ok(()), attempt)
}

/// An attempt that needs more than its target.
const fn prepared(
    name: &'static str,
    prepare: fn(&Stage) -> Result<()>,
    attempt: fn(&Stage) -> Result<()>,
) -> Attempt {
    Attempt {
        name,
        prepare,
        opened_before: None,
        attempt,
    }
}

/// An attempt with a descriptor of its target from before the policy.
const fn opened_before(
    name: &'static str,
    flags: i32,
    attempt: fn(&Stage) -> Result<()>,
) -> Attempt {
    Attempt {
        opened_before: Some(flags),
        ..plain(name, attempt)
    }
}

/// Does something that an attempt builds on, and that must work.
fn native(call: Call, words: &[Word<'_>]) -> Result<i32> {
    Entry::Native
        .call(call, words)
        .with_context(|| format!("{call:?}"))
}

/// A descriptor that stands for a file and opens nothing.
fn path_descriptor(path: &str) -> Result<i32> {
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    native(Call::Open, &[(&text(path)).into(), flags.into()])
}

/// Opens a file that no rule is about until an agent knows its place.
fn make_known(path: &CString) -> Result<()> {
    for _ in 0..8 {
        let opened = native(Call::Open, &[path.into(), libc::O_RDONLY.into()])?;
        // SAFETY: it was opened a moment ago and nobody else has it.
        drop(unsafe { OwnedFd::from_raw_fd(opened) });
    }
    Ok(())
}

/// Runs a program that the rule excepts, and insists that it succeeds.
fn run_exempt(name: &str, arguments: &[&str]) -> Result<()> {
    let program = text(exempt(name));
    let mut argv = vec![text(name)];
    argv.extend(arguments.iter().map(|&argument| text(argument)));
    let ran = child::fork(move || {
        let failed = Entry::Native.call(
            Call::Execve,
            &[(&program).into(), Word::Strings(&argv), Word::Strings(&[])],
        );
        failed
            .map(drop)
            .context("an excepted program does not start")
    })?;
    let ended = child::wait(ran)?;
    ensure!(
        ended == Ended::Code(0),
        "{name} {} ended with {ended:?}",
        arguments.join(" ")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use shrike_integration::proof::cases;

    use super::*;

    #[test]
    fn every_case_has_its_attempt() {
        let cases: Vec<_> = cases::all().map(|case| case.name).collect();
        let attempts: Vec<_> = all().map(|attempt| attempt.name).collect();
        let set = |names: &[&'static str]| names.iter().copied().collect::<BTreeSet<_>>();
        assert_eq!(set(&cases), set(&attempts));
        assert_eq!(cases.len(), attempts.len(), "an attempt is there twice");
    }
}
