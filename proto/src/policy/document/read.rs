//! One YAML tree into one policy, or into the list of its mistakes.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Mistakes, Position,
    suggest::nearest,
    tree::{Key, Node, Scalar, ScalarKind, Value},
};
use crate::{
    escape::Terminal,
    event::Action,
    id::{PolicyName, RuleName},
    policy::{Access, Comm, Matcher, Mode, PathPattern, Policy, Rule, Trigger},
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

struct Reader<'m> {
    mistakes: &'m mut Mistakes,
}

/// The fields of a mapping that are known, each once.
struct Fields<'a> {
    at: Position,
    what: &'static str,
    entries: BTreeMap<&'static str, (Position, &'a Node)>,
    /// Known fields that an unknown one was probably meant to be: that they
    /// are missing goes without saying.
    misspelt: BTreeSet<&'static str>,
}

impl<'a> Fields<'a> {
    fn get(&self, name: &'static str) -> Option<&'a Node> {
        self.entries.get(name).map(|(_, node)| *node)
    }

    fn place(&self, name: &'static str) -> Position {
        self.entries.get(name).map_or(self.at, |(at, _)| *at)
    }
}

/// Reading goes on after a mistake, so that the rest is checked, too: a
/// method that returns `None` has reported why.
impl Reader<'_> {
    fn policy(&mut self, root: &Node) -> Option<(Policy, Position)> {
        let fields = self.fields(root, "a policy", &["apiVersion", "kind", "metadata", "spec"])?;
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
                "name", "on", "paths", "comm", "exe", "access", "unless", "action",
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
            self.mistakes.add(
                fields.place("access"),
                "`access` goes with `on: open` only",
            );
        }
        let unless = match fields.get("unless") {
            Some(node) => self.unless(node).map(Some),
            None => Some(None),
        };
        let action = self
            .required(&fields, "action")
            .and_then(|node| self.action(node));
        let rule = name.clone().and_then(|name| {
            Some(Rule {
                name,
                trigger: trigger?,
                matcher: matcher?,
                access: access?,
                unless: unless?,
                action: action?,
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
        let supported: Vec<_> = words
            .into_iter()
            .filter(|(_, action)| *action != Action::Deny)
            .collect();
        if let Value::Scalar(scalar) = &node.value
            && scalar.text == Action::Deny.as_str()
        {
            return self.mistake(
                node.at,
                "action `deny` is not supported by this version; use `kill`, `alert` or `record`",
            );
        }
        self.word(node, "`action`", &supported)
    }

    /// Reads a list of values of one form; empty when the field is left out.
    fn list<T, E: std::fmt::Display>(
        &mut self,
        fields: &Fields<'_>,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        let Some(node) = fields.get(name) else {
            return Some(Vec::new());
        };
        let what = format!("`{name}`");
        let items = self.sequence(node, &what, "a list, even of one: [value]")?;
        if items.is_empty() {
            return self.mistake(node.at, format!("{what} is empty: leave it out or fill it"));
        }
        let mut seen = BTreeSet::new();
        let mut values = Vec::new();
        for item in items {
            let Some(text) = self.text(item, &what) else {
                continue;
            };
            match parse(text) {
                Ok(_) if !seen.insert(text) => self.listed_twice(item.at, text),
                Ok(value) => values.push(value),
                Err(error) => self.mistakes.add(item.at, error.to_string()),
            }
        }
        Some(values)
    }

    fn fields<'a>(
        &mut self,
        node: &'a Node,
        what: &'static str,
        known: &[&'static str],
    ) -> Option<Fields<'a>> {
        let entries = self.mapping(node, what, &known.join(", "))?;
        let mut fields = Fields {
            at: node.at,
            what,
            entries: BTreeMap::new(),
            misspelt: BTreeSet::new(),
        };
        for (key, value) in entries {
            let Some(name) = known.iter().find(|name| **name == key.text) else {
                fields
                    .misspelt
                    .extend(self.unknown_field(key, what, known));
                continue;
            };
            if fields.entries.insert(name, (key.at, value)).is_some() {
                self.twice(key);
            }
        }
        Some(fields)
    }

    /// Returns the field that was probably meant.
    fn unknown_field(
        &mut self,
        key: &Key,
        what: &str,
        known: &[&'static str],
    ) -> Option<&'static str> {
        let meant = nearest(&key.text, known);
        let hint = match meant {
            Some(word) => format!("did you mean `{word}`?"),
            None => format!("it takes {}", known.join(", ")),
        };
        self.mistakes.add(
            key.at,
            format!(
                "unknown field `{}` in {what}: {hint}",
                Terminal::text(&cut(&key.text))
            ),
        );
        meant
    }

    fn required<'a>(&mut self, fields: &Fields<'a>, name: &'static str) -> Option<&'a Node> {
        match fields.get(name) {
            Some(node) => Some(node),
            None if fields.misspelt.contains(name) => None,
            None => self.mistake(fields.at, format!("{} needs `{name}`", fields.what)),
        }
    }

    fn required_text<'a>(&mut self, fields: &Fields<'a>, name: &'static str) -> Option<&'a str> {
        let node = self.required(fields, name)?;
        self.text(node, &format!("`{name}`"))
    }

    fn expect_word(&mut self, fields: &Fields<'_>, name: &'static str, text: &str, word: &str) {
        if text != word {
            let at = fields.get(name).map_or(fields.at, |node| node.at);
            self.mistakes.add(
                at,
                format!(
                    "{name} `{}` is not known: this version reads `{word}`",
                    Terminal::text(&cut(text))
                ),
            );
        }
    }

    /// Reads one of a few words.
    fn word<T: Copy>(&mut self, node: &Node, what: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(node, what)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let hint = match nearest(text, &names) {
            Some(word) => format!("did you mean `{word}`?"),
            None => format!("use {}", names.join(", ")),
        };
        self.mistake(
            node.at,
            format!(
                "{what} cannot be `{}`: {hint}",
                Terminal::text(&cut(text))
            ),
        )
    }

    fn text<'a>(&mut self, node: &'a Node, what: &str) -> Option<&'a str> {
        match &node.value {
            Value::Scalar(Scalar { text, kind }) => {
                let taken_for = match kind {
                    ScalarKind::String => return Some(text),
                    ScalarKind::Null => return self.mistake(node.at, format!("{what} has no value")),
                    ScalarKind::Boolean => "a boolean",
                    ScalarKind::Number => "a number",
                };
                let text = Terminal::text(text);
                self.mistake(
                    node.at,
                    format!("{what} is a word, but YAML takes `{text}` for {taken_for}: write \"{text}\""),
                )
            }
            Value::Sequence(_) => self.wrong(node, what, "one word", "a list"),
            Value::Mapping(_) => self.wrong(node, what, "one word", "a mapping"),
            Value::Broken => None,
        }
    }

    fn sequence<'a>(&mut self, node: &'a Node, what: &str, takes: &str) -> Option<&'a [Node]> {
        match &node.value {
            Value::Sequence(items) => Some(items),
            Value::Mapping(_) => self.wrong(node, what, takes, "a mapping"),
            Value::Scalar(scalar) => self.wrong_scalar(node, what, takes, scalar),
            Value::Broken => None,
        }
    }

    fn mapping<'a>(
        &mut self,
        node: &'a Node,
        what: &str,
        takes: &str,
    ) -> Option<&'a [(Key, Node)]> {
        match &node.value {
            Value::Mapping(entries) => Some(entries),
            Value::Sequence(_) => self.wrong(node, what, takes, "a list"),
            Value::Scalar(scalar) => self.wrong_scalar(node, what, takes, scalar),
            Value::Broken => None,
        }
    }

    fn wrong_scalar<T>(
        &mut self,
        node: &Node,
        what: &str,
        takes: &str,
        scalar: &Scalar,
    ) -> Option<T> {
        if scalar.kind == ScalarKind::Null {
            return self.mistake(node.at, format!("{what} has no value: it takes {takes}"));
        }
        let is = format!("`{}`", Terminal::text(&cut(&scalar.text)));
        self.wrong(node, what, takes, &is)
    }

    fn wrong<T>(&mut self, node: &Node, what: &str, takes: &str, is: &str) -> Option<T> {
        self.mistake(node.at, format!("{what} takes {takes}, not {is}"))
    }

    fn twice(&mut self, key: &Key) {
        self.mistakes.add(
            key.at,
            format!("`{}` is given twice", Terminal::text(&cut(&key.text))),
        );
    }

    fn listed_twice(&mut self, at: Position, text: &str) {
        self.mistakes
            .add(at, format!("`{}` is listed twice", Terminal::text(text)));
    }

    fn mistake<T>(&mut self, at: Position, message: impl Into<String>) -> Option<T> {
        self.mistakes.add(at, message);
        None
    }
}

/// Cuts a word that is quoted in a message.
fn cut(text: &str) -> String {
    const SHOWN_CHARACTERS_MAX: usize = 60;
    if text.chars().count() <= SHOWN_CHARACTERS_MAX {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(SHOWN_CHARACTERS_MAX).collect();
    cut.push('…');
    cut
}
