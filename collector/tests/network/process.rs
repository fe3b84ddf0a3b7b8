//! The collector as a process.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use shrike_proto::tls::TlsFiles;

use crate::certificates::Pki;

/// Longest that a start or a stop may take.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Collector {
    child: Child,
    pub address: String,
}

/// A folder with a configuration and a store in it.
pub struct Home {
    _folder: tempfile::TempDir,
    pub config: PathBuf,
    pub data_dir: PathBuf,
}

impl Home {
    pub fn new(pki: &Pki) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().join("data");
        Self::with_data_dir(
            folder,
            &pki.issue("collector/main"),
            data_dir,
            1_000_000,
            "",
        )
    }

    pub fn with_data_dir(
        folder: tempfile::TempDir,
        files: &TlsFiles,
        data_dir: PathBuf,
        low_disk_bytes: u64,
        more: &str,
    ) -> Self {
        let config = folder.path().join("collector.toml");
        let text = format!(
            "listen = \"127.0.0.1:0\"\ndata_dir = {data_dir:?}\nlow_disk_bytes = {low_disk_bytes}\n{more}\n\
             [tls]\nca = {:?}\ncertificate = {:?}\nkey = {:?}\n\
             [limits]\nhandshake_timeout_ms = 1000\n",
            files.ca, files.certificate, files.key
        );
        fs::write(&config, text).unwrap();
        Self {
            _folder: folder,
            config,
            data_dir,
        }
    }

    pub fn start(&self) -> Collector {
        self.start_with(&[])
    }

    /// Starts it with fields overridden by the environment.
    pub fn start_with(&self, environment: &[(&str, &str)]) -> Collector {
        Collector::start(&self.config, environment)
    }

    /// Runs a command that ends by itself.
    pub fn command(&self, arguments: &[&str]) -> Output {
        Command::new(binary())
            .args(arguments)
            .arg("--config")
            .arg(&self.config)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }
}

fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_shrike-collector")
}

impl Collector {
    fn start(config: &Path, environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new(binary())
            .args(["run", "--config"])
            .arg(config)
            .envs(environment.iter().copied())
            .env("SHRIKE_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (address_sender, address) = mpsc::channel();
        // Reads to the end, so that the collector never waits for us.
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                eprintln!("collector: {line}");
                if let Some((_, rest)) = line.split_once("listening address=") {
                    let address = rest.split_whitespace().next().unwrap().to_owned();
                    let _ = address_sender.send(address);
                }
            }
        });
        let address = address
            .recv_timeout(PATIENCE)
            .expect("the collector listens");
        Self { child, address }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a power cut of the process would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it as a service manager would, and returns its exit code.
    pub fn terminate(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(
                std::time::Instant::now() < deadline,
                "the collector does not stop"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
