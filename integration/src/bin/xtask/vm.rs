//! `cargo xtask vm`: one machine, one command, its output and exit code.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use shrike_integration::build::{self, What};
use shrike_integration::layout::Layout;
use shrike_integration::setup::{self, Kernel, Need, Userland};
use shrike_integration::vm::{Clock, Job, Machine, Outcome, Placed, Spec};

/// Between two looks at a running command's output.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Boots a machine and runs a command in it.
#[derive(Args)]
pub struct Vm {
    /// The kernel to boot.
    #[arg(long, value_enum, default_value = "6.12")]
    kernel: Kernel,
    /// What is on its disk.
    #[arg(long, value_enum, default_value = "plain")]
    userland: Userland,
    /// A file to place in the machine, executable: FILE:/path/in/machine.
    #[arg(long = "copy", value_name = "FILE:PATH", value_parser = placed)]
    copies: Vec<Placed>,
    /// Let time pass by executed instructions, on one processor.
    #[arg(long)]
    icount: bool,
    /// Memory in MiB.
    #[arg(long, default_value_t = 1024)]
    memory: u32,
    /// Give up after so many seconds.
    #[arg(long, default_value_t = 300)]
    timeout: u64,
    /// Print the kernel's console at the end.
    #[arg(long)]
    console: bool,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

impl Vm {
    /// Does it; the exit code is the command's.
    pub fn run(self, layout: &Layout) -> Result<ExitCode> {
        setup::prepare(layout, Need::Machines)?;
        if self.userland == Userland::Peers {
            setup::prepare_peers(layout)?;
        }
        let mut built = build::run(layout, What::Guest)?;
        let runner = built
            .remove("shrike-guest")
            .context("no shrike-guest was built")?;
        let mut spec = Spec::new("machine", self.kernel);
        spec.files = self.copies;
        spec.userland = self.userland;
        spec.memory_mib = self.memory;
        if self.icount {
            spec.clock = Clock::Instructions;
        }
        let machine = Machine::boot(layout, &runner, spec)?;
        eprintln!(
            "machine: kernel {}, up after {:.1} s",
            machine.release(),
            machine.boot_time().as_secs_f64()
        );

        let [program, arguments @ ..] = &self.command[..] else {
            bail!("which command?");
        };
        let job = machine
            .command(program)
            .args(arguments.iter().map(String::as_str))
            .spawn()?;
        let outcome = follow(&job, Duration::from_secs(self.timeout));
        if self.console {
            eprintln!("console:\n{}", machine.console());
        }
        Ok(match outcome? {
            Outcome::Code(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
            Outcome::Signal(signal) => {
                eprintln!("machine: the command was ended by signal {signal}");
                ExitCode::from(128_u8.wrapping_add(u8::try_from(signal).unwrap_or(0)))
            }
        })
    }
}

/// Copies a job's output to ours until it ends.
fn follow(job: &Job, timeout: Duration) -> Result<Outcome> {
    let started = std::time::Instant::now();
    let (mut out, mut err) = (0, 0);
    loop {
        let ended = job.has_ended();
        let (stdout, stderr) = (job.stdout(), job.stderr());
        std::io::stdout().write_all(&stdout[out..])?;
        std::io::stdout().flush()?;
        std::io::stderr().write_all(&stderr[err..])?;
        (out, err) = (stdout.len(), stderr.len());
        if ended {
            return Ok(job.wait(Duration::from_secs(1))?.outcome);
        }
        if started.elapsed() > timeout {
            bail!("{} s went by and the command still runs", timeout.as_secs());
        }
        thread::sleep(LOOK_INTERVAL);
    }
}

fn placed(text: &str) -> Result<Placed, String> {
    let (from, to) = text
        .rsplit_once(':')
        .ok_or("expected FILE:/path/in/machine")?;
    if !to.starts_with('/') {
        return Err(format!("{to} is not an absolute path"));
    }
    let from = PathBuf::from(from);
    if !from.is_file() {
        return Err(format!("{} is not a file", from.display()));
    }
    Ok(Placed::program(from, to))
}
