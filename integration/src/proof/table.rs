//! The table for readers: `PROOF.md`, written from what was seen.

use std::fmt::Write;

use super::case::{Case, Class, Ending, Must, Setting};
use super::cases;
use super::finding::Finding;
use crate::setup::Kernel;

/// The file's name, at the top of the workspace.
pub const FILE: &str = "PROOF.md";

/// What was seen on one kernel under one setting.
pub struct Column {
    /// The kernel.
    pub kernel: Kernel,
    /// The setting.
    pub setting: Setting,
    /// A finding for every case.
    pub findings: Vec<Finding>,
}

const HEAD: &str = "\
# Proof

What becomes of one real attempt for every way that we know to open, execute or change what a \
policy protects. `cargo xtask proof` makes the attempts in virtual machines and writes this file; \
`cargo xtask test` makes them again and fails where the result differs.

| letter | meaning |
|---|---|
| **S** | seen: an event says which rule judged it, with the right path and inode |
| **D** | denied: the system call failed with EPERM |
| **K** | killed: the process was ended, and its exit event has the receipt |
| words | what happened all the same: *read* (the contents), *ran* (the program), or what changed |
| – | left alone: no verdict, and it happened |

A number leads to the explanation below the table.
";

/// Renders the file.
pub fn render(columns: &[Column]) -> String {
    let mut text = HEAD.to_owned();
    let mut notes = Notes::default();
    for class in Class::ALL {
        let _ = write!(text, "\n## {}\n\n| attempt |", class.title());
        for column in columns {
            let _ = write!(text, " {} {} |", column.kernel, column.setting);
        }
        text.push_str("\n|---|");
        text.push_str(&"---|".repeat(columns.len()));
        text.push('\n');
        for case in cases::all().filter(|case| case.class == class) {
            row(case, columns, &mut notes, &mut text);
        }
    }
    text.push_str("\n## Explanations\n\n");
    for (number, note) in (1..).zip(&notes.0) {
        let _ = writeln!(text, "{number}. {note}");
    }
    text
}

/// Explanations in the order of their first use.
#[derive(Default)]
struct Notes(Vec<&'static str>);

impl Notes {
    fn number(&mut self, note: &'static str) -> usize {
        let known = self.0.iter().position(|other| *other == note);
        known.unwrap_or_else(|| {
            self.0.push(note);
            self.0.len() - 1
        }) + 1
    }
}

fn row(case: &Case, columns: &[Column], notes: &mut Notes, text: &mut String) {
    let numbers: Vec<Option<usize>> = columns
        .iter()
        .map(|column| case.must(column.setting).1.map(|why| notes.number(why)))
        .collect();
    // What explains every column stands once, with the attempt.
    let shared = numbers
        .first()
        .copied()
        .flatten()
        .filter(|first| numbers.iter().all(|number| *number == Some(*first)));
    let link = |number: usize| format!(" [{number}](#explanations)");
    let _ = write!(
        text,
        "| {}{} |",
        case.says,
        shared.map(link).unwrap_or_default()
    );
    for (column, number) in columns.iter().zip(numbers) {
        let number = number.filter(|_| shared.is_none());
        let _ = write!(
            text,
            " {}{} |",
            cell(case, column),
            number.map(link).unwrap_or_default()
        );
    }
    text.push('\n');
}

fn cell(case: &Case, column: &Column) -> String {
    let Some(finding) = column.findings.iter().find(|found| found.case == case.name) else {
        return "?".to_owned();
    };
    let (must, _) = case.must(column.setting);
    let mut words = vec![letters(finding.ending)];
    match must {
        // What may happen or not is not worth a difference from run to run.
        Must::MayBeDone(_) => words.push("perhaps done".to_owned()),
        Must::Be(_) if finding.ending.done => words.extend(deed(case, finding)),
        Must::Be(_) => {}
    }
    words.retain(|word| !word.is_empty());
    let mut text = words.join(", ");
    if finding.ending == Ending::LEFT_ALONE {
        "–".clone_into(&mut text);
    }
    if !must.holds(finding.ending) {
        text.push_str(" (!)");
    }
    text
}

fn letters(ending: Ending) -> String {
    [
        (ending.seen, 'S'),
        (ending.denied, 'D'),
        (ending.killed, 'K'),
    ]
    .into_iter()
    .filter_map(|(holds, letter)| holds.then_some(letter))
    .collect()
}

fn deed(case: &Case, finding: &Finding) -> Vec<String> {
    let words: Vec<String> = match case.class {
        Class::Changes => finding
            .changes
            .iter()
            .map(|&word| word.to_owned())
            .collect(),
        Class::Programs => vec!["ran".to_owned()],
        Class::Names
        | Class::Places
        | Class::Entries
        | Class::Processes
        | Class::Limits
        | Class::Bystanders => vec!["read".to_owned()],
    };
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof::case::BY_SIGNAL;

    fn column(setting: Setting, ending: impl Fn(&Case) -> Ending) -> Column {
        Column {
            kernel: Kernel::V6_12,
            setting,
            findings: cases::all()
                .map(|case| Finding {
                    case: case.name,
                    ending: ending(case),
                    changes: vec!["contents"],
                    complaints: Vec::new(),
                })
                .collect(),
        }
    }

    #[test]
    fn every_case_has_a_row_and_every_exception_its_explanation() {
        let text = render(&[column(Setting::KprobeKill, |case| {
            match case.must(Setting::KprobeKill).0 {
                Must::Be(ending) | Must::MayBeDone(ending) => ending,
            }
        })]);
        for case in cases::all() {
            assert!(text.contains(&format!("| {} ", case.says)), "{}", case.name);
            if let (_, Some(why)) = case.must(Setting::KprobeKill) {
                assert!(text.contains(why), "{}", case.name);
            }
        }
        assert!(!text.contains("(!)"));
    }

    #[test]
    fn what_must_not_be_is_marked() {
        let done = |_: &Case| Ending {
            done: true,
            ..BY_SIGNAL
        };
        let text = render(&[column(Setting::KprobeKill, done)]);
        assert!(text.contains("SK, read (!)"), "{text}");
    }
}
