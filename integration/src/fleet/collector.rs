//! The collector, as a program on this machine.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Local, poll};

/// Opening a small store and binding a port.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Draining sessions and closing the store.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// A collector that can be stopped and started again on the same store.
pub struct Collector {
    binary: PathBuf,
    config: PathBuf,
    log: PathBuf,
    port: u16,
    process: Option<Local>,
}

impl Collector {
    /// Starts a collector that keeps everything in `folder`, with the
    /// certificate `collector-main` of `pki`.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(
        binary: &Path,
        folder: &Path,
        pki: &Path,
        port: u16,
        otlp_endpoint: Option<&str>,
    ) -> Result<Self> {
        let data = folder.join("store");
        let config = folder.join("collector.toml");
        let text = format!(
            "listen = \"127.0.0.1:{port}\"\n\
             data_dir = \"{data}\"\n\
             {otlp}\n\
             \n\
             [tls]\n\
             ca = \"{pki}/ca.pem\"\n\
             certificate = \"{pki}/collector-main.pem\"\n\
             key = \"{pki}/collector-main.key\"\n",
            data = data.display(),
            otlp = otlp_endpoint
                .map(|endpoint| format!("otlp_endpoint = \"{endpoint}\""))
                .unwrap_or_default(),
            pki = pki.display(),
        );
        fs::write(&config, text).context("cannot write the collector's configuration")?;
        let mut collector = Self {
            binary: binary.to_owned(),
            config,
            log: folder.join("collector.log"),
            port,
            process: None,
        };
        collector.resume()?;
        Ok(collector)
    }

    /// Starts it (again) and waits until it listens.
    ///
    /// # Errors
    /// When it does not.
    pub fn resume(&mut self) -> Result<()> {
        let mut command = Command::new(&self.binary);
        command.arg("run").arg("--config").arg(&self.config);
        let mut process = Local::start(&command, &self.log)?;
        let port = self.port;
        poll(START_TIMEOUT, || {
            if let Some(status) = process.ended()? {
                bail!(
                    "the collector ended ({status}); it said:\n{}",
                    process.said()
                );
            }
            Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok())
        })
        .context("the collector does not listen")?;
        self.process = Some(process);
        Ok(())
    }

    /// Stops it in order (SIGTERM).
    ///
    /// # Errors
    /// When it does not stop, or not with exit code 0.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else {
            return Ok(());
        };
        let status = process.terminate(STOP_TIMEOUT)?;
        if !status.success() {
            bail!(
                "the collector ended with {status}; it said:\n{}",
                process.said()
            );
        }
        Ok(())
    }

    /// Ends it at once (SIGKILL), as a crash would.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    /// Its port on the loopback interface.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Local::pid)
    }

    /// Its log so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}
