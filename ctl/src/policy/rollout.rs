//! How far a generation has got: each node's state, as it changes.

mod view;

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use shrike_proto::{
    escape::Terminal,
    wire::{
        admin::{ListNodesResponse, Node, NodeRollout, WatchRolloutRequest, WatchRolloutResponse},
        control::PolicyState,
    },
};
use tokio::time::{Instant, timeout_at};
use tonic::Streaming;

use crate::{
    args::{Format, Global, WaitArgs},
    connection::Connection,
    failure::{Exit, Failure},
    nodes::{connection_cell, fetch, policy_cell, policy_state_name, reason_json},
    output::Output,
    table::{Cell, table},
};
use view::View;

/// How a roll-out ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The collector waits for no node any more: each has applied or rejected
    /// it, or is away.
    Done,
    /// The wait was over first, or the stream.
    TimedOut,
}

/// Follows a generation until every node that it is for has applied or
/// rejected it, or the time is up.
pub(super) async fn follow(
    connection: &Connection,
    generation: u64,
    wait: WaitArgs,
    output: &Output,
) -> Result<Exit, Failure> {
    let mut view = View::new(wait.output, generation, output);
    if wait.no_wait {
        output.note("not waiting for the nodes: `shrikectl policy status` shows them");
        if wait.output == Format::Json {
            output.json(&json!({ "generation": generation, "waited": false }))?;
        }
        return Ok(Exit::Ok);
    }
    let deadline = Instant::now()
        .checked_add(wait.timeout)
        // A wait that no clock can hold is one for ever.
        .unwrap_or_else(|| Instant::now() + Duration::from_secs(100 * 365 * 86_400));
    let open = async {
        let request = WatchRolloutRequest { generation };
        let response = connection.policies().watch_rollout(request).await?;
        Ok::<_, Failure>(response.into_inner())
    };
    let end = tokio::select! {
        end = async {
            match timeout_at(deadline, open).await {
                Ok(stream) => watch(stream?, deadline, &mut view, output).await,
                Err(_) => Ok(End::TimedOut),
            }
        } => end?,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            output.note("left; the roll-out goes on: `shrikectl policy status` shows it");
            End::TimedOut
        }
    };
    finish(view.into_nodes(), generation, end, wait, output)
}

async fn watch(
    mut stream: Streaming<WatchRolloutResponse>,
    deadline: Instant,
    view: &mut View,
    output: &Output,
) -> Result<End, Failure> {
    loop {
        match timeout_at(deadline, stream.message()).await {
            Ok(Ok(Some(response))) => {
                view.update(response.nodes, output)?;
                if response.done {
                    return Ok(End::Done);
                }
            }
            Ok(Ok(None)) | Err(_) => return Ok(End::TimedOut),
            Ok(Err(status)) => return Err(status.into()),
        }
    }
}

fn finish(
    nodes: Vec<NodeRollout>,
    generation: u64,
    end: End,
    wait: WaitArgs,
    output: &Output,
) -> Result<Exit, Failure> {
    let with = |state: PolicyState| {
        nodes
            .iter()
            .filter(move |node| node.state == i32::from(state))
    };
    let applied = with(PolicyState::Applied).count();
    let rejected: Vec<&NodeRollout> = with(PolicyState::Rejected).collect();
    let pending: Vec<&NodeRollout> = nodes
        .iter()
        .filter(|node| {
            node.state != i32::from(PolicyState::Applied)
                && node.state != i32::from(PolicyState::Rejected)
        })
        .collect();
    let complete = rejected.is_empty() && pending.is_empty() && end == End::Done;
    if wait.output == Format::Json {
        let names = |nodes: &[&NodeRollout]| -> Vec<String> {
            nodes.iter().map(|node| node.node.clone()).collect()
        };
        output.line(
            &json!({
                "generation": generation,
                "complete": complete,
                "applied": with(PolicyState::Applied).map(|node| node.node.clone()).collect::<Vec<_>>(),
                "rejected": names(&rejected),
                "pending": names(&pending),
            })
            .to_string(),
        )?;
    }
    if complete {
        output.note(&match applied {
            0 => format!("generation {generation} is in the book; no node has to apply it"),
            1 => format!("generation {generation} is in force on 1 node"),
            count => format!("generation {generation} is in force on all {count} nodes"),
        });
        return Ok(Exit::Ok);
    }
    for node in &rejected {
        output.error(&format!(
            "{} rejected generation {generation} and keeps {}: {}",
            Terminal::text(&node.node),
            node.applied_generation,
            Terminal::text(&node.reason)
        ));
    }
    for node in &pending {
        let name = Terminal::text(&node.node);
        output.error(&if node.connected {
            format!(
                "{name} is connected but has not confirmed generation {generation} within {:?}",
                wait.timeout
            )
        } else {
            format!("{name} is not connected: it gets generation {generation} when it comes back")
        });
    }
    if rejected.is_empty() && pending.is_empty() {
        output.error(&format!(
            "the collector did not say within {:?} that generation {generation} is rolled out",
            wait.timeout
        ));
    }
    output.note(&format!(
        "generation {generation} is in force on {applied} of {} nodes",
        nodes.len()
    ));
    Ok(Exit::Incomplete)
}

/// `policy status`
pub(super) async fn status(
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
            let nodes: Vec<Value> = nodes.iter().map(status_json).collect();
            output.json(&json!({ "generation": policy_generation, "nodes": nodes }))?;
        }
        Format::Table => {
            output.note(&format!(
                "the policy book is at generation {policy_generation}"
            ));
            let now = Timestamp::now();
            let rows: Vec<Vec<Cell>> = nodes.iter().map(|node| status_row(node, now)).collect();
            let heading = ["NODE", "STATE", "DESIRED", "APPLIED", "POLICY", "REASON"];
            if rows.is_empty() {
                output.note("no node has ever connected to this collector");
            } else {
                output.write(table(&heading, &rows, output.colour()).as_bytes())?;
            }
        }
    }
    Ok(Exit::Ok)
}

fn status_row(node: &Node, now: Timestamp) -> Vec<Cell> {
    vec![
        (&node.name).into(),
        connection_cell(node, now),
        node.desired_generation.into(),
        node.applied_generation.into(),
        policy_cell(node),
        (&node.policy_reason).into(),
    ]
}

fn status_json(node: &Node) -> Value {
    json!({
        "node": node.name,
        "connected": node.control_connected,
        "desired_generation": node.desired_generation,
        "applied_generation": node.applied_generation,
        "state": policy_state_name(node.policy_state),
        "reason": reason_json(&node.policy_reason),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::ColorWhen;

    fn node(name: &str, state: PolicyState) -> NodeRollout {
        NodeRollout {
            node: name.to_owned(),
            connected: true,
            state: state.into(),
            ..NodeRollout::default()
        }
    }

    #[test]
    fn exit_code_tells_a_whole_roll_out_from_a_partial_one() {
        let wait = WaitArgs {
            timeout: Duration::from_secs(1),
            no_wait: false,
            output: Format::Table,
        };
        let check = |nodes: &[NodeRollout], end: End, expect: Exit| {
            let output = Output::new(ColorWhen::Never);
            assert_eq!(
                finish(nodes.to_vec(), 3, end, wait, &output).unwrap(),
                expect
            );
        };
        let applied = node("a", PolicyState::Applied);
        let rejected = node("b", PolicyState::Rejected);
        let received = node("c", PolicyState::Received);
        check(&[], End::Done, Exit::Ok);
        check(std::slice::from_ref(&applied), End::Done, Exit::Ok);
        check(&[applied.clone(), rejected], End::Done, Exit::Incomplete);
        check(
            &[applied.clone(), received],
            End::TimedOut,
            Exit::Incomplete,
        );
        check(&[applied], End::TimedOut, Exit::Incomplete);
    }
}
