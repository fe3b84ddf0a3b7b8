//! The trace of a policy push, picked out of everything that was received.

use std::collections::BTreeSet;

use crate::fleet::{NODES, Span};

/// The spans of the newest push whose trace has the CLI, the collector and
/// every node's agent in it; `None` until it is whole.
pub fn of_the_push(spans: &[Span]) -> Option<Vec<Span>> {
    let root = spans.iter().rev().find(|span| {
        span.service == "shrikectl" && span.parent.is_empty() && span.name.contains("push")
    })?;
    let trace: Vec<Span> = spans
        .iter()
        .filter(|span| span.trace == root.trace)
        .cloned()
        .collect();
    let whole = trace.iter().any(|span| span.service == "shrike-collector")
        && NODES.iter().all(|(node, _)| {
            let agent = |span: &Span| span.service == "shrike-agent" && span.instance == *node;
            trace
                .iter()
                .any(|span| agent(span) && span.name == "policy.map_update")
        });
    whole.then_some(trace)
}

/// The spans as an indented tree, parents before children.
pub fn tree(spans: &[Span]) -> Vec<String> {
    let ids: BTreeSet<&str> = spans.iter().map(|span| &*span.id).collect();
    let mut lines = Vec::new();
    for root in spans.iter().filter(|span| !ids.contains(&*span.parent)) {
        lines.push(format!("trace {}", root.trace));
        branch(spans, root, 0, &mut lines);
    }
    lines
}

fn branch(spans: &[Span], span: &Span, depth: usize, lines: &mut Vec<String>) {
    // A malformed trace could go in circles; none of ours is this deep.
    if depth > spans.len() {
        return;
    }
    let instance = match &*span.instance {
        "" => String::new(),
        instance => format!(" {instance}"),
    };
    lines.push(format!(
        "{:indent$}{}  [{}{instance}]",
        "",
        span.name,
        span.service,
        indent = depth * 2
    ));
    for child in spans.iter().filter(|child| child.parent == span.id) {
        branch(spans, child, depth + 1, lines);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(id: &str, parent: &str, name: &str, service: &str, instance: &str) -> Span {
        Span {
            trace: "t".to_owned(),
            id: id.to_owned(),
            parent: parent.to_owned(),
            name: name.to_owned(),
            service: service.to_owned(),
            instance: instance.to_owned(),
        }
    }

    #[test]
    fn a_push_is_whole_once_every_part_has_reported() {
        let mut spans = vec![
            span("2", "1", "policy.push", "shrike-collector", "main"),
            span("1", "", "policy push", "shrikectl", ""),
            span("3", "2", "policy.map_update", "shrike-agent", "node-a"),
        ];
        assert_eq!(of_the_push(&spans), None);
        spans.push(span(
            "4",
            "2",
            "policy.map_update",
            "shrike-agent",
            "node-b",
        ));
        let whole = of_the_push(&spans).expect("every part is there");
        assert_eq!(whole.len(), 4);
        assert_eq!(
            tree(&whole),
            [
                "trace t",
                "policy push  [shrikectl]",
                "  policy.push  [shrike-collector main]",
                "    policy.map_update  [shrike-agent node-a]",
                "    policy.map_update  [shrike-agent node-b]",
            ]
        );
    }

    #[test]
    fn spans_of_another_trace_do_not_count() {
        let mut spans = vec![
            span("1", "", "policy push", "shrikectl", ""),
            span("2", "1", "policy.push", "shrike-collector", "main"),
            span("3", "2", "policy.map_update", "shrike-agent", "node-a"),
            span("4", "2", "policy.map_update", "shrike-agent", "node-b"),
        ];
        spans[3].trace = "another".to_owned();
        assert_eq!(of_the_push(&spans), None);
    }
}
