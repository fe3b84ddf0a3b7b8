//! Every policy that `deploy/` ships is one that nodes can be asked to carry
//! out.

#![cfg(feature = "document")]

use std::{fs, path::Path};

use shrike_proto::policy::document;

#[test]
fn every_example_policy_is_taken() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/policies");
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let file = path.file_name().unwrap().to_str().unwrap();
        let policies = document::parse(&text, file).unwrap_or_else(|mistakes| {
            panic!("{mistakes:#?}");
        });
        names.extend(policies.into_iter().map(|policy| policy.name.to_string()));
    }
    names.sort();
    assert_eq!(names, ["forbid-tunnels", "protect-credentials"]);
}
