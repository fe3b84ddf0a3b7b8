//! Policy files for one machine, read as `shrikectl policy push` reads them.

use std::{collections::BTreeMap, fs, path::PathBuf};

use shrike_proto::{
    id::Generation,
    policy::{PolicySet, document},
};

use crate::error::AgentError;

/// Reads the files into one set; `None` without a file. Every policy counts,
/// whatever nodes it selects.
pub(super) fn read(files: &[PathBuf]) -> Result<Option<PolicySet>, AgentError> {
    if files.is_empty() {
        return Ok(None);
    }
    let mut policies = Vec::new();
    let mut mistakes = Vec::new();
    let mut defined = BTreeMap::new();
    for path in files {
        let text = fs::read_to_string(path).map_err(|source| AgentError::ReadPolicy {
            path: path.clone(),
            source,
        })?;
        let file = path.display().to_string();
        match document::parse(&text, &file) {
            Ok(parsed) => {
                for policy in parsed {
                    if let Some(other) = defined.insert(policy.name.clone(), file.clone()) {
                        mistakes.push(format!(
                            "{file}: policy {} is defined in {other} already",
                            policy.name
                        ));
                    }
                    policies.push(policy);
                }
            }
            Err(errors) => mistakes.extend(errors.iter().map(ToString::to_string)),
        }
    }
    if mistakes.is_empty() {
        Ok(Some(PolicySet::new(Generation(1), policies)))
    } else {
        Err(AgentError::Policy(mistakes.join("\n")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "\
apiVersion: shrike/v1
kind: Policy
metadata: {name: no-netcat}
spec:
  rules:
    - {name: nc, on: exec, comm: [nc], action: kill}
";

    fn file(folder: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn files_make_one_set() {
        let folder = tempfile::tempdir().unwrap();
        let one = file(&folder, "a.yaml", POLICY);
        let two = file(&folder, "b.yaml", &POLICY.replace("no-netcat", "other"));
        let set = read(&[one, two]).unwrap().unwrap();
        assert_eq!(set.policies.len(), 2);
        assert_eq!(read(&[]).unwrap(), None);
    }

    #[test]
    fn mistakes_of_all_files_are_listed() {
        let folder = tempfile::tempdir().unwrap();
        let one = file(&folder, "a.yaml", &POLICY.replace("exec", "exek"));
        let two = file(&folder, "b.yaml", &POLICY.replace("kill", "stop"));
        let message = read(&[one, two]).unwrap_err().to_string();
        assert!(message.contains("a.yaml:6:"), "{message}");
        assert!(message.contains("b.yaml:6:"), "{message}");
    }

    #[test]
    fn policy_of_two_files_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let one = file(&folder, "a.yaml", POLICY);
        let two = file(&folder, "b.yaml", POLICY);
        let message = read(&[one, two]).unwrap_err().to_string();
        assert!(message.contains("already"), "{message}");
    }

    #[test]
    fn missing_file_is_named() {
        let message = read(&["/nowhere.yaml".into()]).unwrap_err().to_string();
        assert!(message.contains("/nowhere.yaml"), "{message}");
    }
}
