//! One attempt of the proof: what is tried, what the policy says about it,
//! and how it must end.
//!
//! Whoever prepares a case, attempts it, writes its rule or judges its end
//! reads it from here, so that none of them can be about something else.

use std::fmt;

/// The folder that holds every case's own.
pub const ROOT: &str = "/srv/proof";

/// Programs that a case's rule may except, by their name below this folder.
pub const EXEMPT: &str = "/srv/proof/exempt";

/// What every protected file says.
pub const SECRET: &[u8] = b"the secret of the proof\n";

/// What a protected program says when it runs.
pub const RAN: &str = "ran";

/// Longest path that a system call takes, without its NUL (PATH_MAX,
/// include/uapi/linux/limits.h).
const PATH_BYTES_MAX: usize = 4095;

/// Longest name in a directory (NAME_MAX, same file).
const NAME_BYTES_MAX: usize = 255;

/// Most names in a path that an agent resolves (`shrike-agent-ebpf`,
/// `programs/walk.rs`).
const COMPONENTS_MAX: usize = 256;

/// What the table groups by.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum Class {
    /// Ways to name one file.
    Names,
    /// Ways through links, mounts, roots and namespaces.
    Places,
    /// System calls that open.
    Entries,
    /// Who does it.
    Processes,
    /// Ways to execute.
    Programs,
    /// Changes of a file, its name or its rights.
    Changes,
    /// Names that are long, deep, or change while they are read.
    Limits,
    /// What must be left alone.
    Bystanders,
}

impl Class {
    /// Every class, in the table's order.
    pub const ALL: [Self; 8] = [
        Self::Names,
        Self::Places,
        Self::Entries,
        Self::Processes,
        Self::Programs,
        Self::Changes,
        Self::Limits,
        Self::Bystanders,
    ];

    /// The table's heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::Names => "Names of a protected file",
            Self::Places => "Links, mounts, roots and namespaces",
            Self::Entries => "System calls that open",
            Self::Processes => "Who opens",
            Self::Programs => "Ways to execute a forbidden program",
            Self::Changes => "Changes of a protected file",
            Self::Limits => "Long, deep and changing names",
            Self::Bystanders => "What must be left alone",
        }
    }
}

/// What a rule is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Trigger {
    /// Opening, and changing.
    Open,
    /// Executing.
    Exec,
}

impl Trigger {
    /// The word that policies use.
    pub fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Exec => "exec",
        }
    }
}

/// What a rule looks at, below the case's folder.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Subject {
    /// One file.
    File(&'static str),
    /// Everything below the first, in which the second is attempted.
    Directory(&'static str, &'static str),
    /// A file whose path has 4095 bytes.
    Longest,
    /// Everything below a directory, in which a file lies this many
    /// directories deep.
    Deep(usize),
    /// Everything below a directory, in which a file lies so deep that its
    /// path is longer than any system call takes.
    BeyondLongest,
    /// A command name; the file that has it.
    Command(&'static str),
}

/// How an attempt ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ending {
    /// An event says which rule judged it.
    pub seen: bool,
    /// The system call was refused.
    pub denied: bool,
    /// The process was ended by the verdict.
    pub killed: bool,
    /// What was attempted happened all the same.
    pub done: bool,
}

/// How something must end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Must {
    /// Exactly so.
    Be(Ending),
    /// So, but what was attempted may or may not have happened.
    MayBeDone(Ending),
}

impl Must {
    /// Whether that is how it ended.
    pub fn holds(self, ending: Ending) -> bool {
        match self {
            Self::Be(must) => ending == must,
            Self::MayBeDone(must) => {
                Ending {
                    done: must.done,
                    ..ending
                } == must
            }
        }
    }
}

impl fmt::Display for Must {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Be(ending) => write!(out, "{ending}"),
            Self::MayBeDone(ending) => write!(out, "{ending}, done or not"),
        }
    }
}

impl Ending {
    /// Nobody judged it, and it happened.
    pub const LEFT_ALONE: Self = Self {
        seen: false,
        denied: false,
        killed: false,
        done: true,
    };
}

impl fmt::Display for Ending {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            (self.seen, "seen"),
            (self.denied, "denied"),
            (self.killed, "killed"),
            (self.done, "done"),
        ];
        let said: Vec<&str> = words
            .iter()
            .filter_map(|(holds, word)| holds.then_some(*word))
            .collect();
        if said.is_empty() {
            return out.write_str("nothing");
        }
        out.write_str(&said.join(", "))
    }
}

/// Hooks that an agent is told to use, and what its rules ask for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Setting {
    /// BPF LSM, rules that deny and kill.
    LsmKill,
    /// BPF LSM, rules that deny.
    LsmDeny,
    /// fentry, rules that kill.
    FentryKill,
    /// kprobes, rules that kill.
    KprobeKill,
}

impl Setting {
    /// Every setting, in the table's order.
    pub const ALL: [Self; 4] = [
        Self::LsmKill,
        Self::LsmDeny,
        Self::FentryKill,
        Self::KprobeKill,
    ];

    /// The agent's word for the hooks.
    pub fn attach(self) -> &'static str {
        match self {
            Self::LsmKill | Self::LsmDeny => "lsm",
            Self::FentryKill => "fentry",
            Self::KprobeKill => "kprobe",
        }
    }

    /// What its rules ask for.
    pub fn action(self) -> Action {
        match self {
            Self::LsmKill | Self::FentryKill | Self::KprobeKill => Action::Kill,
            Self::LsmDeny => Action::Deny,
        }
    }

    /// Whether its hooks can refuse; the others can only send a signal.
    pub fn refuses(self) -> bool {
        match self {
            Self::LsmKill | Self::LsmDeny => true,
            Self::FentryKill | Self::KprobeKill => false,
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.attach(), self.action().word())
    }
}

/// What a rule asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Action {
    /// Refuse.
    Deny,
    /// Refuse where that is possible, and end the process.
    Kill,
}

impl Action {
    /// The word that policies use.
    pub fn word(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Kill => "kill",
        }
    }
}

/// Settings that an exception is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Where {
    /// All of them.
    Everywhere,
    /// Those whose hooks can only send a signal.
    Signals,
    /// Those whose hooks refuse, and whose rules kill as well.
    RefusingKills,
}

impl Where {
    fn covers(self, setting: Setting) -> bool {
        match self {
            Self::Everywhere => true,
            Self::Signals => !setting.refuses(),
            Self::RefusingKills => setting.refuses() && setting.action() == Action::Kill,
        }
    }
}

/// An end that differs from the rule, and what in the kernel explains it.
#[derive(Clone, Copy, Debug)]
pub struct Exception {
    /// Where it holds.
    pub at: Where,
    /// What it must be there.
    pub must: Must,
    /// The explanation, for the table's reader.
    pub why: &'static str,
}

/// One attempt.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name, its folder's and its rule's.
    pub name: &'static str,
    /// Its part of the table.
    pub class: Class,
    /// What is tried, for the table's reader.
    pub says: &'static str,
    /// What its rule is about.
    pub trigger: Trigger,
    /// What its rule looks at.
    pub subject: Subject,
    /// Names below [`EXEMPT`] that its rule excepts.
    pub exempt: &'static [&'static str],
    /// What its event says was done to the file; `None` for an open or exec.
    pub operation: Option<&'static str>,
    /// Where it does not end as every attempt should.
    pub exceptions: [Option<Exception>; 2],
}

/// Why a signal comes too late for anything that changes a file.
const CALL_COMPLETES: &str = "A signal ends the process on its way back to user space; the system \
                              call that it is in completes first.";

impl Case {
    /// Opening a file that must not be opened.
    pub const fn open(class: Class, name: &'static str, says: &'static str) -> Self {
        Self {
            name,
            class,
            says,
            trigger: Trigger::Open,
            subject: Subject::File("secret"),
            exempt: &[],
            operation: None,
            exceptions: [None, None],
        }
    }

    /// Executing a program that must not run.
    pub const fn exec(name: &'static str, says: &'static str) -> Self {
        Self {
            trigger: Trigger::Exec,
            subject: Subject::File("program"),
            ..Self::open(Class::Programs, name, says)
        }
    }

    /// An open that changes something: a signal comes too late for that.
    pub const fn changing_open(name: &'static str, says: &'static str) -> Self {
        Self::open(Class::Changes, name, says).except(
            Where::Signals,
            Must::Be(Ending {
                done: true,
                ..BY_SIGNAL
            }),
            CALL_COMPLETES,
        )
    }

    /// A change without an open.
    pub const fn change(operation: &'static str, name: &'static str, says: &'static str) -> Self {
        Self {
            operation: Some(operation),
            ..Self::changing_open(name, says)
        }
    }

    /// Something that no rule is about.
    pub const fn bystander(name: &'static str, says: &'static str, why: &'static str) -> Self {
        Self::open(Class::Bystanders, name, says).left_alone(why)
    }

    /// With another subject.
    pub const fn about(self, subject: Subject) -> Self {
        Self { subject, ..self }
    }

    /// With a rule about executions.
    pub const fn on_exec(self) -> Self {
        Self {
            trigger: Trigger::Exec,
            ..self
        }
    }

    /// With programs that its rule excepts.
    pub const fn unless(self, exempt: &'static [&'static str]) -> Self {
        Self { exempt, ..self }
    }

    /// Where only signals are sent, it may happen all the same.
    pub const fn perhaps_done_under_signals(self, why: &'static str) -> Self {
        self.except(Where::Signals, Must::MayBeDone(BY_SIGNAL), why)
    }

    /// No rule is about it.
    pub const fn left_alone(self, why: &'static str) -> Self {
        self.except(Where::Everywhere, Must::Be(Ending::LEFT_ALONE), why)
    }

    /// Ends otherwise.
    pub const fn except(self, at: Where, must: Must, why: &'static str) -> Self {
        let new = Some(Exception { at, must, why });
        let exceptions = match self.exceptions {
            [None, second] => [new, second],
            [first, _] => [first, new],
        };
        Self { exceptions, ..self }
    }

    /// Its folder.
    pub fn folder(&self) -> String {
        format!("{ROOT}/{}", self.name)
    }

    /// The file that is attempted.
    pub fn target(&self) -> String {
        let folder = self.folder();
        match self.subject {
            Subject::File(name) | Subject::Command(name) => format!("{folder}/{name}"),
            Subject::Directory(guarded, name) => format!("{folder}/{guarded}/{name}"),
            Subject::Longest => longest(&folder),
            Subject::Deep(depth) => format!("{folder}/guarded{}/secret", "/d".repeat(depth)),
            Subject::BeyondLongest => {
                let name = "n".repeat(NAME_BYTES_MAX);
                let walk = format!("/{name}").repeat(PATH_BYTES_MAX / NAME_BYTES_MAX + 2);
                format!("{folder}/guarded{walk}/secret")
            }
        }
    }

    /// What its rule says.
    pub fn matcher(&self) -> (&'static str, String) {
        match self.subject {
            Subject::File(_) | Subject::Longest => ("paths", self.target()),
            Subject::Directory(guarded, _) => ("paths", format!("{}/{guarded}/", self.folder())),
            Subject::Deep(_) | Subject::BeyondLongest => {
                ("paths", format!("{}/guarded/", self.folder()))
            }
            Subject::Command(name) => ("comm", name.to_owned()),
        }
    }

    /// Whether no path of its target can be resolved, so that the rule's
    /// `on_unknown` decides.
    pub fn is_unresolvable(&self) -> bool {
        match self.subject {
            Subject::Deep(_) => self.target()[1..].split('/').count() > COMPONENTS_MAX,
            Subject::File(_)
            | Subject::Directory(..)
            | Subject::Longest
            | Subject::BeyondLongest
            | Subject::Command(_) => false,
        }
    }

    /// How it must end, and why where that is not what one would wish for.
    pub fn must(&self, setting: Setting) -> (Must, Option<&'static str>) {
        for exception in self.exceptions.iter().flatten() {
            if exception.at.covers(setting) {
                return (exception.must, Some(exception.why));
            }
        }
        let ending = match setting {
            Setting::LsmKill => Ending {
                denied: true,
                ..BY_SIGNAL
            },
            Setting::LsmDeny => Ending {
                denied: true,
                killed: false,
                ..BY_SIGNAL
            },
            Setting::FentryKill | Setting::KprobeKill => BY_SIGNAL,
        };
        (Must::Be(ending), None)
    }
}

/// What a signal can do at best.
pub const BY_SIGNAL: Ending = Ending {
    seen: true,
    denied: false,
    killed: true,
    done: false,
};

/// A path of exactly [`PATH_BYTES_MAX`] bytes below a folder, of the longest
/// names that fit.
fn longest(folder: &str) -> String {
    let mut path = folder.to_owned();
    while PATH_BYTES_MAX - path.len() > NAME_BYTES_MAX + 1 {
        // The last name needs at least one byte after its slash.
        let left = PATH_BYTES_MAX - path.len() - 2;
        path.push('/');
        path.push_str(&"n".repeat((left - 1).min(NAME_BYTES_MAX)));
    }
    let left = PATH_BYTES_MAX - path.len() - 1;
    path.push('/');
    path.push_str(&"s".repeat(left));
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_path_has_4095_bytes_and_no_name_above_255() {
        for folder in ["/a", "/srv/proof/longest-path", &"/abcdefg".repeat(32)] {
            let path = longest(folder);
            assert_eq!(path.len(), PATH_BYTES_MAX);
            for name in path[1..].split('/') {
                assert!((1..=NAME_BYTES_MAX).contains(&name.len()), "{name}");
            }
        }
    }

    #[test]
    fn denial_and_signal_are_told_apart() {
        let case = Case::open(Class::Names, "x", "x");
        let (must, why) = case.must(Setting::LsmDeny);
        let alive = Ending {
            seen: true,
            denied: true,
            killed: false,
            done: false,
        };
        assert!(must.holds(alive) && why.is_none());
        let (must, _) = case.must(Setting::KprobeKill);
        assert!(!must.holds(alive));
        assert!(!must.holds(Ending {
            done: true,
            ..BY_SIGNAL
        }));
    }

    #[test]
    fn an_exception_holds_only_where_it_is_about() {
        let case = Case::changing_open("x", "x");
        let done = Ending {
            done: true,
            ..BY_SIGNAL
        };
        assert!(case.must(Setting::KprobeKill).0.holds(done));
        assert!(!case.must(Setting::LsmKill).0.holds(done));
    }
}
