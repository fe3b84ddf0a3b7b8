//! What the collector's policy book holds.

use anyhow::{Context as _, anyhow};
use jiff::Timestamp;
use serde_json::{Value, json};
use shrike_proto::{
    event::json::format_time,
    id::PolicyName,
    policy::{Policy, document::render},
    wire::admin::{GetPolicyRequest, ListPoliciesRequest, PolicyDocument},
};
use tonic::Code;

use crate::{
    args::{Format, Global},
    connection::Connection,
    failure::{Exit, Failure},
    output::Output,
    table::{Cell, table},
    time::ago,
};

/// The book at one generation.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) generation: u64,
    pub(super) entries: Vec<Entry>,
}

/// A policy and how it came into the book.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) policy: Policy,
    source: String,
    generation: u64,
    pushed_by: String,
    pushed_unix_ns: i64,
}

impl TryFrom<PolicyDocument> for Entry {
    type Error = anyhow::Error;

    fn try_from(document: PolicyDocument) -> anyhow::Result<Self> {
        let policy = document.policy.context("it has no policy")?;
        Ok(Self {
            policy: Policy::try_from(policy)?,
            source: document.source,
            generation: document.generation,
            pushed_by: document.pushed_by,
            pushed_unix_ns: document.pushed_unix_ns,
        })
    }
}

/// Asks for every policy.
pub(super) async fn fetch(connection: &Connection) -> Result<Book, Failure> {
    let response = connection
        .policies()
        .list_policies(ListPoliciesRequest {})
        .await?
        .into_inner();
    let mut entries = response
        .documents
        .into_iter()
        .map(entry)
        .collect::<Result<Vec<_>, _>>()?;
    entries.sort_by(|a, b| a.policy.name.cmp(&b.policy.name));
    Ok(Book {
        generation: response.generation,
        entries,
    })
}

fn entry(document: PolicyDocument) -> Result<Entry, Failure> {
    Entry::try_from(document).map_err(|error| {
        Failure::failed(error)
            .doing("the collector holds a policy that this version cannot read")
            .hint("is the collector of another version than shrikectl?")
    })
}

/// `policy list`
pub(super) async fn list(
    global: &Global,
    format: Format,
    output: &Output,
) -> Result<Exit, Failure> {
    let book = fetch(&Connection::open(global).await?).await?;
    match format {
        Format::Json => {
            let policies: Vec<Value> = book.entries.iter().map(entry_json).collect();
            output.json(&json!({ "generation": book.generation, "policies": policies }))?;
        }
        Format::Table if book.entries.is_empty() => {
            output.note(&format!(
                "no policies (generation {}): `shrikectl policy push FILE` adds one",
                book.generation
            ));
        }
        Format::Table => {
            let now = Timestamp::now();
            let rows: Vec<Vec<Cell>> = book.entries.iter().map(|entry| row(entry, now)).collect();
            let heading = [
                "POLICY",
                "MODE",
                "RULES",
                "NODES",
                "GENERATION",
                "PUSHED",
                "BY",
            ];
            output.write(table(&heading, &rows, output.colour()).as_bytes())?;
        }
    }
    Ok(Exit::Ok)
}

fn row(entry: &Entry, now: Timestamp) -> Vec<Cell> {
    let policy = &entry.policy;
    let labels: Vec<String> = policy
        .nodes
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    vec![
        (&policy.name).into(),
        policy.mode.as_str().into(),
        policy.rules.len().into(),
        if labels.is_empty() {
            "all".into()
        } else {
            labels.join(",").into()
        },
        entry.generation.into(),
        ago(entry.pushed_unix_ns, now).into(),
        (&entry.pushed_by).into(),
    ]
}

fn entry_json(entry: &Entry) -> Value {
    let policy = &entry.policy;
    json!({
        "name": policy.name.as_str(),
        "mode": policy.mode.as_str(),
        "nodes": policy.nodes,
        "rules": policy.rules.iter().map(|rule| json!({
            "name": rule.name.as_str(),
            "on": rule.trigger.as_str(),
            "action": rule.action.as_str(),
        })).collect::<Vec<_>>(),
        "generation": entry.generation,
        "pushed_by": entry.pushed_by,
        "pushed": format_time(entry.pushed_unix_ns),
    })
}

/// `policy show`
pub(super) async fn show(
    global: &Global,
    name: &PolicyName,
    source: bool,
    output: &Output,
) -> Result<Exit, Failure> {
    let connection = Connection::open(global).await?;
    let response = connection
        .policies()
        .get_policy(GetPolicyRequest {
            name: name.to_string(),
        })
        .await
        .map_err(|status| not_found(name, status))?
        .into_inner();
    let document = response
        .document
        .ok_or_else(|| Failure::failed(anyhow!("the collector sent no policy")))?;
    let entry = entry(document)?;
    let text = if source && !entry.source.is_empty() {
        entry.source
    } else {
        render(&entry.policy)
    };
    // A pushed file passed a parser that takes no control characters but
    // line feeds and tabs; a collector that was tampered with may not have.
    for line in text.lines() {
        let safe = line.chars().all(|c| !c.is_control() || c == '\t');
        if safe {
            output.line(line)?;
        } else {
            output.line(&shrike_proto::escape::Terminal::text(line).to_string())?;
        }
    }
    Ok(Exit::Ok)
}

/// Says which policy is not there, and what to do about it.
pub(super) fn not_found(name: &PolicyName, status: tonic::Status) -> Failure {
    if status.code() == Code::NotFound {
        return Failure::failed(anyhow!("there is no policy `{name}`"))
            .hint("`shrikectl policy list` lists them");
    }
    status.into()
}
