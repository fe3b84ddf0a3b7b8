//! Columns for people.

use anstyle::Style;
use shrike_proto::{escape::Terminal, event::compact::Colour};

/// One cell: text that is escaped when it is printed, and its style.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// Styles the cell.
    pub(crate) fn styled(text: impl ToString, style: Style) -> Self {
        Self {
            text: Terminal::text(&text.to_string()).to_string(),
            style,
        }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::styled(text, Style::new())
    }
}

/// Aligns rows under a heading; every column but the last is padded to its
/// widest cell.
pub(crate) fn table(heading: &[&str], rows: &[Vec<Cell>], colour: Colour) -> String {
    let mut widths: Vec<usize> = heading.iter().map(|cell| cell.len()).collect();
    for row in rows {
        assert_eq!(row.len(), heading.len(), "a cell for each column");
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }
    let bold = Style::new().bold();
    let heading: Vec<Cell> = heading
        .iter()
        .map(|cell| Cell::styled(cell, bold))
        .collect();
    let mut text = String::new();
    for row in std::iter::once(&heading).chain(rows) {
        let mut line = String::new();
        for (index, (cell, width)) in row.iter().zip(&widths).enumerate() {
            if index > 0 {
                line.push_str("  ");
            }
            let style = colour.paint(cell.style);
            line.push_str(&format!("{style}{}{style:#}", cell.text));
            if index + 1 < row.len() {
                line.push_str(&" ".repeat(width - cell.width()));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_controls_are_escaped() {
        let rows = vec![
            vec!["a".into(), "1".into(), "x".into()],
            vec!["long\x1b".into(), "22".into(), "".into()],
        ];
        assert_eq!(
            table(&["NAME", "N", "NOTE"], &rows, Colour::Plain),
            "NAME      N   NOTE\na         1   x\nlong\\x1b  22\n"
        );
    }
}
