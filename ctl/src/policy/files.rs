//! Policy files from disk or stdin, with every mistake of all of them.

use std::{
    collections::BTreeMap,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::anyhow;
use shrike_proto::policy::document::{Document, FILE_BYTES_MAX, parse_documents};

use crate::{failure::Failure, output::Output};

/// Reads all files. Mistakes are printed, one a line, before it fails.
pub(super) fn read(files: &[PathBuf], output: &Output) -> Result<Vec<Document>, Failure> {
    let (documents, mistakes) = read_all(files);
    if mistakes.is_empty() {
        return Ok(documents);
    }
    for mistake in &mistakes {
        output.error(mistake);
    }
    let plural = if mistakes.len() == 1 { "" } else { "s" };
    Err(Failure::input(anyhow!(
        "{} mistake{plural} in the policy files",
        mistakes.len()
    )))
}

fn read_all(files: &[PathBuf]) -> (Vec<Document>, Vec<String>) {
    let mut documents: Vec<Document> = Vec::new();
    let mut mistakes = Vec::new();
    let mut places = BTreeMap::new();
    for path in files {
        let name = if path == Path::new("-") {
            "stdin".to_owned()
        } else {
            path.display().to_string()
        };
        let text = match read_text(path, &name) {
            Ok(text) => text,
            Err(mistake) => {
                mistakes.push(mistake);
                continue;
            }
        };
        match parse_documents(&text, &name) {
            Ok(found) => {
                for document in found {
                    let place = format!("{name}:{}", document.position);
                    if let Some(first) = places.insert(document.policy.name.clone(), place.clone())
                    {
                        mistakes.push(format!(
                            "{place}: policy `{}` is defined twice, first at {first}",
                            document.policy.name
                        ));
                    }
                    documents.push(document);
                }
            }
            Err(found) => mistakes.extend(found.iter().map(ToString::to_string)),
        }
    }
    (documents, mistakes)
}

/// Reads one file as text, with a mistake of the same form as the parser's.
fn read_text(path: &Path, name: &str) -> Result<String, String> {
    // One byte more than the parser takes, so that it says what is wrong.
    let bound = FILE_BYTES_MAX as u64 + 1;
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(bound).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(bound).read_to_end(&mut bytes))
    };
    read.map_err(|error| format!("{name}: cannot be read: {error}"))?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("{name}:{line}:1: the line is not UTF-8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(name: &str) -> String {
        format!(
            "apiVersion: shrike/v1\nkind: Policy\nmetadata: {{name: {name}}}\nspec:\n  rules:\n    - {{name: r, on: exec, comm: [nc], action: kill}}\n"
        )
    }

    #[test]
    fn mistakes_of_all_files_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let files = [
            write("a.yaml", policy("a").as_bytes()),
            write("b.yaml", policy("a").as_bytes()),
            write("c.yaml", policy("c").replace("kill", "explode").as_bytes()),
            write("d.yaml", b"a: b\n\xff\n"),
            folder.path().join("nowhere.yaml"),
        ];
        let (documents, mistakes) = read_all(&files);
        assert_eq!(documents.len(), 2);
        let expect = [
            "b.yaml:3:18: policy `a` is defined twice, first at ",
            "c.yaml:6:47: `action` cannot be `explode`",
            "d.yaml:2:1: the line is not UTF-8",
            "nowhere.yaml: cannot be read",
        ];
        assert_eq!(mistakes.len(), expect.len(), "{mistakes:#?}");
        for (mistake, expect) in mistakes.iter().zip(expect) {
            assert!(mistake.contains(expect), "{mistake}");
        }
    }
}
