//! What a person sees while a long step runs.
//!
//! On a terminal one line is rewritten in place. Into a file or a pipe the
//! same line is printed again only every few seconds, so that a log stays
//! readable and a watcher still sees that something moves.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Between two lines about the same step when nobody watches live.
const QUIET_INTERVAL: Duration = Duration::from_secs(5);

/// Width of the column that names the step.
const NAME_WIDTH: usize = 12;

/// One step, from its start to `done`.
pub struct Step {
    name: String,
    started: Instant,
    last_shown: Instant,
    live: bool,
}

impl Step {
    /// Says what is about to be done.
    pub fn start(name: &str, doing: &str) -> Self {
        let now = Instant::now();
        let mut step = Self {
            name: name.to_owned(),
            started: now,
            last_shown: now,
            live: std::io::stderr().is_terminal(),
        };
        step.show(doing);
        step
    }

    /// Says how far it is; cheap enough to call often.
    pub fn update(&mut self, doing: &str) {
        if self.live || self.last_shown.elapsed() >= QUIET_INTERVAL {
            self.show(doing);
        }
    }

    /// Leaves the line to a program that writes to the terminal itself.
    pub fn hand_over(&mut self) {
        if self.live {
            eprintln!();
        }
    }

    /// Says what came of it, and how long it took.
    pub fn done(self, result: &str) {
        let seconds = self.started.elapsed().as_secs_f64();
        self.write(&format!("{result} ({seconds:.1} s)"), "\n");
    }

    fn show(&mut self, doing: &str) {
        self.last_shown = Instant::now();
        self.write(&format!("{doing} …"), if self.live { "" } else { "\n" });
    }

    fn write(&self, text: &str, end: &str) {
        let start = if self.live { "\r\x1b[K" } else { "" };
        let mut stderr = std::io::stderr().lock();
        // A closed stderr is the reader's choice and no reason to stop.
        let _ = write!(
            stderr,
            "{start}  {:<width$} {text}{end}",
            self.name,
            width = NAME_WIDTH
        );
        let _ = stderr.flush();
    }
}

/// Says in one line that a step needed nothing.
pub fn ready(name: &str, what: &str) {
    eprintln!("  {name:<NAME_WIDTH$} {what}");
}

/// Bytes as a person reads them.
pub fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
