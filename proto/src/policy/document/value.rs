//! The parts that documents are made of: fields, words and lists, each
//! checked for its form, with a mistake where it has another one.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Mistakes, Position,
    tree::{Key, Node, Scalar, ScalarKind, Value},
};
use crate::{escape::Terminal, suggest::nearest};

/// Reads parts of a document and collects what is wrong with them. A method
/// that returns `None` has reported why.
pub(super) struct Reader<'m> {
    pub(super) mistakes: &'m mut Mistakes,
}

/// The fields of a mapping that are known, each once.
pub(super) struct Fields<'a> {
    pub(super) at: Position,
    what: &'static str,
    pub(super) entries: BTreeMap<&'static str, (Position, &'a Node)>,
    /// Known fields that an unknown one was probably meant to be: that they
    /// are missing goes without saying.
    pub(super) misspelt: BTreeSet<&'static str>,
}

impl<'a> Fields<'a> {
    pub(super) fn get(&self, name: &'static str) -> Option<&'a Node> {
        self.entries.get(name).map(|(_, node)| *node)
    }

    pub(super) fn place(&self, name: &'static str) -> Position {
        self.entries.get(name).map_or(self.at, |(at, _)| *at)
    }
}

impl Reader<'_> {
    /// Reads a list of values of one form; empty when the field is left out.
    pub(super) fn list<T, E: std::fmt::Display>(
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

    pub(super) fn fields<'a>(
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
                fields.misspelt.extend(self.unknown_field(key, what, known));
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

    pub(super) fn required<'a>(
        &mut self,
        fields: &Fields<'a>,
        name: &'static str,
    ) -> Option<&'a Node> {
        match fields.get(name) {
            Some(node) => Some(node),
            None if fields.misspelt.contains(name) => None,
            None => self.mistake(fields.at, format!("{} needs `{name}`", fields.what)),
        }
    }

    pub(super) fn required_text<'a>(
        &mut self,
        fields: &Fields<'a>,
        name: &'static str,
    ) -> Option<&'a str> {
        let node = self.required(fields, name)?;
        self.text(node, &format!("`{name}`"))
    }

    pub(super) fn expect_word(
        &mut self,
        fields: &Fields<'_>,
        name: &'static str,
        text: &str,
        word: &str,
    ) {
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
    pub(super) fn word<T: Copy>(
        &mut self,
        node: &Node,
        what: &str,
        words: &[(&str, T)],
    ) -> Option<T> {
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
            format!("{what} cannot be `{}`: {hint}", Terminal::text(&cut(text))),
        )
    }

    pub(super) fn text<'a>(&mut self, node: &'a Node, what: &str) -> Option<&'a str> {
        match &node.value {
            Value::Scalar(Scalar { text, kind }) => {
                let taken_for = match kind {
                    ScalarKind::String => return Some(text),
                    ScalarKind::Null => {
                        return self.mistake(node.at, format!("{what} has no value"));
                    }
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

    pub(super) fn sequence<'a>(
        &mut self,
        node: &'a Node,
        what: &str,
        takes: &str,
    ) -> Option<&'a [Node]> {
        match &node.value {
            Value::Sequence(items) => Some(items),
            Value::Mapping(_) => self.wrong(node, what, takes, "a mapping"),
            Value::Scalar(scalar) => self.wrong_scalar(node, what, takes, scalar),
            Value::Broken => None,
        }
    }

    pub(super) fn mapping<'a>(
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

    pub(super) fn twice(&mut self, key: &Key) {
        self.mistakes.add(
            key.at,
            format!("`{}` is given twice", Terminal::text(&cut(&key.text))),
        );
    }

    pub(super) fn listed_twice(&mut self, at: Position, text: &str) {
        self.mistakes
            .add(at, format!("`{}` is listed twice", Terminal::text(text)));
    }

    pub(super) fn mistake<T>(&mut self, at: Position, message: impl Into<String>) -> Option<T> {
        self.mistakes.add(at, message);
        None
    }
}

/// Cuts a word that is quoted in a message.
pub(super) fn cut(text: &str) -> String {
    const SHOWN_CHARACTERS_MAX: usize = 60;
    if text.chars().count() <= SHOWN_CHARACTERS_MAX {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(SHOWN_CHARACTERS_MAX).collect();
    cut.push('…');
    cut
}
