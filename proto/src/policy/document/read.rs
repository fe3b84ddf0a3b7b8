//! One YAML tree into one policy, or into the list of its mistakes.

use std::collections::BTreeMap;

use super::{
    Mistakes, Position,
    tree::{Node, Value},
    value::{Fields, Reader, cut},
};
use crate::{
    escape::Terminal,
    event::Action,
    id::{PolicyName, RuleName},
    policy::{Access, Comm, Matcher, Mode, OnUnknown, PathPattern, Policy, Rule, Trigger},
};

const API_VERSION: &str = "shrike/v1";
const KIND: &str = "Policy";

/// Longest label key or value: agents' configurations have the same bounds.
const LABEL_BYTES_MAX: usize = 253;

/// Reads a policy, and where its name stands; `None` when there was a
/// mistake, which is in `mistakes` then.
pub(super) fn policy(root: &Node, mistakes: &mut Mistakes) -> Option<(Policy, Position)> {
    let before = mistakes.count();
    let mut reader = Reader { mistakes };
    let policy = reader.policy(root)?;
    if mistakes.count() > before {
        return None;
    }
    // Everything that `check` looks at was looked at above, with its place.
    if let Err(error) = policy.0.check() {
        mistakes.add(policy.1, error.to_string());
        return None;
    }
    Some(policy)
}

/// Reading goes on after a mistake, so that the rest is checked, too: a
/// method that returns `None` has reported why.
impl Reader<'_> {
    fn policy(&mut self, root: &Node) -> Option<(Policy, Position)> {
        let fields = self.fields(
            root,
            "a policy",
            &["apiVersion", "kind", "metadata", "spec"],
        )?;
        if let Some(version) = self.required_text(&fields, "apiVersion") {
            self.expect_word(&fields, "apiVersion", version, API_VERSION);
        }
        if let Some(kind) = self.required_text(&fields, "kind") {
            self.expect_word(&fields, "kind", kind, KIND);
        }
        let name = self
            .required(&fields, "metadata")
            .and_then(|node| self.metadata(node));
        let spec = self
            .required(&fields, "spec")
            .and_then(|node| self.spec(node));
        let ((name, position), (mode, nodes, rules)) = (name?, spec?);
        let policy = Policy {
            name,
            mode,
            nodes,
            rules,
        };
        Some((policy, position))
    }

    fn metadata(&mut self, node: &Node) -> Option<(PolicyName, Position)> {
        let fields = self.fields(node, "`metadata`", &["name"])?;
        let text = self.required_text(&fields, "name")?;
        let position = fields.get("name")?.at;
        match PolicyName::parse(text) {
            Ok(name) => Some((name, position)),
            Err(error) => self.mistake(position, error.to_string()),
        }
    }

    fn spec(&mut self, node: &Node) -> Option<(Mode, BTreeMap<String, String>, Vec<Rule>)> {
        let fields = self.fields(node, "`spec`", &["mode", "nodes", "rules"])?;
        let mode = match fields.get("mode") {
            Some(node) => self.word(
                node,
                "`mode`",
                &[
                    (Mode::Enforce.as_str(), Mode::Enforce),
                    (Mode::Observe.as_str(), Mode::Observe),
                ],
            ),
            None => Some(Mode::default()),
        };
        let nodes = match fields.get("nodes") {
            Some(node) => self.labels(node),
            None => Some(BTreeMap::new()),
        };
        let rules = self
            .required(&fields, "rules")
            .and_then(|node| self.rules(node));
        Some((mode?, nodes?, rules?))
    }

    fn labels(&mut self, node: &Node) -> Option<BTreeMap<String, String>> {
        let entries = self.mapping(node, "`nodes`", "labels such as {role: web}")?;
        let mut labels = BTreeMap::new();
        for (key, value) in entries {
            if key.text.is_empty() {
                self.mistakes.add(key.at, "a label's key is empty");
            }
            self.check_label(key.at, &key.text);
            let Some(text) = self.text(value, "a label") else {
                continue;
            };
            self.check_label(value.at, text);
            if labels.insert(key.text.clone(), text.to_owned()).is_some() {
                self.twice(key);
            }
        }
        Some(labels)
    }

    fn check_label(&mut self, at: Position, text: &str) {
        if text.len() > LABEL_BYTES_MAX || text.chars().any(char::is_control) {
            self.mistakes.add(
                at,
                format!(
                    "label `{}` is not valid: it has at most {LABEL_BYTES_MAX} bytes and no control characters",
                    Terminal::text(&cut(text))
                ),
            );
        }
    }

    fn rules(&mut self, node: &Node) -> Option<Vec<Rule>> {
        let items = self.sequence(node, "`rules`", "a list of rules")?;
        if items.is_empty() {
            return self.mistake(node.at, "a policy needs at least one rule");
        }
        let mut names: BTreeMap<RuleName, Position> = BTreeMap::new();
        let mut rules = Vec::new();
        for item in items {
            let Some((name, at, rule)) = self.rule(item) else {
                continue;
            };
            if let Some(name) = name
                && let Some(first) = names.insert(name.clone(), at)
            {
                self.mistakes.add(
                    at,
                    format!("rule `{name}` is defined twice, first at {first}"),
                );
            }
            rules.extend(rule);
        }
        Some(rules)
    }

    /// Returns the rule's name and its place even where the rest is wrong, so
    /// that duplicates are found at once.
    fn rule(&mut self, node: &Node) -> Option<(Option<RuleName>, Position, Option<Rule>)> {
        let fields = self.fields(
            node,
            "a rule",
            &[
                "name",
                "on",
                "paths",
                "comm",
                "exe",
                "access",
                "unless",
                "action",
                "on_unknown",
            ],
        )?;
        let place = fields.get("name").map_or(node.at, |node| node.at);
        let name = self.required_text(&fields, "name").and_then(|text| {
            RuleName::parse(text).map_or_else(|error| self.mistake(place, error.to_string()), Some)
        });
        let trigger = self.required(&fields, "on").and_then(|node| {
            self.word(
                node,
                "`on`",
                &[
                    (Trigger::Open.as_str(), Trigger::Open),
                    (Trigger::Exec.as_str(), Trigger::Exec),
                ],
            )
        });
        let matcher = self.matcher(&fields);
        if !["paths", "comm", "exe"]
            .iter()
            .any(|word| fields.entries.contains_key(word) || fields.misspelt.contains(word))
        {
            self.mistakes.add(
                node.at,
                "the rule has nothing to look at: give it `paths`, `comm` or `exe`",
            );
        }
        let access = match fields.get("access") {
            Some(node) => self.access(node),
            None => Some(Vec::new()),
        };
        if trigger == Some(Trigger::Exec) && fields.get("access").is_some() {
            self.mistakes
                .add(fields.place("access"), "`access` goes with `on: open` only");
        }
        let unless = match fields.get("unless") {
            Some(node) => self.unless(node).map(Some),
            None => Some(None),
        };
        let action = self
            .required(&fields, "action")
            .and_then(|node| self.action(node));
        if trigger == Some(Trigger::Exec) && action == Some(Action::Ignore) {
            self.mistakes.add(
                fields.place("action"),
                "`action: ignore` goes with `on: open` only: what runs has to be known to tell who \
                 opens",
            );
        }
        let on_unknown = match fields.get("on_unknown") {
            Some(node) => {
                let words = OnUnknown::ALL.map(|answer| (answer.as_str(), answer));
                self.word(node, "`on_unknown`", &words)
            }
            None => Some(OnUnknown::Record),
        };
        if fields.get("on_unknown").is_some() && fields.get("paths").is_none() {
            self.mistakes.add(
                fields.place("on_unknown"),
                "`on_unknown` goes with `paths` only",
            );
        }
        let rule = name.clone().and_then(|name| {
            Some(Rule {
                name,
                trigger: trigger?,
                matcher: matcher?,
                access: access?,
                unless: unless?,
                action: action?,
                on_unknown: on_unknown?,
            })
        });
        Some((name, place, rule))
    }

    fn matcher(&mut self, fields: &Fields<'_>) -> Option<Matcher> {
        let paths = self.list(fields, "paths", PathPattern::parse);
        let comm = self.list(fields, "comm", Comm::parse);
        let exe = self.list(fields, "exe", PathPattern::parse);
        Some(Matcher {
            paths: paths?,
            comm: comm?,
            exe: exe?,
        })
    }

    fn unless(&mut self, node: &Node) -> Option<Matcher> {
        let fields = self.fields(node, "`unless`", &["paths", "comm", "exe"])?;
        if let Value::Mapping(entries) = &node.value
            && entries.is_empty()
        {
            return self.mistake(
                node.at,
                "`unless` is empty: leave it out or give it `paths`, `comm` or `exe`",
            );
        }
        self.matcher(&fields)
    }

    fn access(&mut self, node: &Node) -> Option<Vec<Access>> {
        let items = self.sequence(node, "`access`", "a list such as [read, write]")?;
        if items.is_empty() {
            return self.mistake(node.at, "`access` is empty: leave it out for every access");
        }
        let mut accesses = Vec::new();
        for item in items {
            let access = self.word(
                item,
                "`access`",
                &[
                    (Access::Read.as_str(), Access::Read),
                    (Access::Write.as_str(), Access::Write),
                ],
            );
            match access {
                Some(access) if accesses.contains(&access) => {
                    self.listed_twice(item.at, access.as_str());
                }
                Some(access) => accesses.push(access),
                None => {}
            }
        }
        Some(accesses)
    }

    fn action(&mut self, node: &Node) -> Option<Action> {
        let words = Action::ALL.map(|action| (action.as_str(), action));
        self.word(node, "`action`", &words)
    }
}
