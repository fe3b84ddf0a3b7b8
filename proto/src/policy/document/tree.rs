//! YAML text into trees that know where each part stands.
//!
//! Scalars stay text: what a word means is for its reader to say.

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};

use super::{Mistakes, Position};
use crate::escape::Terminal;

/// Deepest nesting that is read. A policy needs six levels.
const DEPTH_MAX: usize = 16;

/// One YAML document.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) root: Node,
    /// Its own lines of the file.
    pub(super) source: String,
}

/// A value and where it begins.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) at: Position,
    pub(super) value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    Scalar(Scalar),
    Sequence(Vec<Node>),
    /// In the order of the file; a key may come twice.
    Mapping(Vec<(Key, Node)>),
    /// Something that was reported already.
    Broken,
}

#[derive(Debug)]
pub(super) struct Key {
    pub(super) at: Position,
    pub(super) text: String,
}

/// Text, and what YAML takes it for.
#[derive(Debug)]
pub(super) struct Scalar {
    pub(super) text: String,
    pub(super) kind: ScalarKind,
}

/// What a scalar is by YAML's core schema (YAML 1.2.2, section 10.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScalarKind {
    String,
    Null,
    Boolean,
    Number,
}

impl ScalarKind {
    /// Returns what an unquoted scalar is taken for.
    pub(super) fn of_plain(text: &str) -> Self {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => Self::Null,
            "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => Self::Boolean,
            _ if is_number(text) => Self::Number,
            _ => Self::String,
        }
    }
}

fn is_number(text: &str) -> bool {
    if let Some(digits) = text.strip_prefix("0o") {
        return !digits.is_empty() && digits.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    }
    if let Some(digits) = text.strip_prefix("0x") {
        return !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    match unsigned {
        ".inf" | ".Inf" | ".INF" => return true,
        ".nan" | ".NaN" | ".NAN" => return text.len() == unsigned.len(),
        _ => {}
    }
    // Rust also takes "inf", "nan" and "infinity", which YAML does not.
    unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned.parse::<f64>().is_ok()
}

/// Parses every document of a file. What cannot be parsed is a mistake, and
/// the documents before it are returned all the same.
pub(super) fn parse(text: &str, mistakes: &mut Mistakes) -> Vec<Tree> {
    let mut builder = Builder {
        parser: Parser::new_from_str(text),
        mistakes,
    };
    let mut trees = Vec::new();
    if let Err(error) = builder.documents(text, &mut trees) {
        let at = position(error.marker());
        let mut message = format!("not YAML: {}", Terminal::text(error.info()));
        let line = text.lines().nth(at.line - 1).unwrap_or_default();
        if line.trim_start_matches(' ').starts_with('\t') {
            message.push_str(" (indent with spaces: YAML does not take tabs)");
        }
        mistakes.add(at, message);
    }
    trees
}

struct Builder<'a, 'm> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    mistakes: &'m mut Mistakes,
}

type Result<T> = std::result::Result<T, saphyr_parser::ScanError>;

impl Builder<'_, '_> {
    fn documents(&mut self, text: &str, trees: &mut Vec<Tree>) -> Result<()> {
        let mut first_line = 1;
        while let Some(event) = self.parser.next_event() {
            let (event, span) = event?;
            match event {
                Event::StreamEnd => break,
                Event::DocumentEnd => {
                    let end = position(&span.start);
                    if let Some(tree) = trees.last_mut()
                        && tree.source.is_empty()
                    {
                        tree.source = source(text, first_line, tree.root.at, end);
                    }
                    first_line = end.line;
                }
                Event::StreamStart | Event::DocumentStart(_) | Event::Nothing => {}
                Event::Alias(_)
                | Event::Scalar(..)
                | Event::SequenceStart(..)
                | Event::MappingStart(..) => {
                    let root = self.node(event, span.start, 0)?;
                    // `---` with nothing behind it is no policy, but no
                    // mistake either.
                    let empty = matches!(
                        &root.value,
                        Value::Scalar(scalar) if scalar.kind == ScalarKind::Null
                    );
                    if !empty {
                        trees.push(Tree {
                            root,
                            source: String::new(),
                        });
                    }
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    unreachable!("the parser balances its events")
                }
            }
        }
        Ok(())
    }

    /// Builds the node that begins with `event`. Recursion is bounded by
    /// [`DEPTH_MAX`]; what lies deeper is skipped in a loop.
    fn node(&mut self, event: Event<'_>, start: Marker, depth: usize) -> Result<Node> {
        let at = position(&start);
        let (anchor, tagged) = match &event {
            Event::Scalar(_, _, anchor, tag) => (*anchor, tag.is_some()),
            Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag) => {
                (*anchor, tag.is_some())
            }
            _ => (0, false),
        };
        if anchor != 0 {
            self.mistakes.add(
                at,
                "anchors (`&name`) are not part of the policy format: write the value out",
            );
        }
        if tagged {
            self.mistakes
                .add(at, "tags (`!name`) are not part of the policy format");
        }
        let value = match event {
            Event::Scalar(text, style, ..) => {
                let kind = match style {
                    ScalarStyle::Plain => ScalarKind::of_plain(&text),
                    _ => ScalarKind::String,
                };
                Value::Scalar(Scalar {
                    text: text.into_owned(),
                    kind,
                })
            }
            Event::SequenceStart(..) | Event::MappingStart(..) if depth >= DEPTH_MAX => {
                self.mistakes.add(
                    at,
                    format!("nested deeper than {DEPTH_MAX} levels: a policy never is"),
                );
                self.skip()?;
                Value::Broken
            }
            Event::SequenceStart(..) => Value::Sequence(self.sequence(depth)?),
            Event::MappingStart(..) => Value::Mapping(self.mapping(depth)?),
            Event::Alias(_) => {
                self.mistakes.add(
                    at,
                    "aliases (`*name`) are not part of the policy format: write the value out",
                );
                Value::Broken
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => unreachable!("no node begins with it"),
        };
        Ok(Node { at, value })
    }

    fn sequence(&mut self, depth: usize) -> Result<Vec<Node>> {
        let mut items = Vec::new();
        while let Some(event) = self.parser.next_event() {
            let (event, span) = event?;
            if event == Event::SequenceEnd {
                break;
            }
            items.push(self.node(event, span.start, depth + 1)?);
        }
        Ok(items)
    }

    fn mapping(&mut self, depth: usize) -> Result<Vec<(Key, Node)>> {
        let mut entries = Vec::new();
        while let Some(event) = self.parser.next_event() {
            let (event, span) = event?;
            if event == Event::MappingEnd {
                break;
            }
            let key = self.node(event, span.start, depth + 1)?;
            let Some(event) = self.parser.next_event() else {
                break;
            };
            let (event, span) = event?;
            let mut value = self.node(event, span.start, depth + 1)?;
            match key.value {
                Value::Scalar(scalar) => {
                    // An absent value has no place of its own.
                    if matches!(&value.value, Value::Scalar(scalar) if scalar.text.is_empty() && scalar.kind == ScalarKind::Null)
                    {
                        value.at = key.at;
                    }
                    entries.push((
                        Key {
                            at: key.at,
                            text: scalar.text,
                        },
                        value,
                    ));
                }
                Value::Sequence(_) | Value::Mapping(_) => {
                    self.mistakes.add(
                        key.at,
                        "a field's name must be a word, not a list or mapping",
                    );
                }
                Value::Broken => {}
            }
        }
        Ok(entries)
    }

    /// Skips the rest of a collection whose start was read.
    fn skip(&mut self) -> Result<()> {
        let mut open = 1_usize;
        while open > 0
            && let Some(event) = self.parser.next_event()
        {
            match event?.0 {
                Event::SequenceStart(..) | Event::MappingStart(..) => open += 1,
                Event::SequenceEnd | Event::MappingEnd => open -= 1,
                _ => {}
            }
        }
        Ok(())
    }
}

fn position(marker: &Marker) -> Position {
    Position {
        line: marker.line().max(1),
        column: marker.col() + 1,
    }
}

/// Returns the lines of a document, from the one after the document before it
/// to before its end, without directives and markers.
fn source(text: &str, first_line: usize, root: Position, end: Position) -> String {
    // Only the end of the file can be in the middle of a line.
    let end_line = if end.column == 1 {
        end.line
    } else {
        end.line + 1
    };
    let mut source = String::new();
    for (line, number) in text.lines().zip(1..end_line).skip(first_line - 1) {
        let marker = matches!(line.trim_end(), "---" | "...");
        if marker || number < root.line && line.starts_with('%') {
            continue;
        }
        source.push_str(line);
        source.push('\n');
    }
    source.trim_start_matches('\n').to_owned()
}
