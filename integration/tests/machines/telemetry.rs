//! Traces, as a real receiver gets them.

use anyhow::{Context, Result, ensure};
use shrike_integration::demo::trace;
use shrike_integration::fleet::poll;

use super::Claim;
use super::fixture::{ARRIVAL_TIMEOUT, Fixture};

pub const CLAIMS: &[Claim] = &[
    Claim(
        "a_push_is_one_trace_from_the_cli_into_both_kernels",
        push_is_one_trace,
    ),
    Claim(
        "a_batch_is_one_trace_from_the_agent_to_the_store",
        batch_is_one_trace,
    ),
];

fn push_is_one_trace(fixture: &mut Fixture) -> Result<()> {
    let before = fixture.fleet.receiver.spans().len();
    fixture.push(
        "apiVersion: shrike/v1\nkind: Policy\nmetadata: {name: traced}\nspec:\n  mode: observe\n  \
         rules:\n    - {name: r, on: exec, comm: [nc], action: kill}\n",
    )?;
    let receiver = &fixture.fleet.receiver;
    let spans = poll(ARRIVAL_TIMEOUT, || {
        let spans = receiver.spans();
        Ok(trace::of_the_push(&spans[before.min(spans.len())..]))
    })
    .with_context(|| format!("no whole trace of the push in:\n{:#?}", receiver.spans()))?;
    // One tree: a single root, everybody else's parent is in the trace.
    let roots: Vec<_> = spans.iter().filter(|span| span.parent.is_empty()).collect();
    ensure!(roots.len() == 1, "roots: {roots:?}");
    for span in spans.iter().filter(|span| !span.parent.is_empty()) {
        ensure!(
            spans.iter().any(|other| other.id == span.parent),
            "the parent of {span:?} is missing"
        );
    }
    Ok(())
}

fn batch_is_one_trace(fixture: &mut Fixture) -> Result<()> {
    let receiver = &fixture.fleet.receiver;
    poll(ARRIVAL_TIMEOUT, || {
        for node in &fixture.fleet.nodes {
            node.machine.shell("true")?;
        }
        let spans = receiver.spans();
        let sent = spans.iter().filter(|span| span.name == "batch.send");
        let whole = sent
            .filter(|sent| sent.service == "shrike-agent")
            .any(|sent| {
                let stored = |span: &&shrike_integration::fleet::Span| {
                    span.trace == sent.trace && span.service == "shrike-collector"
                };
                let names: Vec<&str> = spans
                    .iter()
                    .filter(stored)
                    .map(|span| &*span.name)
                    .collect();
                names.contains(&"batch.ingest") && names.contains(&"store.commit")
            });
        Ok(whole.then_some(()))
    })
    .context("no trace leads from an agent's batch to the store's commit")
}
