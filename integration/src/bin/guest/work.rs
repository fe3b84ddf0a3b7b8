//! Loads: plain system calls in a loop, timed by the machine's own clock.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Subcommand;

/// A load.
#[derive(Subcommand)]
pub enum Work {
    /// Opens a file for reading and closes it, again and again.
    Opens {
        /// How often, over all threads.
        #[arg(long)]
        count: u64,
        /// How many threads share the work.
        #[arg(long, default_value_t = 1)]
        threads: u64,
        /// The file.
        #[arg(long, default_value = "/etc/hostname")]
        path: PathBuf,
    },
    /// Starts a program and waits for it, again and again.
    Execs {
        /// How often.
        #[arg(long)]
        count: u64,
        /// The program.
        #[arg(long, default_value = "/usr/bin/true")]
        program: PathBuf,
    },
}

impl Work {
    /// Does it and prints `{"count":…,"nanoseconds":…}`.
    pub fn run(self) -> Result<()> {
        let (count, started) = (self.count(), Instant::now());
        match &self {
            Self::Opens { count, threads, path } => opens(*count, *threads, path)?,
            Self::Execs { count, program } => execs(*count, program)?,
        }
        let nanoseconds = started.elapsed().as_nanos();
        println!("{{\"count\":{count},\"nanoseconds\":{nanoseconds}}}");
        Ok(())
    }

    fn count(&self) -> u64 {
        match self {
            Self::Opens { count, .. } | Self::Execs { count, .. } => *count,
        }
    }
}

fn opens(count: u64, threads: u64, path: &Path) -> Result<()> {
    let share = |thread: u64| count / threads + u64::from(thread < count % threads);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || -> Result<()> {
                    for _ in 0..share(thread) {
                        File::open(path)
                            .with_context(|| format!("cannot open {}", path.display()))?;
                    }
                    Ok(())
                })
            })
            .collect();
        for worker in workers {
            worker.join().expect("a worker only opens files")?;
        }
        Ok(())
    })
}

fn execs(count: u64, program: &Path) -> Result<()> {
    for _ in 0..count {
        Command::new(program)
            .stdin(Stdio::null())
            .status()
            .with_context(|| format!("cannot start {}", program.display()))?;
    }
    Ok(())
}
