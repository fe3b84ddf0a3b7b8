//! An event as a flat list of named, typed fields: what filters name, and the
//! columns of every table that events are written into.
//!
//! The names are those of the JSON output without the objects around them.
//! Whatever a process chose is text in the form of [`lossless`]. A field that
//! an event of this kind does not have is absent, not empty: an open has no
//! `exit_code`. What an event of the kind could have and does not is empty
//! (`""`), so that `container_id == ""` says "outside of a container".
//!
//! One list, because a filter that names a column and a table that shows it
//! must mean the same.

use std::borrow::Cow;

use super::{
    Alert, Change, Event, Exec, Exit, Fact, Fork, Image, Open, ResolvedPath, errno,
    json::{access_name, outcome_name},
};
use crate::{
    escape::lossless,
    id::{Epoch, NodeId},
};

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldType {
    /// Yes or no.
    Bool,
    /// A whole number.
    Int,
    /// Text.
    Text,
    /// A point in time.
    Time,
    /// Several texts in order.
    Texts,
}

/// What an event has in a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldValue<'a> {
    /// Yes or no.
    Bool(bool),
    /// A whole number; above `i64::MAX` it is that.
    Int(i64),
    /// Text.
    Text(Cow<'a, str>),
    /// Unix nanoseconds.
    Time(i64),
    /// Several texts in order.
    Texts(Vec<Cow<'a, str>>),
}

macro_rules! fields {
    ($($variant:ident $name:literal $type:ident $doc:literal;)*) => {
        /// A field of an event.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Field {
            $(#[doc = $doc] $variant,)*
        }

        impl Field {
            /// Every field, in the order in which tables have them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Every field's name, in the same order.
            pub const NAMES: &'static [&'static str] = &[$($name),*];

            /// Returns the name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Returns what the field holds.
            pub fn field_type(self) -> FieldType {
                match self { $(Self::$variant => FieldType::$type,)* }
            }

            /// Says in a few words what the field is.
            pub fn about(self) -> &'static str {
                match self { $(Self::$variant => $doc,)* }
            }

            /// Finds a field by its name.
            pub fn parse(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

fields! {
    Time "time" Time "when";
    Node "node" Text "the node that reported it";
    Kind "kind" Text "exec, open, change, fork, exit or alert";
    Pid "pid" Int "process that acted";
    Tid "tid" Int "thread that acted";
    Ppid "ppid" Int "its parent";
    StartBootNs "start_boot_ns" Int "start of the process, nanoseconds since boot";
    ParentStartBootNs "parent_start_boot_ns" Int "start of the parent, nanoseconds since boot";
    Uid "uid" Int "real user ID";
    Gid "gid" Int "real group ID";
    Euid "euid" Int "effective user ID";
    Egid "egid" Int "effective group ID";
    User "user" Text "name of uid";
    Comm "comm" Text "command name";
    Exe "exe" Text "executable of the process";
    Cgroup "cgroup" Text "path of its cgroup";
    ContainerId "container_id" Text "its container";
    Ancestors "ancestors" Texts "executables above it, nearest first (command names where unknown)";
    Path "path" Text "file opened, executed or changed: as resolved, or as asked where it was not";
    PathAsAsked "path_as_asked" Text "the same as the caller wrote it";
    TaskPath "task_path" Text "the same below the task's own root, where that differs";
    OtherPath "other_path" Text "a change's other name";
    Device "device" Text "the file's device, MAJOR:MINOR";
    Inode "inode" Int "the file's inode";
    FileMode "file_mode" Text "the file's type and permissions, octal";
    Links "links" Int "names of the file";
    OwnerUid "owner_uid" Int "owner of the file";
    OwnerGid "owner_gid" Int "owning group of the file";
    Deleted "deleted" Bool "the file has no name any more";
    Unresolved "unresolved" Bool "the file's path could not be resolved";
    Syscall "syscall" Text "system call of an exec or open";
    Access "access" Text "of an open: read, write, read-write or path";
    Flags "flags" Int "of an open or exec, as asked";
    Operation "operation" Text "of a change: rename, unlink, chmod, ...";
    Result "result" Int "0, or a negative errno";
    Error "error" Text "the errno's name";
    Argv "argv" Texts "arguments of an exec";
    Interpreter "interpreter" Text "of an exec";
    Script "script" Text "script that an exec runs";
    WorkingDirectory "working_directory" Text "of an exec";
    Tty "tty" Text "terminal of an exec";
    LoginUid "login_uid" Int "who logged in, of an exec";
    ChildPid "child_pid" Int "of a fork";
    ChildStartBootNs "child_start_boot_ns" Int "of a fork";
    ExitCode "exit_code" Int "of an exit that no signal caused";
    Signal "signal" Int "that ended the process, 0 for none";
    DurationNs "duration_ns" Int "from a process's start to its exit";
    Verdict "verdict" Bool "a rule matched, or it tells what came of a kill";
    Action "action" Text "record, alert, deny or kill";
    Policy "policy" Text "of the verdict or kill";
    Rule "rule" Text "of the verdict or kill";
    Outcome "outcome" Text "what the kernel did: noted, observed, denied, signal-sent, ...";
    Denied "denied" Bool "the operation was refused";
    Cause "cause" Text "of an alert";
    Reason "reason" Text "of an alert, in a sentence";
    Generation "generation" Int "policy generation that judged it";
    Epoch "epoch" Text "one life of the agent's queue";
    Sequence "sequence" Int "place in the epoch";
    BootTimeNs "boot_time_ns" Int "when, nanoseconds since boot";
    Cpu "cpu" Int "CPU that ran the hook";
}

impl Field {
    /// Returns what an event has in this field; `None` where events of its
    /// kind have none.
    pub fn of<'a>(
        self,
        node: &'a NodeId,
        epoch: Epoch,
        event: &'a Event,
    ) -> Option<FieldValue<'a>> {
        let process = &event.process;
        Some(match self {
            Self::Time => FieldValue::Time(event.time_unix_ns),
            Self::Node => text(node.as_str()),
            Self::Kind => text(event.fact.kind().as_str()),
            Self::Pid => int(process.tgid),
            Self::Tid => int(process.tid),
            Self::Ppid => int(process.parent_tgid),
            Self::StartBootNs => wide(process.start_boot_ns),
            Self::ParentStartBootNs => wide(process.parent_start_boot_ns),
            Self::Uid => int(process.uid),
            Self::Gid => int(process.gid),
            Self::Euid => int(process.euid),
            Self::Egid => int(process.egid),
            Self::User => text(&process.user),
            Self::Comm => bytes(&process.comm),
            Self::Exe => bytes(&process.exe),
            Self::Cgroup => bytes(&process.cgroup_path),
            Self::ContainerId => text(&process.container_id),
            Self::Ancestors => FieldValue::Texts(
                process
                    .ancestors
                    .iter()
                    .map(|it| lossless(if it.exe.is_empty() { &it.comm } else { &it.exe }))
                    .collect(),
            ),
            Self::Path => bytes(event.fact.path()?),
            Self::PathAsAsked => match (exec(&event.fact), open(&event.fact)) {
                (Some(exec), _) => bytes(&exec.path_as_asked),
                (None, open) => bytes(&open?.path_as_asked),
            },
            Self::TaskPath => bytes(&file(&event.fact)?.task_path),
            Self::Device => {
                let device = file(&event.fact)?.device;
                // include/linux/kdev_t.h: MINORBITS is 20.
                FieldValue::Text(format!("{}:{}", device >> 20, device & 0xf_ffff).into())
            }
            Self::Inode => wide(file(&event.fact)?.inode),
            Self::FileMode => match file(&event.fact)?.mode {
                0 => text(""),
                mode => FieldValue::Text(format!("{mode:o}").into()),
            },
            Self::Links => int(file(&event.fact)?.links),
            Self::OwnerUid => int(file(&event.fact)?.owner_uid),
            Self::OwnerGid => int(file(&event.fact)?.owner_gid),
            Self::Deleted => FieldValue::Bool(file(&event.fact)?.deleted),
            Self::Unresolved => FieldValue::Bool(file(&event.fact)?.unresolved),
            Self::OtherPath => bytes(&change(&event.fact)?.other_path),
            Self::Operation => text(change(&event.fact)?.operation.as_str()),
            Self::Syscall => match (exec(&event.fact), open(&event.fact)) {
                (Some(exec), _) => text(&exec.syscall),
                (None, open) => text(&open?.syscall),
            },
            Self::Flags => match (exec(&event.fact), open(&event.fact)) {
                (Some(exec), _) => int(exec.flags),
                (None, open) => int(open?.flags),
            },
            Self::Access => text(access_name(open(&event.fact)?.flags)),
            Self::Result => FieldValue::Int(result(&event.fact)?.into()),
            Self::Error => text(errno::name(result(&event.fact)?).unwrap_or_default()),
            Self::Argv => FieldValue::Texts(
                exec(&event.fact)?
                    .argv
                    .iter()
                    .map(|argument| lossless(argument))
                    .collect(),
            ),
            Self::Interpreter => bytes(&exec(&event.fact)?.interpreter),
            Self::Script => bytes(
                image(&event.fact)?
                    .script
                    .as_ref()
                    .map_or(&[], |it| &it.path),
            ),
            Self::WorkingDirectory => bytes(&image(&event.fact)?.working_directory),
            Self::Tty => bytes(&image(&event.fact)?.tty),
            Self::LoginUid => int(image(&event.fact)?.login_uid?),
            Self::ChildPid => int(fork(&event.fact)?.child_tgid),
            Self::ChildStartBootNs => wide(fork(&event.fact)?.child_start_boot_ns),
            Self::ExitCode => match exit(&event.fact)? {
                exit if exit.signal == 0 => int(exit.code),
                _ => return None,
            },
            Self::Signal => int(exit(&event.fact)?.signal),
            Self::DurationNs => wide(exit(&event.fact)?.duration_ns),
            Self::Cause => text(alert(&event.fact)?.cause.as_str()),
            Self::Reason => text(&alert(&event.fact)?.reason),
            Self::Verdict => FieldValue::Bool(event.action().is_some()),
            Self::Action => text(event.action()?.as_str()),
            Self::Policy => text(event.judged_by()?.0.as_str()),
            Self::Rule => text(event.judged_by()?.1.as_str()),
            Self::Outcome => text(outcome_name(event.verdict.as_ref()?.outcome)),
            Self::Denied => FieldValue::Bool(event.verdict.as_ref()?.denied),
            Self::Generation => wide(event.generation.0),
            Self::Epoch => FieldValue::Text(epoch.to_string().into()),
            Self::Sequence => wide(event.sequence.0),
            Self::BootTimeNs => wide(event.boot_time_ns),
            Self::Cpu => int(event.cpu),
        })
    }
}

macro_rules! kinds {
    ($($name:ident $variant:ident $type:ty;)*) => {
        $(fn $name(fact: &Fact) -> Option<&$type> {
            if let Fact::$variant(it) = fact { Some(it) } else { None }
        })*
    };
}

kinds! {
    exec Exec Exec;
    open Open Open;
    change Change Change;
    fork Fork Fork;
    exit Exit Exit;
    alert Alert Alert;
}

fn image(fact: &Fact) -> Option<&Image> {
    exec(fact)?.image.as_deref()
}

fn result(fact: &Fact) -> Option<i32> {
    match fact {
        Fact::Exec(exec) => Some(exec.result),
        Fact::Open(open) => Some(open.result),
        Fact::Change(change) => Some(change.result),
        Fact::Fork(_) | Fact::Exit(_) | Fact::Alert(_) => None,
    }
}

fn file(fact: &Fact) -> Option<&ResolvedPath> {
    match fact {
        Fact::Exec(exec) => exec.file.as_ref(),
        Fact::Open(open) => open.file.as_ref(),
        Fact::Change(change) => Some(&change.file),
        Fact::Fork(_) | Fact::Exit(_) | Fact::Alert(_) => None,
    }
}

fn text(text: &str) -> FieldValue<'_> {
    FieldValue::Text(Cow::Borrowed(text))
}

fn bytes(bytes: &[u8]) -> FieldValue<'_> {
    FieldValue::Text(lossless(bytes))
}

fn int(number: u32) -> FieldValue<'static> {
    FieldValue::Int(number.into())
}

fn wide(number: u64) -> FieldValue<'static> {
    FieldValue::Int(number.try_into().unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::{super::sample, *};
    use crate::event::StoredEvent;

    fn show(stored: &StoredEvent, field: Field) -> Option<FieldValue<'_>> {
        field.of(&stored.node, stored.epoch, &stored.event)
    }

    #[test]
    fn every_value_has_its_fields_type() {
        for stored in [
            sample::killed_open(),
            sample::refused_rename(),
            sample::killed_exit(),
            sample::survivor(),
            sample::setuid_script(),
        ] {
            for field in Field::ALL {
                let Some(value) = show(&stored, *field) else {
                    continue;
                };
                let found = match value {
                    FieldValue::Bool(_) => FieldType::Bool,
                    FieldValue::Int(_) => FieldType::Int,
                    FieldValue::Text(_) => FieldType::Text,
                    FieldValue::Time(_) => FieldType::Time,
                    FieldValue::Texts(_) => FieldType::Texts,
                };
                assert_eq!(found, field.field_type(), "{}", field.name());
            }
        }
    }

    #[test]
    fn names_find_their_fields() {
        for field in Field::ALL {
            assert_eq!(Field::parse(field.name()), Some(*field));
        }
        assert_eq!(Field::parse("nope"), None);
        assert_eq!(Field::NAMES.len(), Field::ALL.len());
    }

    #[test]
    fn absent_and_empty_are_told_apart() {
        let open = sample::killed_open();
        assert_eq!(show(&open, Field::ExitCode), None);
        assert_eq!(show(&open, Field::ContainerId), Some(text("")));
        assert_eq!(show(&open, Field::Error), Some(text("")));
        assert_eq!(show(&open, Field::Device), Some(text("8:1")));
        let exit = sample::killed_exit();
        assert_eq!(show(&exit, Field::ExitCode), None);
        assert_eq!(show(&exit, Field::Signal), Some(int(9)));
        assert_eq!(show(&exit, Field::Path), None);
        assert_eq!(show(&exit, Field::Rule), Some(text("shadow")));
        assert_eq!(show(&exit, Field::Outcome), None);
    }
}
