//! A new generation: by adding, replacing or deleting policies.
//!
//! The collector takes a push only on top of the generation that its author
//! saw, so that nobody overwrites what somebody else pushed meanwhile.

use std::collections::BTreeSet;

use serde_json::json;
use shrike_proto::{
    escape::Terminal,
    id::PolicyName,
    policy::document::Document,
    wire::admin::{DeletePolicyRequest, PolicyDocument, PushPoliciesRequest},
};
use tonic::{Code, Status};
use tracing::Instrument as _;

use super::{
    book,
    diff::{self, ChangeKind},
    files, rollout,
};
use crate::{
    args::{Format, Global, PushArgs, WaitArgs},
    connection::Connection,
    failure::{Exit, Failure},
    output::Output,
};

/// `policy push`
pub(super) async fn push(
    global: &Global,
    args: PushArgs,
    output: &Output,
) -> Result<Exit, Failure> {
    let documents = files::read(&args.files, output)?;
    let span = tracing::info_span!(
        "policy push",
        policies = documents.len(),
        generation = tracing::field::Empty
    );
    push_documents(global, &args, documents, output)
        .instrument(span)
        .await
}

async fn push_documents(
    global: &Global,
    args: &PushArgs,
    documents: Vec<Document>,
    output: &Output,
) -> Result<Exit, Failure> {
    let connection = Connection::open(global).await?;
    let book = book::fetch(&connection).await?;
    let changes = diff::changes(&documents, &book);
    output.note(diff::text(&changes, output.error_colour()).trim_end());
    if changes
        .iter()
        .all(|change| change.kind == ChangeKind::Unchanged)
    {
        output.note(&format!(
            "nothing to push: generation {} says all of this",
            book.generation
        ));
        if args.dry_run {
            return Ok(Exit::Ok);
        }
        return rollout::follow(&connection, book.generation, args.wait, output).await;
    }
    let mut request = PushPoliciesRequest {
        parent_generation: book.generation,
        documents: documents.into_iter().map(to_wire).collect(),
        dry_run: true,
    };
    // The answer to a dry run says which nodes it is about, before anything
    // is touched.
    let preview = connection
        .policies()
        .push_policies(request.clone())
        .await
        .map_err(|status| conflict(book.generation, status))?
        .into_inner();
    output.note(&touched(&preview.nodes));
    if args.dry_run {
        output.note("dry run: nothing was changed");
        if args.wait.output == Format::Json {
            output.json(&json!({
                "dry_run": true,
                "parent_generation": book.generation,
                "nodes": preview.nodes,
            }))?;
        }
        return Ok(Exit::Ok);
    }
    request.dry_run = false;
    let pushed = connection
        .policies()
        .push_policies(request)
        .await
        .map_err(|status| conflict(book.generation, status))?
        .into_inner();
    tracing::Span::current().record("generation", pushed.generation);
    output.note(&format!("pushed generation {}", pushed.generation));
    rollout::follow(&connection, pushed.generation, args.wait, output).await
}

/// `policy delete`
pub(super) async fn delete(
    global: &Global,
    name: &PolicyName,
    wait: WaitArgs,
    output: &Output,
) -> Result<Exit, Failure> {
    let span = tracing::info_span!(
        "policy delete",
        policy = name.as_str(),
        generation = tracing::field::Empty
    );
    async {
        let connection = Connection::open(global).await?;
        let parent = book::fetch(&connection).await?.generation;
        let deleted = connection
            .policies()
            .delete_policy(DeletePolicyRequest {
                parent_generation: parent,
                name: name.to_string(),
            })
            .await
            .map_err(|status| match status.code() {
                Code::NotFound => book::not_found(name, status),
                _ => conflict(parent, status),
            })?
            .into_inner();
        tracing::Span::current().record("generation", deleted.generation);
        output.note(&touched(&deleted.nodes));
        output.note(&format!(
            "deleted policy {name} in generation {}",
            deleted.generation
        ));
        rollout::follow(&connection, deleted.generation, wait, output).await
    }
    .instrument(span)
    .await
}

fn to_wire(document: Document) -> PolicyDocument {
    PolicyDocument {
        policy: Some(document.policy.into()),
        source: document.source,
        // The collector fills in the rest.
        ..PolicyDocument::default()
    }
}

fn touched(nodes: &[String]) -> String {
    let nodes: BTreeSet<String> = nodes
        .iter()
        .map(|node| Terminal::text(node).to_string())
        .collect();
    match nodes.len() {
        0 => "touches no node that is known so far".to_owned(),
        1 => format!(
            "touches 1 node: {}",
            nodes.into_iter().next().unwrap_or_default()
        ),
        count => {
            let names: Vec<String> = nodes.into_iter().collect();
            format!("touches {count} nodes: {}", names.join(", "))
        }
    }
}

fn conflict(parent: u64, status: Status) -> Failure {
    let aborted = status.code() == Code::Aborted;
    let failure = Failure::from(status);
    if aborted {
        return failure.hint(format!(
            "somebody changed the policies after generation {parent}, which this was compared with: run it again to see the difference"
        ));
    }
    failure
}
