//! Claims about the parser, the renderer and the schema together.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::{
    event::Action,
    id::{PolicyName, RuleName},
    policy::{Access, Comm, Matcher, Mode, OnUnknown, PathPattern, Rule, Trigger},
};

const EXAMPLE: &str = "\
apiVersion: shrike/v1
kind: Policy
metadata: {name: protect-credentials}
spec:
  mode: enforce              # or observe
  nodes: {role: web}
  rules:
    - name: shadow
      on: open
      paths: [/etc/shadow, /etc/gshadow, /etc/ssl/private/]
      access: [read, write]
      unless: {exe: [/usr/bin/passwd, /usr/sbin/sshd]}
      action: kill
    - name: no-netcat
      on: exec
      comm: [nc, ncat]
      action: alert
";

fn mistakes(text: &str) -> Vec<String> {
    parse(text, "p.yaml")
        .expect_err("the text has mistakes")
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// Replaces one part of the example and expects one mistake.
fn check(from: &str, to: &str, expect: &str) {
    assert!(EXAMPLE.contains(from), "{from}");
    let text = EXAMPLE.replacen(from, to, 1);
    assert_eq!(mistakes(&text), [expect], "{text}");
}

#[test]
fn example_says_what_it_says() {
    let policies = parse(EXAMPLE, "p.yaml").unwrap();
    let path = |path: &str| PathPattern::parse(path).unwrap();
    assert_eq!(
        policies,
        [Policy {
            name: PolicyName::parse("protect-credentials").unwrap(),
            mode: Mode::Enforce,
            nodes: [("role".to_owned(), "web".to_owned())].into(),
            rules: vec![
                Rule {
                    name: RuleName::parse("shadow").unwrap(),
                    trigger: Trigger::Open,
                    matcher: Matcher {
                        paths: vec![
                            path("/etc/shadow"),
                            path("/etc/gshadow"),
                            path("/etc/ssl/private/"),
                        ],
                        ..Matcher::default()
                    },
                    access: vec![Access::Read, Access::Write],
                    on_unknown: OnUnknown::Record,
                    unless: Some(Matcher {
                        exe: vec![path("/usr/bin/passwd"), path("/usr/sbin/sshd")],
                        ..Matcher::default()
                    }),
                    action: Action::Kill,
                },
                Rule {
                    name: RuleName::parse("no-netcat").unwrap(),
                    trigger: Trigger::Exec,
                    matcher: Matcher {
                        comm: vec![Comm::parse("nc").unwrap(), Comm::parse("ncat").unwrap()],
                        ..Matcher::default()
                    },
                    access: Vec::new(),
                    on_unknown: OnUnknown::Record,
                    unless: None,
                    action: Action::Alert,
                },
            ],
        }]
    );
}

#[test]
fn unknown_fields_are_named_with_the_nearest_known_one() {
    check(
        "      paths: [/etc/shadow,",
        "      pahts: [/x]\n      paths: [/etc/shadow,",
        "p.yaml:10:7: unknown field `pahts` in a rule: did you mean `paths`?",
    );
    check(
        "  mode: enforce ",
        "  severity: high\n  mode: enforce ",
        "p.yaml:5:3: unknown field `severity` in `spec`: it takes mode, nodes, rules",
    );
}

#[test]
fn misspelt_field_is_not_missing_as_well() {
    check(
        "      comm: [nc, ncat]",
        "      com: [nc, ncat]",
        "p.yaml:16:7: unknown field `com` in a rule: did you mean `comm`?",
    );
    check(
        "action: kill",
        "actoin: kill",
        "p.yaml:13:7: unknown field `actoin` in a rule: did you mean `action`?",
    );
}

#[test]
fn wrong_words_are_named() {
    check(
        "shrike/v1",
        "shrike/v2",
        "p.yaml:1:13: apiVersion `shrike/v2` is not known: this version reads `shrike/v1`",
    );
    check(
        "kind: Policy",
        "kind: ClusterPolicy",
        "p.yaml:2:7: kind `ClusterPolicy` is not known: this version reads `Policy`",
    );
    check(
        "mode: enforce",
        "mode: enforced",
        "p.yaml:5:9: `mode` cannot be `enforced`: did you mean `enforce`?",
    );
    check(
        "on: exec",
        "on: connect",
        "p.yaml:15:11: `on` cannot be `connect`: use open, exec",
    );
    check(
        "action: kill",
        "action: block",
        "p.yaml:13:15: `action` cannot be `block`: use ignore, record, alert, deny, kill",
    );
}

#[test]
fn on_unknown_is_one_of_its_words() {
    check(
        "action: kill",
        "action: deny\n      on_unknown: ignore",
        "p.yaml:14:19: `on_unknown` cannot be `ignore`: use record, deny, kill",
    );
}

#[test]
fn wrong_types_are_named() {
    check(
        "comm: [nc, ncat]",
        "comm: nc",
        "p.yaml:16:13: `comm` takes a list, even of one: [value], not `nc`",
    );
    check(
        "comm: [nc, ncat]",
        "comm: [nc, 7]",
        "p.yaml:16:18: `comm` is a word, but YAML takes `7` for a number: write \"7\"",
    );
    check(
        "{role: web}",
        "{role: true}",
        "p.yaml:6:17: a label is a word, but YAML takes `true` for a boolean: write \"true\"",
    );
    check(
        "{role: web}",
        "[web]",
        "p.yaml:6:10: `nodes` takes labels such as {role: web}, not a list",
    );
    check(
        "{name: protect-credentials}",
        "protect-credentials",
        "p.yaml:3:11: `metadata` takes name, not `protect-credentials`",
    );
    check(
        "access: [read, write]",
        "access:",
        "p.yaml:11:7: `access` has no value: it takes a list such as [read, write]",
    );
}

#[test]
fn bad_paths_are_named() {
    check(
        "/etc/gshadow",
        "etc/gshadow",
        "p.yaml:10:28: path \"etc/gshadow\" is not absolute: begin it with '/'",
    );
    check(
        "/usr/bin/passwd",
        "/usr/bin/*",
        "p.yaml:12:22: path \"/usr/bin/*\" looks like a glob: name the file, or a directory with a trailing slash",
    );
    check(
        "ncat]",
        "netcat-traditional]",
        "p.yaml:16:18: command name \"netcat-traditional\" must be 1 to 15 bytes, without '/' or NUL: the kernel cuts names there",
    );
}

#[test]
fn duplicates_are_named() {
    check(
        "name: no-netcat",
        "name: shadow",
        "p.yaml:14:13: rule `shadow` is defined twice, first at 8:13",
    );
    check(
        "      on: exec",
        "      on: exec\n      on: open",
        "p.yaml:16:7: `on` is given twice",
    );
    check(
        "[nc, ncat]",
        "[nc, nc]",
        "p.yaml:16:18: `nc` is listed twice",
    );
    let twice = format!("{EXAMPLE}---\n{EXAMPLE}");
    assert_eq!(
        mistakes(&twice),
        ["p.yaml:21:18: policy `protect-credentials` is defined twice, first at 3:18"]
    );
}

#[test]
fn missing_and_empty_parts_are_named() {
    check("kind: Policy\n", "", "p.yaml:1:1: a policy needs `kind`");
    check(
        "      action: alert\n",
        "",
        "p.yaml:14:7: a rule needs `action`",
    );
    check(
        "      comm: [nc, ncat]\n",
        "",
        "p.yaml:14:7: the rule has nothing to look at: give it `paths`, `comm` or `exe`",
    );
    check(
        "{exe: [/usr/bin/passwd, /usr/sbin/sshd]}",
        "{}",
        "p.yaml:12:15: `unless` is empty: leave it out or give it `paths`, `comm` or `exe`",
    );
    check(
        "[nc, ncat]",
        "[]",
        "p.yaml:16:13: `comm` is empty: leave it out or fill it",
    );
    check(
        "comm: [nc, ncat]",
        "comm: [nc]\n      access: [read]",
        "p.yaml:17:7: `access` goes with `on: open` only",
    );
    check(
        "comm: [nc, ncat]\n      action: alert",
        "comm: [nc]\n      action: ignore",
        "p.yaml:17:7: `action: ignore` goes with `on: open` only: what runs has to be known to \
         tell who opens",
    );
    let no_rules = &EXAMPLE[..EXAMPLE.find("    - name: shadow").unwrap()];
    assert_eq!(
        mistakes(&no_rules.replace("rules:", "rules: []")),
        ["p.yaml:7:10: a policy needs at least one rule"]
    );
    for empty in ["", "# nothing\n", "---\n---\n"] {
        assert_eq!(
            mistakes(empty),
            ["p.yaml:1:1: there is no policy in this file: begin one with `apiVersion: shrike/v1`"]
        );
    }
}

#[test]
fn every_mistake_is_reported_at_once() {
    let text = EXAMPLE
        .replace("shrike/v1", "v1")
        .replace("mode: enforce", "mood: enforce")
        .replace("/etc/gshadow", "gshadow")
        .replace("action: alert", "action: warn");
    let found = mistakes(&text);
    assert_eq!(found.len(), 4, "{found:#?}");
}

#[test]
fn syntax_errors_have_a_place() {
    let found = mistakes("apiVersion: shrike/v1\nkind: [Policy\nmetadata: x\n");
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].starts_with("p.yaml:3:"), "{found:#?}");
    let found = mistakes("apiVersion: shrike/v1\nmetadata:\n\tname: x\n");
    assert!(found[0].contains("indent with spaces"), "{found:#?}");
}

#[test]
fn yaml_bombs_are_refused() {
    let found = mistakes("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n");
    let names = |word: &str| {
        found
            .iter()
            .filter(|mistake| mistake.contains(word))
            .count()
    };
    assert_eq!((names("anchors"), names("aliases")), (2, 4), "{found:#?}");
    let deep = "[".repeat(200);
    assert!(!mistakes(&deep).is_empty());
    let deep: String = (0..2000)
        .map(|depth| format!("{}a:\n", " ".repeat(depth)))
        .collect();
    assert!(!mistakes(&deep[..FILE_BYTES_MAX.min(deep.len())]).is_empty());
    let large = "#".repeat(FILE_BYTES_MAX + 1);
    assert!(mistakes(&large)[0].contains("at most 1048576"));
    let tagged = EXAMPLE.replace("kind: Policy", "kind: !!str Policy");
    assert!(mistakes(&tagged)[0].contains("tags"));
}

#[test]
fn each_document_keeps_its_own_source() {
    let second = EXAMPLE.replace("protect-credentials", "second");
    let file = format!("# first\n---\n{EXAMPLE}---\n# second\n{second}");
    let documents = parse_documents(&file, "p.yaml").unwrap();
    assert_eq!(documents.len(), 2);
    for document in &documents {
        let again = parse(&document.source, "again.yaml").unwrap();
        assert_eq!(again, std::slice::from_ref(&document.policy));
    }
    assert_eq!(documents[0].source, format!("# first\n{EXAMPLE}"));
    assert_eq!(documents[1].source, format!("# second\n{second}"));
    assert_eq!(parse_documents(EXAMPLE, "p").unwrap()[0].source, EXAMPLE);
}

#[test]
fn carriage_returns_and_a_byte_order_mark_are_fine() {
    let text = format!("\u{feff}{}", EXAMPLE.replace('\n', "\r\n"));
    assert_eq!(parse(&text, "p").unwrap(), parse(EXAMPLE, "p").unwrap());
}

#[test]
fn rendering_is_canonical() {
    let policy = &parse(EXAMPLE, "p").unwrap()[0];
    let rendered = render(policy);
    assert!(rendered.starts_with(
        "apiVersion: shrike/v1\nkind: Policy\nmetadata:\n  name: protect-credentials\n"
    ));
    assert!(rendered.contains("      access: [read, write]\n"));
}

/// Validates with the schema, as an editor would.
fn schema_accepts(text: &str) -> bool {
    static VALIDATOR: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
        let schema = serde_json::from_str(JSON_SCHEMA).unwrap();
        jsonschema::draft7::new(&schema).unwrap()
    });
    VALIDATOR.is_valid(&yaml_to_json(text))
}

fn yaml_to_json(text: &str) -> serde_json::Value {
    let mut mistakes = Mistakes::default();
    let trees = tree::parse(text, &mut mistakes);
    assert!(mistakes.0.is_empty() && trees.len() == 1, "{text}");
    node_to_json(&trees[0].root)
}

fn node_to_json(node: &tree::Node) -> serde_json::Value {
    use tree::{ScalarKind, Value};
    match &node.value {
        Value::Scalar(scalar) => match scalar.kind {
            ScalarKind::String => scalar.text.clone().into(),
            ScalarKind::Null => serde_json::Value::Null,
            ScalarKind::Boolean => true.into(),
            ScalarKind::Number => 1.into(),
        },
        Value::Sequence(items) => items.iter().map(node_to_json).collect(),
        Value::Mapping(entries) => serde_json::Value::Object(
            entries
                .iter()
                .map(|(key, value)| (key.text.clone(), node_to_json(value)))
                .collect(),
        ),
        Value::Broken => unreachable!("there was no mistake"),
    }
}

#[test]
fn schema_and_parser_agree() {
    let check = |from: &str, to: &str, valid: bool| {
        assert!(EXAMPLE.contains(from), "{from}");
        let text = EXAMPLE.replacen(from, to, 1);
        assert_eq!(parse(&text, "p").is_ok(), valid, "parser: {text}");
        assert_eq!(schema_accepts(&text), valid, "schema: {text}");
    };
    check("kind", "kind", true);
    check("shrike/v1", "shrike/v2", false);
    check("kind: Policy\n", "", false);
    check("mode: enforce", "mode: observe", true);
    check("  mode: enforce", "#", true);
    check("mode: enforce", "mode: on", false);
    check("{role: web}", "{}", true);
    check("{role: web}", "{role: 1}", false);
    check("{role: web}", "{a/b: 'ü x'}", true);
    check("{role: web}", "{role: ''}", true);
    check("{role: web}", "{'': web}", false);
    check("{role: web}", "{role: \"\\a\"}", false);
    check("{role: web}", "[web]", false);
    check("protect-credentials", "Protect", false);
    check("protect-credentials", "p", true);
    check("on: exec", "on: fork", false);
    check("action: kill", "action: deny", true);
    check("action: kill", "action: kill\n      on_unknown: deny", true);
    check(
        "action: kill",
        "action: kill\n      on_unknown: alert",
        false,
    );
    check("action: kill", "action: record", true);
    check("[read, write]", "[]", false);
    check("[read, write]", "[read]", true);
    check("[read, write]", "[read, read]", false);
    check("comm: [nc, ncat]", "comm: nc", false);
    check("comm: [nc, ncat]", "comm: [nc, nc]", false);
    check("comm: [nc, ncat]", "comm: [a/b]", false);
    check("comm: [nc, ncat]", "comm: [sixteen-bytes-xx]", false);
    check("comm: [nc, ncat]", "access: [read]\n      exe: [/x]", false);
    check("comm: [nc, ncat]", "exe: [/x]", true);
    check("      comm: [nc, ncat]\n", "", false);
    check(
        "unless: {exe: [/usr/bin/passwd, /usr/sbin/sshd]}",
        "unless: {}",
        false,
    );
    check("unless: {exe", "unless: {access", false);
    for (path, valid) in [
        ("/", true),
        ("/a/", true),
        ("/a..b/.c", true),
        ("/a b", true),
        ("a", false),
        ("//a", false),
        ("/a//b", false),
        ("/a/./b", false),
        ("/a/..", false),
        ("/a*", false),
        ("/a?", false),
    ] {
        check("/etc/gshadow", path, valid);
    }
}

#[test]
fn shipped_policies_are_accepted_by_parser_and_schema() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/policies");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        for document in parse_documents(&text, &path.display().to_string()).unwrap() {
            assert!(schema_accepts(&document.source), "{}", path.display());
            count += 1;
        }
    }
    assert!(count > 0, "{folder} has no policies");
}

fn path() -> impl Strategy<Value = PathPattern> {
    prop_oneof![
        "(/[a-zA-Z0-9._ é#:'\"\\\\-]{1,6}){1,4}/?",
        Just("/".to_owned()),
        Just("/\u{7}\u{85}\u{2028}\u{1f600}".to_owned()),
    ]
    .prop_filter_map("not a path", |path| PathPattern::parse(&path).ok())
}

fn comm() -> impl Strategy<Value = Comm> {
    prop_oneof![
        "[ -.0-~]{1,15}",
        "[0-9.eExo_+-]{1,6}",
        prop::sample::select(vec![
            "null", "true", "~", "no", "on", "0x1f", "1e3", ".inf", "-", "\u{feff}"
        ])
        .prop_map(str::to_owned),
    ]
    .prop_filter_map("not a command name", |comm| Comm::parse(&comm).ok())
}

/// Lists whose values are distinct, as the parser asks for.
fn distinct<T: Ord + std::fmt::Debug>(
    of: impl Strategy<Value = T>,
    sizes: std::ops::Range<usize>,
) -> impl Strategy<Value = Vec<T>> {
    prop::collection::btree_set(of, sizes).prop_map(|set| set.into_iter().collect())
}

prop_compose! {
    fn matcher()(paths in distinct(path(), 1..4), comm in distinct(comm(), 0..3), exe in distinct(path(), 0..3)) -> Matcher {
        Matcher { paths, comm, exe }
    }
}

prop_compose! {
    fn policy()(
        name in "[a-z0-9][a-z0-9._-]{0,9}",
        observe: bool,
        nodes in prop::collection::btree_map("[ -~é]{1,6}", "[ -~é]{0,6}", 0..3),
        rules in prop::collection::vec((any::<bool>(), matcher(), prop::option::of(matcher()), 0..Action::ALL.len()), 1..5),
    ) -> Policy {
        Policy {
            name: PolicyName::parse(&name).unwrap(),
            mode: if observe { Mode::Observe } else { Mode::Enforce },
            nodes,
            rules: rules.into_iter().enumerate().map(|(index, (open, matcher, unless, action))| Rule {
                name: RuleName::parse(&format!("{index}")).unwrap(),
                trigger: if open { Trigger::Open } else { Trigger::Exec },
                matcher,
                access: if open { vec![Access::Write] } else { Vec::new() },
                on_unknown: OnUnknown::Record,
                unless,
                action: match Action::ALL[action] {
                    Action::Ignore if !open => Action::Record,
                    action => action,
                },
            }).collect(),
        }
    }
}

proptest! {
    #[test]
    fn rendered_policy_parses_to_itself(policy in policy()) {
        let rendered = render(&policy);
        prop_assert_eq!(parse(&rendered, "p"), Ok(vec![policy]), "{}", rendered);
    }

    #[test]
    fn schema_accepts_every_rendered_policy(policy in policy()) {
        let rendered = render(&policy);
        prop_assert!(schema_accepts(&rendered), "{}", rendered);
    }

    #[test]
    fn garbage_never_panics(text in ".{0,200}") {
        let _ = parse(&text, "p");
    }

    #[test]
    fn near_yaml_never_panics(text in "([a-c&*!:,?|>'\"#%@\\[\\]{}\n \t-]|name|spec|---\n){0,80}") {
        let _ = parse(&text, "p");
    }

    #[test]
    fn damaged_example_never_panics(at in 0..EXAMPLE.len(), replacement in "[ -~\n]{0,3}") {
        let mut text = EXAMPLE.to_owned();
        text.replace_range(at..=at, &replacement);
        let _ = parse(&text, "p");
    }
}
