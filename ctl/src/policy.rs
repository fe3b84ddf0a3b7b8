//! `policy`: the book of policies, and which node enforces what.

mod book;
mod diff;
mod files;
mod push;
mod rollout;

use shrike_proto::policy::document::JSON_SCHEMA;

use crate::{
    args::{Global, PolicyCommand},
    connection::Connection,
    failure::{Exit, Failure},
    output::Output,
};

/// `policy …`
pub(crate) async fn run(
    global: &Global,
    command: PolicyCommand,
    output: &Output,
) -> Result<Exit, Failure> {
    match command {
        PolicyCommand::Push(args) => push::push(global, args, output).await,
        PolicyCommand::Delete { name, wait } => push::delete(global, &name, wait, output).await,
        PolicyCommand::List { output: format } => book::list(global, format, output).await,
        PolicyCommand::Show { name, source } => book::show(global, &name, source, output).await,
        PolicyCommand::Status { output: format } => rollout::status(global, format, output).await,
        PolicyCommand::Diff { files } => {
            let documents = files::read(&files, output)?;
            let connection = Connection::open(global).await?;
            let book = book::fetch(&connection).await?;
            let changes = diff::changes(&documents, &book);
            output.write(diff::text(&changes, output.colour()).as_bytes())?;
            Ok(Exit::Ok)
        }
        PolicyCommand::Check { files } => {
            let documents = files::read(&files, output)?;
            let rules: usize = documents
                .iter()
                .map(|document| document.policy.rules.len())
                .sum();
            output.note(&format!("ok: {}", counted(documents.len(), rules)));
            Ok(Exit::Ok)
        }
        PolicyCommand::Schema => {
            output.write(JSON_SCHEMA.as_bytes())?;
            Ok(Exit::Ok)
        }
    }
}

fn counted(policies: usize, rules: usize) -> String {
    let plural = |count: usize, one: &str, many: &str| {
        format!("{count} {}", if count == 1 { one } else { many })
    };
    format!(
        "{}, {}",
        plural(policies, "policy", "policies"),
        plural(rules, "rule", "rules")
    )
}
