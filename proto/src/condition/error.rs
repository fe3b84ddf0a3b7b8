//! What is wrong with a condition, and where.

use std::fmt;

use crate::event::field::Field;

/// A condition that cannot be used: what is wrong, the place with a caret
/// under it, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConditionError {
    message: String,
    hint: Option<String>,
    source: String,
    /// Byte offset into the source.
    start: usize,
    /// Bytes that are marked.
    length: usize,
}

/// Characters of the line that are shown around the place.
const SHOWN_MAX: usize = 72;

impl ConditionError {
    pub(super) fn new(source: &str, start: usize, length: usize, message: String) -> Self {
        let start = source.floor_char_boundary(start.min(source.len()));
        Self {
            message,
            hint: None,
            source: source.to_owned(),
            start,
            length,
        }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn with_fields(self) -> Self {
        let hint = self.hint.clone().map_or(String::new(), |hint| hint + "; ");
        self.hint(format!("{hint}the fields are {}", Field::NAMES.join(", ")))
    }

    /// Returns what is wrong, in one line.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns what would be right, in one line.
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Returns the line that the mistake is on, from 1.
    pub fn line(&self) -> usize {
        self.before().matches('\n').count() + 1
    }

    /// Returns the column in characters, from 1.
    pub fn column(&self) -> usize {
        self.line_before().chars().count() + 1
    }

    /// Returns the line with the mistake, and a line with carets below it.
    pub fn excerpt(&self) -> [String; 2] {
        let line_start = self.start - self.line_before().len();
        let line = self.source[line_start..].lines().next().unwrap_or("");
        let column = self.column() - 1;
        let skipped = column.saturating_sub(SHOWN_MAX / 2);
        let shown: String = line
            .chars()
            .skip(skipped)
            .take(SHOWN_MAX)
            // One column each, and nothing that moves the cursor.
            .map(|it| if it.is_control() { ' ' } else { it })
            .collect();
        let end = self.source.floor_char_boundary(
            self.start
                .saturating_add(self.length)
                .min(line_start + line.len())
                .max(self.start),
        );
        let marked = self.source[self.start..end].chars().count().max(1);
        let room = SHOWN_MAX.saturating_sub(column - skipped).max(1);
        let carets = " ".repeat(column - skipped) + &"^".repeat(marked.min(room));
        [shown, carets]
    }

    fn before(&self) -> &str {
        &self.source[..self.start]
    }

    fn line_before(&self) -> &str {
        let before = self.before();
        before.rsplit_once('\n').map_or(before, |(_, line)| line)
    }
}

impl fmt::Display for ConditionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [line, carets] = self.excerpt();
        write!(f, "{} (", self.message)?;
        if self.line() > 1 {
            write!(f, "line {}, ", self.line())?;
        }
        write!(f, "column {})\n  {line}\n  {carets}", self.column())?;
        match &self.hint {
            Some(hint) => write!(f, "\n{hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ConditionError {}
