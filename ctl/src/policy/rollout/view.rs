//! The nodes of a roll-out on stderr: redrawn in place on a terminal, a line
//! for each change elsewhere; as JSON, an object for each change on stdout.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _, Write as _},
};

use serde_json::json;
use shrike_proto::{
    escape::Terminal,
    event::compact::Colour,
    wire::{admin::NodeRollout, control::PolicyState},
};

use crate::{
    args::Format,
    nodes::{policy_state_name, policy_state_style, reason_json},
    output::Output,
};

/// Nodes that are redrawn at most; of larger fleets each change is a line, as
/// it is without a terminal.
const REDRAWN_NODES_MAX: usize = 20;

/// What was last shown of each node.
#[derive(Debug)]
pub(super) struct View {
    generation: u64,
    format: Format,
    terminal: bool,
    colour: Colour,
    nodes: BTreeMap<String, NodeRollout>,
    /// Lines on the terminal that belong to the drawing.
    drawn_lines: usize,
}

impl View {
    pub(super) fn new(format: Format, generation: u64, output: &Output) -> Self {
        Self {
            generation,
            format,
            terminal: io::stderr().is_terminal(),
            colour: output.error_colour(),
            nodes: BTreeMap::new(),
            drawn_lines: 0,
        }
    }

    /// Takes the nodes that the collector told of, and shows what changed.
    pub(super) fn update(&mut self, nodes: Vec<NodeRollout>, output: &Output) -> io::Result<()> {
        let changed: Vec<NodeRollout> = nodes
            .into_iter()
            .filter(|node| self.nodes.get(&node.node) != Some(node))
            .collect();
        if changed.is_empty() {
            return Ok(());
        }
        for node in &changed {
            self.nodes.insert(node.node.clone(), node.clone());
        }
        match self.format {
            Format::Json => changed
                .iter()
                .try_for_each(|node| output.line(&self.json(node).to_string())),
            Format::Table if self.terminal && self.nodes.len() <= REDRAWN_NODES_MAX => {
                self.redraw();
                Ok(())
            }
            Format::Table => {
                for node in &changed {
                    output.note(&self.line(node));
                }
                Ok(())
            }
        }
    }

    /// Returns every node in its last state.
    pub(super) fn into_nodes(self) -> Vec<NodeRollout> {
        self.nodes.into_values().collect()
    }

    fn redraw(&mut self) {
        let width = terminal_width();
        let mut text = String::new();
        if self.drawn_lines > 0 {
            // Up to the drawing's first line, then clear to the end.
            text.push_str(&format!("\x1b[{}F\x1b[J", self.drawn_lines));
        }
        for node in self.nodes.values() {
            text.push_str(&cut(&self.line(node), width));
            text.push('\n');
        }
        self.drawn_lines = self.nodes.len();
        // Without a stderr there is nobody to show it to.
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }

    fn line(&self, node: &NodeRollout) -> String {
        let style = self.colour.paint(policy_state_style(node.state));
        let mut line = format!(
            "  {:<20} {style}{}{style:#}",
            Terminal::text(&node.node),
            policy_state_name(node.state)
        );
        match PolicyState::try_from(node.state) {
            Ok(PolicyState::Applied) => {
                line.push_str(&format!(" generation {}", node.applied_generation));
            }
            Ok(PolicyState::Rejected) => {
                line.push_str(&format!(
                    ", keeps generation {}: {}",
                    node.applied_generation,
                    Terminal::text(&node.reason)
                ));
            }
            Ok(PolicyState::Received | PolicyState::Unspecified) | Err(_) if !node.connected => {
                line.push_str(" (not connected)");
            }
            Ok(PolicyState::Received | PolicyState::Unspecified) | Err(_) => {}
        }
        line
    }

    fn json(&self, node: &NodeRollout) -> serde_json::Value {
        json!({
            "generation": self.generation,
            "node": node.node,
            "connected": node.connected,
            "applied_generation": node.applied_generation,
            "state": policy_state_name(node.state),
            "reason": reason_json(&node.reason),
        })
    }
}

fn terminal_width() -> usize {
    const USUAL_WIDTH: usize = 80;
    rustix::termios::tcgetwinsize(io::stderr())
        .ok()
        .map(|size| usize::from(size.ws_col))
        .filter(|width| *width > 0)
        .unwrap_or(USUAL_WIDTH)
}

/// Cuts a line so that it does not wrap, leaving colour sequences whole.
fn cut(line: &str, width: usize) -> String {
    let mut text = String::new();
    let mut shown = 0;
    let mut in_sequence = false;
    for character in line.chars() {
        match character {
            '\x1b' => in_sequence = true,
            'm' if in_sequence => {
                in_sequence = false;
                text.push(character);
                continue;
            }
            _ if in_sequence => {}
            _ => {
                // Wide characters take two columns; half the width is kept
                // for lines that have any.
                shown += if character.is_ascii() { 1 } else { 2 };
                if shown >= width {
                    continue;
                }
            }
        }
        text.push(character);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::ColorWhen;

    #[test]
    fn cut_lines_keep_their_colour_sequences() {
        let check = |line: &str, width: usize, expect: &str| assert_eq!(cut(line, width), expect);
        check("abc", 10, "abc");
        check("abcdef", 4, "abc");
        check("\x1b[31mabcdef\x1b[0m", 4, "\x1b[31mabc\x1b[0m");
    }

    #[test]
    fn only_changes_are_shown() {
        let output = Output::new(ColorWhen::Never);
        let mut view = View::new(Format::Table, 3, &output);
        let node = NodeRollout {
            node: "a".to_owned(),
            connected: true,
            state: PolicyState::Rejected.into(),
            reason: "too many\x1b[2J paths".to_owned(),
            applied_generation: 2,
        };
        assert_eq!(
            view.line(&node),
            r"  a                    rejected, keeps generation 2: too many\x1b[2J paths"
        );
        view.update(vec![node.clone()], &output).unwrap();
        view.update(vec![node.clone()], &output).unwrap();
        assert_eq!(view.into_nodes(), [node]);
    }
}
