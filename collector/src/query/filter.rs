//! Which events are asked for: on a block's footer, and on an event.
//!
//! The typed fields of a request and the simple parts of its condition are
//! the same [`Term`]s, so that both skip the same blocks; CEL is evaluated
//! last, on the events that all terms leave.

use std::sync::Arc;

use shrike_proto::{
    condition::{Condition, ConditionError, Term},
    event::{Action, Event, Kind, Mention},
    id::{Epoch, IdError, NodeId},
    wire::admin,
};

use super::prune;
use crate::store::{
    Order,
    block::{BlockKey, Footer},
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
    /// The condition does not compile.
    #[error("the condition is wrong: {0}")]
    Condition(#[from] Box<ConditionError>),
}

/// Terms joined by "and", the values in each by "or".
#[derive(Debug, Clone)]
pub struct Filter {
    /// Inclusive, Unix nanoseconds.
    pub since_unix_ns: i64,
    /// Exclusive, Unix nanoseconds.
    pub until_unix_ns: i64,
    terms: Vec<Term>,
    condition: Option<Arc<Condition>>,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            since_unix_ns: i64::MIN,
            until_unix_ns: i64::MAX,
            terms: Vec::new(),
            condition: None,
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
        let mut parsed = Self {
            since_unix_ns: match filter.since_unix_ns {
                0 => i64::MIN,
                since => since,
            },
            until_unix_ns: match filter.until_unix_ns {
                0 => i64::MAX,
                until => until,
            },
            terms: Vec::new(),
            condition: None,
        };
        if parsed.since_unix_ns >= parsed.until_unix_ns {
            return Err(FilterError::EmptyTime);
        }
        for node in &filter.nodes {
            NodeId::parse(node)?;
        }
        let kinds = filter.kinds.iter().map(|kind| parse_kind(*kind));
        let actions = filter.actions.iter().map(|action| {
            Action::from_wire(*action, "filter.actions").map_err(|_| FilterError::Action(*action))
        });
        parsed.narrow(filter.nodes, Term::Nodes);
        parsed.narrow(kinds.collect::<Result<_, _>>()?, Term::Kinds);
        parsed.narrow(filter.tgids, Term::Pids);
        parsed.narrow(filter.uids, Term::Uids);
        parsed.narrow(filter.executables, Term::Executables);
        parsed.narrow(filter.path_prefixes, Term::PathPrefixes);
        parsed.narrow(actions.collect::<Result<_, _>>()?, Term::Actions);
        if filter.with_verdict {
            parsed.terms.push(Term::Verdict);
        }
        if !filter.r#where.is_empty() {
            parsed.add_condition(&filter.r#where)?;
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
    /// Adds a term, unless it has no values: then it matches everything.
    fn narrow<T>(&mut self, values: Vec<T>, term: fn(Vec<T>) -> Term) {
        if !values.is_empty() {
            self.terms.push(term(values));
        }
    }

    fn add_condition(&mut self, source: &str) -> Result<(), FilterError> {
        let condition = Condition::compile(source).map_err(Box::new)?;
        for term in condition.terms() {
            match term {
                Term::Since(since) => self.since_unix_ns = self.since_unix_ns.max(*since),
                Term::Until(until) => self.until_unix_ns = self.until_unix_ns.min(*until),
                Term::Nodes(_)
                | Term::Kinds(_)
                | Term::Pids(_)
                | Term::Uids(_)
                | Term::Executables(_)
                | Term::Paths(_)
                | Term::PathPrefixes(_)
                | Term::Actions(_)
                | Term::Verdict => {}
            }
        }
        // A range that ends before it begins is an empty one.
        self.until_unix_ns = self.until_unix_ns.max(self.since_unix_ns);
        self.terms.extend_from_slice(condition.terms());
        if !condition.is_simple() {
            self.condition = Some(Arc::new(condition));
        }
        Ok(())
    }

    /// Returns the filter without a beginning, but for what its condition says.
    #[must_use]
    pub fn from_any_time(mut self) -> Self {
        self.since_unix_ns = i64::MIN;
        self
    }

    /// Leaves out what lies before a moment, in the direction of a query; what
    /// lies in it stays.
    pub fn behind(mut self, time_unix_ns: i64, order: Order) -> Self {
        match order {
            Order::OldestFirst => self.since_unix_ns = self.since_unix_ns.max(time_unix_ns),
            Order::NewestFirst => {
                self.until_unix_ns = self.until_unix_ns.min(time_unix_ns.saturating_add(1));
            }
        }
        self
    }

    /// Returns the filter with another beginning.
    #[must_use]
    pub fn from_time(mut self, since_unix_ns: i64) -> Self {
        self.since_unix_ns = since_unix_ns;
        self
    }

    /// Says whether an event is asked for.
    pub fn matches(&self, node: &NodeId, epoch: Epoch, event: &Event) -> bool {
        self.may_match_event(node, &Mention::from(event))
            && self
                .condition
                .as_ref()
                .is_none_or(|condition| condition.matches_rest(node, epoch, event))
    }

    /// Says whether an event that mentions this may be asked for: never
    /// wrongly "no".
    pub fn may_match_event(&self, node: &NodeId, event: &Mention<'_>) -> bool {
        (self.since_unix_ns..self.until_unix_ns).contains(&event.time_unix_ns)
            && self.terms.iter().all(|term| term.matches(node, event))
    }

    /// Says whether the filter is about this node.
    pub fn selects_node(&self, node: &NodeId) -> bool {
        prune::selects_node(&self.terms, node)
    }

    /// Says whether a block may hold an event that is asked for: never
    /// wrongly "no".
    pub fn may_match(&self, key: &BlockKey, footer: &Footer) -> bool {
        key.time_min_unix_ns < self.until_unix_ns
            && footer.time_max_unix_ns >= self.since_unix_ns
            && self
                .terms
                .iter()
                .all(|term| prune::may_match(term, key, footer))
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
            prop::sample::select(vec![
                "",
                r#"exe == "/usr/bin/cat" && uid == 0"#,
                r#"path == "/etc/shadow" || path == "/etc/passwd""#,
                r#"path.startsWith("/usr/") && !(kind == "exec")"#,
                r#"kind in ["fork", "open"] && pid in [3, 5, 7]"#,
                r#"node == "node-a" && time >= timestamp("2025-01-01T00:00:00.030Z")"#,
                r#"time < timestamp("2025-01-01T00:00:00.020Z") && verdict"#,
                r#"action == "kill" && exe.endsWith("cat")"#,
                r#"node == "elsewhere""#,
            ]),
        )
            .prop_map(
                |(kinds, tgids, uids, exes, prefixes, actions, with_verdict, condition)| {
                    admin::EventFilter {
                        kinds,
                        tgids,
                        uids,
                        executables: exes.iter().map(|exe| exe.as_bytes().to_vec()).collect(),
                        path_prefixes: prefixes.iter().map(|it| it.as_bytes().to_vec()).collect(),
                        actions,
                        with_verdict,
                        r#where: condition.to_owned(),
                        ..admin::EventFilter::default()
                    }
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
            if events.iter().any(|event| filter.matches(&key.node, key.epoch, event)) {
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
    fn condition_skips_what_typed_terms_skip() {
        let events = sample::events(1, 50);
        let footer = Summary::gather(&events, 1).footer(1);
        let key = sample::block_key(&events);
        let check = |condition: &str, skipped: bool| {
            let filter = Filter::try_from(admin::EventFilter {
                r#where: condition.to_owned(),
                ..Default::default()
            })
            .unwrap();
            assert_eq!(!filter.may_match(&key, &footer), skipped, "{condition}");
        };
        check(r#"exe == "/nowhere""#, true);
        check(r#"exe == "/nowhere" && argv.exists(a, a == "x")"#, true);
        check(r#"exe in ["/nowhere", "/nowhere/else"]"#, true);
        check(r#"exe == "/nowhere" || exe == "/nowhere/else""#, true);
        check(r#"path == "/nowhere/file""#, true);
        check(r#"path.startsWith("/nowhere/")"#, true);
        check("uid == 77", true);
        check("pid == 7777777", true);
        check(r#"node == "elsewhere""#, true);
        check(r#"kind == "alert""#, true);
        check(r#"action == "deny""#, true);
        check(r#"time < timestamp("2025-01-01T00:00:00Z")"#, true);
        check(r#"time > timestamp("2025-01-02T00:00:00Z")"#, true);
        check(r#"exe == "/usr/bin/cat""#, false);
        check(r#"exe != "/nowhere""#, false);
        check(r#"exe == "/nowhere" || uid == 0"#, false);
    }

    #[test]
    fn condition_that_contradicts_itself_matches_nothing() {
        let filter = Filter::try_from(admin::EventFilter {
            r#where: r#"time > timestamp("2025-01-02T00:00:00Z") && time < timestamp("2025-01-01T00:00:00Z")"#.to_owned(),
            ..Default::default()
        })
        .unwrap();
        assert!(filter.since_unix_ns >= filter.until_unix_ns);
        let events = sample::events(1, 5);
        let key = sample::block_key(&events);
        assert!(
            !events
                .iter()
                .any(|event| filter.matches(&key.node, key.epoch, event))
        );
    }

    #[test]
    fn wrong_condition_is_refused_with_its_place() {
        let error = Filter::try_from(admin::EventFilter {
            r#where: "uid == 0 && exee == 1".to_owned(),
            ..Default::default()
        })
        .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("column 13") && text.contains("did you mean `exe`?"),
            "{text}"
        );
    }

    #[test]
    fn nonsense_is_refused() {
        let check = |filter: admin::EventFilter, error: FilterError| {
            assert_eq!(Filter::try_from(filter).unwrap_err(), error);
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
