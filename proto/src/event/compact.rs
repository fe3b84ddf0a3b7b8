//! Events for people: one line each, the same from `shrikectl events` and
//! `shrike-agent watch`.
//!
//! ```text
//! TIME                     NODE  KIND COMM[PID]  USER    what happened             verdict or receipt
//! 2026-11-22T15:00:00.000Z web-1 open cat[4312]  mallory read /etc/shadow          KILL protect-credentials/shadow: signal sent
//! 2026-11-22T15:00:00.001Z web-1 exit cat[4312]  mallory killed by signal 9 after… asked by protect-credentials/shadow (…)
//! ```
//!
//! Whatever a process chose (paths, arguments, names) passes through
//! [`escape`](crate::escape) first, so that it cannot colour, move or hide
//! anything.

use std::{fmt, io, time::Duration};

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;

use super::{
    Action, Event, Exec, Exit, Fact, Fork, Kind, Open, Outcome, Process, Receipt, ResolvedPath,
    StoredEvent, Verdict, errno, json::access_name,
};
use crate::escape::{CommandLine, Terminal};

/// Whether lines carry ANSI colours. Whoever writes to a terminal that wants
/// them says so; nothing here looks at the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// They do.
    Ansi,
    /// They do not.
    Plain,
}

impl Colour {
    /// Returns `style`, or no style at all.
    pub fn paint(self, style: Style) -> Style {
        match self {
            Self::Ansi => style,
            Self::Plain => Style::new(),
        }
    }
}

/// Writes the event as one line, with its line feed.
///
/// # Errors
/// When `out` fails.
pub fn write_compact(
    out: &mut impl io::Write,
    stored: &StoredEvent,
    colour: Colour,
) -> io::Result<()> {
    writeln!(out, "{}", Compact { stored, colour })
}

/// An event as one line, without a line feed.
#[derive(Debug, Clone, Copy)]
pub struct Compact<'a> {
    /// The event.
    pub stored: &'a StoredEvent,
    /// How to paint it.
    pub colour: Colour,
}

impl fmt::Display for Compact<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let event = &self.stored.event;
        let dim = self.colour.paint(Style::new().dimmed());
        let kind = self.colour.paint(kind_style(event.fact.kind()));
        write!(
            f,
            "{dim}{}{dim:#} {} {kind}{}{kind:#} ",
            short_time(event.time_unix_ns),
            self.stored.node,
            event.fact.kind().as_str(),
        )?;
        write_process(f, event, self.colour)?;
        match &event.fact {
            Fact::Exec(exec) => write_exec(f, exec)?,
            Fact::Open(open) => write_open(f, open)?,
            Fact::Fork(fork) => write_fork(f, fork)?,
            Fact::Exit(exit) => write_exit(f, exit, self.colour)?,
        }
        match &event.verdict {
            Some(verdict) => write_verdict(f, verdict, self.colour),
            None => Ok(()),
        }
    }
}

/// Milliseconds suffice to read along; JSON has them all.
fn short_time(unix_ns: i64) -> String {
    let milliseconds = Timestamp::from_millisecond(unix_ns.div_euclid(1_000_000))
        .expect("64 bits of nanoseconds are the years 1677 to 2262");
    format!("{milliseconds:.3}")
}

fn kind_style(kind: Kind) -> Style {
    let colour = match kind {
        Kind::Exec => AnsiColor::Cyan,
        Kind::Open => AnsiColor::Blue,
        Kind::Fork => AnsiColor::Magenta,
        Kind::Exit => AnsiColor::BrightBlack,
    };
    Style::new().fg_color(Some(colour.into()))
}

fn write_process(f: &mut fmt::Formatter<'_>, event: &Event, colour: Colour) -> fmt::Result {
    let bold = colour.paint(Style::new().bold());
    let dim = colour.paint(Style::new().dimmed());
    let Process {
        tgid,
        uid,
        euid,
        comm,
        user,
        container_id,
        ..
    } = &event.process;
    write!(f, "{bold}{}{bold:#}[{tgid}] ", Terminal(comm))?;
    if user.is_empty() {
        write!(f, "uid={uid}")?;
    } else {
        write!(f, "{}", Terminal::text(user))?;
    }
    if euid != uid {
        write!(f, "(euid={euid})")?;
    }
    if !container_id.is_empty() {
        let short: String = container_id.chars().take(12).collect();
        write!(f, " {dim}container={}{dim:#}", Terminal::text(&short))?;
    }
    f.write_str(" ")
}

fn write_exec(f: &mut fmt::Formatter<'_>, exec: &Exec) -> fmt::Result {
    write_path(f, exec.file.as_ref(), &exec.path_as_asked)?;
    if !exec.interpreter.is_empty() {
        write!(f, " by {}", Terminal(&exec.interpreter))?;
    }
    if !exec.argv.is_empty() {
        write!(f, " [{}", CommandLine(&exec.argv))?;
        f.write_str(if exec.argv_truncated { " …]" } else { "]" })?;
    }
    write_result(f, exec.result)
}

fn write_open(f: &mut fmt::Formatter<'_>, open: &Open) -> fmt::Result {
    write!(f, "{} ", access_name(open.flags))?;
    write_path(f, open.file.as_ref(), &open.path_as_asked)?;
    if open.path_as_asked_truncated && open.file.is_none() {
        f.write_str("…")?;
    }
    write_result(f, open.result)
}

fn write_fork(f: &mut fmt::Formatter<'_>, fork: &Fork) -> fmt::Result {
    write!(
        f,
        "child {}[{}]",
        Terminal(&fork.child_comm),
        fork.child_tgid
    )
}

fn write_exit(f: &mut fmt::Formatter<'_>, exit: &Exit, colour: Colour) -> fmt::Result {
    if exit.signal == 0 {
        write!(f, "code {}", exit.code)?;
    } else {
        write!(f, "killed by signal {}", exit.signal)?;
    }
    if exit.core_dumped {
        f.write_str(", core dumped")?;
    }
    if exit.duration_ns != 0 {
        write!(f, " after {:.1?}", Duration::from_nanos(exit.duration_ns))?;
    }
    match &exit.receipt {
        Some(receipt) => write_receipt(f, receipt, colour),
        None => Ok(()),
    }
}

fn write_receipt(f: &mut fmt::Formatter<'_>, receipt: &Receipt, colour: Colour) -> fmt::Result {
    let style = colour.paint(if receipt.died_by_it {
        action_style(Action::Kill)
    } else {
        warning_style()
    });
    let Receipt {
        generation,
        policy,
        rule,
        verdict_sequence,
        ..
    } = receipt;
    let source = format!("{policy}/{rule} (generation {generation}, event {verdict_sequence})");
    f.write_str("  ")?;
    if receipt.died_by_it {
        write!(f, "{style}asked by {source}{style:#}")
    } else {
        write!(f, "{style}NOT by the kill that {source} asked for{style:#}")?;
        write_result(f, receipt.signal_result)
    }
}

fn write_verdict(f: &mut fmt::Formatter<'_>, verdict: &Verdict, colour: Colour) -> fmt::Result {
    let carried_out = match verdict.outcome {
        Outcome::Noted | Outcome::SignalSent | Outcome::Denied => true,
        Outcome::Observed
        | Outcome::SignalFailed(_)
        | Outcome::SparedInit
        | Outcome::SparedKernelThread
        | Outcome::SparedAgent => false,
    };
    let style = colour.paint(if carried_out {
        action_style(verdict.action)
    } else {
        warning_style()
    });
    write!(
        f,
        "  {style}{}{style:#} {}/{}",
        verdict.action.as_str().to_uppercase(),
        verdict.policy,
        verdict.rule
    )?;
    match verdict.outcome {
        Outcome::Noted => Ok(()),
        Outcome::Observed => f.write_str(": observed, nothing touched"),
        Outcome::SignalSent if verdict.denied => f.write_str(": denied, signal sent"),
        Outcome::SignalSent => f.write_str(": signal sent"),
        Outcome::Denied => f.write_str(": denied"),
        Outcome::SignalFailed(errno) => {
            let denied = if verdict.denied { "denied, " } else { "" };
            write!(f, ": {denied}{style}signal FAILED{style:#}")?;
            write_result(f, errno)
        }
        Outcome::SparedInit => f.write_str(": spared, PID 1 is never killed"),
        Outcome::SparedKernelThread => f.write_str(": spared, kernel threads are never killed"),
        Outcome::SparedAgent => f.write_str(": spared, the agent is never killed"),
    }
}

fn action_style(action: Action) -> Style {
    match action {
        Action::Kill | Action::Deny => Style::new()
            .bold()
            .fg_color(Some(AnsiColor::White.into()))
            .bg_color(Some(AnsiColor::Red.into())),
        Action::Alert => warning_style(),
        Action::Record => Style::new().fg_color(Some(AnsiColor::Green.into())),
    }
}

fn warning_style() -> Style {
    Style::new().bold().fg_color(Some(AnsiColor::Yellow.into()))
}

/// Writes the resolved path, and the path as asked where it is another one.
fn write_path(
    f: &mut fmt::Formatter<'_>,
    file: Option<&ResolvedPath>,
    asked: &[u8],
) -> fmt::Result {
    match file {
        Some(file) if !file.path.is_empty() => {
            write!(f, "{}", Terminal(&file.path))?;
            if file.deleted {
                f.write_str(" (deleted)")?;
            }
            if !file.task_path.is_empty() {
                write!(f, " (below its root: {})", Terminal(&file.task_path))?;
            }
            if asked != file.path && !asked.is_empty() {
                write!(f, " (as {})", Terminal(asked))?;
            }
            Ok(())
        }
        Some(file) if file.unresolved => write!(f, "{} (unresolved)", Terminal(asked)),
        Some(_) | None => write!(f, "{}", Terminal(asked)),
    }
}

/// Writes ` = ENOENT` for a failure, nothing for success.
fn write_result(f: &mut fmt::Formatter<'_>, result: i32) -> fmt::Result {
    match errno::name(result) {
        Some(name) => write!(f, " = {name}"),
        None if result != 0 => write!(f, " = {result}"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::sample, *};

    fn plain(stored: &StoredEvent) -> String {
        Compact {
            stored,
            colour: Colour::Plain,
        }
        .to_string()
    }

    #[test]
    fn kill_is_visible_at_a_glance() {
        assert_eq!(
            plain(&sample::killed_open()),
            "2026-11-22T15:00:00.000Z web-1 open cat[4312] mallory(euid=0) read /etc/shadow  \
             KILL protect-credentials/shadow: signal sent"
        );
    }

    #[test]
    fn receipt_says_who_asked() {
        assert_eq!(
            plain(&sample::killed_exit()),
            "2026-11-22T15:00:00.000Z web-1 exit cat[4312] mallory(euid=0) killed by signal 9 \
             after 1.2ms  asked by protect-credentials/shadow (generation 3, event 41)"
        );
    }

    #[test]
    fn every_outcome_has_words_of_its_own() {
        let outcomes = [
            Outcome::Noted,
            Outcome::Observed,
            Outcome::SignalSent,
            Outcome::SignalFailed(-3),
            Outcome::SparedInit,
            Outcome::SparedKernelThread,
            Outcome::SparedAgent,
        ];
        let lines: std::collections::BTreeSet<String> = outcomes
            .into_iter()
            .map(|outcome| {
                let mut stored = sample::killed_open();
                stored.event.verdict = Some(sample::verdict(Action::Kill, outcome));
                plain(&stored)
            })
            .collect();
        assert_eq!(lines.len(), outcomes.len());
        assert!(
            lines
                .iter()
                .any(|line| line.ends_with("signal FAILED = ESRCH"))
        );
    }

    #[test]
    fn hostile_arguments_stay_on_their_line() {
        let line = plain(&sample::exec(
            b"/tmp/\x1b]0;owned\x07\xff",
            &[b"x", b"a\nb", "\u{202e}".as_bytes()],
        ));
        assert!(!line.chars().any(char::is_control), "{line}");
        assert!(
            line.ends_with(r"/tmp/\x1b]0;owned\x07\xff [x a\nb \u{202e}]"),
            "{line}"
        );
    }

    #[test]
    fn failure_names_its_error() {
        let mut stored = sample::exec(b"/nowhere", &[]);
        let Fact::Exec(exec) = &mut stored.event.fact else {
            unreachable!("the sample is an exec")
        };
        exec.file = None;
        exec.result = -2;
        assert!(plain(&stored).ends_with("/nowhere = ENOENT"));
    }

    #[test]
    fn colour_adds_escapes_and_nothing_else() {
        let stored = sample::killed_open();
        let coloured = Compact {
            stored: &stored,
            colour: Colour::Ansi,
        }
        .to_string();
        let mut stripped = String::new();
        let mut rest = coloured.as_str();
        while let Some((text, escape)) = rest.split_once('\x1b') {
            stripped.push_str(text);
            rest = escape.split_once('m').expect("only SGR sequences").1;
        }
        stripped.push_str(rest);
        assert_ne!(coloured, stripped);
        assert_eq!(stripped, plain(&stored));
    }
}
