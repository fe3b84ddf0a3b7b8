//! Carries out the host's requests: one thread for each running job, one
//! writer at a time on the port.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use shrike_integration::vm::wire::{self, Outcome, Reply, Request};

/// A job's output may be held open by a daemon that it left behind; its end
/// is then reported after this long.
const OUTPUT_GRACE: Duration = Duration::from_millis(500);

/// Which process carries which job.
type Running = Arc<Mutex<HashMap<u32, u32>>>;

/// Serves until the host goes away.
pub fn serve() -> Result<()> {
    let path = find_port()?;
    // The kernel lets a port be opened once only.
    let mut input = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    let port = Port(Arc::new(Mutex::new(input.try_clone()?)));
    let running = Running::default();

    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    port.send(
        &Reply::Hello {
            release: release.trim().to_owned(),
        },
        &[],
    )?;
    loop {
        let (request, payload) = wire::receive::<Request>(&mut input)?;
        let (id, result) = match request {
            Request::Spawn { id, argv, env } => (id, spawn(id, &argv, &env, &port, &running)),
            Request::Signal { id, signal } => (id, send_signal(id, signal, &running)),
            Request::Write { id, path, mode } => (
                id,
                write_file(&path, mode, &payload)
                    .and_then(|()| port.send(&Reply::Done { id }, &[])),
            ),
            Request::Read { id, path } => (
                id,
                read_file(&path).and_then(|bytes| port.send(&Reply::Done { id }, &bytes)),
            ),
        };
        if let Err(error) = result {
            port.send(
                &Reply::Failed {
                    id,
                    error: format!("{error:#}"),
                },
                &[],
            )?;
        }
    }
}

/// The writing end, shared by every job.
#[derive(Clone)]
struct Port(Arc<Mutex<File>>);

impl Port {
    fn send(&self, reply: &Reply, payload: &[u8]) -> Result<()> {
        let mut port = self.0.lock().expect("no holder panics");
        wire::send(&mut *port, reply, payload).context("cannot write to the host")
    }
}

/// Finds the port by its name; there is no udev to make a link.
fn find_port() -> Result<PathBuf> {
    for entry in fs::read_dir("/sys/class/virtio-ports").context("no virtio ports")? {
        let entry = entry?;
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim() == wire::PORT {
            return Ok(Path::new("/dev").join(entry.file_name()));
        }
    }
    bail!("no virtio port is called {}", wire::PORT)
}

fn spawn(
    id: u32,
    argv: &[String],
    env: &[(String, String)],
    port: &Port,
    running: &Running,
) -> Result<()> {
    let [program, arguments @ ..] = argv else {
        bail!("a command without a program");
    };
    let mut child = Command::new(program)
        .args(arguments)
        .envs(env.iter().map(|(key, value)| (key, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let pid = child.id();
    running.lock().expect("no holder panics").insert(id, pid);
    port.send(&Reply::Started { id, pid }, &[])?;

    let (finished, readers) = mpsc::channel();
    forward(
        child.stdout.take(),
        Reply::Stdout { id },
        port,
        finished.clone(),
    );
    forward(child.stderr.take(), Reply::Stderr { id }, port, finished);
    let (port, running) = (port.clone(), Arc::clone(running));
    thread::spawn(move || {
        let outcome = wait(&mut child);
        running.lock().expect("no holder panics").remove(&id);
        for _ in 0..2 {
            if readers.recv_timeout(OUTPUT_GRACE).is_err() {
                break;
            }
        }
        // Without a host there is nobody to tell.
        let _ = port.send(&Reply::Ended { id, outcome }, &[]);
    });
    Ok(())
}

/// Passes output on as it comes; says once when there is no more.
fn forward(
    output: Option<impl Read + Send + 'static>,
    reply: Reply,
    port: &Port,
    finished: mpsc::Sender<()>,
) {
    let mut output = output.expect("the job's output is a pipe");
    let port = port.clone();
    thread::spawn(move || {
        let mut piece = vec![0; wire::PIECE_MAX];
        while let Ok(length @ 1..) = output.read(&mut piece) {
            if port.send(&reply, &piece[..length]).is_err() {
                break;
            }
        }
        // The waiter may have given up on a pipe that stayed open.
        let _ = finished.send(());
    });
}

fn wait(child: &mut Child) -> Outcome {
    let status = child
        .wait()
        .unwrap_or_else(|_| ExitStatus::from_raw(0xff00));
    match (status.code(), status.signal()) {
        (Some(code), _) => Outcome::Code(code),
        (None, Some(signal)) => Outcome::Signal(signal),
        (None, None) => unreachable!("a process exits or is killed"),
    }
}

fn send_signal(id: u32, signal: i32, running: &Running) -> Result<()> {
    let running = running.lock().expect("no holder panics");
    // One that has ended needs no signal.
    let Some(pid) = running.get(&id) else {
        return Ok(());
    };
    let pid = Pid::from_raw(pid.cast_signed()).context("process 0")?;
    let signal = Signal::from_named_raw(signal).context("no such signal")?;
    kill_process(pid, signal).context("cannot send the signal")
}

fn write_file(path: &str, mode: u32, contents: &[u8]) -> Result<()> {
    if let Some(folder) = Path::new(path).parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)?;
    file.write_all(contents)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn read_file(path: &str) -> Result<Vec<u8>> {
    let result: io::Result<Vec<u8>> = fs::read(path);
    result.with_context(|| format!("cannot read {path}"))
}
