//! Loads: plain system calls in a loop, timed by the machine's own clock.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
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
    /// Opens as many different files, each once.
    Files {
        /// How many.
        #[arg(long)]
        count: u64,
        /// Where `plant` made them.
        #[arg(long, default_value = TREE)]
        root: PathBuf,
    },
    /// Opens different files at full speed: one process after the other, some
    /// at a time, opens every file once.
    Burst {
        /// How many opens, over all processes.
        #[arg(long)]
        count: u64,
        /// How many files there are.
        #[arg(long)]
        files: u64,
        /// How many processes at a time.
        #[arg(long, default_value_t = 2)]
        threads: u64,
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

/// Where [`plant`] makes files unless it is told otherwise.
pub const TREE: &str = "/srv/tree";

impl Work {
    /// Does it and prints `{"count":…,"nanoseconds":…,"cpu_nanoseconds":…}`;
    /// the processor's time is this process's own and its children's.
    pub fn run(self) -> Result<()> {
        // Names are made before the clock runs.
        let names: Vec<PathBuf> = match &self {
            Self::Files { count, root } => (0..*count).map(|index| leaf(root, index)).collect(),
            Self::Opens { .. } | Self::Burst { .. } | Self::Execs { .. } => Vec::new(),
        };
        let (count, cpu_before, started) = (self.count(), cpu_nanoseconds()?, Instant::now());
        match &self {
            Self::Opens {
                count,
                threads,
                path,
            } => opens(*count, *threads, path)?,
            Self::Files { .. } => names.iter().try_for_each(|name| open(name))?,
            Self::Burst {
                count,
                files,
                threads,
            } => burst(count / files, *files, *threads)?,
            Self::Execs { count, program } => execs(*count, program)?,
        }
        let nanoseconds = started.elapsed().as_nanos();
        let cpu_nanoseconds = cpu_nanoseconds()? - cpu_before;
        println!(
            "{{\"count\":{count},\"nanoseconds\":{nanoseconds},\
             \"cpu_nanoseconds\":{cpu_nanoseconds}}}"
        );
        Ok(())
    }

    fn count(&self) -> u64 {
        match self {
            Self::Opens { count, .. }
            | Self::Files { count, .. }
            | Self::Burst { count, .. }
            | Self::Execs { count, .. } => *count,
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
    share_out(count, threads, || open(path))
}

fn burst(rounds: u64, files: u64, threads: u64) -> Result<()> {
    share_out(rounds, threads, || {
        let status = Command::new("/proc/self/exe")
            .args(["work", "files", "--count", &files.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .context("cannot start myself")?;
        ensure!(
            status.success(),
            "a process of the burst ended with {status}"
        );
        Ok(())
    })
}

/// Does something so many times, over threads.
fn share_out(count: u64, threads: u64, work: impl Fn() -> Result<()> + Sync) -> Result<()> {
    let share = |thread: u64| count / threads + u64::from(thread < count % threads);
    thread::scope(|scope| {
        let work = &work;
        let workers: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || (0..share(thread)).try_for_each(|_| work())))
            .collect();
        for worker in workers {
            worker.join().expect("a worker does not panic")?;
        }
        Ok(())
    })
}

fn open(path: &Path) -> Result<()> {
    File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(())
}

/// Makes files for [`Work::Files`], ten in a folder, four levels down.
pub fn plant(root: &Path, count: u64) -> Result<()> {
    for index in 0..count {
        let path = leaf(root, index);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        fs::write(&path, "leaf\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    // What is not on the disk by the first measurement would be written
    // during it.
    rustix::fs::sync();
    Ok(())
}

fn leaf(root: &Path, index: u64) -> PathBuf {
    let [a, b, c] = [index / 1000, index / 100 % 10, index / 10 % 10];
    root.join(format!("branch-{a}/{b}/{c}/leaf-{index}"))
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
    fn what_is_planted_can_be_opened_and_is_all_different() {
        let folder = tempfile::tempdir().unwrap();
        plant(folder.path(), 1234).unwrap();
        let names: std::collections::BTreeSet<PathBuf> =
            (0..1234).map(|index| leaf(folder.path(), index)).collect();
        assert_eq!(names.len(), 1234);
        names.iter().for_each(|name| open(name).unwrap());
        assert!(open(&leaf(folder.path(), 1234)).is_err());
    }

    #[test]
    fn childrens_time_is_found_behind_any_name() {
        let stat = "42 (a) b) c) S 1 42 42 0 -1 4194560 93 9 0 0 7 8 11 22 20 0 1 0 33 0";
        assert_eq!(children_ticks(stat), Some(33));
        assert_eq!(children_ticks("42 (cut"), None);
        assert_eq!(children_ticks("42 (x) S 1"), None);
    }
}
