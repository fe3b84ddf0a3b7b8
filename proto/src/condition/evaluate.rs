//! The part of a condition that no term can say: CEL, event by event.

use std::{
    cell::RefCell,
    collections::HashMap,
    fmt,
    sync::{Arc, LazyLock},
};

use cel::{
    Context, Env, ExecutionError, IdedExpr, Value,
    common::{
        types::{CelBool, CelInt, CelList, CelString, CelTimestamp, STRING_TYPE},
        value::{CowVal, Val},
    },
    context::VariableResolver,
};
use chrono::DateTime;
use regex::{Regex, RegexBuilder};

use crate::{
    event::{
        Event,
        field::{Field, FieldValue},
    },
    id::{Epoch, NodeId},
};

/// Compiled patterns that a thread keeps: more than one condition may have,
/// so that none is compiled for each event.
const PATTERNS_KEPT: usize = 64;

/// Bytes that a compiled pattern may take: `\w{1000}` is beyond it.
const PATTERN_BYTES_MAX: usize = 256 << 10;

/// The standard functions, with a `matches` that compiles a pattern once.
pub(super) static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    env.add_member_overload(
        "matches",
        "string_matches",
        STRING_TYPE,
        vec![STRING_TYPE],
        matches,
    )
    .expect("the feature that would bring another one is off");
    Arc::new(env)
});

/// Compiles a pattern within its bound.
pub(super) fn pattern(text: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(text)
        .size_limit(PATTERN_BYTES_MAX)
        .build()
}

thread_local! {
    static PATTERNS: RefCell<HashMap<String, Regex>> = RefCell::default();
}

fn matches<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let argument = |index: usize| -> Result<&str, ExecutionError> {
        arguments
            .get(index)
            .and_then(|it| it.downcast_ref::<CelString<'_>>())
            .map(CelString::inner)
            .ok_or_else(ExecutionError::missing_argument_or_target)
    };
    let (text, pattern_text) = (argument(0)?, argument(1)?);
    PATTERNS
        .with_borrow_mut(|patterns| {
            if let Some(found) = patterns.get(pattern_text) {
                return Ok(found.is_match(text));
            }
            if patterns.len() >= PATTERNS_KEPT {
                patterns.clear();
            }
            let compiled = pattern(pattern_text)
                .map_err(|error| ExecutionError::function_error("matches", error))?;
            let found = compiled.is_match(text);
            patterns.insert(pattern_text.to_owned(), compiled);
            Ok(found)
        })
        .map(|found| CowVal::owned(CelBool::from(found)))
}

/// Expressions that must all be true.
pub(super) struct Rest(Vec<IdedExpr>);

impl fmt::Debug for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Rest").field(&self.0.len()).finish()
    }
}

impl Rest {
    pub(super) fn new(conjuncts: Vec<IdedExpr>) -> Self {
        Self(conjuncts)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn matches(&self, node: &NodeId, epoch: Epoch, event: &Event) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let fields = Fields { node, epoch, event };
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        context.set_variable_resolver(&fields);
        // What fails to evaluate asks about a field that the event does not
        // have: the types were checked.
        self.0.iter().all(|conjunct| {
            Value::resolve_val(conjunct, &context).is_ok_and(|value| {
                value
                    .downcast_ref::<CelBool>()
                    .is_some_and(|value| *value.inner())
            })
        })
    }
}

/// An event's fields, read when they are asked for.
struct Fields<'a> {
    node: &'a NodeId,
    epoch: Epoch,
    event: &'a Event,
}

impl VariableResolver for Fields<'_> {
    fn resolve<'b>(&'b self, name: &str) -> Option<CowVal<'b, 'b>> {
        Some(
            match Field::parse(name)?.of(self.node, self.epoch, self.event)? {
                FieldValue::Bool(value) => CowVal::owned(CelBool::from(value)),
                FieldValue::Int(value) => CowVal::owned(CelInt::from(value)),
                FieldValue::Text(value) => CowVal::owned(CelString::from(value)),
                FieldValue::Time(unix_ns) => CowVal::owned(CelTimestamp::from(
                    DateTime::from_timestamp_nanos(unix_ns).fixed_offset(),
                )),
                FieldValue::Texts(values) => {
                    let values: Vec<Box<dyn Val + 'b>> = values
                        .into_iter()
                        .map(|value| Box::new(CelString::from(value)) as Box<dyn Val + 'b>)
                        .collect();
                    CowVal::owned(CelList::from(values))
                }
            },
        )
    }
}
