//! `nodes`: who is there, what each enforces, and where its events went.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use anyhow::anyhow;
use jiff::Timestamp;
use serde_json::{Value, json};
use shrike_proto::{
    escape::{Terminal, lossless},
    event::{compact::Colour, json::format_time},
    ledger::{Ledger, LossReason},
    wire::{
        admin::{ForgetNodeRequest, ListNodesRequest, ListNodesResponse, Node},
        control::PolicyState,
        ingest::{Hook, LostRange, NodeInfo},
    },
};
use tonic::Code;

use crate::{
    args::{Format, Global, NodeForgetArgs, NodeShowArgs},
    connection::Connection,
    failure::{Exit, Failure},
    output::Output,
    table::{Cell, table},
    time::ago,
};

/// `nodes`
pub(crate) async fn list(
    global: &Global,
    format: Format,
    output: &Output,
) -> Result<Exit, Failure> {
    let ListNodesResponse {
        nodes,
        policy_generation,
    } = fetch(&Connection::open(global).await?).await?;
    match format {
        Format::Json => {
            let nodes: Vec<Value> = nodes.iter().map(node_json).collect();
            output.json(&json!({ "policy_generation": policy_generation, "nodes": nodes }))?;
        }
        Format::Table if nodes.is_empty() => {
            output.note("no node has ever connected to this collector");
        }
        Format::Table => {
            let now = Timestamp::now();
            let rows: Vec<Vec<Cell>> = nodes.iter().map(|node| row(node, now)).collect();
            let heading = [
                "NODE", "STATE", "KERNEL", "DESIRED", "APPLIED", "POLICY", "SEEN", "STORED", "LOST",
            ];
            output.write(table(&heading, &rows, output.colour()).as_bytes())?;
        }
    }
    Ok(Exit::Ok)
}

/// `nodes show`
pub(crate) async fn show(
    global: &Global,
    args: NodeShowArgs,
    output: &Output,
) -> Result<Exit, Failure> {
    let request = ListNodesRequest {
        node: args.node.to_string(),
    };
    let connection = Connection::open(global).await?;
    let nodes = connection
        .nodes()
        .list_nodes(request)
        .await?
        .into_inner()
        .nodes;
    let Some(node) = nodes.iter().find(|node| node.name == args.node.as_str()) else {
        return Err(Failure::failed(anyhow!("no node `{}` is known", args.node))
            .hint("`shrikectl nodes` lists them"));
    };
    match args.output {
        Format::Json => output.json(&node_json(node))?,
        Format::Table => {
            output.write(details(node, Timestamp::now(), output.colour()).as_bytes())?;
        }
    }
    Ok(Exit::Ok)
}

/// `nodes forget`
pub(crate) async fn forget(
    global: &Global,
    args: NodeForgetArgs,
    output: &Output,
) -> Result<Exit, Failure> {
    let node = args.node.to_string();
    let request = ForgetNodeRequest { node };
    let connection = Connection::open(global).await?;
    let answer = connection.nodes().forget_node(request).await;
    answer.map_err(|refused| {
        let hint = match refused.code() {
            Code::FailedPrecondition => Some("stop its agent first: it would come right back"),
            Code::NotFound => Some("`shrikectl nodes` lists them"),
            _ => None,
        };
        let failure = Failure::from(refused);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    })?;
    output.note(&format!(
        "node {} is forgotten; its events stay, and it is back when its agent connects",
        args.node
    ));
    Ok(Exit::Ok)
}

/// Asks for every node, sorted by name.
pub(crate) async fn fetch(connection: &Connection) -> Result<ListNodesResponse, Failure> {
    let mut response = connection
        .nodes()
        .list_nodes(ListNodesRequest::default())
        .await?
        .into_inner();
    response.nodes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(response)
}

/// Names the state of a generation on a node.
pub(crate) fn policy_state_name(state: i32) -> &'static str {
    match PolicyState::try_from(state) {
        Ok(PolicyState::Received) => "received",
        Ok(PolicyState::Applied) => "applied",
        Ok(PolicyState::Rejected) => "rejected",
        Ok(PolicyState::Unspecified) | Err(_) => "waiting",
    }
}

/// Returns how a state of a generation is painted.
pub(crate) fn policy_state_style(state: i32) -> Style {
    match PolicyState::try_from(state) {
        Ok(PolicyState::Applied) => good(),
        Ok(PolicyState::Rejected) => bad(),
        Ok(PolicyState::Received | PolicyState::Unspecified) | Err(_) => doubtful(),
    }
}

/// Shows the state of a node's desired generation.
pub(crate) fn policy_cell(node: &Node) -> Cell {
    if node.desired_generation == 0 && node.applied_generation == 0 {
        return "none".into();
    }
    Cell::styled(
        policy_state_name(node.policy_state),
        policy_state_style(node.policy_state),
    )
}

/// Says whether a node's policy session and event session are open.
pub(crate) fn connection_cell(node: &Node, now: Timestamp) -> Cell {
    match (node.events_connected, node.control_connected) {
        (true, true) => Cell::styled("connected", good()),
        (true, false) => Cell::styled("no policy session", doubtful()),
        (false, true) => Cell::styled("no event session", doubtful()),
        (false, false) => {
            Cell::styled(format!("away, {}", ago(node.last_seen_unix_ns, now)), bad())
        }
    }
}

fn row(node: &Node, now: Timestamp) -> Vec<Cell> {
    let ledger = ledger(node);
    let lost = ledger.lost_total();
    let info = node.info.clone().unwrap_or_default();
    vec![
        (&node.name).into(),
        connection_cell(node, now),
        info.kernel_release.into(),
        node.desired_generation.into(),
        node.applied_generation.into(),
        policy_cell(node),
        ledger.seen.into(),
        node.stored.into(),
        Cell::styled(lost, if lost == 0 { Style::new() } else { bad() }),
    ]
}

fn ledger(node: &Node) -> Ledger {
    node.ledger.clone().map(Ledger::from).unwrap_or_default()
}

/// Returns what the kernel saw and what is neither stored nor given up yet.
fn in_flight(node: &Node, ledger: &Ledger) -> i128 {
    let lost: u64 = ledger
        .lost
        .iter()
        // A probe that did not run saw nothing, so `seen` lacks it, too.
        .filter(|(reason, _)| **reason != LossReason::KernelProbeMissed)
        .map(|(_, count)| *count)
        .sum();
    i128::from(ledger.seen)
        - i128::from(ledger.filtered)
        - i128::from(lost)
        - i128::from(node.stored)
}

fn details(node: &Node, now: Timestamp, colour: Colour) -> String {
    let bold = colour.paint(Style::new().bold());
    let mut text = String::new();
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        writeln!(text, "{bold}{name:<14}{bold:#}{value}").expect("strings take everything");
    };
    let info = node.info.clone().unwrap_or_default();
    let labels: Vec<String> = info
        .labels
        .iter()
        .map(|(key, value)| format!("{}={}", Terminal::text(key), Terminal::text(value)))
        .collect();
    line("node", &Terminal::text(&node.name));
    line(
        "sessions",
        &format!(
            "events {}, policy {}, last seen {}",
            up(node.events_connected),
            up(node.control_connected),
            ago(node.last_seen_unix_ns, now)
        ),
    );
    line("hostname", &Terminal::text(&info.hostname));
    line("kernel", &Terminal::text(&info.kernel_release));
    line("agent", &Terminal::text(&info.agent_version));
    line("labels", &or_none(&labels.join(", ")));
    line("boot", &Terminal::text(&node.boot_id));
    let style = colour.paint(policy_state_style(node.policy_state));
    line(
        "policy",
        &format!(
            "generation {} applied, {} desired: {style}{}{style:#}",
            node.applied_generation,
            node.desired_generation,
            policy_state_name(node.policy_state)
        ),
    );
    if !node.policy_reason.is_empty() {
        line("", &Terminal::text(&node.policy_reason));
    }
    if let Some(enforcement) = &info.enforcement {
        let style = colour.paint(if enforcement.denies {
            good()
        } else {
            doubtful()
        });
        line(
            "enforcement",
            &format!(
                "{style}{}{style:#}: {}",
                Terminal::text(&enforcement.attachment),
                Terminal::text(&enforcement.abilities)
            ),
        );
    }
    text.push_str(&self_test(&info, colour));
    text.push('\n');
    text.push_str(&hooks(&info, colour));
    if !info.offsets.is_empty() {
        text.push('\n');
        text.push_str(&offsets(&info, colour));
    }
    text.push('\n');
    text.push_str(&ledger_text(node, colour));
    text
}

fn hooks(info: &NodeInfo, colour: Colour) -> String {
    let rows: Vec<Vec<Cell>> = info
        .hooks
        .iter()
        .map(|hook| {
            let attached = hook.error.is_empty() && !hook.attached_as.is_empty();
            vec![
                (&hook.name).into(),
                if attached {
                    Cell::styled(&hook.attached_as, good())
                } else if hook.required {
                    Cell::styled("MISSING", bad())
                } else {
                    Cell::styled("missing", doubtful())
                },
                (&hook.error).into(),
            ]
        })
        .collect();
    table(&["HOOK", "ATTACHED AS", "PROBLEM"], &rows, colour)
}

/// One line for each trial of the self-test, loud where one failed.
fn self_test(info: &NodeInfo, colour: Colour) -> String {
    let mut text = String::new();
    let mut line = |name: &str, style: Style, result: &str| {
        let (bold, style) = (colour.paint(Style::new().bold()), colour.paint(style));
        let name = Terminal::text(name);
        writeln!(
            text,
            "{bold}{:<14}{bold:#}{name}{style}{}{style:#}",
            "self-test",
            Terminal::text(result)
        )
        .expect("strings take everything");
    };
    match &info.self_test {
        None => line("", doubtful(), "this agent does not tell"),
        Some(test) if !test.skipped.is_empty() => {
            line("", bad(), &format!("NOT MADE: {}", test.skipped));
        }
        Some(test) => {
            for trial in &test.trials {
                let name = format!("{:<32}", trial.name);
                match &*trial.problem {
                    "" => line(&name, good(), "ok"),
                    problem => line(&name, bad(), &format!("FAILED: {problem}")),
                }
            }
        }
    }
    text
}

/// Where the kernel keeps the fields that the programs read.
fn offsets(info: &NodeInfo, colour: Colour) -> String {
    let rows: Vec<Vec<Cell>> = info
        .offsets
        .iter()
        .map(|field| {
            vec![
                (&field.field).into(),
                match field.offset {
                    Some(offset) => u64::from(offset).into(),
                    None => Cell::styled("not in this kernel", doubtful()),
                },
            ]
        })
        .collect();
    table(&["FIELD", "OFFSET"], &rows, colour)
}

fn ledger_text(node: &Node, colour: Colour) -> String {
    let ledger = ledger(node);
    let right = |count: &dyn std::fmt::Display| format!("{count:>12}");
    let mut rows: Vec<Vec<Cell>> = vec![
        vec!["seen by the kernel".into(), right(&ledger.seen).into()],
        vec!["  stored".into(), right(&node.stored).into()],
        vec![
            "  left out on purpose".into(),
            right(&ledger.filtered).into(),
        ],
    ];
    for (reason, count) in &ledger.lost {
        rows.push(vec![
            format!("  lost: {}", reason.as_str()).into(),
            Cell::styled(right(count), bad()),
        ]);
    }
    rows.push(vec![
        "  in flight".into(),
        right(&in_flight(node, &ledger)).into(),
    ]);
    let mut text = table(&["LEDGER", "      EVENTS"], &rows, colour);
    if !ledger.hooks.is_empty() {
        text.push('\n');
        text.push_str(&counts_by_hook(&ledger, colour));
    }
    writeln!(
        text,
        "epoch {}, durable up to event {}",
        epoch_text(&node.epoch),
        node.durable_sequence
    )
    .expect("strings take everything");
    for range in &node.lost {
        writeln!(
            text,
            "lost: events {} to {} ({})",
            range.first_sequence,
            last_sequence(range),
            reason_name(range)
        )
        .expect("strings take everything");
    }
    text
}

/// What each hook counted, by reason.
fn counts_by_hook(ledger: &Ledger, colour: Colour) -> String {
    let rows: Vec<Vec<Cell>> = ledger
        .hooks
        .iter()
        .map(|(hook, counts)| {
            let lost =
                |count: u64| Cell::styled(count, if count == 0 { Style::new() } else { bad() });
            vec![
                hook.into(),
                counts.seen.into(),
                counts.submitted.into(),
                counts.filtered_own.into(),
                counts.filtered_repeated.into(),
                lost(counts.lost_ring_full),
                lost(counts.lost_pending_full),
                lost(counts.lost_oversize),
                lost(counts.lost_unreadable),
                lost(counts.missed),
            ]
        })
        .collect();
    let heading = [
        "COUNTED BY",
        "SEEN",
        "SUBMITTED",
        "OWN",
        "REPEATED",
        "RING FULL",
        "PENDING FULL",
        "OVERSIZE",
        "UNREADABLE",
        "MISSED",
    ];
    table(&heading, &rows, colour)
}

fn last_sequence(range: &LostRange) -> u64 {
    range
        .first_sequence
        .saturating_add(range.count.saturating_sub(1))
}

fn reason_name(range: &LostRange) -> &'static str {
    LossReason::from_wire(range.reason).map_or("unknown", LossReason::as_str)
}

fn epoch_text(epoch: &[u8]) -> String {
    epoch.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn up(connected: bool) -> &'static str {
    if connected { "up" } else { "down" }
}

fn or_none(text: &str) -> String {
    if text.is_empty() { "-" } else { text }.to_owned()
}

fn good() -> Style {
    Style::new().fg_color(Some(AnsiColor::Green.into()))
}

fn doubtful() -> Style {
    Style::new().fg_color(Some(AnsiColor::Yellow.into()))
}

fn bad() -> Style {
    Style::new().bold().fg_color(Some(AnsiColor::Red.into()))
}

/// One shape for `nodes -o json` and `nodes show -o json`.
fn node_json(node: &Node) -> Value {
    let info = node.info.clone().unwrap_or_default();
    let ledger = ledger(node);
    let lost: serde_json::Map<String, Value> = ledger
        .lost
        .iter()
        .map(|(reason, count)| (reason.as_str().to_owned(), (*count).into()))
        .collect();
    let ranges: Vec<Value> = node
        .lost
        .iter()
        .map(|range| {
            json!({
                "first_sequence": range.first_sequence,
                "count": range.count,
                "reason": reason_name(range),
            })
        })
        .collect();
    let last_seen = (node.last_seen_unix_ns != 0).then(|| format_time(node.last_seen_unix_ns));
    json!({
        "name": node.name,
        "connected": node.events_connected && node.control_connected,
        "events_connected": node.events_connected,
        "control_connected": node.control_connected,
        "last_seen": last_seen,
        "hostname": info.hostname,
        "kernel_release": info.kernel_release,
        "agent_version": info.agent_version,
        "labels": info.labels,
        "boot_id": node.boot_id,
        "hooks": info.hooks.iter().map(hook_json).collect::<Vec<_>>(),
        "enforcement": info.enforcement.as_ref().map(|it| json!({
            "attachment": it.attachment,
            "denies": it.denies,
            "abilities": it.abilities,
        })),
        "self_test": info.self_test.as_ref().map(|test| json!({
            "skipped": reason_json(&test.skipped),
            "trials": test.trials.iter().map(|trial| json!({
                "name": trial.name,
                "problem": reason_json(&trial.problem),
            })).collect::<Vec<_>>(),
        })),
        "offsets": info.offsets.iter().map(|it| (it.field.clone(), it.offset.into())).collect::<serde_json::Map<_, _>>(),
        "desired_generation": node.desired_generation,
        "applied_generation": node.applied_generation,
        "policy_state": policy_state_name(node.policy_state),
        "policy_reason": reason_json(&node.policy_reason),
        "epoch": epoch_text(&node.epoch),
        "durable_sequence": node.durable_sequence,
        "stored": node.stored,
        "ledger": {
            "seen": ledger.seen,
            "filtered": ledger.filtered,
            "sequenced": ledger.sequenced,
            "lost": lost,
            "lost_total": ledger.lost_total(),
            "in_flight": i64::try_from(in_flight(node, &ledger)).ok(),
            "hooks": ledger.hooks.iter().map(|(hook, counts)| (hook.clone(), json!({
                "seen": counts.seen,
                "submitted": counts.submitted,
                "filtered_own": counts.filtered_own,
                "filtered_repeated": counts.filtered_repeated,
                "lost_ring_full": counts.lost_ring_full,
                "lost_pending_full": counts.lost_pending_full,
                "lost_oversize": counts.lost_oversize,
                "lost_unreadable": counts.lost_unreadable,
                "missed": counts.missed,
            }))).collect::<serde_json::Map<_, _>>(),
        },
        "lost": ranges,
    })
}

fn hook_json(hook: &Hook) -> Value {
    json!({
        "name": hook.name,
        "attached_as": reason_json(&hook.attached_as),
        "error": reason_json(&hook.error),
        "required": hook.required,
    })
}

/// Text, or `null` where there is none.
pub(crate) fn reason_json(text: &str) -> Value {
    if text.is_empty() {
        Value::Null
    } else {
        lossless(text.as_bytes()).into()
    }
}

#[cfg(test)]
mod tests {
    use shrike_proto::wire::{
        event::{HookCounts, LossCount, LossReason as WireReason},
        ingest::{Enforcement, FieldOffset, SelfTest, Trial},
    };

    use super::*;

    fn node() -> Node {
        Node {
            name: "web-1".to_owned(),
            info: Some(NodeInfo {
                kernel_release: "6.1.0\x1b[31m".to_owned(),
                hooks: vec![
                    Hook {
                        name: "execve".to_owned(),
                        attached_as: "kprobe".to_owned(),
                        ..Hook::default()
                    },
                    Hook {
                        name: "openat2".to_owned(),
                        error: "no such symbol".to_owned(),
                        required: true,
                        ..Hook::default()
                    },
                ],
                enforcement: Some(Enforcement {
                    attachment: "fentry".to_owned(),
                    denies: false,
                    abilities: "enforces kill, not deny".to_owned(),
                }),
                self_test: Some(SelfTest {
                    skipped: String::new(),
                    trials: vec![Trial {
                        name: "open, killed".to_owned(),
                        problem: "the process lives".to_owned(),
                    }],
                }),
                offsets: vec![FieldOffset {
                    field: "task_struct.pid".to_owned(),
                    offset: Some(2464),
                }],
                ..NodeInfo::default()
            }),
            events_connected: true,
            control_connected: true,
            desired_generation: 3,
            applied_generation: 2,
            policy_state: PolicyState::Rejected.into(),
            policy_reason: "too many paths".to_owned(),
            stored: 90,
            ledger: Some(shrike_proto::wire::event::Ledger {
                seen: 100,
                filtered: 1,
                lost: vec![LossCount {
                    reason: WireReason::KernelRingFull.into(),
                    count: 5,
                }],
                sequenced: 94,
                hooks: vec![HookCounts {
                    hook: "file-open".to_owned(),
                    seen: 100,
                    submitted: 94,
                    filtered_repeated: 1,
                    lost_ring_full: 5,
                    ..HookCounts::default()
                }],
                ..shrike_proto::wire::event::Ledger::default()
            }),
            ..Node::default()
        }
    }

    #[test]
    fn details_name_problems_and_account_for_everything() {
        let text = details(&node(), Timestamp::UNIX_EPOCH, Colour::Plain);
        for expect in [
            "generation 2 applied, 3 desired: rejected",
            "too many paths",
            "openat2  MISSING      no such symbol",
            "fentry: enforces kill, not deny",
            "FAILED: the process lives",
            "task_struct.pid  2464",
            "lost: kernel-ring-full             5",
            "in flight                          4",
            "file-open   100   94         0    1         5          0             0         0",
            r"6.1.0\x1b[31m",
        ] {
            assert!(text.contains(expect), "{expect}\n{text}");
        }
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn json_has_the_ledger_by_reason() {
        let value = node_json(&node());
        assert_eq!(value["ledger"]["lost_total"], 5);
        assert_eq!(value["ledger"]["lost"]["kernel-ring-full"], 5);
        assert_eq!(value["ledger"]["in_flight"], 4);
        assert_eq!(value["policy_state"], "rejected");
        assert_eq!(value["hooks"][1]["attached_as"], Value::Null);
    }
}
