//! `processes`: one process of a node, and everything that it did.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};
use shrike_proto::{
    escape::{CommandLine, Terminal, lossless},
    event::{
        Fact, StoredEvent,
        compact::{Colour, Compact},
        field::{Field, FieldValue},
        json::{format_time, to_json},
    },
    wire::admin::{EventFilter, Kind, Order, QueryEventsRequest},
};

use crate::{
    args::{Format, Global, ProcessesArgs},
    connection::Connection,
    events::{
        filter::bound,
        reading::{Reading, interrupted},
        summary::Summary,
    },
    failure::{Exit, Failure},
    lineage::{Known, Lineage, ProcessKey},
    output::Output,
    table::{Cell, table},
    tree::write_process,
};

/// Files that are kept for each process of the number; beyond, they are only
/// counted. Nobody reads more, and each takes some hundred bytes.
const FILES_MAX: usize = 10_000;

/// Verdicts that are kept in the same way.
const VERDICTS_MAX: usize = 1000;

/// Processes of one number within the time that is asked for.
const PROCESSES_MAX: usize = 1000;

/// Children whose own events are looked for: as many as a filter takes.
const CHILDREN_MAX: usize = 1024;

/// `processes`
pub(crate) async fn run(
    global: &Global,
    args: ProcessesArgs,
    output: &Output,
) -> Result<Exit, Failure> {
    let connection = Connection::open(global).await?;
    let mut summary = Summary::default();
    let found = tokio::select! {
        found = find(&connection, &args, &mut summary) => found?,
        result = interrupted() => {
            result?;
            return Ok(Exit::Failed);
        }
    };
    let exit = match choose(&found, &args)? {
        Some(key) => {
            let view = View::new(&found, &args, key);
            match args.output {
                Format::Table => output.write(view.text(output.colour()).as_bytes())?,
                Format::Json => output.json(&view.json())?,
            }
            Exit::Ok
        }
        None => {
            match args.output {
                Format::Table => output.write(candidates(&found, &args, output).as_bytes())?,
                Format::Json => output.json(&candidates_json(&found, &args))?,
            }
            output.hint("several processes had this number: choose one with --started START");
            Exit::Input
        }
    };
    summary.report(output);
    Ok(exit)
}

/// What one process did, as far as its own events tell.
#[derive(Debug, Default)]
struct Deeds {
    first_unix_ns: i64,
    last_unix_ns: i64,
    events: u64,
    /// By path and access.
    files: BTreeMap<(Vec<u8>, String), Touched>,
    files_left_out: u64,
    verdicts: Vec<StoredEvent>,
    verdicts_left_out: u64,
    children: Vec<ProcessKey>,
}

#[derive(Debug, Default)]
struct Touched {
    count: u64,
    failed: u64,
    last_unix_ns: i64,
}

impl Deeds {
    fn add(&mut self, stored: &StoredEvent) {
        let event = &stored.event;
        if self.events == 0 {
            self.first_unix_ns = event.time_unix_ns;
        }
        self.last_unix_ns = self.last_unix_ns.max(event.time_unix_ns);
        self.events += 1;
        if event.verdict.is_some() || event.judged_by().is_some() {
            if self.verdicts.len() < VERDICTS_MAX {
                self.verdicts.push(stored.clone());
            } else {
                self.verdicts_left_out += 1;
            }
        }
        let result = match &event.fact {
            Fact::Open(open) => open.result,
            Fact::Change(change) => change.result,
            Fact::Exec(exec) => exec.result,
            Fact::Fork(fork) => {
                self.children
                    .push(ProcessKey::new(fork.child_tgid, fork.child_start_boot_ns));
                return;
            }
            Fact::Exit(_) | Fact::Alert(_) => return,
        };
        let how = [Field::Access, Field::Operation]
            .into_iter()
            .find_map(|field| match field.of(&stored.node, stored.epoch, event) {
                Some(FieldValue::Text(how)) => Some(how.into_owned()),
                _ => None,
            })
            .unwrap_or_else(|| "execute".to_owned());
        let key = (event.fact.path().unwrap_or_default().to_vec(), how);
        if self.files.len() >= FILES_MAX && !self.files.contains_key(&key) {
            self.files_left_out += 1;
            return;
        }
        let touched = self.files.entry(key).or_default();
        touched.count += 1;
        touched.failed += u64::from(result < 0);
        touched.last_unix_ns = event.time_unix_ns;
    }
}

#[derive(Debug, Default)]
struct Found {
    lineage: Lineage,
    deeds: BTreeMap<ProcessKey, Deeds>,
}

impl Found {
    fn add(&mut self, stored: &StoredEvent) {
        self.lineage.add(stored);
        let process = &stored.event.process;
        let key = ProcessKey::new(process.tgid, process.start_boot_ns);
        self.deeds.entry(key).or_default().add(stored);
    }
}

async fn find(
    connection: &Connection,
    args: &ProcessesArgs,
    summary: &mut Summary,
) -> Result<Found, Failure> {
    let now = Timestamp::now();
    let range = EventFilter {
        nodes: vec![args.node.to_string()],
        since_unix_ns: bound(args.since, now),
        until_unix_ns: bound(args.until, now),
        ..EventFilter::default()
    };
    let mut found = Found::default();
    let own = EventFilter {
        tgids: vec![args.pid],
        ..range.clone()
    };
    read(connection, own, summary, |stored| {
        found.add(stored);
        if found.deeds.len() > PROCESSES_MAX {
            return Err(Failure::failed(anyhow::anyhow!(
                "more than {PROCESSES_MAX} processes had this number"
            ))
            .hint("narrow the time with --since and --until"));
        }
        Ok(())
    })
    .await?;
    if found.lineage.of_pid(args.pid).next().is_none() {
        // It was begun, and did nothing that is an event.
        let forks = EventFilter {
            kinds: vec![Kind::Fork.into()],
            r#where: format!("child_pid == {}", args.pid),
            ..range.clone()
        };
        read(connection, forks, summary, |stored| {
            found.lineage.add(stored);
            Ok(())
        })
        .await?;
    }
    let mut children: Vec<u32> = found
        .deeds
        .values()
        .flat_map(|deeds| deeds.children.iter().map(|child| child.pid))
        .collect();
    children.sort_unstable();
    children.dedup();
    children.truncate(CHILDREN_MAX);
    if !children.is_empty() {
        let theirs = EventFilter {
            tgids: children,
            kinds: vec![Kind::Exec.into(), Kind::Exit.into()],
            ..range
        };
        read(connection, theirs, summary, |stored| {
            found.lineage.add(stored);
            Ok(())
        })
        .await?;
    }
    Ok(found)
}

async fn read(
    connection: &Connection,
    filter: EventFilter,
    summary: &mut Summary,
    mut each: impl FnMut(&StoredEvent) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let request = QueryEventsRequest {
        filter: Some(filter),
        order: Order::OldestFirst.into(),
        limit: 0,
        after: None,
    };
    let mut reading = Reading::open(connection, request).await?;
    while let Some(events) = reading.next(summary).await? {
        summary.printed += events.len() as u64;
        events.iter().try_for_each(&mut each)?;
    }
    Ok(())
}

/// Returns the process that is meant; `None` where that is open.
fn choose(found: &Found, args: &ProcessesArgs) -> Result<Option<ProcessKey>, Failure> {
    let keys: Vec<ProcessKey> = found
        .lineage
        .of_pid(args.pid)
        .map(|(key, _)| key)
        .filter(|key| {
            args.started
                .is_none_or(|start| *key == ProcessKey::new(args.pid, start))
        })
        .collect();
    match keys.as_slice() {
        [] => Err(Failure::failed(anyhow::anyhow!(
            "nothing is known of process {} on {}",
            args.pid,
            args.node
        ))
        .hint("its events may be older than --since, filtered, lost, or removed by retention")),
        [one] => Ok(Some(*one)),
        [_, ..] => Ok(None),
    }
}

fn candidates(found: &Found, args: &ProcessesArgs, output: &Output) -> String {
    let rows: Vec<Vec<Cell>> = found
        .lineage
        .of_pid(args.pid)
        .map(|(key, known)| {
            let deeds = found.deeds.get(&key);
            vec![
                known.start_boot_ns.into(),
                known
                    .started_unix_ns
                    .map(format_time)
                    .unwrap_or_default()
                    .into(),
                lossless(&known.comm).into(),
                lossless(&known.exe).into(),
                deeds.map_or(0, |deeds| deeds.events).into(),
            ]
        })
        .collect();
    let heading = ["START", "STARTED", "COMM", "EXE", "EVENTS"];
    table(&heading, &rows, output.colour())
}

fn candidates_json(found: &Found, args: &ProcessesArgs) -> Value {
    let candidates: Vec<Value> = found
        .lineage
        .of_pid(args.pid)
        .map(|(key, known)| relative(key, known))
        .collect();
    json!({ "node": args.node.as_str(), "pid": args.pid, "candidates": candidates })
}

fn relative(key: ProcessKey, known: &Known) -> Value {
    json!({
        "pid": key.pid,
        "start_boot_ns": known.start_boot_ns,
        "started": known.started_unix_ns.map(format_time),
        "comm": lossless(&known.comm),
        "exe": lossless(&known.exe),
        "argv": known.argv.iter().map(|it| lossless(it)).collect::<Vec<_>>(),
        "exit": known.end.map(|end| json!({
            "code": end.code, "signal": end.signal, "by_rule": end.by_rule,
        })),
    })
}

/// One process, ready to be shown.
struct View<'a> {
    node: &'a str,
    key: ProcessKey,
    known: &'a Known,
    deeds: &'a Deeds,
    ancestors: Vec<(ProcessKey, &'a Known)>,
    children: Vec<(ProcessKey, &'a Known)>,
}

static NO_DEEDS: Deeds = Deeds {
    first_unix_ns: 0,
    last_unix_ns: 0,
    events: 0,
    files: BTreeMap::new(),
    files_left_out: 0,
    verdicts: Vec::new(),
    verdicts_left_out: 0,
    children: Vec::new(),
};

impl<'a> View<'a> {
    fn new(found: &'a Found, args: &'a ProcessesArgs, key: ProcessKey) -> Self {
        let deeds = found.deeds.get(&key).unwrap_or(&NO_DEEDS);
        Self {
            node: args.node.as_str(),
            key,
            known: found.lineage.get(key).expect("it was chosen from there"),
            deeds,
            ancestors: found.lineage.ancestors(key),
            children: deeds
                .children
                .iter()
                .filter_map(|child| Some((*child, found.lineage.get(*child)?)))
                .collect(),
        }
    }

    fn text(&self, colour: Colour) -> String {
        let Self {
            key, known, deeds, ..
        } = self;
        let mut text = String::new();
        let mut line = |label: &str, value: &str| {
            if !value.is_empty() {
                text.push_str(&format!("{label:<10} {value}\n"));
            }
        };
        line(
            "process",
            &format!("{}[{}] on {}", Terminal(&known.comm), key.pid, self.node),
        );
        let started = known.started_unix_ns.map(format_time).unwrap_or_default();
        line("started", &format!("{started} ({})", known.start_boot_ns));
        line("executable", &Terminal(&known.exe).to_string());
        line("arguments", &CommandLine(&known.argv).to_string());
        let user = known
            .uid
            .map(|uid| format!("{} ({uid})", Terminal::text(&known.user)));
        line("user", &user.unwrap_or_default());
        line(
            "end",
            &match known.end {
                None => "not seen: it runs, or its exit is not in this time".to_owned(),
                Some(end) if end.signal == 0 => format!("exit code {}", end.code),
                Some(end) if end.by_rule => format!("killed by a rule (signal {})", end.signal),
                Some(end) => format!("signal {}", end.signal),
            },
        );
        let mut section = |title: &str, lines: Vec<String>, left_out: u64| {
            if lines.is_empty() {
                return;
            }
            text.push_str(&format!("\n{title} ({})\n", lines.len() as u64 + left_out));
            for line in lines {
                text.push_str(&format!("  {line}\n"));
            }
            if left_out > 0 {
                text.push_str(&format!("  and {left_out} more\n"));
            }
        };
        let relatives = |of: &[(ProcessKey, &Known)]| {
            of.iter()
                .map(|(key, known)| {
                    let mut line = String::new();
                    write_process(&mut line, *key, known, colour);
                    line
                })
                .collect::<Vec<_>>()
        };
        section("ancestors", relatives(&self.ancestors), 0);
        section("children", relatives(&self.children), 0);
        let files = deeds.files.iter().map(|((path, how), touched)| {
            let failed = match touched.failed {
                0 => String::new(),
                failed => format!(", {failed} failed"),
            };
            format!("{how:<10} {}  {}×{failed}", Terminal(path), touched.count)
        });
        section("files", files.collect(), deeds.files_left_out);
        let verdicts = deeds
            .verdicts
            .iter()
            .map(|stored| Compact { stored, colour }.to_string());
        section("verdicts", verdicts.collect(), deeds.verdicts_left_out);
        text
    }

    fn json(&self) -> Value {
        let Self {
            key, known, deeds, ..
        } = self;
        let mut value = relative(*key, known);
        let relatives = |of: &[(ProcessKey, &Known)]| {
            of.iter()
                .map(|(key, known)| relative(*key, known))
                .collect::<Vec<_>>()
        };
        value["node"] = json!(self.node);
        value["user"] = json!(known.user);
        value["uid"] = json!(known.uid);
        value["ancestors"] = json!(relatives(&self.ancestors));
        value["children"] = json!(relatives(&self.children));
        value["files"] = deeds
            .files
            .iter()
            .map(|((path, how), touched)| {
                json!({
                    "path": lossless(path), "access": how, "count": touched.count,
                    "failed": touched.failed, "last": format_time(touched.last_unix_ns),
                })
            })
            .collect();
        value["files_left_out"] = json!(deeds.files_left_out);
        value["verdicts"] = deeds.verdicts.iter().map(to_json).collect();
        value["verdicts_left_out"] = json!(deeds.verdicts_left_out);
        value["first_event"] = json!((deeds.events > 0).then(|| format_time(deeds.first_unix_ns)));
        value["last_event"] = json!((deeds.events > 0).then(|| format_time(deeds.last_unix_ns)));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;
    use shrike_proto::id::NodeId;

    fn args(pid: u32, started: Option<u64>) -> ProcessesArgs {
        ProcessesArgs {
            node: NodeId::parse("web-1").unwrap(),
            pid,
            started,
            since: None,
            until: None,
            output: Format::Table,
        }
    }

    fn found() -> Found {
        let mut found = Found::default();
        for event in [
            sample::exec("web-1", 20, 5, 1, &["sh", "-c", "a b"]),
            sample::fork("web-1", 20, 5, 30, 6),
            sample::killed_open("web-1", 20, 5, "/etc/shadow"),
            sample::killed_open("web-1", 20, 5, "/etc/shadow"),
            sample::exit("web-1", 20, 5, 2),
        ] {
            found.add(&event);
        }
        found
            .lineage
            .add(&sample::exec("web-1", 30, 6, 20, &["nc"]));
        found
    }

    #[test]
    fn process_is_shown_with_its_kin_and_deeds() {
        let (found, args) = (found(), args(20, None));
        let key = choose(&found, &args).unwrap().unwrap();
        let view = View::new(&found, &args, key);
        let text = view.text(Colour::Plain);
        for expected in [
            "process    sh[20] on web-1\n",
            "arguments  sh -c \"a b\"\n",
            "end        exit code 2\n",
            "\nancestors (1)\n  init[1] /sbin/init\n",
            "\nchildren (1)\n  sh[30] root nc\n",
            "read       /etc/shadow  2×\n",
            "\nverdicts (2)\n",
        ] {
            assert!(text.contains(expected), "{expected:?} in\n{text}");
        }
        let value = view.json();
        assert_eq!(value["children"][0]["pid"], 30);
        assert_eq!(value["files"].as_array().unwrap().len(), 2);
        assert_eq!(value["verdicts"][0]["verdict"]["rule"], "r");
        assert_eq!(value["exit"]["code"], 2);
    }

    #[test]
    fn reused_number_needs_a_start() {
        let mut found = found();
        found.add(&sample::exec("web-1", 20, 99_000_000_000, 1, &["other"]));
        assert_eq!(choose(&found, &args(20, None)).unwrap(), None);
        let chosen = choose(&found, &args(20, Some(99_000_000_000)))
            .unwrap()
            .unwrap();
        assert_eq!(chosen, ProcessKey::new(20, 99_000_000_000));
        assert!(choose(&found, &args(20, Some(98_000_000_000))).is_err());
        assert!(choose(&found, &args(21, None)).is_err());
        let listed = candidates_json(&found, &args(20, None));
        assert_eq!(listed["candidates"].as_array().unwrap().len(), 2);
    }
}
