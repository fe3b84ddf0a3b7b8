//! `ledger`: what became of everything that nodes counted, hour by hour.

use std::collections::BTreeMap;

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;
use serde_json::{Value, json};
use shrike_proto::{
    escape::Terminal,
    event::{compact::Colour, json::format_time},
    ledger::{Hour, LossReason, losses_from_wire},
    wire::admin::{ListHoursRequest, NodeHour},
};

use crate::{
    args::{Format, Global, LedgerArgs},
    connection::Connection,
    events::filter::bound,
    failure::{Exit, Failure},
    output::Output,
    table::{Cell, table},
};

/// `ledger`
pub(crate) async fn run(
    global: &Global,
    args: LedgerArgs,
    output: &Output,
) -> Result<Exit, Failure> {
    let now = Timestamp::now();
    let request = ListHoursRequest {
        nodes: args.nodes.iter().map(ToString::to_string).collect(),
        since_unix_ns: bound(Some(args.since), now),
        until_unix_ns: bound(args.until, now),
    };
    let connection = Connection::open(global).await?;
    let mut stream = connection.nodes().list_hours(request).await?.into_inner();
    let mut hours = Vec::new();
    while let Some(message) = stream.message().await? {
        for hour in message.hours {
            match args.output {
                Format::Json => output.line(&json(&hour).to_string())?,
                Format::Table => {}
            }
            hours.push(hour);
        }
    }
    let rows = by_hour_and_node(&hours);
    if matches!(args.output, Format::Table) && !rows.is_empty() {
        let cells: Vec<Vec<Cell>> = rows.iter().map(|(key, counts)| row(key, counts)).collect();
        output.write(table(&HEADING, &cells, output.colour()).as_bytes())?;
    }
    output.note(&verdict(&rows, output.error_colour()));
    Ok(Exit::Ok)
}

const HEADING: [&str; 8] = [
    "HOUR (UTC)",
    "NODE",
    "SEEN",
    "FILTERED",
    "NUMBERED",
    "STORED",
    "IN FLIGHT",
    "LOST",
];

/// What a node counted in an hour, under whatever epochs.
#[derive(Debug, Default)]
struct Counts {
    seen: u64,
    filtered: u64,
    sequenced: u64,
    stored: u64,
    in_flight: u64,
    lost: BTreeMap<LossReason, u64>,
    /// More has a number than was seen.
    imbalance: u64,
}

type Rows = BTreeMap<(i64, String), Counts>;

fn by_hour_and_node(hours: &[NodeHour]) -> Rows {
    let mut rows = Rows::new();
    for hour in hours {
        let row = rows.entry((hour.hour, hour.node.clone())).or_default();
        row.seen += hour.seen;
        row.filtered += hour.filtered;
        row.sequenced += hour.sequenced;
        row.stored += hour.stored;
        row.in_flight += hour.in_flight;
        for (reason, count) in losses_from_wire(hour.lost.clone()) {
            *row.lost.entry(reason).or_default() += count;
        }
        if hour.unaccounted < 0 {
            row.imbalance += hour.unaccounted.unsigned_abs();
        }
    }
    rows
}

fn row((hour, node): &(i64, String), counts: &Counts) -> Vec<Cell> {
    let alarming = |count: u64, style: Style| match count {
        0 => Style::new(),
        _ => style,
    };
    let red = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
    let yellow = Style::new().fg_color(Some(AnsiColor::Yellow.into()));
    let lost: u64 = counts.lost.values().sum();
    let mut text = if lost == 0 {
        "0".to_owned()
    } else {
        losses(&counts.lost)
    };
    if counts.imbalance > 0 {
        text.push_str(&format!(", {} MORE NUMBERED THAN SEEN", counts.imbalance));
    }
    vec![
        hour_text(*hour).into(),
        node.clone().into(),
        counts.seen.into(),
        counts.filtered.into(),
        counts.sequenced.into(),
        counts.stored.into(),
        Cell::styled(counts.in_flight, alarming(counts.in_flight, yellow)),
        Cell::styled(text, alarming(lost + counts.imbalance, red)),
    ]
}

/// `2026-11-22T15:00`
fn hour_text(hour: i64) -> String {
    let text = format_time(Hour(hour).begin_unix_ns());
    text.get(.."2026-11-22T15:00".len())
        .map_or(text.clone(), str::to_owned)
}

fn losses(lost: &BTreeMap<LossReason, u64>) -> String {
    let counts: Vec<String> = lost
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| format!("{count} ({})", reason.as_str()))
        .collect();
    counts.join(", ")
}

/// Says whether everything is there, and else what is missing.
fn verdict(rows: &Rows, colour: Colour) -> String {
    if rows.is_empty() {
        return "no hour of any such node in this time: see `shrikectl nodes`".to_owned();
    }
    let mut by_node: BTreeMap<&str, BTreeMap<LossReason, u64>> = BTreeMap::new();
    let (mut in_flight, mut imbalance) = (0, 0);
    for ((_, node), counts) in rows {
        in_flight += counts.in_flight;
        imbalance += counts.imbalance;
        for (reason, count) in counts.lost.iter().filter(|(_, count)| **count > 0) {
            *by_node.entry(node).or_default().entry(*reason).or_default() += count;
        }
    }
    let hours = rows.len();
    let mut text = format!("{hours} hour{}", if hours == 1 { "" } else { "s" });
    if by_node.is_empty() && imbalance == 0 {
        text.push_str(" · complete");
    } else {
        let gaps: Vec<String> = by_node
            .iter()
            .map(|(node, lost)| format!("{} lost {}", Terminal::text(node), losses(lost)))
            .chain((imbalance > 0).then(|| {
                format!("{imbalance} events have a number that no hook has seen: look into the collector's log")
            }))
            .collect();
        let style = colour.paint(Style::new().bold().fg_color(Some(AnsiColor::Red.into())));
        text.push_str(&format!(
            " · {style}INCOMPLETE{style:#}: {}",
            gaps.join("; ")
        ));
    }
    if in_flight > 0 {
        text.push_str(&format!(" · {in_flight} on their way"));
    }
    text
}

fn json(hour: &NodeHour) -> Value {
    let lost: serde_json::Map<String, Value> = losses_from_wire(hour.lost.clone())
        .into_iter()
        .map(|(reason, count)| (reason.as_str().to_owned(), count.into()))
        .collect();
    let epoch: String = hour
        .epoch
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    json!({
        "hour": format_time(Hour(hour.hour).begin_unix_ns()),
        "node": hour.node,
        "epoch": epoch,
        "seen": hour.seen,
        "filtered": hour.filtered,
        "lost": lost,
        "sequenced": hour.sequenced,
        "stored": hour.stored,
        "in_flight": hour.in_flight,
        "unaccounted": hour.unaccounted,
    })
}

#[cfg(test)]
mod tests {
    use shrike_proto::ledger::losses_to_wire;

    use super::*;

    fn hour(hour: i64, node: &str, lost: u64) -> NodeHour {
        NodeHour {
            hour,
            node: node.to_owned(),
            seen: 100,
            filtered: 10,
            sequenced: 90,
            stored: 90 - lost,
            lost: losses_to_wire(BTreeMap::from([(LossReason::AgentSpoolFull, lost)])),
            ..NodeHour::default()
        }
    }

    #[test]
    fn epochs_of_an_hour_are_one_row_and_losses_are_said() {
        let hours = [
            hour(495_000, "web-1", 0),
            hour(495_000, "web-1", 5),
            hour(495_001, "web-1", 0),
        ];
        let rows = by_hour_and_node(&hours);
        let cells: Vec<Vec<Cell>> = rows.iter().map(|(key, counts)| row(key, counts)).collect();
        assert_eq!(
            table(&HEADING, &cells, Colour::Plain),
            "\
HOUR (UTC)        NODE   SEEN  FILTERED  NUMBERED  STORED  IN FLIGHT  LOST
2026-06-21T00:00  web-1  200   20        180       175     0          5 (agent-spool-full)
2026-06-21T01:00  web-1  100   10        90        90      0          0
"
        );
        assert_eq!(
            verdict(&rows, Colour::Plain),
            "2 hours · INCOMPLETE: web-1 lost 5 (agent-spool-full)"
        );
        let rows = by_hour_and_node(&hours[2..]);
        assert_eq!(verdict(&rows, Colour::Plain), "1 hour · complete");
    }

    #[test]
    fn what_cannot_be_is_said() {
        let wrong = NodeHour {
            unaccounted: -7,
            in_flight: 2,
            ..hour(1, "web-1", 0)
        };
        assert_eq!(
            verdict(&by_hour_and_node(&[wrong]), Colour::Plain),
            "1 hour · INCOMPLETE: 7 events have a number that no hook has seen: look into the collector's log · 2 on their way"
        );
    }
}
