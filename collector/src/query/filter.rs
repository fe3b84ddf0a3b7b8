//! Which events are asked for: on a block's footer, and on an event.

use std::collections::BTreeSet;

use shrike_proto::{
    event::{Action, Event, Kind},
    id::{IdError, NodeId},
    wire::admin,
};

use crate::store::{
    block::{BlockKey, Footer, action_bit, kind_bit},
    bloom::{self, Tag},
};

/// Values in one term: more is a mistake, and each costs time for every
/// event.
const VALUES_MAX: usize = 1024;

/// A filter that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// A node's name is none.
    #[error(transparent)]
    Node(#[from] IdError),
    /// A number that is no kind.
    #[error("kind {0} is unknown")]
    Kind(i32),
    /// A number that is no action.
    #[error("action {0} is unknown")]
    Action(i32),
    /// Nothing lies between the two.
    #[error("`since` is not before `until`")]
    EmptyTime,
    /// Too many values.
    #[error("{term} has {count} values, at most {VALUES_MAX}")]
    TooMany {
        /// Which term.
        term: &'static str,
        /// How many.
        count: usize,
    },
}

/// Terms joined by "and", the values in each by "or"; an empty term matches
/// everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Nodes.
    pub nodes: BTreeSet<NodeId>,
    /// Inclusive, Unix nanoseconds.
    pub since_unix_ns: i64,
    /// Exclusive, Unix nanoseconds.
    pub until_unix_ns: i64,
    /// Kinds, a bit each; 0 for all.
    kinds: u32,
    tgids: BTreeSet<u32>,
    uids: BTreeSet<u32>,
    executables: Vec<Vec<u8>>,
    path_prefixes: Vec<Vec<u8>>,
    /// Actions, a bit each; 0 for all.
    actions: u32,
    with_verdict: bool,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            nodes: BTreeSet::new(),
            since_unix_ns: i64::MIN,
            until_unix_ns: i64::MAX,
            kinds: 0,
            tgids: BTreeSet::new(),
            uids: BTreeSet::new(),
            executables: Vec::new(),
            path_prefixes: Vec::new(),
            actions: 0,
            with_verdict: false,
        }
    }
}

impl TryFrom<admin::EventFilter> for Filter {
    type Error = FilterError;

    fn try_from(filter: admin::EventFilter) -> Result<Self, FilterError> {
        for (term, count) in [
            ("nodes", filter.nodes.len()),
            ("kinds", filter.kinds.len()),
            ("tgids", filter.tgids.len()),
            ("uids", filter.uids.len()),
            ("executables", filter.executables.len()),
            ("path_prefixes", filter.path_prefixes.len()),
            ("actions", filter.actions.len()),
        ] {
            if count > VALUES_MAX {
                return Err(FilterError::TooMany { term, count });
            }
        }
        let parsed = Self {
            nodes: filter
                .nodes
                .iter()
                .map(|node| NodeId::parse(node))
                .collect::<Result<_, _>>()?,
            since_unix_ns: match filter.since_unix_ns {
                0 => i64::MIN,
                since => since,
            },
            until_unix_ns: match filter.until_unix_ns {
                0 => i64::MAX,
                until => until,
            },
            kinds: filter.kinds.iter().try_fold(0, |bits, kind| {
                Ok::<_, FilterError>(bits | kind_bit(parse_kind(*kind)?))
            })?,
            tgids: filter.tgids.into_iter().collect(),
            uids: filter.uids.into_iter().collect(),
            executables: filter.executables,
            path_prefixes: filter.path_prefixes,
            actions: filter.actions.iter().try_fold(0, |bits, action| {
                let parsed = Action::from_wire(*action, "filter.actions")
                    .map_err(|_| FilterError::Action(*action))?;
                Ok::<_, FilterError>(bits | action_bit(parsed))
            })?,
            with_verdict: filter.with_verdict,
        };
        if parsed.since_unix_ns >= parsed.until_unix_ns {
            return Err(FilterError::EmptyTime);
        }
        Ok(parsed)
    }
}

fn parse_kind(kind: i32) -> Result<Kind, FilterError> {
    match admin::Kind::try_from(kind) {
        Ok(admin::Kind::Exec) => Ok(Kind::Exec),
        Ok(admin::Kind::Open) => Ok(Kind::Open),
        Ok(admin::Kind::Change) => Ok(Kind::Change),
        Ok(admin::Kind::Fork) => Ok(Kind::Fork),
        Ok(admin::Kind::Exit) => Ok(Kind::Exit),
        Ok(admin::Kind::Alert) => Ok(Kind::Alert),
        Ok(admin::Kind::Unspecified) | Err(_) => Err(FilterError::Kind(kind)),
    }
}

impl Filter {
    /// Says whether an event is asked for.
    pub fn matches(&self, node: &NodeId, event: &Event) -> bool {
        let process = &event.process;
        (self.since_unix_ns..self.until_unix_ns).contains(&event.time_unix_ns)
            && self.selects_node(node)
            && (self.kinds == 0 || self.kinds & kind_bit(event.fact.kind()) != 0)
            && (self.tgids.is_empty() || self.tgids.contains(&process.tgid))
            && (self.uids.is_empty() || self.uids.contains(&process.uid))
            && (self.executables.is_empty()
                || self.executables.iter().any(|exe| **exe == *process.exe))
            && (self.path_prefixes.is_empty()
                || event.fact.path().is_some_and(|path| {
                    self.path_prefixes
                        .iter()
                        .any(|prefix| path.starts_with(prefix))
                }))
            && match event.action() {
                Some(action) => self.actions == 0 || self.actions & action_bit(action) != 0,
                None => self.actions == 0 && !self.with_verdict,
            }
    }

    /// Says whether the filter is about this node.
    pub fn selects_node(&self, node: &NodeId) -> bool {
        self.nodes.is_empty() || self.nodes.contains(node)
    }

    /// Says whether a block may hold an event that is asked for: never
    /// wrongly "no".
    pub fn may_match(&self, key: &BlockKey, footer: &Footer) -> bool {
        key.time_min_unix_ns < self.until_unix_ns
            && footer.time_max_unix_ns >= self.since_unix_ns
            && self.selects_node(&key.node)
            && (self.kinds == 0 || self.kinds & footer.kinds != 0)
            && (self.actions == 0 || self.actions & footer.actions != 0)
            && (!self.with_verdict || footer.actions != 0)
            && (self.tgids.is_empty()
                || self.tgids.iter().any(|tgid| {
                    footer
                        .bloom
                        .may_contain(bloom::hash(Tag::Tgid, &tgid.to_le_bytes()))
                }))
            && (self.uids.is_empty()
                || footer
                    .uids
                    .as_ref()
                    .is_none_or(|uids| uids.iter().any(|uid| self.uids.contains(uid))))
            && (self.executables.is_empty()
                || self
                    .executables
                    .iter()
                    .any(|exe| footer.bloom.may_contain(bloom::hash(Tag::Executable, exe))))
            && (self.path_prefixes.is_empty()
                || self.path_prefixes.iter().any(|prefix| {
                    // Only whole directories are hashed.
                    match prefix.iter().rposition(|byte| *byte == b'/') {
                        Some(slash) => footer
                            .bloom
                            .may_contain(bloom::hash(Tag::Directory, &prefix[..=slash])),
                        None => true,
                    }
                }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{sample, store::summary::Summary};
    use shrike_proto::wire::event as event_wire;

    fn filters() -> impl Strategy<Value = admin::EventFilter> {
        (
            prop::collection::vec(1..6i32, 0..2),
            prop::collection::vec(0..40u32, 0..3),
            prop::collection::vec(0..3u32, 0..2),
            prop::collection::vec(
                prop::sample::select(vec!["/usr/bin/cat", "/usr/bin/ls", "/nowhere"]),
                0..2,
            ),
            prop::collection::vec(
                prop::sample::select(vec!["/etc/", "/etc/sh", "/usr", "/var/lib/x", "no"]),
                0..2,
            ),
            prop::collection::vec(1..5i32, 0..2),
            any::<bool>(),
        )
            .prop_map(
                |(kinds, tgids, uids, exes, prefixes, actions, with_verdict)| admin::EventFilter {
                    kinds,
                    tgids,
                    uids,
                    executables: exes.iter().map(|exe| exe.as_bytes().to_vec()).collect(),
                    path_prefixes: prefixes.iter().map(|it| it.as_bytes().to_vec()).collect(),
                    actions,
                    with_verdict,
                    ..admin::EventFilter::default()
                },
            )
    }

    proptest! {
        #[test]
        fn footer_never_hides_a_matching_event(filter in filters(), first in 1..100u64, count in 1..60u64) {
            let filter = Filter::try_from(filter).unwrap();
            let events = sample::events(first, count);
            let summary = Summary::gather(&events, 1);
            let key = sample::block_key(&events);
            if events.iter().any(|event| filter.matches(&key.node, event)) {
                prop_assert!(filter.may_match(&key, &summary.footer(1)));
            }
        }
    }

    #[test]
    fn footer_lets_strangers_be_skipped() {
        let events = sample::events(1, 50);
        let footer = Summary::gather(&events, 1).footer(1);
        let key = sample::block_key(&events);
        let skipped = |filter: admin::EventFilter| {
            !Filter::try_from(filter).unwrap().may_match(&key, &footer)
        };
        assert!(skipped(admin::EventFilter {
            nodes: vec!["elsewhere".to_owned()],
            ..Default::default()
        }));
        assert!(skipped(admin::EventFilter {
            executables: vec![b"/nowhere".to_vec()],
            ..Default::default()
        }));
        assert!(skipped(admin::EventFilter {
            uids: vec![77],
            ..Default::default()
        }));
        assert!(skipped(admin::EventFilter {
            until_unix_ns: key.time_min_unix_ns,
            ..Default::default()
        }));
        assert!(!skipped(admin::EventFilter::default()));
    }

    #[test]
    fn nonsense_is_refused() {
        let check = |filter: admin::EventFilter, error: FilterError| {
            assert_eq!(Filter::try_from(filter), Err(error));
        };
        check(
            admin::EventFilter {
                kinds: vec![9],
                ..Default::default()
            },
            FilterError::Kind(9),
        );
        check(
            admin::EventFilter {
                actions: vec![event_wire::Action::Unspecified.into()],
                ..Default::default()
            },
            FilterError::Action(0),
        );
        check(
            admin::EventFilter {
                since_unix_ns: 5,
                until_unix_ns: 5,
                ..Default::default()
            },
            FilterError::EmptyTime,
        );
    }
}
