//! Where text goes: data to stdout, everything else to stderr.

use std::io::{self, IsTerminal as _, Write as _};

use anstyle::{AnsiColor, Style};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use shrike_proto::event::compact::Colour;
use tokio::sync::oneshot;

use crate::args::ColorWhen;

/// Waits until nobody can read stdout any more. A write would find out, too,
/// but a tail may have nothing to write for hours.
pub(crate) async fn stdout_closed() {
    let (sender, receiver) = oneshot::channel();
    // A thread of its own: it waits for ever if the reader stays, and the
    // runtime must not wait for it.
    std::thread::spawn(move || {
        let stdout = io::stdout();
        // Errors and hang-ups are reported without being asked for.
        let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
        while let Err(Errno::INTR) = poll(&mut watched, None) {}
        let gone = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
        if watched[0].revents().intersects(gone) {
            // The command may have ended meanwhile.
            let _ = sender.send(());
        }
    });
    if receiver.await.is_err() {
        // Stdout cannot be watched: writes will have to find out.
        std::future::pending::<()>().await;
    }
}

/// Both streams, and whether each takes colours.
#[derive(Debug)]
pub(crate) struct Output {
    stdout: Colour,
    stderr: Colour,
}

impl Output {
    pub(crate) fn new(when: ColorWhen) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let choose = |terminal: bool| match when {
            ColorWhen::Always => Colour::Ansi,
            ColorWhen::Auto if terminal && wanted => Colour::Ansi,
            ColorWhen::Auto | ColorWhen::Never => Colour::Plain,
        };
        Self {
            stdout: choose(io::stdout().is_terminal()),
            stderr: choose(io::stderr().is_terminal()),
        }
    }

    /// Returns whether data may be coloured.
    pub(crate) fn colour(&self) -> Colour {
        self.stdout
    }

    /// Says whether a person would see data as it is written.
    pub(crate) fn is_terminal(&self) -> bool {
        io::stdout().is_terminal()
    }

    /// Returns whether what is not data may be coloured.
    pub(crate) fn error_colour(&self) -> Colour {
        self.stderr
    }

    /// Writes data and flushes it.
    pub(crate) fn write(&self, data: &[u8]) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(data)?;
        stdout.flush()
    }

    /// Writes a line of data.
    pub(crate) fn line(&self, line: &str) -> io::Result<()> {
        self.write(format!("{line}\n").as_bytes())
    }

    /// Writes a value as indented JSON.
    pub(crate) fn json(&self, value: &serde_json::Value) -> io::Result<()> {
        self.line(&format!("{value:#}"))
    }

    /// Tells the person something that is not data.
    pub(crate) fn note(&self, message: &str) {
        if cfg!(test) {
            // The test runner captures what the macro prints, and only that.
            eprintln!("{message}");
            return;
        }
        // Without a stderr there is nobody to tell.
        let _ = writeln!(io::stderr().lock(), "{message}");
    }

    pub(crate) fn error(&self, message: &str) {
        self.labelled("error", AnsiColor::Red, message);
    }

    pub(crate) fn warning(&self, message: &str) {
        self.labelled("warning", AnsiColor::Yellow, message);
    }

    pub(crate) fn hint(&self, message: &str) {
        self.labelled("hint", AnsiColor::Cyan, message);
    }

    fn labelled(&self, label: &str, colour: AnsiColor, message: &str) {
        let style = self
            .stderr
            .paint(Style::new().bold().fg_color(Some(colour.into())));
        self.note(&format!("{style}{label}:{style:#} {message}"));
    }
}
