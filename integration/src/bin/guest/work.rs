//! Loads: plain system calls in a loop, timed by the machine's own clock.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Subcommand;
use rustix::time::{ClockId, clock_gettime};

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
    /// Does it and prints `{"count":…,"nanoseconds":…,"cpu_nanoseconds":…}`;
    /// the processor's time is this process's own and its children's.
    pub fn run(self) -> Result<()> {
        let (count, started) = (self.count(), Instant::now());
        match &self {
            Self::Opens {
                count,
                threads,
                path,
            } => opens(*count, *threads, path)?,
            Self::Execs { count, program } => execs(*count, program)?,
        }
        let nanoseconds = started.elapsed().as_nanos();
        let cpu_nanoseconds = cpu_nanoseconds()?;
        println!(
            "{{\"count\":{count},\"nanoseconds\":{nanoseconds},\
             \"cpu_nanoseconds\":{cpu_nanoseconds}}}"
        );
        Ok(())
    }

    fn count(&self) -> u64 {
        match self {
            Self::Opens { count, .. } | Self::Execs { count, .. } => *count,
        }
    }
}

fn cpu_nanoseconds() -> Result<i64> {
    let own = clock_gettime(ClockId::ProcessCPUTime);
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let children = children_ticks(&stat).context("/proc/self/stat")?;
    Ok(own.tv_sec * 1_000_000_000 + own.tv_nsec + children * NANOSECONDS_PER_TICK)
}

/// USER_HZ is 100 on every architecture that Shrike builds for.
const NANOSECONDS_PER_TICK: i64 = 10_000_000;

/// Processor time of the children that were waited for: `cutime` and
/// `cstime`, fields 16 and 17 (proc(5)); the name before them may hold
/// anything, a parenthesis included.
fn children_ticks(stat: &str) -> Option<i64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(16 - 3);
    let (user, system) = (fields.next()?, fields.next()?);
    Some(user.parse::<i64>().ok()? + system.parse::<i64>().ok()?)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn childrens_time_is_found_behind_any_name() {
        let stat = "42 (a) b) c) S 1 42 42 0 -1 4194560 93 9 0 0 7 8 11 22 20 0 1 0 33 0";
        assert_eq!(children_ticks(stat), Some(33));
        assert_eq!(children_ticks("42 (cut"), None);
        assert_eq!(children_ticks("42 (x) S 1"), None);
    }
}
