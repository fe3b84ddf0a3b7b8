//! What a push changes: policies compared in their canonical form, so that
//! comments and layout make no difference.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use shrike_proto::{
    event::compact::Colour,
    id::PolicyName,
    policy::document::{Document, render},
};
use similar::{ChangeTag, TextDiff};

use super::book::Book;

/// Lines of context around each change.
const CONTEXT_LINES: usize = 3;

/// What a push does to one policy.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) name: PolicyName,
    pub(super) kind: ChangeKind,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum ChangeKind {
    Added { new: String },
    Replaced { old: String, new: String },
    Unchanged,
}

/// Compares documents with the book.
pub(super) fn changes(documents: &[Document], book: &Book) -> Vec<Change> {
    documents
        .iter()
        .map(|document| {
            let policy = &document.policy;
            let entry = book
                .entries
                .iter()
                .find(|entry| entry.policy.name == policy.name);
            let kind = match entry {
                None => ChangeKind::Added {
                    new: render(policy),
                },
                Some(entry) if entry.policy == *policy => ChangeKind::Unchanged,
                Some(entry) => ChangeKind::Replaced {
                    old: render(&entry.policy),
                    new: render(policy),
                },
            };
            Change {
                name: policy.name.clone(),
                kind,
            }
        })
        .collect()
}

/// Writes changes for a person.
pub(super) fn text(changes: &[Change], colour: Colour) -> String {
    let mut text = String::new();
    for change in changes {
        let (what, old, new) = match &change.kind {
            ChangeKind::Added { new } => ("new", "", new.as_str()),
            ChangeKind::Replaced { old, new } => ("changed", old.as_str(), new.as_str()),
            ChangeKind::Unchanged => ("unchanged", "", ""),
        };
        let bold = colour.paint(Style::new().bold());
        writeln!(text, "{bold}policy {}: {what}{bold:#}", change.name)
            .expect("strings take everything");
        write_lines(&mut text, old, new, colour);
    }
    text
}

fn write_lines(text: &mut String, old: &str, new: &str, colour: Colour) {
    let diff = TextDiff::from_lines(old, new);
    for (index, group) in diff.grouped_ops(CONTEXT_LINES).iter().enumerate() {
        if index > 0 {
            text.push_str("  ...\n");
        }
        for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
            let (sign, style) = match change.tag() {
                ChangeTag::Delete => ('-', Style::new().fg_color(Some(AnsiColor::Red.into()))),
                ChangeTag::Insert => ('+', Style::new().fg_color(Some(AnsiColor::Green.into()))),
                ChangeTag::Equal => (' ', Style::new().dimmed()),
            };
            let style = colour.paint(style);
            let line = change.value().trim_end_matches('\n');
            writeln!(text, "  {style}{sign} {line}{style:#}").expect("strings take everything");
        }
    }
}

#[cfg(test)]
mod tests {
    use shrike_proto::policy::document::parse_documents;

    use super::*;
    use crate::policy::book::Entry;

    fn documents(action: &str) -> Vec<Document> {
        let text = format!(
            "apiVersion: shrike/v1\nkind: Policy\nmetadata: {{name: a}}\nspec:\n  rules:\n    - {{name: r, on: exec, comm: [nc], action: {action}}}\n"
        );
        parse_documents(&text, "a.yaml").unwrap()
    }

    fn book(action: &str) -> Book {
        let document = shrike_proto::wire::admin::PolicyDocument {
            policy: Some(documents(action).remove(0).policy.into()),
            ..Default::default()
        };
        Book {
            generation: 4,
            entries: vec![Entry::try_from(document).unwrap()],
        }
    }

    #[test]
    fn only_differences_are_shown() {
        let check = |book: &Book, expect: &[&str]| {
            let shown = text(&changes(&documents("kill"), book), Colour::Plain);
            let marked: Vec<&str> = shown
                .lines()
                .filter(|line| line.starts_with("policy") || line.starts_with("  -"))
                .collect();
            assert_eq!(marked, expect, "{shown}");
        };
        check(&Book::default(), &["policy a: new"]);
        check(&book("kill"), &["policy a: unchanged"]);
        check(
            &book("alert"),
            &["policy a: changed", "  -       action: alert"],
        );
    }
}
