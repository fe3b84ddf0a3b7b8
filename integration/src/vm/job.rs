//! A command that runs, or ran, in a machine.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use super::Link;
use super::wire::{Outcome, Reply, Request};

/// Starting a program or moving a file takes milliseconds on an idle
/// machine; one that is swamped on purpose needs patience.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A command in a machine, running or ended.
pub struct Job {
    id: u32,
    state: Arc<JobState>,
    link: Arc<Link>,
}

/// How a command ended and what it wrote.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Exit code or signal.
    pub outcome: Outcome,
    /// All of its stdout.
    pub stdout: Vec<u8>,
    /// All of its stderr.
    pub stderr: Vec<u8>,
}

impl Finished {
    /// stdout as text.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// stderr as text.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// What is known of a job; filled by the thread that reads the replies.
#[derive(Default)]
pub(super) struct JobState {
    facts: Mutex<Facts>,
    changed: Condvar,
}

#[derive(Default)]
struct Facts {
    pid: Option<u32>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    end: Option<Result<Outcome, String>>,
}

impl JobState {
    /// Whether nothing comes after this reply.
    pub(super) fn is_last(reply: &Reply) -> bool {
        match reply {
            Reply::Ended { .. } | Reply::Done { .. } | Reply::Failed { .. } => true,
            Reply::Hello { .. }
            | Reply::Started { .. }
            | Reply::Stdout { .. }
            | Reply::Stderr { .. } => false,
        }
    }

    pub(super) fn take(&self, reply: Reply, mut payload: Vec<u8>) {
        let mut facts = self.facts.lock().expect("no holder panics");
        match reply {
            Reply::Hello { .. } => {}
            Reply::Started { pid, .. } => facts.pid = Some(pid),
            Reply::Stdout { .. } => facts.stdout.append(&mut payload),
            Reply::Stderr { .. } => facts.stderr.append(&mut payload),
            Reply::Ended { outcome, .. } => facts.end = Some(Ok(outcome)),
            Reply::Done { .. } => {
                facts.stdout.append(&mut payload);
                facts.end = Some(Ok(Outcome::SUCCESS));
            }
            Reply::Failed { error, .. } => facts.end = Some(Err(error)),
        }
        self.changed.notify_all();
    }

    pub(super) fn machine_gone(&self) {
        let mut facts = self.facts.lock().expect("no holder panics");
        facts
            .end
            .get_or_insert_with(|| Err("the machine is gone".to_owned()));
        self.changed.notify_all();
    }
}

impl Job {
    pub(super) fn new(id: u32, state: Arc<JobState>, link: Arc<Link>) -> Self {
        Self { id, state, link }
    }

    /// Its process id inside the machine.
    pub fn pid(&self) -> u32 {
        let facts = self.state.facts.lock().expect("no holder panics");
        facts.pid.expect("a job is handed out once it runs")
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When the machine is gone.
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.link.send(
            &Request::Signal {
                id: self.id,
                signal,
            },
            &[],
        )
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.state
            .facts
            .lock()
            .expect("no holder panics")
            .end
            .is_some()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When that takes longer than `timeout`, or the machine goes away.
    pub fn wait(&self, timeout: Duration) -> Result<Finished> {
        self.until(timeout, "ends", |facts| match &facts.end {
            Some(Ok(outcome)) => Some(Ok(Finished {
                outcome: *outcome,
                stdout: facts.stdout.clone(),
                stderr: facts.stderr.clone(),
            })),
            Some(Err(error)) => Some(Err(anyhow!("{error}"))),
            None => None,
        })
    }

    /// Its stdout so far.
    pub fn stdout(&self) -> Vec<u8> {
        self.state
            .facts
            .lock()
            .expect("no holder panics")
            .stdout
            .clone()
    }

    /// Its stderr so far.
    pub fn stderr(&self) -> Vec<u8> {
        self.state
            .facts
            .lock()
            .expect("no holder panics")
            .stderr
            .clone()
    }

    /// Waits until `found` finds what it looks for in stdout and stderr.
    ///
    /// # Errors
    /// When that takes longer than `timeout`, or the job ends without.
    pub fn wait_for<T>(
        &self,
        timeout: Duration,
        what: &str,
        mut found: impl FnMut(&[u8], &[u8]) -> Option<T>,
    ) -> Result<T> {
        self.until(timeout, what, |facts| {
            if let Some(value) = found(&facts.stdout, &facts.stderr) {
                return Some(Ok(value));
            }
            let end = facts.end.as_ref()?;
            Some(Err(anyhow!(
                "it ended ({end:?}) before {what}:\n{}{}",
                String::from_utf8_lossy(&facts.stdout),
                String::from_utf8_lossy(&facts.stderr)
            )))
        })
    }

    /// Waits until it runs.
    pub(super) fn started(&self) -> Result<()> {
        self.until(REQUEST_TIMEOUT, "starts", |facts| {
            match (&facts.pid, &facts.end) {
                (None, Some(Err(error))) => Some(Err(anyhow!("{error}"))),
                (Some(_), _) | (None, Some(Ok(_))) => Some(Ok(())),
                (None, None) => None,
            }
        })
    }

    /// Waits until a file has been moved; returns what was read.
    pub(super) fn transferred(&self) -> Result<Vec<u8>> {
        Ok(self.wait(REQUEST_TIMEOUT)?.stdout)
    }

    fn until<T>(
        &self,
        timeout: Duration,
        what: &str,
        mut look: impl FnMut(&Facts) -> Option<Result<T>>,
    ) -> Result<T> {
        let deadline = Instant::now() + timeout;
        let mut facts = self.state.facts.lock().expect("no holder panics");
        loop {
            if let Some(result) = look(&facts) {
                return result;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!(
                    "{} s went by before it {what}; it said:\n{}{}",
                    timeout.as_secs(),
                    crate::outside::tail(&facts.stdout),
                    crate::outside::tail(&facts.stderr)
                );
            }
            let (guard, _) = self
                .state
                .changed
                .wait_timeout(facts, left)
                .expect("no holder panics");
            facts = guard;
        }
    }
}
