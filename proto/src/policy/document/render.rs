//! A policy back into YAML, in one canonical form: what `policy show` prints
//! and `policy diff` compares.

use std::fmt::{self, Write as _};

use super::tree::ScalarKind;
use crate::policy::{Matcher, OnUnknown, Policy, Rule};

/// Renders a policy as a YAML document. Parsing it gives the same policy.
pub fn render(policy: &Policy) -> String {
    let mut out = String::new();
    write_policy(&mut out, policy).expect("strings take everything");
    out
}

fn write_policy(out: &mut String, policy: &Policy) -> fmt::Result {
    writeln!(out, "apiVersion: shrike/v1")?;
    writeln!(out, "kind: Policy")?;
    writeln!(out, "metadata:")?;
    writeln!(out, "  name: {}", scalar(policy.name.as_str()))?;
    writeln!(out, "spec:")?;
    writeln!(out, "  mode: {}", policy.mode.as_str())?;
    if !policy.nodes.is_empty() {
        writeln!(out, "  nodes:")?;
        for (key, value) in &policy.nodes {
            writeln!(out, "    {}: {}", scalar(key), scalar(value))?;
        }
    }
    writeln!(out, "  rules:")?;
    policy
        .rules
        .iter()
        .try_for_each(|rule| write_rule(out, rule))
}

fn write_rule(out: &mut String, rule: &Rule) -> fmt::Result {
    writeln!(out, "    - name: {}", scalar(rule.name.as_str()))?;
    writeln!(out, "      on: {}", rule.trigger.as_str())?;
    write_matcher(out, &rule.matcher, "      ")?;
    if !rule.access.is_empty() {
        let words: Vec<&str> = rule.access.iter().map(|access| access.as_str()).collect();
        writeln!(out, "      access: [{}]", words.join(", "))?;
    }
    if let Some(unless) = &rule.unless {
        writeln!(out, "      unless:")?;
        write_matcher(out, unless, "        ")?;
    }
    writeln!(out, "      action: {}", rule.action.as_str())?;
    match rule.on_unknown {
        OnUnknown::Record => Ok(()),
        answer => writeln!(out, "      on_unknown: {}", answer.as_str()),
    }
}

fn write_matcher(out: &mut String, matcher: &Matcher, indent: &str) -> fmt::Result {
    let Matcher { paths, comm, exe } = matcher;
    write_list(out, indent, "paths", paths.iter().map(|path| path.as_str()))?;
    write_list(out, indent, "comm", comm.iter().map(|comm| comm.as_str()))?;
    write_list(out, indent, "exe", exe.iter().map(|path| path.as_str()))
}

fn write_list<'a>(
    out: &mut String,
    indent: &str,
    name: &str,
    values: impl ExactSizeIterator<Item = &'a str>,
) -> fmt::Result {
    if values.len() == 0 {
        return Ok(());
    }
    writeln!(out, "{indent}{name}:")?;
    for value in values {
        writeln!(out, "{indent}  - {}", scalar(value))?;
    }
    Ok(())
}

/// Writes text so that every YAML reader takes it for this very string.
fn scalar(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/' || c == '_')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte))
        && ScalarKind::of_plain(text) == ScalarKind::String
        && !is_word_of_yaml_1_1(text);
    if plain {
        return text.to_owned();
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            ' '..='~' => quoted.push(character),
            _ if character.is_alphanumeric() => quoted.push(character),
            _ => {
                let code = u32::from(character);
                let written = match code {
                    0..=0xff => write!(quoted, "\\x{code:02x}"),
                    0x100..=0xffff => write!(quoted, "\\u{code:04x}"),
                    _ => write!(quoted, "\\U{code:08x}"),
                };
                written.expect("strings take everything");
            }
        }
    }
    quoted.push('"');
    quoted
}

/// Words that older readers take for booleans, and dates and numbers with
/// other digits than YAML 1.2's.
fn is_word_of_yaml_1_1(text: &str) -> bool {
    let word = text.to_ascii_lowercase();
    matches!(word.as_str(), "y" | "n" | "yes" | "no" | "on" | "off")
        || text.starts_with(|c: char| c.is_ascii_digit())
}
