//! What a policy says: mode, selector, rules and their words.

use std::{collections::BTreeMap, fmt};

use crate::{
    event::{Action, Kind},
    id::{PolicyName, RuleName},
};

/// Longest path that a rule may name, as in the kernel (`PATH_MAX`, 4096
/// with its NUL).
pub const PATH_BYTES_MAX: usize = 4095;

/// Longest component of a path (`NAME_MAX`, include/uapi/linux/limits.h).
pub const COMPONENT_BYTES_MAX: usize = 255;

/// Most components that a rule's path may have.
pub const PATH_COMPONENTS_MAX: usize = 256;

/// A named set of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Unique in the policy book.
    pub name: PolicyName,
    /// Whether verdicts are carried out.
    pub mode: Mode,
    /// Labels that a node must have, all of them; empty: every node.
    pub nodes: BTreeMap<String, String>,
    /// At least one.
    pub rules: Vec<Rule>,
}

impl Policy {
    /// Says whether the policy is meant for a node with these labels.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.nodes
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    }

    /// Checks what no single word shows: that there are rules, with unique
    /// names, each with something to look at and an action that this version
    /// carries out.
    ///
    /// # Errors
    /// [`PolicyError`] names the rule.
    pub fn check(&self) -> Result<(), PolicyError> {
        if self.rules.is_empty() {
            return Err(PolicyError::NoRules);
        }
        let mut names = std::collections::BTreeSet::new();
        for rule in &self.rules {
            if !names.insert(&rule.name) {
                return Err(PolicyError::DuplicateRule(rule.name.clone()));
            }
            rule.check()?;
        }
        Ok(())
    }
}

/// A policy whose words are fine one by one, but not together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// It has no rule.
    #[error("a policy needs at least one rule")]
    NoRules,
    /// Two rules share a name.
    #[error("rule {0} is defined twice")]
    DuplicateRule(RuleName),
    /// A rule that matches everything.
    #[error("rule {0} has nothing to look at: give it `paths`, `comm` or `exe`")]
    MatchesEverything(RuleName),
    /// `access` only means something for opens.
    #[error("rule {0}: `access` goes with `on: open` only")]
    AccessOnExec(RuleName),
    /// What runs has to be known to tell who opens.
    #[error("rule {0}: `action: ignore` goes with `on: open` only")]
    IgnoreExec(RuleName),
    /// `on_unknown` only means something where a path is looked at.
    #[error("rule {0}: `on_unknown` goes with `paths` only")]
    OnUnknownWithoutPaths(RuleName),
    /// `unless` without a word would switch the rule off.
    #[error("rule {0}: `unless` is empty: leave it out or give it `paths`, `comm` or `exe`")]
    EmptyUnless(RuleName),
}

impl PolicyError {
    /// Returns the rule that the error is about.
    pub fn rule(&self) -> Option<&RuleName> {
        match self {
            Self::NoRules => None,
            Self::DuplicateRule(rule)
            | Self::MatchesEverything(rule)
            | Self::AccessOnExec(rule)
            | Self::IgnoreExec(rule)
            | Self::OnUnknownWithoutPaths(rule)
            | Self::EmptyUnless(rule) => Some(rule),
        }
    }
}

/// Whether verdicts are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    /// They are.
    #[default]
    Enforce,
    /// They are recorded, nothing is touched.
    Observe,
}

impl Mode {
    /// Returns the word that policies use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        }
    }
}

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// A file is opened.
    Open,
    /// A program is executed.
    Exec,
}

impl Trigger {
    /// Returns the word that policies use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Exec => "exec",
        }
    }
}

impl From<Trigger> for Kind {
    fn from(trigger: Trigger) -> Self {
        match trigger {
            Trigger::Open => Self::Open,
            Trigger::Exec => Self::Exec,
        }
    }
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// For reading.
    Read,
    /// For writing, including truncation.
    Write,
}

impl Access {
    /// Returns the word that policies use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// A matcher and an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Unique within its policy.
    pub name: RuleName,
    /// What it is about.
    pub trigger: Trigger,
    /// What it looks at.
    pub matcher: Matcher,
    /// Accesses that count; empty: every access.
    pub access: Vec<Access>,
    /// The exception: holds when every word in it does.
    pub unless: Option<Matcher>,
    /// What it asks for.
    pub action: Action,
    /// What happens where the path cannot be resolved.
    pub on_unknown: OnUnknown,
}

/// What a rule about paths does where the path cannot be resolved: it is
/// longer than the kernel's programs walk, or unreadable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OnUnknown {
    /// The event says that the path is unresolved.
    #[default]
    Record,
    /// The operation is refused.
    Deny,
    /// The operation is refused where that can be done, and the process ended.
    Kill,
}

impl OnUnknown {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Record, Self::Deny, Self::Kill];

    /// Returns the word that policies use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Deny => "deny",
            Self::Kill => "kill",
        }
    }
}

impl Rule {
    fn check(&self) -> Result<(), PolicyError> {
        let name = || self.name.clone();
        if self.matcher.is_empty() {
            return Err(PolicyError::MatchesEverything(name()));
        }
        if self.trigger == Trigger::Exec && !self.access.is_empty() {
            return Err(PolicyError::AccessOnExec(name()));
        }
        if self.action == Action::Ignore && self.trigger == Trigger::Exec {
            return Err(PolicyError::IgnoreExec(name()));
        }
        if self.on_unknown != OnUnknown::Record && self.matcher.paths.is_empty() {
            return Err(PolicyError::OnUnknownWithoutPaths(name()));
        }
        if self.unless.as_ref().is_some_and(Matcher::is_empty) {
            return Err(PolicyError::EmptyUnless(name()));
        }
        Ok(())
    }
}

/// What a rule looks at. Words are joined by "and", the values in one word by
/// "or"; an empty word matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Matcher {
    /// The file opened or executed.
    pub paths: Vec<PathPattern>,
    /// The command name: for an exec the one that the new image gets, for an
    /// open the opener's.
    pub comm: Vec<Comm>,
    /// The executable of the process that acts.
    pub exe: Vec<PathPattern>,
}

impl Matcher {
    /// Says whether the matcher has no word at all.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.comm.is_empty() && self.exe.is_empty()
    }
}

/// A value of a rule's word that is not of its form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MatcherError {
    /// Not from the root.
    #[error("path {0:?} is not absolute: begin it with '/'")]
    Relative(String),
    /// It holds `.`, `..`, `//` or a NUL: the kernel's paths never do.
    #[error(
        "path {path:?} has {what}: the kernel's resolved paths never do, so it would not match"
    )]
    NotNormal {
        /// As written.
        path: String,
        /// What is in it.
        what: &'static str,
    },
    /// Longer than the kernel's longest, or with more components than a rule
    /// may have.
    #[error(
        "path is too long: {bytes} bytes in {components} components, at most {PATH_BYTES_MAX} in {PATH_COMPONENTS_MAX}"
    )]
    TooLong {
        /// Its length.
        bytes: usize,
        /// Its components.
        components: usize,
    },
    /// A component that no file system holds.
    #[error("path has a component of {0} bytes: file names have at most {COMPONENT_BYTES_MAX}")]
    ComponentTooLong(usize),
    /// A glob, which paths do not have.
    #[error("path {0:?} looks like a glob: name the file, or a directory with a trailing slash")]
    Glob(String),
    /// Empty, too long or with a slash or NUL.
    #[error(
        "command name {0:?} must be 1 to 15 bytes, without '/' or NUL: the kernel cuts names there"
    )]
    Comm(String),
}

/// A file (`/etc/shadow`), or everything below a directory (`/etc/ssl/`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathPattern(Box<str>);

impl PathPattern {
    /// Parses a pattern: absolute, normal, with a trailing slash for a whole
    /// directory.
    ///
    /// # Errors
    /// [`MatcherError`] for a path that the kernel would never resolve to.
    pub fn parse(value: &str) -> Result<Self, MatcherError> {
        let not_normal = |what| {
            Err(MatcherError::NotNormal {
                path: value.to_owned(),
                what,
            })
        };
        if !value.starts_with('/') {
            return Err(MatcherError::Relative(value.to_owned()));
        }
        let components = value.split('/').filter(|part| !part.is_empty()).count();
        if value.len() > PATH_BYTES_MAX || components > PATH_COMPONENTS_MAX {
            return Err(MatcherError::TooLong {
                bytes: value.len(),
                components,
            });
        }
        if let Some(part) = value
            .split('/')
            .find(|part| part.len() > COMPONENT_BYTES_MAX)
        {
            return Err(MatcherError::ComponentTooLong(part.len()));
        }
        if value.contains('\0') {
            return not_normal("a NUL byte");
        }
        if value.contains("//") {
            return not_normal("a doubled slash");
        }
        if value.split('/').any(|part| part == "." || part == "..") {
            return not_normal("a '.' or '..' component");
        }
        if value.contains('*') || value.contains('?') {
            return Err(MatcherError::Glob(value.to_owned()));
        }
        Ok(Self(value.into()))
    }

    /// Returns the pattern as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Says whether it stands for everything below a directory.
    pub fn is_directory(&self) -> bool {
        self.0.ends_with('/')
    }

    /// Says whether a resolved path matches: the same file, or below the
    /// directory by whole components.
    pub fn matches(&self, path: &[u8]) -> bool {
        if self.is_directory() {
            path.len() > self.0.len() && path.starts_with(self.0.as_bytes())
        } else {
            path == self.0.as_bytes()
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A command name as the kernel holds it: 1 to 15 bytes (`TASK_COMM_LEN` less
/// its NUL, include/linux/sched.h).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Comm(Box<str>);

impl Comm {
    /// Parses a command name.
    ///
    /// # Errors
    /// [`MatcherError::Comm`] when it is empty, longer than 15 bytes or holds
    /// a slash or NUL.
    pub fn parse(value: &str) -> Result<Self, MatcherError> {
        if (1..=15).contains(&value.len()) && !value.contains(['/', '\0']) {
            return Ok(Self(value.into()));
        }
        Err(MatcherError::Comm(value.to_owned()))
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_absolute_and_normal() {
        let check = |value: &str, valid: bool| {
            assert_eq!(PathPattern::parse(value).is_ok(), valid, "{value:?}");
        };
        check("/etc/shadow", true);
        check("/etc/ssl/", true);
        check("/", true);
        check("etc/shadow", false);
        check("", false);
        check("/etc//shadow", false);
        check("/etc/../shadow", false);
        check("/etc/./shadow", false);
        check("/etc/sha*", false);
        check("/a\0b", false);
        check("/a..b", true);
        check(&format!("/{}", "a".repeat(255)), true);
        check(&format!("/{}", "a".repeat(256)), false);
        let long = format!("/{}", "a".repeat(255)).repeat(15);
        check(&format!("{long}/{}", "a".repeat(254)), true);
        check(&format!("{long}/{}/", "a".repeat(254)), false);
        check(&"/a".repeat(256), true);
        check(&"/a".repeat(257), false);
    }

    #[test]
    fn directories_match_by_whole_components() {
        let check = |pattern: &str, path: &str, matches: bool| {
            let parsed = PathPattern::parse(pattern).unwrap();
            assert_eq!(parsed.matches(path.as_bytes()), matches, "{pattern} {path}");
        };
        check("/etc/", "/etc/shadow", true);
        check("/etc/", "/etc/ssl/key", true);
        check("/etc/", "/etcetera", false);
        check("/etc/", "/etc", false);
        check("/etc", "/etc", true);
        check("/etc", "/etc/shadow", false);
        check("/", "/anything", true);
    }

    #[test]
    fn on_unknown_goes_with_paths() {
        let policy = Policy {
            name: PolicyName::parse("p").unwrap(),
            mode: Mode::Enforce,
            nodes: BTreeMap::new(),
            rules: vec![Rule {
                name: RuleName::parse("r").unwrap(),
                trigger: Trigger::Exec,
                matcher: Matcher {
                    comm: vec![Comm::parse("nc").unwrap()],
                    ..Matcher::default()
                },
                access: Vec::new(),
                unless: None,
                action: Action::Deny,
                on_unknown: OnUnknown::Deny,
            }],
        };
        assert_eq!(
            policy.check(),
            Err(PolicyError::OnUnknownWithoutPaths(
                RuleName::parse("r").unwrap()
            ))
        );
    }
}
