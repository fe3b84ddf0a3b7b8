//! The proof's attempts, made by raw system calls in processes of their own.
//!
//! ```text
//! prepare   makes the files             before the agent is there
//! policy    prints the policy           every case has a rule of its name
//! attempt   tries everything            under the policy
//! inspect   says what became of them    when the agent has gone
//! ```
//!
//! What is printed is one JSON object a line; whether it is right is decided
//! on the host.

mod attempts;
mod call;
mod child;
mod fuzz;
mod ring;
mod scene;
mod stage;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use shrike_integration::proof::attempt::{Attempt, OPENED};
use shrike_integration::proof::case::{Action, Case, RAN, SECRET};
use shrike_integration::proof::{cases, policy};

use stage::Stage;

/// A part of the proof.
#[derive(Subcommand)]
pub enum Proof {
    /// Makes every case's files anew and prints how they are.
    Prepare,
    /// Prints a policy with a rule for every case.
    Policy {
        /// What its rules ask for.
        #[arg(long, value_enum)]
        action: Action,
    },
    /// Makes every attempt and prints how it went.
    Attempt {
        /// Only these cases.
        cases: Vec<String>,
        /// Opens what is to be opened before the policy, says so on standard
        /// error, and goes on when this file is there.
        #[arg(long)]
        after: Option<PathBuf>,
    },
    /// Prints how every case's files are.
    Inspect,
    /// Opens random names and prints what each of them was.
    Fuzz {
        /// Repeats the same choices.
        #[arg(long)]
        seed: u64,
        /// How many names.
        #[arg(long)]
        opens: usize,
    },
    /// Opens a file and passes the descriptor on.
    HandOver {
        /// The socket, a descriptor that was left open.
        #[arg(long)]
        socket: RawFd,
        /// Opens it for writing.
        #[arg(long)]
        write: bool,
        /// The file.
        path: PathBuf,
    },
    /// Opens a file for writing, then executes this program to cut it.
    CutAs {
        /// The program.
        program: String,
        /// The file.
        path: PathBuf,
    },
    /// Cuts the file of a descriptor that was left open.
    Cut {
        /// The descriptor.
        descriptor: RawFd,
    },
}

impl Proof {
    /// Does it.
    pub fn run(self) -> Result<()> {
        match self {
            Self::Prepare => print(scene::prepare()?),
            Self::Policy { action } => {
                print!("{}", policy::document(action));
                Ok(())
            }
            Self::Attempt { cases, after } => attempt(&cases, after.as_deref()),
            Self::Inspect => print(scene::inspect()?),
            Self::Fuzz { seed, opens } => fuzz::run(seed, opens),
            Self::HandOver {
                socket,
                write,
                path,
            } => hand_over(socket, File::options().read(!write).write(write).open(path)),
            Self::CutAs { program, path } => cut_as(&program, &path),
            Self::Cut { descriptor } => {
                stage::act()?;
                stage::told(attempts::ftruncate(descriptor));
                Ok(())
            }
        }
    }
}

fn print(lines: impl IntoIterator<Item: serde::Serialize>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for line in lines {
        serde_json::to_writer(&mut out, &line)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// How often it is looked whether the policy is there.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

fn attempt(only: &[String], after: Option<&Path>) -> Result<()> {
    for name in only {
        cases::find(name).with_context(|| format!("there is no case {name}"))?;
    }
    // Whoever loses its parent is left to this process.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let cases: Vec<_> = cases::all()
        .filter(|case| only.is_empty() || only.iter().any(|name| name == case.name))
        .map(|case| {
            let open = || attempts::open_before(case);
            Ok((
                case,
                open().with_context(|| format!("cannot open {}", case.name))?,
            ))
        })
        .collect::<Result<_>>()?;
    if let Some(after) = after {
        eprintln!("{OPENED}");
        while !after.exists() {
            thread::sleep(LOOK_INTERVAL);
        }
    }
    for (case, opened) in cases {
        let attempt =
            witness(case, opened).with_context(|| format!("cannot witness {}", case.name))?;
        print([attempt])?;
    }
    Ok(())
}

/// Has one attempt made and takes down what it says until everybody who took
/// part has gone.
fn witness(case: &Case, opened: Option<OwnedFd>) -> Result<Attempt> {
    let making = attempts::find(case.name).context("nobody attempts it")?;
    let (words, mouth) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let stage = Stage {
        opened_before: opened.as_ref().map(AsRawFd::as_raw_fd),
        ..Stage::of(case)
    };
    let first = child::fork(|| {
        rustix::stdio::dup2_stdout(&mouth)?;
        // One writing end less: the words end when everybody has gone.
        drop(mouth);
        (making.attempt)(&stage)
    })?;
    let mut attempt = Attempt {
        case: case.name.to_owned(),
        ..Attempt::default()
    };
    attempt
        .processes
        .insert(first.as_raw_nonzero().get().cast_unsigned());
    listen(words, &mut attempt)?;
    for (pid, ended) in child::wait_for_all()? {
        attempt.processes.insert(pid);
        if attempt.actor == Some(pid) {
            attempt.ended = Some(ended);
        }
    }
    Ok(attempt)
}

fn listen(words: impl Into<File>, attempt: &mut Attempt) -> Result<()> {
    let secret = String::from_utf8_lossy(SECRET);
    for line in BufReader::new(words.into()).lines() {
        let line = line.context("cannot hear the attempt")?;
        if line == secret.trim_end() {
            attempt.leaked = true;
            continue;
        }
        let (word, more) = line.split_once(' ').unwrap_or((&line, ""));
        match word {
            "actor" => {
                let pid = more.parse().context("a process has a number")?;
                attempt.actor = Some(pid);
                attempt.processes.insert(pid);
            }
            "ended" => {
                attempt.ended = Some(serde_json::from_str(more).context("an end")?);
            }
            "result" => attempt.result = Some(more.to_owned()),
            "leaked" => attempt.leaked = true,
            RAN => attempt.ran = true,
            "named" => attempt.named = Some(more.to_owned()),
            "nameless" => attempt.nameless = true,
            "another-file" => attempt.another_file = true,
            "broken" => attempt.broken = Some(more.to_owned()),
            _ => bail!("an attempt says what nobody knows: {line}"),
        }
    }
    Ok(())
}

/// Says on the socket that the file is open, then passes it on.
fn hand_over(socket: RawFd, opened: std::io::Result<File>) -> Result<()> {
    // SAFETY: whoever started this left the descriptor open for it.
    let socket = unsafe { BorrowedFd::borrow_raw(socket) };
    rustix::io::write(socket, if opened.is_ok() { b"o" } else { b"x" })?;
    let file = opened?;
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
    let descriptors = [file.as_fd()];
    control.push(rustix::net::SendAncillaryMessage::ScmRights(&descriptors));
    rustix::net::sendmsg(
        socket,
        &[std::io::IoSlice::new(b"f")],
        &mut control,
        rustix::net::SendFlags::empty(),
    )?;
    Ok(())
}

/// Opens a file and leaves it open for another program.
fn cut_as(program: &str, path: &Path) -> Result<()> {
    let file = File::options().write(true).open(path)?;
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty())?;
    let failed = Command::new(program)
        .args(["proof", "cut", &file.as_raw_fd().to_string()])
        .exec();
    Err(failed).context("the program does not start")
}
