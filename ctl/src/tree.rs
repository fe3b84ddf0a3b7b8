//! `tree`: what ran on a node, as a tree of processes.

use std::collections::BTreeSet;

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;
use shrike_proto::{
    escape::{CommandLine, Terminal},
    event::{Action, compact::Colour},
    wire::admin::{EventFilter, Kind, Order, QueryEventsRequest},
};

use crate::{
    args::{Global, TreeArgs},
    connection::Connection,
    events::{
        filter::bound,
        reading::{Reading, interrupted},
        summary::Summary,
    },
    failure::{Exit, Failure},
    lineage::{Known, Lineage, ProcessKey},
    output::Output,
};

/// Processes in one tree: more than anybody reads, and some tens of megabytes.
const PROCESSES_MAX: usize = 100_000;

/// Levels that are indented; what is below keeps the last one's place.
const LEVELS_MAX: usize = 200;

/// `tree`
pub(crate) async fn run(global: &Global, args: TreeArgs, output: &Output) -> Result<Exit, Failure> {
    let now = Timestamp::now();
    let filter = EventFilter {
        nodes: vec![args.node.to_string()],
        kinds: vec![Kind::Exec.into(), Kind::Fork.into(), Kind::Exit.into()],
        since_unix_ns: bound(Some(args.since), now),
        until_unix_ns: bound(args.until, now),
        ..EventFilter::default()
    };
    let connection = Connection::open(global).await?;
    let mut summary = Summary::default();
    let lineage = tokio::select! {
        lineage = gather(&connection, filter, &mut summary) => lineage?,
        result = interrupted() => {
            result?;
            return Ok(Exit::Failed);
        }
    };
    let text = render(&lineage, args.pid, output.colour());
    if text.is_empty() {
        return Err(Failure::failed(anyhow::anyhow!(
            "nothing is known of such processes on {} in this time",
            args.node
        ))
        .hint("look further back with --since, and see `shrikectl nodes`"));
    }
    output.write(text.as_bytes())?;
    summary.report(output);
    Ok(Exit::Ok)
}

async fn gather(
    connection: &Connection,
    filter: EventFilter,
    summary: &mut Summary,
) -> Result<Lineage, Failure> {
    let request = QueryEventsRequest {
        filter: Some(filter),
        order: Order::OldestFirst.into(),
        limit: 0,
        after: None,
    };
    let mut reading = Reading::open(connection, request).await?;
    let mut lineage = Lineage::default();
    while let Some(events) = reading.next(summary).await? {
        summary.printed += events.len() as u64;
        events.iter().for_each(|event| lineage.add(event));
        if lineage.len() > PROCESSES_MAX {
            return Err(Failure::failed(anyhow::anyhow!(
                "more than {PROCESSES_MAX} processes ran in this time"
            ))
            .hint("narrow it with --since and --until"));
        }
    }
    Ok(lineage)
}

/// Draws every tree, or only what is below the processes of one number.
fn render(lineage: &Lineage, only: Option<u32>, colour: Colour) -> String {
    let (below, roots) = lineage.children();
    let mut drawn = BTreeSet::new();
    let mut text = String::new();
    let starts = match only {
        Some(pid) => lineage.of_pid(pid).map(|(key, _)| key).collect(),
        // Whoever is in a circle is below somebody, and no root.
        None => [roots, below.values().flatten().copied().collect()].concat(),
    };
    for start in starts {
        // A stack of its own: processes may be nested deeper than functions.
        let mut waiting = vec![(start, String::new(), String::new(), 0_usize)];
        while let Some((key, lead, next_lead, level)) = waiting.pop() {
            let Some(known) = lineage.get(key).filter(|_| drawn.insert(key)) else {
                continue;
            };
            text.push_str(&lead);
            write_process(&mut text, key, known, colour);
            text.push('\n');
            let children = below.get(&key).map_or(&[][..], Vec::as_slice);
            for (index, child) in children.iter().enumerate().rev() {
                let (branch, trunk) = if index + 1 == children.len() {
                    ("└─ ", "   ")
                } else {
                    ("├─ ", "│  ")
                };
                let (lead, below) = if level < LEVELS_MAX {
                    (
                        format!("{next_lead}{branch}"),
                        format!("{next_lead}{trunk}"),
                    )
                } else {
                    (format!("{next_lead}… "), next_lead.clone())
                };
                waiting.push((*child, lead, below, level + 1));
            }
        }
    }
    text
}

/// Writes a process on one line.
pub(crate) fn write_process(text: &mut String, key: ProcessKey, known: &Known, colour: Colour) {
    let dim = colour.paint(Style::new().dimmed());
    text.push_str(&format!("{}[{}]", Terminal(&known.comm), key.pid));
    if !known.user.is_empty() {
        text.push_str(&format!(" {dim}{}{dim:#}", Terminal::text(&known.user)));
    }
    if !known.argv.is_empty() {
        text.push_str(&format!(" {}", CommandLine(&known.argv)));
    } else if !known.exe.is_empty() {
        text.push_str(&format!(" {}", Terminal(&known.exe)));
    }
    if let Some(end) = known.end {
        let red = colour.paint(Style::new().fg_color(Some(AnsiColor::Red.into())));
        text.push_str(&match (end.signal, end.code) {
            (0, 0) => format!(" {dim}→ exit 0{dim:#}"),
            (0, code) => format!(" {red}→ exit {code}{red:#}"),
            (signal, _) if end.by_rule => format!(" {red}→ killed by a rule ({signal}){red:#}"),
            (signal, _) => format!(" {red}→ signal {signal}{red:#}"),
        });
    }
    if let Some(action) = known.action.filter(|action| *action > Action::Record) {
        let bold = colour.paint(Style::new().bold().fg_color(Some(AnsiColor::Red.into())));
        text.push_str(&format!(
            "  {bold}{}{bold:#}",
            action.as_str().to_uppercase()
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    fn lineage() -> Lineage {
        let mut lineage = Lineage::default();
        let mut add = |mut event: shrike_proto::event::StoredEvent, start: u64| {
            event.event.process.parent_start_boot_ns = start;
            lineage.add(&event);
        };
        add(sample::exec("a", 10, 10, 1, &["bash"]), 1);
        add(sample::exec("a", 20, 20, 10, &["sh", "-c", "a b"]), 10);
        add(sample::exec("a", 30, 30, 20, &["nc"]), 20);
        add(sample::exit("a", 30, 30, 1), 20);
        add(sample::exec("a", 40, 40, 10, &["ls\x1b"]), 10);
        lineage
    }

    #[test]
    fn children_stand_below_their_parents() {
        // Samples name init as everybody's ancestor: only who has no parent
        // of its own hangs there.
        assert_eq!(
            render(&lineage(), None, Colour::Plain),
            "init[1] /sbin/init\n\
             └─ sh[10] root bash\n\
             \x20  ├─ sh[20] root sh -c \"a b\"\n\
             \x20  │  └─ sh[30] root nc → exit 1\n\
             \x20  └─ sh[40] root ls\\x1b\n"
        );
    }

    #[test]
    fn one_process_and_what_is_below_it() {
        let text = render(&lineage(), Some(20), Colour::Plain);
        assert_eq!(
            text,
            "sh[20] root sh -c \"a b\"\n└─ sh[30] root nc → exit 1\n"
        );
        assert_eq!(render(&lineage(), Some(99), Colour::Plain), "");
    }

    #[test]
    fn deep_chain_is_drawn_and_its_indent_ends() {
        let mut lineage = Lineage::default();
        for pid in 2..5000_u32 {
            let mut event = sample::exec("a", pid, pid.into(), pid - 1, &["x"]);
            event.event.process.parent_start_boot_ns = u64::from(pid) - 1;
            event.event.process.ancestors.clear();
            lineage.add(&event);
        }
        let text = render(&lineage, None, Colour::Plain);
        assert_eq!(text.lines().count(), 4998);
        assert!(text.lines().all(|line| line.len() < 4 * LEVELS_MAX + 40));
    }
}
