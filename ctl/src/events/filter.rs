//! Options into the filter that the collector takes.

use std::os::unix::ffi::OsStrExt as _;

use jiff::Timestamp;
use shrike_proto::{
    event::Action,
    wire::{
        admin::{EventFilter, Kind},
        event::Action as WireAction,
    },
};

use crate::{
    args::{FilterArgs, KindWord, VerdictWord},
    time::Moment,
};

/// Makes the filter of the options; `now` is what times ago count from.
pub(crate) fn from_args(args: &FilterArgs, now: Timestamp) -> EventFilter {
    EventFilter {
        nodes: args.node.iter().map(ToString::to_string).collect(),
        kinds: args
            .kind
            .iter()
            .map(|kind| wire_kind(*kind).into())
            .collect(),
        since_unix_ns: bound(args.since, now),
        until_unix_ns: bound(args.until, now),
        tgids: args.pid.clone(),
        uids: args.uid.clone(),
        executables: args.exe.iter().map(|exe| exe.as_bytes().to_vec()).collect(),
        path_prefixes: args
            .path
            .iter()
            .map(|path| path.as_bytes().to_vec())
            .collect(),
        // `--verdict --verdict kill` asks for any: "or" joins them.
        actions: if args.verdict.contains(&VerdictWord::Any) {
            Vec::new()
        } else {
            args.verdict
                .iter()
                .filter_map(|word| action(*word))
                .map(|action| WireAction::from(action).into())
                .collect()
        },
        with_verdict: !args.verdict.is_empty(),
        r#where: args.condition.clone().unwrap_or_default(),
    }
}

/// Makes a bound of a time: 0 stands for an open end, and the first
/// nanosecond of 1970 can be spared.
pub(crate) fn bound(moment: Option<Moment>, now: Timestamp) -> i64 {
    moment.map_or(0, |moment| match moment.unix_ns(now) {
        0 => 1,
        unix_ns => unix_ns,
    })
}

fn wire_kind(kind: KindWord) -> Kind {
    match kind {
        KindWord::Exec => Kind::Exec,
        KindWord::Open => Kind::Open,
        KindWord::Change => Kind::Change,
        KindWord::Fork => Kind::Fork,
        KindWord::Exit => Kind::Exit,
        KindWord::Alert => Kind::Alert,
    }
}

fn action(word: VerdictWord) -> Option<Action> {
    match word {
        VerdictWord::Any => None,
        VerdictWord::Record => Some(Action::Record),
        VerdictWord::Alert => Some(Action::Alert),
        VerdictWord::Deny => Some(Action::Deny),
        VerdictWord::Kill => Some(Action::Kill),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Args, Command};

    fn filter(line: &[&str]) -> EventFilter {
        let args = Args::try_parse_from([&["shrikectl", "events"], line].concat()).unwrap();
        let Command::Events(events) = args.command else {
            panic!("{line:?} is no events command")
        };
        from_args(&events.filter, Timestamp::from_second(1000).unwrap())
    }

    #[test]
    fn no_options_match_everything() {
        assert_eq!(filter(&[]), EventFilter::default());
    }

    #[test]
    fn every_option_is_a_term() {
        let line = [
            "--node",
            "a,b",
            "--kind",
            "exec,exit",
            "--since",
            "100s",
            "--until",
            "1970-01-01T00:16:00Z",
            "--pid",
            "7",
            "--uid",
            "0",
            "--exe",
            "/bin/sh",
            "--path",
            "/etc/",
            "--verdict",
            "kill",
            "--where",
            "euid == 0",
        ];
        assert_eq!(
            filter(&line),
            EventFilter {
                nodes: vec!["a".to_owned(), "b".to_owned()],
                kinds: vec![Kind::Exec.into(), Kind::Exit.into()],
                since_unix_ns: 900_000_000_000,
                until_unix_ns: 960_000_000_000,
                tgids: vec![7],
                uids: vec![0],
                executables: vec![b"/bin/sh".to_vec()],
                path_prefixes: vec![b"/etc/".to_vec()],
                actions: vec![WireAction::Kill.into()],
                with_verdict: true,
                r#where: "euid == 0".to_owned(),
            }
        );
    }

    #[test]
    fn any_verdict_outdoes_one_action() {
        let any = filter(&["--verdict", "--verdict", "kill"]);
        assert!(any.with_verdict && any.actions.is_empty());
    }
}
