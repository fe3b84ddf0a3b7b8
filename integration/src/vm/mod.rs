//! Virtual machines with real kernels.
//!
//! A [`Machine`] boots one of the prepared kernels over a snapshot of the
//! prepared Debian userland, takes files in, runs commands and hands back
//! their output and exit codes. It reaches this machine at [`HOST`] and
//! nothing else: it has no default route.
//!
//! ```text
//!   host                                       machine
//!   Machine ── unix socket ── virtio-serial ── runner (`shrike-guest init`)
//!   Placed files ── raw tar ── virtio-blk ──── laid over the root at boot
//!   127.0.0.1:PORT ── user-mode network ────── 10.0.2.2:PORT
//! ```

mod accel;
mod job;
mod qemu;
mod tar;
pub mod wire;
mod write_log;

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, anyhow, bail};

pub use accel::Accel;
pub use job::{Finished, Job};
pub use tar::Placed;
pub use wire::Outcome;
pub use write_log::WriteLog;

use crate::layout::Layout;
use crate::setup::{Kernel, Userland};
use crate::{offspring, outside};
use job::JobState;
use wire::{Reply, Request};

/// This machine's address as the virtual machines see it.
pub const HOST: &str = "10.0.2.2";

/// Where the runner lies inside a machine.
const GUEST_RUNNER: &str = "/usr/lib/shrike/guest";

/// A FIFO in a machine: process 1 reads the file whose name is written here.
pub const READ_BY_INIT: &str = "/run/read-by-init";

/// A boot takes 2 to 8 s emulated on an idle machine; a busy one with two
/// cores may need many times that.
const BOOT_TIMEOUT: Duration = Duration::from_secs(180);

/// What the console says when the kernel has given up.
const PANIC: &str = "Kernel panic - not syncing";

/// How long a command may take unless it says otherwise.
const RUN_TIMEOUT: Duration = Duration::from_secs(120);

/// What a machine is made of.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Its host name.
    pub name: String,
    /// Its kernel.
    pub kernel: Kernel,
    /// What is on its disk.
    pub userland: Userland,
    /// Files laid over the root file system before anything runs.
    pub files: Vec<Placed>,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// How time passes in it.
    pub clock: Clock,
    /// An empty disk of so many bytes, `/dev/vdc`, whose every write is kept in
    /// its order: see [`WriteLog`].
    pub logged_disk_bytes: Option<u64>,
    /// Images of disks, the first one is `/dev/vdc`. What is written to them is
    /// forgotten with the machine.
    pub images: Vec<PathBuf>,
}

/// How time passes in a machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Clock {
    /// As outside, on two processors.
    Wall,
    /// By executed instructions, two nanoseconds each, on one processor:
    /// repeatable, and blind to caches.
    Instructions,
}

impl Spec {
    /// A machine with a kernel and a name.
    pub fn new(name: &str, kernel: Kernel) -> Self {
        Self {
            name: name.to_owned(),
            kernel,
            userland: Userland::Plain,
            files: Vec::new(),
            memory_mib: 1024,
            clock: Clock::Wall,
            logged_disk_bytes: None,
            images: Vec::new(),
        }
    }

    /// Adds a program.
    pub fn program(mut self, from: impl AsRef<Path>, to: &str) -> Self {
        self.files.push(Placed::program(from, to));
        self
    }
}

/// A running virtual machine; dropping it is a power cut.
pub struct Machine {
    name: String,
    kernel: Kernel,
    release: String,
    qemu: Child,
    link: Arc<Link>,
    /// Socket, disk and console; removed with the machine.
    folder: tempfile::TempDir,
    boot_time: Duration,
}

/// The way to the runner, shared with the thread that reads from it.
struct Link {
    requests: Mutex<UnixStream>,
    /// `None` once the machine is gone.
    jobs: Mutex<Option<HashMap<u32, Arc<JobState>>>>,
    next_job: AtomicU32,
}

impl Machine {
    /// Boots a machine and waits for its runner.
    ///
    /// `runner` is the built `shrike-guest`.
    ///
    /// # Errors
    /// When QEMU does not start or the machine does not come up in time; the
    /// console is kept under `target/shrike/logs` then.
    pub fn boot(layout: &Layout, runner: &Path, spec: Spec) -> Result<Self> {
        let accel = accel::choose(layout, runner)?;
        let first = Self::boot_with(layout, runner, spec.clone(), accel, BOOT_TIMEOUT);
        match first {
            // An emulated kernel that patches itself sometimes trips over that
            // while it starts; nothing of ours has run by then.
            Err(error) if error.to_string().contains(PANIC) => {
                eprintln!("{error:#}\n  its kernel panicked at the start: booting once more");
                Self::boot_with(layout, runner, spec, accel, BOOT_TIMEOUT)
            }
            result => result,
        }
    }

    fn boot_with(
        layout: &Layout,
        runner: &Path,
        spec: Spec,
        accel: Accel,
        timeout: Duration,
    ) -> Result<Self> {
        let started = Instant::now();
        let folder = tempfile::Builder::new()
            .prefix("shrike-vm-")
            .tempdir()
            .context("cannot create the machine's folder")?;
        let mut files = vec![Placed::program(runner, GUEST_RUNNER)];
        files.extend(spec.files.iter().cloned());
        let disk = folder.path().join("files");
        let mut out = fs::File::create(&disk).context("cannot create the machine's disk")?;
        tar::write(&files, &mut out)?;
        drop(out);

        if let Some(bytes) = spec.logged_disk_bytes {
            for (name, bytes) in [(qemu::LOGGED_DISK, bytes), (qemu::WRITE_LOG, 0)] {
                let file = fs::File::create(folder.path().join(name));
                file.and_then(|file| file.set_len(bytes))
                    .context("cannot create the machine's disk")?;
            }
        }
        let command = qemu::command(layout, &spec, accel, folder.path())?;
        let mut qemu = offspring::spawn(command)?;

        match Self::connect(
            &mut qemu,
            &folder.path().join(qemu::SOCKET),
            started + timeout,
        ) {
            Ok((link, release)) => Ok(Self {
                name: spec.name,
                kernel: spec.kernel,
                release,
                qemu,
                link,
                folder,
                boot_time: started.elapsed(),
            }),
            Err(error) => {
                stop(&mut qemu);
                let console = folder.path().join(qemu::CONSOLE);
                let said = fs::read(&console).unwrap_or_default();
                let kept = keep_console(layout, &spec.name, &console);
                Err(error.context(format!(
                    "machine {} (kernel {}) did not come up; its console ends with:\n{}\n  all of \
                     it: {}",
                    spec.name,
                    spec.kernel,
                    outside::tail(&said),
                    kept.display()
                )))
            }
        }
    }

    fn connect(qemu: &mut Child, socket: &Path, deadline: Instant) -> Result<(Arc<Link>, String)> {
        let mut stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > deadline => {
                    return Err(error).context("QEMU opens no socket");
                }
                Err(_) => {}
            }
            if let Some(status) = qemu.try_wait()? {
                let mut said = String::new();
                if let Some(mut stderr) = qemu.stderr.take() {
                    let _ = std::io::Read::read_to_string(&mut stderr, &mut said);
                }
                bail!("QEMU ended ({status}): {}", said.trim());
            }
            thread::sleep(Duration::from_millis(20));
        };
        let left = deadline.saturating_duration_since(Instant::now());
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let (hello, _) =
            wire::receive::<Reply>(&mut stream).map_err(|error| match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => anyhow!("its runner is silent"),
                ErrorKind::UnexpectedEof => anyhow!("QEMU ended before its runner spoke"),
                _ => error.into(),
            })?;
        let Reply::Hello { release } = hello else {
            bail!("its runner began with {hello:?}");
        };
        stream.set_read_timeout(None)?;
        let link = Arc::new(Link {
            requests: Mutex::new(stream.try_clone()?),
            jobs: Mutex::new(Some(HashMap::new())),
            next_job: AtomicU32::new(1),
        });
        let reader = Arc::clone(&link);
        thread::Builder::new()
            .name("vm-reader".into())
            .spawn(move || reader.read(stream))?;
        Ok((link, release))
    }

    /// Its host name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which kernel it was asked to boot.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// The kernel that runs in it (`uname -r`).
    pub fn release(&self) -> &str {
        &self.release
    }

    /// From the start of QEMU to the runner's first word.
    pub fn boot_time(&self) -> Duration {
        self.boot_time
    }

    /// How many bytes the log of its logged disk has: every write and flush that
    /// the machine was told of lies before.
    ///
    /// # Errors
    /// When it has no such disk.
    pub fn write_log_bytes(&self) -> Result<u64> {
        let log = self.folder.path().join(qemu::WRITE_LOG);
        Ok(fs::metadata(log).context("no disk is logged")?.len())
    }

    /// Cuts the machine's power, and returns everything that its logged disk was
    /// told.
    ///
    /// # Errors
    /// When it has no such disk, or the log cannot be read.
    pub fn cut_power(mut self) -> Result<WriteLog> {
        stop(&mut self.qemu);
        WriteLog::read(&self.folder.path().join(qemu::WRITE_LOG))
    }

    /// A command in this machine, to be run or spawned.
    pub fn command(&self, program: &str) -> MachineCommand<'_> {
        MachineCommand {
            machine: self,
            argv: vec![program.to_owned()],
            env: Vec::new(),
            timeout: RUN_TIMEOUT,
        }
    }

    /// Runs a shell script to its end and insists that it succeeds.
    ///
    /// # Errors
    /// When it fails or takes too long.
    pub fn shell(&self, script: &str) -> Result<String> {
        let finished = self.command("sh").args(["-c", script]).run()?;
        if finished.outcome != Outcome::SUCCESS {
            bail!(
                "on {}: `{script}` ended with {:?}: {}{}",
                self.name,
                finished.outcome,
                finished.stdout_text(),
                finished.stderr_text()
            );
        }
        Ok(finished.stdout_text())
    }

    /// Writes a file inside the machine.
    ///
    /// # Errors
    /// When the machine cannot write it, or is gone.
    pub fn write(&self, path: &str, mode: u32, contents: &[u8]) -> Result<()> {
        let job = self.start(
            |id| Request::Write {
                id,
                path: path.to_owned(),
                mode,
            },
            contents,
        )?;
        job.transferred()
            .with_context(|| format!("cannot write {path} on {}", self.name))?;
        Ok(())
    }

    /// Reads a file inside the machine.
    ///
    /// # Errors
    /// When the machine cannot read it, or is gone.
    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        let job = self.start(
            |id| Request::Read {
                id,
                path: path.to_owned(),
            },
            &[],
        )?;
        job.transferred()
            .with_context(|| format!("cannot read {path} on {}", self.name))
    }

    /// What the kernel has written to its console so far.
    pub fn console(&self) -> String {
        let console = fs::read(self.folder.path().join(qemu::CONSOLE)).unwrap_or_default();
        String::from_utf8_lossy(&console).into_owned()
    }

    /// Keeps the console past the machine's end, for someone to read.
    pub fn keep_console(&self, layout: &Layout) -> PathBuf {
        keep_console(layout, &self.name, &self.folder.path().join(qemu::CONSOLE))
    }

    fn start(&self, request: impl FnOnce(u32) -> Request, payload: &[u8]) -> Result<Job> {
        let id = self.link.next_job.fetch_add(1, Ordering::Relaxed);
        let state = Arc::new(JobState::default());
        {
            let mut jobs = self.link.jobs.lock().expect("no holder panics");
            let Some(jobs) = jobs.as_mut() else {
                bail!("machine {} is gone", self.name);
            };
            jobs.insert(id, Arc::clone(&state));
        }
        self.link.send(&request(id), payload)?;
        Ok(Job::new(id, state, Arc::clone(&self.link)))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        stop(&mut self.qemu);
        let stream = self.link.requests.lock().expect("no holder panics");
        // The reader wakes up and ends; QEMU is gone already.
        let _ = stream.shutdown(Shutdown::Both);
    }
}

impl Link {
    fn send(&self, request: &Request, payload: &[u8]) -> Result<()> {
        let mut stream = self.requests.lock().expect("no holder panics");
        wire::send(&mut *stream, request, payload).context("the machine takes no requests")
    }

    fn read(&self, mut stream: UnixStream) {
        while let Ok((reply, payload)) = wire::receive::<Reply>(&mut stream) {
            let (Reply::Started { id, .. }
            | Reply::Stdout { id }
            | Reply::Stderr { id }
            | Reply::Ended { id, .. }
            | Reply::Done { id }
            | Reply::Failed { id, .. }) = reply
            else {
                continue;
            };
            let state = {
                let mut jobs = self.jobs.lock().expect("no holder panics");
                let Some(jobs) = jobs.as_mut() else { break };
                if JobState::is_last(&reply) {
                    jobs.remove(&id)
                } else {
                    jobs.get(&id).cloned()
                }
            };
            if let Some(state) = state {
                state.take(reply, payload);
            }
        }
        let jobs = self.jobs.lock().expect("no holder panics").take();
        for state in jobs.into_iter().flatten().map(|(_, state)| state) {
            state.machine_gone();
        }
    }
}

/// A command in a machine.
pub struct MachineCommand<'a> {
    machine: &'a Machine,
    argv: Vec<String>,
    env: Vec<(String, String)>,
    timeout: Duration,
}

impl MachineCommand<'_> {
    /// Adds an argument.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.argv.push(arg.into());
        self
    }

    /// Adds arguments.
    pub fn args<I: IntoIterator<Item: Into<String>>>(mut self, args: I) -> Self {
        self.argv.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets a variable.
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// How long `run` waits.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Runs it to its end, whatever that is.
    ///
    /// # Errors
    /// When it cannot be started or takes too long (it is killed then).
    pub fn run(self) -> Result<Finished> {
        let timeout = self.timeout;
        let shown = self.argv.join(" ");
        let name = self.machine.name.clone();
        let job = self.spawn()?;
        match job.wait(timeout) {
            Ok(finished) => Ok(finished),
            Err(error) => {
                let _ = job.signal(9);
                Err(error.context(format!("on {name}: `{shown}`")))
            }
        }
    }

    /// Starts it and returns once it runs.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(self) -> Result<Job> {
        let shown = self.argv.join(" ");
        let (argv, env) = (self.argv, self.env);
        let job = self
            .machine
            .start(|id| Request::Spawn { id, argv, env }, &[])?;
        job.started()
            .with_context(|| format!("on {}: `{shown}` does not start", self.machine.name))?;
        Ok(job)
    }
}

fn stop(qemu: &mut Child) {
    // Its own process, by its own handle; it may have ended by itself.
    let _ = qemu.kill();
    let _ = qemu.wait();
}

fn keep_console(layout: &Layout, name: &str, console: &Path) -> PathBuf {
    let kept = layout.logs().join(format!("{name}.console"));
    let copied = fs::create_dir_all(layout.logs()).and_then(|()| fs::copy(console, &kept));
    if copied.is_err() {
        return console.to_owned();
    }
    kept
}
