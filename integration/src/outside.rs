//! Running other programs, with errors that say what was being done.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// Lines of a failed program's own words that are worth repeating.
const TAIL_LINES: usize = 15;

/// Runs a program to its end and returns what it wrote to stdout.
///
/// # Errors
/// When it cannot be started or fails; the error repeats its last lines.
pub fn read(command: &mut Command) -> Result<String> {
    let output = finish(command)?;
    String::from_utf8(output.stdout).with_context(|| format!("{} wrote no UTF-8", shown(command)))
}

/// Runs a program to its end; what it says is kept back unless it fails.
///
/// # Errors
/// When it cannot be started or fails; the error repeats its last lines.
pub fn finish(command: &mut Command) -> Result<Output> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    if !output.status.success() {
        bail!(
            "{} failed ({}):\n{}",
            shown(command),
            output.status,
            tail(&[&output.stdout[..], &output.stderr[..]].concat())
        );
    }
    Ok(output)
}

/// Whether a program of that name is on the PATH, and where.
///
/// The folders that Debian keeps system programs in are searched too: an
/// ordinary user's PATH leaves them out, and some of them (mkfs.ext4) work
/// for everyone.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// A command as a person would type it.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word: &OsStr| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The last lines of a program's output.
pub fn tail(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(TAIL_LINES);
    lines[first..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_repeats_the_programs_own_words() {
        let error = finish(Command::new("sh").args(["-c", "echo because >&2; exit 3"]))
            .expect_err("the program fails");
        let text = error.to_string();
        assert!(text.contains("because"), "{text}");
        assert!(text.contains("exit status: 3"), "{text}");
    }

    #[test]
    fn a_program_that_is_missing_is_named() {
        let error = finish(&mut Command::new("no-such-program")).expect_err("it does not exist");
        assert!(format!("{error:#}").contains("cannot start no-such-program"));
    }

    #[test]
    fn a_tail_keeps_the_last_lines_only() {
        let text = (0..100).map(|n| format!("{n}\n")).collect::<String>();
        let kept = tail(text.as_bytes());
        assert_eq!(kept.lines().count(), TAIL_LINES);
        assert!(kept.ends_with("99"));
    }
}
