//! The simple terms of a condition: what can be said of a whole block by its
//! footer, and of an event without evaluating anything.
//!
//! A term is exactly as true of an event as the CEL that it stands for.

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, operators};
use chrono::DateTime;

use crate::{
    escape::{from_lossless, lossless},
    event::{Action, Kind, Mention, field::Field},
    id::NodeId,
};

/// One of some values in a field, or a bound of the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Term {
    /// The node is one of these.
    Nodes(Vec<String>),
    /// The kind is one of these.
    Kinds(Vec<Kind>),
    /// The process ID is one of these.
    Pids(Vec<u32>),
    /// The user ID is one of these.
    Uids(Vec<u32>),
    /// The acting process's executable is one of these.
    Executables(Vec<Vec<u8>>),
    /// The fact's path is one of these.
    Paths(Vec<Vec<u8>>),
    /// The fact's path begins with one of these; none is empty.
    PathPrefixes(Vec<Vec<u8>>),
    /// The event tells of one of these actions.
    Actions(Vec<Action>),
    /// The event tells of some action.
    Verdict,
    /// It was at this time or later, Unix nanoseconds.
    Since(i64),
    /// It was before this time, Unix nanoseconds.
    Until(i64),
}

impl Term {
    /// Says whether the term is true of an event that mentions this.
    pub fn matches(&self, node: &NodeId, event: &Mention<'_>) -> bool {
        match self {
            Self::Nodes(nodes) => nodes.iter().any(|it| it == node.as_str()),
            Self::Kinds(kinds) => kinds.contains(&event.kind),
            Self::Pids(pids) => pids.contains(&event.tgid),
            Self::Uids(uids) => uids.contains(&event.uid),
            Self::Executables(exes) => exes.iter().any(|exe| exe == event.exe),
            Self::Paths(paths) => event
                .path
                .is_some_and(|path| paths.iter().any(|it| it == path)),
            Self::PathPrefixes(prefixes) => event
                .path
                .is_some_and(|path| prefixes.iter().any(|prefix| path.starts_with(prefix))),
            Self::Actions(actions) => event.action.is_some_and(|it| actions.contains(&it)),
            Self::Verdict => event.action.is_some(),
            Self::Since(since) => event.time_unix_ns >= *since,
            Self::Until(until) => event.time_unix_ns < *until,
        }
    }

    /// Joins two terms by "or", if they are about the same field.
    fn or(self, other: Self) -> Option<Self> {
        fn both<T>(mut left: Vec<T>, right: Vec<T>) -> Vec<T> {
            left.extend(right);
            left
        }
        Some(match (self, other) {
            (Self::Nodes(left), Self::Nodes(right)) => Self::Nodes(both(left, right)),
            (Self::Kinds(left), Self::Kinds(right)) => Self::Kinds(both(left, right)),
            (Self::Pids(left), Self::Pids(right)) => Self::Pids(both(left, right)),
            (Self::Uids(left), Self::Uids(right)) => Self::Uids(both(left, right)),
            (Self::Executables(left), Self::Executables(right)) => {
                Self::Executables(both(left, right))
            }
            (Self::Paths(left), Self::Paths(right)) => Self::Paths(both(left, right)),
            (Self::PathPrefixes(left), Self::PathPrefixes(right)) => {
                Self::PathPrefixes(both(left, right))
            }
            (Self::Actions(left), Self::Actions(right)) => Self::Actions(both(left, right)),
            _ => return None,
        })
    }
}

/// Takes a conjunction apart.
pub(super) fn split(expression: IdedExpr, conjuncts: &mut Vec<IdedExpr>) {
    match expression.expr {
        Expr::Call(call) if call.func_name == operators::LOGICAL_AND && call.target.is_none() => {
            for argument in call.args {
                split(argument, conjuncts);
            }
        }
        expr => conjuncts.push(IdedExpr {
            id: expression.id,
            expr,
        }),
    }
}

/// Returns the term that a checked expression is, if it is one.
pub(super) fn of(expression: &IdedExpr) -> Option<Term> {
    match &expression.expr {
        Expr::Ident(name) => (field(name)? == Field::Verdict).then_some(Term::Verdict),
        Expr::Call(call) => of_call(call),
        _ => None,
    }
}

fn of_call(call: &CallExpr) -> Option<Term> {
    if let Some(target) = &call.target {
        let [argument] = call.args.as_slice() else {
            return None;
        };
        return match (call.func_name.as_str(), ident(target)?) {
            ("startsWith", Field::Path) => {
                let prefix = text(argument)?;
                // An escape in the text may be cut in two by a prefix.
                (!prefix.is_empty() && !prefix.contains('\\'))
                    .then(|| Term::PathPrefixes(vec![prefix.as_bytes().to_vec()]))
            }
            _ => None,
        };
    }
    let [left, right] = call.args.as_slice() else {
        return None;
    };
    match call.func_name.as_str() {
        operators::LOGICAL_OR => of(left)?.or(of(right)?),
        operators::EQUALS => match (ident(left), ident(right)) {
            (Some(field), None) => one_of(field, std::slice::from_ref(right)),
            (None, Some(field)) => one_of(field, std::slice::from_ref(left)),
            _ => None,
        },
        operators::IN => match &right.expr {
            Expr::List(list) => one_of(ident(left)?, &list.elements),
            _ => None,
        },
        operators::GREATER_EQUALS
        | operators::GREATER
        | operators::LESS_EQUALS
        | operators::LESS => bound(&call.func_name, left, right),
        _ => None,
    }
}

fn one_of(field: Field, values: &[IdedExpr]) -> Option<Term> {
    fn each<T>(values: &[IdedExpr], one: impl Fn(&IdedExpr) -> Option<T>) -> Option<Vec<T>> {
        values.iter().map(one).collect()
    }
    // A number that no ID can be matches nothing, so it can be left out.
    let ids = || -> Option<Vec<u32>> {
        let numbers = each(values, number)?;
        Some(
            numbers
                .into_iter()
                .filter_map(|it| it.try_into().ok())
                .collect(),
        )
    };
    if field == Field::Node {
        return Some(Term::Nodes(each(values, |it| text(it).map(str::to_owned))?));
    }
    if field == Field::Kind {
        return Some(Term::Kinds(each(values, |it| kind(text(it)?))?));
    }
    if field == Field::Action {
        return Some(Term::Actions(each(values, |it| action(text(it)?))?));
    }
    if field == Field::Pid {
        return Some(Term::Pids(ids()?));
    }
    if field == Field::Uid {
        return Some(Term::Uids(ids()?));
    }
    if field == Field::Exe {
        return Some(Term::Executables(each(values, |it| bytes(text(it)?))?));
    }
    if field == Field::Path {
        return Some(Term::Paths(each(values, |it| bytes(text(it)?))?));
    }
    None
}

/// Returns the kind of that name.
pub(super) fn kind(name: &str) -> Option<Kind> {
    Kind::ALL.into_iter().find(|kind| kind.as_str() == name)
}

/// Returns the action of that name.
pub(super) fn action(name: &str) -> Option<Action> {
    Action::ALL
        .into_iter()
        .find(|action| action.as_str() == name)
}

fn bound(operator: &str, left: &IdedExpr, right: &IdedExpr) -> Option<Term> {
    let (operator, time) = match (ident(left), ident(right)) {
        (Some(Field::Time), None) => (operator, timestamp(right)?),
        (None, Some(Field::Time)) => (
            match operator {
                operators::GREATER_EQUALS => operators::LESS_EQUALS,
                operators::GREATER => operators::LESS,
                operators::LESS_EQUALS => operators::GREATER_EQUALS,
                _ => operators::GREATER,
            },
            timestamp(left)?,
        ),
        _ => return None,
    };
    match operator {
        operators::GREATER_EQUALS => Some(Term::Since(time)),
        operators::GREATER => Some(Term::Since(time.checked_add(1)?)),
        operators::LESS => Some(Term::Until(time)),
        operators::LESS_EQUALS => Some(Term::Until(time.checked_add(1)?)),
        _ => None,
    }
}

fn field(name: &str) -> Option<Field> {
    Field::parse(name)
}

fn ident(expression: &IdedExpr) -> Option<Field> {
    match &expression.expr {
        Expr::Ident(name) => field(name),
        _ => None,
    }
}

/// Returns a literal text.
pub(super) fn text(expression: &IdedExpr) -> Option<&str> {
    match &expression.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

fn number(expression: &IdedExpr) -> Option<i64> {
    match &expression.expr {
        Expr::Literal(LiteralValue::Int(number)) => Some(*number.inner()),
        _ => None,
    }
}

/// Returns the only bytes whose text this is.
fn bytes(text: &str) -> Option<Vec<u8>> {
    from_lossless(text).filter(|bytes| lossless(bytes) == text)
}

/// Returns `timestamp("…")` in Unix nanoseconds, where they can hold it.
fn timestamp(expression: &IdedExpr) -> Option<i64> {
    match &expression.expr {
        Expr::Call(call) if call.func_name == "timestamp" && call.target.is_none() => {
            let [argument] = call.args.as_slice() else {
                return None;
            };
            DateTime::parse_from_rfc3339(text(argument)?)
                .ok()?
                .timestamp_nanos_opt()
        }
        _ => None,
    }
}
