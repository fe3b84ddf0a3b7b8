//! Events for people: one line each, the same from `shrikectl events` and
//! `shrike-agent watch`.
//!
//! ```text
//! TIME                     NODE  KIND COMM[PID]  USER    what happened             verdict or receipt
//! 2026-11-22T15:00:00.000Z web-1 open cat[4312]  mallory read /etc/shadow          KILL protect-credentials/shadow: signal sent
//! 2026-11-22T15:00:00.001Z web-1 exit cat[4312]  mallory killed by signal 9 after… asked by protect-credentials/shadow (…)
//! 2026-11-22T15:00:05.001Z web-1 alert cat[4312] mallory ALERT kill-survived after 5.0s, uninterruptible: thread 4312…  KILL …
//! ```
//!
//! Whatever a process chose (paths, arguments, names) passes through
//! [`escape`](crate::escape) first, so that it cannot colour, move or hide
//! anything.

use std::{fmt, io, time::Duration};

use anstyle::{AnsiColor, Style};

use super::{
    Action, Alert, Cause, Change, Event, Exec, Exit, Fact, Fork, Image, Kind, Open, Outcome,
    Process, Receipt, ResolvedPath, StoredEvent, TimeText, Verdict, capability, errno,
    json::access_name, time_text::Fraction,
};
use crate::{
    escape::{CommandLine, Terminal, TextOut},
    id::NodeId,
};

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
    let mut line = Vec::new();
    let mut clock = TimeText::default();
    append_compact(&mut line, &mut clock, &stored.node, &stored.event, colour);
    out.write_all(&line)
}

/// Appends the event as one line, with its line feed: for many lines that
/// leave together. `clock` is the caller's to keep from line to line.
pub fn append_compact(
    out: &mut Vec<u8>,
    clock: &mut TimeText,
    node: &NodeId,
    event: &Event,
    colour: Colour,
) {
    write_line(&mut Memory(out), clock, node, event, colour).expect("memory takes everything");
    out.push(b'\n');
}

/// Text on its way into bytes.
struct Memory<'a>(&'a mut Vec<u8>);

impl fmt::Write for Memory<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

impl TextOut for Memory<'_> {
    fn write_ascii(&mut self, text: &[u8]) -> fmt::Result {
        self.0.extend_from_slice(text);
        Ok(())
    }
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
        let StoredEvent { node, event, .. } = self.stored;
        write_line(f, &mut TimeText::default(), node, event, self.colour)
    }
}

// Formatting through a `Formatter` costs several times as much as the text
// itself, and an agent writes a line for each event: what is on most lines is
// written directly.

fn write_line(
    out: &mut impl TextOut,
    clock: &mut TimeText,
    node: &NodeId,
    event: &Event,
    colour: Colour,
) -> fmt::Result {
    let kind = event.fact.kind();
    paint(out, colour, Style::new().dimmed(), |out| {
        // Milliseconds suffice to read along; JSON has them all.
        clock.write(out, event.time_unix_ns, Fraction::Milliseconds)
    })?;
    out.write_char(' ')?;
    out.write_str(node.as_str())?;
    out.write_char(' ')?;
    paint(out, colour, kind_style(kind), |out| {
        out.write_str(kind.as_str())
    })?;
    out.write_char(' ')?;
    write_process(out, event, colour)?;
    match &event.fact {
        Fact::Exec(exec) => write_exec(out, exec)?,
        Fact::Open(open) => write_open(out, open)?,
        Fact::Change(change) => write_change(out, change)?,
        Fact::Fork(fork) => write_fork(out, fork)?,
        Fact::Exit(exit) => write_exit(out, exit, colour)?,
        Fact::Alert(alert) => write_alert(out, alert, colour)?,
    }
    match &event.verdict {
        Some(verdict) => write_verdict(out, verdict, colour),
        None => Ok(()),
    }
}

/// Writes something in a style.
fn paint<W: TextOut>(
    out: &mut W,
    colour: Colour,
    style: Style,
    write: impl FnOnce(&mut W) -> fmt::Result,
) -> fmt::Result {
    match colour {
        Colour::Plain => write(out),
        Colour::Ansi => {
            write!(out, "{style}")?;
            write(out)?;
            write!(out, "{style:#}")
        }
    }
}

fn write_number(out: &mut impl TextOut, number: impl itoa::Integer) -> fmt::Result {
    out.write_str(itoa::Buffer::new().format(number))
}

fn kind_style(kind: Kind) -> Style {
    let colour = match kind {
        Kind::Exec => AnsiColor::Cyan,
        Kind::Open => AnsiColor::Blue,
        Kind::Change => AnsiColor::Yellow,
        Kind::Fork => AnsiColor::Magenta,
        Kind::Exit => AnsiColor::BrightBlack,
        Kind::Alert => AnsiColor::Red,
    };
    Style::new().fg_color(Some(colour.into()))
}

fn write_process(out: &mut impl TextOut, event: &Event, colour: Colour) -> fmt::Result {
    let Process {
        tgid,
        uid,
        euid,
        comm,
        user,
        container_id,
        ..
    } = &event.process;
    paint(out, colour, Style::new().bold(), |out| {
        Terminal(comm).write_to(out)
    })?;
    out.write_char('[')?;
    write_number(out, *tgid)?;
    out.write_str("] ")?;
    if user.is_empty() {
        write!(out, "uid={uid}")?;
    } else {
        Terminal::text(user).write_to(out)?;
    }
    if euid != uid {
        write!(out, "(euid={euid})")?;
    }
    if !container_id.is_empty() {
        let end = container_id
            .char_indices()
            .nth(12)
            .map_or(container_id.len(), |(end, _)| end);
        out.write_char(' ')?;
        paint(out, colour, Style::new().dimmed(), |out| {
            out.write_str("container=")?;
            Terminal::text(&container_id[..end]).write_to(out)
        })?;
    }
    out.write_char(' ')
}

fn write_exec(out: &mut impl TextOut, exec: &Exec) -> fmt::Result {
    write_path(out, exec.file.as_ref(), &exec.path_as_asked)?;
    if exec.file.as_ref().is_some_and(ResolvedPath::is_memfd) {
        out.write_str(" (memfd)")?;
    }
    if !exec.interpreter.is_empty() {
        out.write_str(" by ")?;
        Terminal(&exec.interpreter).write_to(out)?;
    }
    if !exec.argv.is_empty() {
        out.write_str(" [")?;
        CommandLine(&exec.argv).write_to(out)?;
        out.write_str(if exec.argv_truncated { " …]" } else { "]" })?;
    }
    if let Some(image) = &exec.image {
        write_image(out, image)?;
    }
    write_result(out, exec.result)
}

/// Writes what is not so of most programs.
fn write_image(out: &mut impl TextOut, image: &Image) -> fmt::Result {
    if !image.tty.is_empty() {
        out.write_str(" on ")?;
        Terminal(&image.tty).write_to(out)?;
    }
    let gained = image.gained();
    if capability::is_every(gained) {
        return out.write_str(" gains every capability");
    }
    let mut names = capability::names(gained);
    if let Some(first) = names.next() {
        out.write_str(" gains ")?;
        out.write_str(first)?;
    }
    for name in names.by_ref().take(GAINED_SHOWN_MAX - 1) {
        out.write_char(',')?;
        out.write_str(name)?;
    }
    match names.count() {
        0 => Ok(()),
        more => write!(out, " and {more} more"),
    }
}

/// Gained capabilities that fit on a line.
const GAINED_SHOWN_MAX: usize = 3;

fn write_open(out: &mut impl TextOut, open: &Open) -> fmt::Result {
    out.write_str(access_name(open.flags))?;
    out.write_char(' ')?;
    write_path(out, open.file.as_ref(), &open.path_as_asked)?;
    if open.path_as_asked_truncated && open.file.is_none() {
        out.write_str("…")?;
    }
    write_result(out, open.result)
}

fn write_change(out: &mut impl TextOut, change: &Change) -> fmt::Result {
    out.write_str(change.operation.as_str())?;
    if change.mode != 0 {
        write!(out, " {:04o}", change.mode & 0o7777)?;
    }
    out.write_char(' ')?;
    let (first, second) = change.names();
    write_name(out, first)?;
    if let Some(second) = second {
        out.write_str(" to ")?;
        write_name(out, second)?;
    }
    write_result(out, change.result)
}

fn write_name(out: &mut impl TextOut, name: &[u8]) -> fmt::Result {
    if name.is_empty() {
        return out.write_str("(unresolved)");
    }
    Terminal(name).write_to(out)
}

fn write_fork(out: &mut impl TextOut, fork: &Fork) -> fmt::Result {
    out.write_str("child ")?;
    Terminal(&fork.child_comm).write_to(out)?;
    out.write_char('[')?;
    write_number(out, fork.child_tgid)?;
    out.write_char(']')
}

fn write_exit(out: &mut impl TextOut, exit: &Exit, colour: Colour) -> fmt::Result {
    if exit.signal == 0 {
        out.write_str("code ")?;
        write_number(out, exit.code)?;
    } else {
        write!(out, "killed by signal {}", exit.signal)?;
    }
    if exit.core_dumped {
        out.write_str(", core dumped")?;
    }
    if exit.duration_ns != 0 {
        write!(out, " after {:.1?}", Duration::from_nanos(exit.duration_ns))?;
    }
    match &exit.receipt {
        Some(receipt) => write_receipt(out, receipt, colour),
        None => Ok(()),
    }
}

fn write_receipt(out: &mut impl TextOut, receipt: &Receipt, colour: Colour) -> fmt::Result {
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
    out.write_str("  ")?;
    if receipt.died_by_it {
        write!(out, "{style}asked by {source}{style:#}")
    } else {
        write!(
            out,
            "{style}NOT by the kill that {source} asked for{style:#}"
        )?;
        write_result(out, receipt.signal_result)
    }
}

fn write_alert(out: &mut impl TextOut, alert: &Alert, colour: Colour) -> fmt::Result {
    // As loud as a kill: whoever reads along must not miss it.
    let style = colour.paint(action_style(Action::Kill));
    write!(out, "{style}ALERT {}{style:#}", alert.cause.as_str())?;
    if let Some(receipt) = alert.receipt() {
        write!(out, " after {:.1?}", Duration::from_nanos(receipt.after_ns))?;
        write_result(out, receipt.signal_result)?;
    }
    if let Cause::KillSurvived { obstacle, .. } = alert.cause {
        write!(out, ", {}", obstacle.as_str())?;
    }
    out.write_str(": ")?;
    Terminal::text(&alert.reason).write_to(out)
}

fn write_verdict(out: &mut impl TextOut, verdict: &Verdict, colour: Colour) -> fmt::Result {
    let carried_out = match verdict.outcome {
        Outcome::Noted | Outcome::SignalSent | Outcome::Denied => true,
        Outcome::Observed
        | Outcome::SignalFailed(_)
        | Outcome::SparedInit
        | Outcome::SparedKernelThread
        | Outcome::SparedAgent
        | Outcome::SparedProtected
        | Outcome::BreakerOpen => false,
    };
    let style = colour.paint(if carried_out {
        action_style(verdict.action)
    } else {
        warning_style()
    });
    write!(
        out,
        "  {style}{}{style:#} {}/{}",
        verdict.action.as_str().to_uppercase(),
        verdict.policy,
        verdict.rule
    )?;
    match verdict.outcome {
        Outcome::Noted => Ok(()),
        Outcome::Observed => out.write_str(": observed, nothing touched"),
        Outcome::SignalSent if verdict.denied => out.write_str(": denied, signal sent"),
        Outcome::SignalSent => out.write_str(": signal sent"),
        Outcome::Denied => out.write_str(": denied"),
        Outcome::SignalFailed(errno) => {
            let denied = if verdict.denied { "denied, " } else { "" };
            write!(out, ": {denied}{style}signal FAILED{style:#}")?;
            write_result(out, errno)
        }
        Outcome::SparedInit => out.write_str(": spared, PID 1 is never killed"),
        Outcome::SparedKernelThread => out.write_str(": spared, kernel threads are never killed"),
        Outcome::SparedAgent => out.write_str(": spared, the agent is never killed"),
        Outcome::SparedProtected => {
            out.write_str(": spared, this node never kills its program")
        }
        Outcome::BreakerOpen => out.write_str(
            ": NOT carried out, the rule killed too much within a minute (push it again to re-arm it)",
        ),
    }
}

fn action_style(action: Action) -> Style {
    match action {
        Action::Kill | Action::Deny => Style::new()
            .bold()
            .fg_color(Some(AnsiColor::White.into()))
            .bg_color(Some(AnsiColor::Red.into())),
        Action::Alert => warning_style(),
        Action::Ignore | Action::Record => Style::new().fg_color(Some(AnsiColor::Green.into())),
    }
}

fn warning_style() -> Style {
    Style::new().bold().fg_color(Some(AnsiColor::Yellow.into()))
}

/// Writes the resolved path, and the path as asked where it is another one.
fn write_path(out: &mut impl TextOut, file: Option<&ResolvedPath>, asked: &[u8]) -> fmt::Result {
    match file {
        Some(file) if !file.path.is_empty() => {
            Terminal(&file.path).write_to(out)?;
            if file.deleted {
                out.write_str(" (deleted)")?;
            }
            if !file.task_path.is_empty() {
                out.write_str(" (below its root: ")?;
                Terminal(&file.task_path).write_to(out)?;
                out.write_char(')')?;
            }
            if asked != file.path && !asked.is_empty() {
                out.write_str(" (as ")?;
                Terminal(asked).write_to(out)?;
                out.write_char(')')?;
            }
            Ok(())
        }
        Some(file) if file.unresolved => write!(out, "{} (unresolved)", Terminal(asked)),
        Some(_) | None => Terminal(asked).write_to(out),
    }
}

/// Writes ` = ENOENT` for a failure, nothing for success.
fn write_result(out: &mut impl TextOut, result: i32) -> fmt::Result {
    match errno::name(result) {
        Some(name) => write!(out, " = {name}"),
        None if result != 0 => write!(out, " = {result}"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Capabilities, ChangedName, Operation, sample},
        *,
    };

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
    fn change_reads_as_it_was_asked() {
        let check = |change: &dyn Fn(&mut Change), expect: &str| {
            let mut stored = sample::refused_rename();
            let Fact::Change(it) = &mut stored.event.fact else {
                unreachable!("the sample is a change")
            };
            change(it);
            assert_eq!(
                plain(&stored),
                format!(
                    "2026-11-22T15:00:00.000Z web-1 change cat[4312] mallory(euid=0) {expect} = \
                     EPERM  DENY protect-credentials/shadow: denied"
                )
            );
        };
        check(&|_| {}, "rename /tmp/mine to /etc/shadow");
        check(
            &|change| change.name = ChangedName::Old,
            "rename /etc/shadow to /tmp/mine",
        );
        check(
            &|change| {
                change.operation = Operation::Chmod;
                change.other_path.clear();
                change.mode = 0o104_755;
            },
            "chmod 4755 /etc/shadow",
        );
        check(
            &|change| {
                change.other_path.clear();
                change.other_unresolved = true;
            },
            "rename (unresolved) to /etc/shadow",
        );
        check(
            &|change| {
                change.operation = Operation::Unlink;
                change.other_path.clear();
                change.file.path.clear();
            },
            "unlink (unresolved)",
        );
    }

    #[test]
    fn exec_shows_what_is_not_so_of_most() {
        let check = |change: &dyn Fn(&mut Exec), expect: &str| {
            let mut stored = sample::setuid_script();
            let Fact::Exec(exec) = &mut stored.event.fact else {
                unreachable!("the sample is an exec")
            };
            change(exec);
            let line = plain(&stored);
            assert!(line.ends_with(expect), "{line}");
        };
        fn image(exec: &mut Exec) -> &mut Image {
            exec.image.as_mut().expect("the sample has one")
        }
        check(
            &|_| {},
            " /usr/bin/dash [sh] on pts/0 gains cap_net_raw,cap_sys_admin",
        );
        check(
            &|exec| {
                image(exec).capabilities_before = None;
                image(exec).tty.clear();
            },
            " /usr/bin/dash [sh]",
        );
        check(
            &|exec| {
                image(exec).capabilities_before = Some(Capabilities::default());
                image(exec).capabilities.permitted = 0x1ff_ffff_ffff;
            },
            " on pts/0 gains every capability",
        );
        check(
            &|exec| image(exec).capabilities.permitted = 0x3f_0000,
            " gains cap_sys_module,cap_sys_rawio,cap_sys_chroot and 3 more",
        );
        check(
            &|exec| {
                let file = exec.file.as_mut().expect("the sample has one");
                file.path = b"memfd:x".to_vec();
                exec.path_as_asked = b"/dev/fd/3".to_vec();
                exec.image = None;
            },
            " memfd:x (as /dev/fd/3) (memfd) [sh]",
        );
    }

    #[test]
    fn survivor_is_loud() {
        let stored = sample::survivor();
        assert_eq!(
            plain(&stored),
            "2026-11-22T15:00:00.000Z web-1 alert cat[4312] mallory(euid=0) ALERT kill-survived \
             after 5.2s, uninterruptible: thread 4313 waits in percpu_rwsem_wait  \
             KILL protect-credentials/shadow: signal sent"
        );
        let painted = Compact {
            stored: &stored,
            colour: Colour::Ansi,
        };
        let red = Colour::Ansi.paint(action_style(Action::Kill)).to_string();
        assert!(
            painted.to_string().contains(&format!("{red}ALERT")),
            "{painted}"
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
            Outcome::SparedProtected,
            Outcome::BreakerOpen,
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
