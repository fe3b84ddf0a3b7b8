//! From text to an expression that can only be true, false or about a field
//! that an event does not have: every name, operator and function is checked
//! before anything is evaluated.

use cel::{
    Context, Value,
    common::ast::{
        CallExpr, ComprehensionExpr, Expr, IdedExpr, LiteralValue, SourceInfo, operators,
    },
    parser::Parser,
};

use super::{CONDITION_BYTES_MAX, ConditionError, evaluate, term};
use crate::{
    event::{
        Action, Kind,
        field::{Field, FieldType},
    },
    suggest::nearest,
};

/// Levels of an expression: no person writes more, and evaluating one level
/// costs some hundred bytes of stack.
const DEPTH_MAX: usize = 40;

/// Brackets in brackets, and operators in one text: what the parser's own
/// recursion is bounded by. Each operator can be a level while parsing.
const BRACKETS_MAX: usize = 24;

/// See [`BRACKETS_MAX`].
const OPERATORS_MAX: usize = 256;

/// `exists` inside of `exists`: an exec has up to 64 arguments, so two loops
/// are 4096 steps for an event.
const LOOPS_MAX: usize = 2;

/// Functions that conditions may call, as people write them.
const FUNCTIONS: &[&str] = &[
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "size",
    "exists",
    "exists_one",
    "all",
    "timestamp",
    "duration",
    "getHours",
    "getMinutes",
    "getDayOfWeek",
];

/// Parses and checks a condition.
pub(super) fn parse(source: &str) -> Result<IdedExpr, ConditionError> {
    if source.len() > CONDITION_BYTES_MAX {
        return Err(ConditionError::new(
            source,
            CONDITION_BYTES_MAX,
            1,
            format!(
                "the condition is {} bytes long, at most {CONDITION_BYTES_MAX}",
                source.len()
            ),
        ));
    }
    if source.trim().is_empty() {
        return Err(
            ConditionError::new(source, 0, 0, "the condition is empty".to_owned())
                .hint("write for example kind == \"exec\" && uid == 0"),
        );
    }
    measure(source)?;
    let parser = Parser::new().max_recursion_depth(BRACKETS_MAX as u16 * 3);
    let (expression, places) = parser
        .parse_with_source_info(source)
        .map_err(|errors| syntax_error(source, &errors))?;
    let mut checker = Checker {
        source,
        places,
        variables: Vec::new(),
        loops: 0,
    };
    match checker.check(&expression, 0)? {
        Type::Bool => Ok(expression),
        found => Err(checker
            .error(
                &expression,
                format!("the condition is {found}, not true or false"),
            )
            .hint("compare it with something")),
    }
}

/// Bounds what the parser has to recurse into.
fn measure(source: &str) -> Result<(), ConditionError> {
    let (mut depth, mut operators, mut quote, mut skip) = (0_usize, 0_usize, None, false);
    for (at, byte) in source.bytes().enumerate() {
        if skip {
            skip = false;
            continue;
        }
        match (quote, byte) {
            (Some(_), b'\\') => skip = true,
            (Some(open), _) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'(' | b'[' | b'{') => depth += 1,
            (None, b')' | b']' | b'}') => depth = depth.saturating_sub(1),
            (
                None,
                b'+' | b'-' | b'*' | b'/' | b'%' | b'?' | b'!' | b'.' | b'=' | b'<' | b'>' | b'|'
                | b'&',
            ) => {
                operators += 1;
            }
            (None, _) => {}
        }
        let too_much = if depth > BRACKETS_MAX {
            format!("more than {BRACKETS_MAX} brackets inside each other")
        } else if operators > OPERATORS_MAX * 2 {
            format!("more than {OPERATORS_MAX} operators")
        } else {
            continue;
        };
        return Err(ConditionError::new(source, at, 1, too_much)
            .hint("`in [...]` compares with many values at once"));
    }
    Ok(())
}

fn syntax_error(source: &str, errors: &cel::ParseErrors) -> ConditionError {
    let Some(first) = errors.errors.first() else {
        return ConditionError::new(source, 0, 1, "this is no condition".to_owned());
    };
    let (line, column) = first.pos;
    let line_start: usize = source
        .split_inclusive('\n')
        .take(usize::try_from(line - 1).unwrap_or(0))
        .map(str::len)
        .sum();
    let rest = source.get(line_start..).unwrap_or("");
    let column = usize::try_from(column - 1).unwrap_or(0);
    let start = line_start
        + rest
            .char_indices()
            .nth(column)
            .map_or(rest.len(), |(offset, _)| offset);
    let message = first.msg.replace(['\n', '\r'], " ");
    let error = ConditionError::new(source, start, 1, format!("syntax error: {message}"));
    let hint = if rest.contains(" = ") && !rest.contains("==") {
        "compare with ==, and put text in quotation marks"
    } else {
        "text stands in quotation marks; terms are joined by && and ||"
    };
    error.hint(hint)
}

/// What an expression is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Type {
    Bool,
    Int,
    Text,
    Time,
    Duration,
    List(Box<Self>),
}

impl From<FieldType> for Type {
    fn from(field: FieldType) -> Self {
        match field {
            FieldType::Bool => Self::Bool,
            FieldType::Int => Self::Int,
            FieldType::Text => Self::Text,
            FieldType::Time => Self::Time,
            FieldType::Texts => Self::List(Box::new(Self::Text)),
        }
    }
}

impl std::fmt::Display for Type {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bool => f.write_str("true or false"),
            Self::Int => f.write_str("a number"),
            Self::Text => f.write_str("text"),
            Self::Time => f.write_str("a time"),
            Self::Duration => f.write_str("a duration"),
            Self::List(of) => write!(f, "a list of {of}"),
        }
    }
}

struct Checker<'s> {
    source: &'s str,
    places: SourceInfo,
    /// Variables of the loops around, the innermost last.
    variables: Vec<(String, Type)>,
    loops: usize,
}

type Checked = Result<Type, ConditionError>;

impl Checker<'_> {
    fn check(&mut self, expression: &IdedExpr, depth: usize) -> Checked {
        if depth > DEPTH_MAX {
            return Err(self.error(
                expression,
                format!("more than {DEPTH_MAX} levels inside each other"),
            ));
        }
        match &expression.expr {
            Expr::Literal(literal) => self.literal(expression, literal),
            Expr::Ident(name) => self.ident(expression, name),
            Expr::Call(call) => self.call(expression, call, depth + 1),
            Expr::List(list) => {
                let Some((first, rest)) = list.elements.split_first() else {
                    return Err(self.error(expression, "nothing is in an empty list".to_owned()));
                };
                let of = self.check(first, depth + 1)?;
                for element in rest {
                    self.expect(element, &of, depth + 1)?;
                }
                Ok(Type::List(Box::new(of)))
            }
            Expr::Comprehension(comprehension) => {
                self.comprehension(expression, comprehension, depth + 1)
            }
            Expr::Select(select) => {
                let error = "fields are flat here".to_owned();
                let error = self.error_at_name(expression, &select.field, error);
                Err(match Field::parse(&select.field) {
                    Some(field) => error.hint(format!("write `{}`", field.name())),
                    None => error.with_fields(),
                })
            }
            Expr::Map(_) | Expr::Struct(_) | Expr::Unspecified => {
                Err(self.error(expression, "a condition has no maps or messages".to_owned()))
            }
        }
    }

    fn expect(
        &mut self,
        expression: &IdedExpr,
        expected: &Type,
        depth: usize,
    ) -> Result<(), ConditionError> {
        let found = self.check(expression, depth)?;
        if found == *expected {
            return Ok(());
        }
        Err(self.error(expression, format!("this is {found}, not {expected}")))
    }

    fn literal(&self, expression: &IdedExpr, literal: &LiteralValue) -> Checked {
        match literal {
            LiteralValue::Boolean(_) => Ok(Type::Bool),
            LiteralValue::Int(_) => Ok(Type::Int),
            LiteralValue::String(_) => Ok(Type::Text),
            LiteralValue::UInt(_) | LiteralValue::Double(_) => {
                Err(self.error(expression, "numbers are whole, without a suffix".to_owned()))
            }
            LiteralValue::Bytes(_) => Err(self
                .error(expression, "events have text, not bytes".to_owned())
                .hint(r"a byte that is no UTF-8 is written as \\xNN in a text")),
            LiteralValue::Null => Err(self
                .error(expression, "no field is null".to_owned())
                .hint("a field that an event does not have makes a comparison not true")),
        }
    }

    fn ident(&self, expression: &IdedExpr, name: &str) -> Checked {
        if let Some((_, of)) = self.variables.iter().rev().find(|(it, _)| it == name) {
            return Ok(of.clone());
        }
        if let Some(field) = Field::parse(name) {
            return Ok(field.field_type().into());
        }
        let error = self.error(expression, format!("unknown field `{name}`"));
        let near = nearest(name, Field::NAMES);
        Err(match near {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error,
        }
        .with_fields())
    }

    fn call(&mut self, expression: &IdedExpr, call: &CallExpr, depth: usize) -> Checked {
        let name = call.func_name.as_str();
        if let Some(target) = &call.target {
            return self.member(expression, name, target, &call.args, depth);
        }
        match (name, call.args.as_slice()) {
            (operators::LOGICAL_AND | operators::LOGICAL_OR, terms) => {
                for term in terms {
                    self.expect(term, &Type::Bool, depth)?;
                }
                Ok(Type::Bool)
            }
            (operators::LOGICAL_NOT | operators::NOT_STRICTLY_FALSE, [term]) => {
                self.expect(term, &Type::Bool, depth)?;
                Ok(Type::Bool)
            }
            (operators::CONDITIONAL, [condition, yes, no]) => {
                self.expect(condition, &Type::Bool, depth)?;
                let of = self.check(yes, depth)?;
                self.expect(no, &of, depth)?;
                Ok(of)
            }
            (operators::EQUALS | operators::NOT_EQUALS, [left, right]) => {
                let of = self.check(left, depth)?;
                self.expect(right, &of, depth)?;
                self.words(left, std::slice::from_ref(right))?;
                self.words(right, std::slice::from_ref(left))?;
                Ok(Type::Bool)
            }
            (operators::IN, [left, right]) => {
                let of = self.check(left, depth)?;
                self.expect(right, &Type::List(Box::new(of)), depth)?;
                if let Expr::List(list) = &right.expr {
                    self.words(left, &list.elements)?;
                }
                Ok(Type::Bool)
            }
            (
                operators::LESS
                | operators::LESS_EQUALS
                | operators::GREATER
                | operators::GREATER_EQUALS,
                [left, right],
            ) => {
                let of = self.check(left, depth)?;
                match &of {
                    Type::Int | Type::Text | Type::Time | Type::Duration => {}
                    Type::Bool | Type::List(_) => {
                        return Err(self.error(left, format!("{of} has no order")));
                    }
                }
                let found = self.check(right, depth)?;
                if found == of {
                    return Ok(Type::Bool);
                }
                let error = self.error(right, format!("this is {found}, not {of}"));
                Err(match (&of, &found) {
                    (Type::Time, Type::Text) => {
                        error.hint("write timestamp(\"2026-11-22T15:00:00Z\")")
                    }
                    _ => error,
                })
            }
            (operators::ADD | operators::SUBSTRACT, [left, right]) => {
                let (of, with) = (self.check(left, depth)?, self.check(right, depth)?);
                match (name, of, with) {
                    (_, Type::Int, Type::Int) => Ok(Type::Int),
                    (_, Type::Duration, Type::Duration) => Ok(Type::Duration),
                    (_, Type::Time, Type::Duration) => Ok(Type::Time),
                    (operators::SUBSTRACT, Type::Time, Type::Time) => Ok(Type::Duration),
                    (operators::ADD, Type::Text, Type::Text) => Ok(Type::Text),
                    (_, of, with) => Err(self.error(
                        expression,
                        format!("{of} and {with} cannot be added or subtracted"),
                    )),
                }
            }
            (operators::MULTIPLY | operators::DIVIDE | operators::MODULO, [left, right]) => {
                self.expect(left, &Type::Int, depth)?;
                self.expect(right, &Type::Int, depth)?;
                Ok(Type::Int)
            }
            (operators::NEGATE, [number]) => {
                self.expect(number, &Type::Int, depth)?;
                Ok(Type::Int)
            }
            (operators::INDEX, [list, index]) => {
                self.expect(index, &Type::Int, depth)?;
                match self.check(list, depth)? {
                    Type::List(of) => Ok(*of),
                    found => Err(self.error(list, format!("this is {found}, not a list"))),
                }
            }
            ("size", [of]) => self.size(of, depth),
            ("timestamp" | "duration", [text]) => {
                if term::text(text).is_none() {
                    return Err(self.error(text, format!("{name} takes a text in quotation marks")));
                }
                let context = Context::with_env(evaluate::ENVIRONMENT.clone());
                let found = Value::resolve(expression, &context);
                match (found, name) {
                    (Ok(_), "timestamp") => Ok(Type::Time),
                    (Ok(_), _) => Ok(Type::Duration),
                    (Err(_), "timestamp") => Err(self
                        .error(text, "this is no time".to_owned())
                        .hint("write it as RFC 3339: 2026-11-22T15:00:00Z")),
                    (Err(_), _) => Err(self
                        .error(text, "this is no duration".to_owned())
                        .hint("write it as 90s, 5m or 2h30m")),
                }
            }
            _ => Err(self.unknown_function(expression, name, call.args.len())),
        }
    }

    fn member(
        &mut self,
        expression: &IdedExpr,
        name: &str,
        target: &IdedExpr,
        arguments: &[IdedExpr],
        depth: usize,
    ) -> Checked {
        match (name, arguments) {
            ("contains" | "startsWith" | "endsWith", [argument]) => {
                let found = self.check(target, depth)?;
                if let (Type::List(_), "contains") = (&found, name) {
                    return Err(self
                        .error(target, format!("this is {found}, not text"))
                        .hint("write `value in list`, or list.exists(it, it.contains(\"...\"))"));
                }
                if found != Type::Text {
                    return Err(self.error(target, format!("this is {found}, not text")));
                }
                self.expect(argument, &Type::Text, depth)?;
                Ok(Type::Bool)
            }
            ("matches", [argument]) => {
                self.expect(target, &Type::Text, depth)?;
                let Some(pattern) = term::text(argument) else {
                    return Err(self.error(
                        argument,
                        "a pattern is a text in quotation marks".to_owned(),
                    ));
                };
                match evaluate::pattern(pattern) {
                    Ok(_) => Ok(Type::Bool),
                    Err(error) => {
                        let text = error.to_string();
                        let last = text.lines().last().unwrap_or_default();
                        let last = last.trim_start_matches("error: ");
                        Err(self.error(argument, format!("this is no pattern: {last}")))
                    }
                }
            }
            ("size", []) => self.size(target, depth),
            ("getHours" | "getMinutes" | "getDayOfWeek", []) => {
                self.expect(target, &Type::Time, depth)?;
                Ok(Type::Int)
            }
            _ => Err(self.unknown_function(expression, name, arguments.len())),
        }
    }

    fn size(&mut self, of: &IdedExpr, depth: usize) -> Checked {
        match self.check(of, depth)? {
            Type::Text | Type::List(_) => Ok(Type::Int),
            found => Err(self.error(of, format!("{found} has no size"))),
        }
    }

    /// Checks what `exists`, `exists_one` and `all` are made into.
    fn comprehension(
        &mut self,
        expression: &IdedExpr,
        comprehension: &ComprehensionExpr,
        depth: usize,
    ) -> Checked {
        let of = match self.check(&comprehension.iter_range, depth)? {
            Type::List(of) => *of,
            found => {
                return Err(self.error(
                    &comprehension.iter_range,
                    format!("this is {found}, not a list"),
                ));
            }
        };
        if comprehension.iter_var2.is_some()
            || matches!(comprehension.accu_init.expr, Expr::List(_))
        {
            return Err(self
                .error(expression, "a condition makes no lists".to_owned())
                .hint("use exists, exists_one or all"));
        }
        if self.loops == LOOPS_MAX {
            return Err(self.error(
                expression,
                format!("more than {LOOPS_MAX} loops inside each other"),
            ));
        }
        self.loops += 1;
        let accumulator = self.check(&comprehension.accu_init, depth)?;
        self.variables
            .push((comprehension.accu_var.clone(), accumulator.clone()));
        self.variables.push((comprehension.iter_var.clone(), of));
        self.expect(&comprehension.loop_cond, &Type::Bool, depth)?;
        self.expect(&comprehension.loop_step, &accumulator, depth)?;
        self.variables.pop();
        let result = self.check(&comprehension.result, depth);
        self.variables.pop();
        self.loops -= 1;
        result
    }

    /// Checks texts that are compared with a field of a few words.
    fn words(&self, field: &IdedExpr, values: &[IdedExpr]) -> Result<(), ConditionError> {
        let Expr::Ident(name) = &field.expr else {
            return Ok(());
        };
        let known: Vec<&str> = match Field::parse(name) {
            Some(Field::Kind) => Kind::ALL.map(Kind::as_str).to_vec(),
            Some(Field::Action) => Action::ALL.map(Action::as_str).to_vec(),
            Some(Field::Access) => vec!["read", "write", "read-write", "path"],
            _ => return Ok(()),
        };
        let stranger = values
            .iter()
            .find(|value| term::text(value).is_some_and(|text| !known.contains(&text)));
        match stranger {
            Some(value) => Err(self
                .error(value, format!("no event has this {name}"))
                .hint(format!("it is one of {}", known.join(", ")))),
            None => Ok(()),
        }
    }

    fn unknown_function(
        &self,
        expression: &IdedExpr,
        name: &str,
        arguments: usize,
    ) -> ConditionError {
        if FUNCTIONS.contains(&name) {
            let error = format!("`{name}` is not used so, with {arguments} arguments");
            return self.error_at_name(expression, name, error);
        }
        let error = format!("unknown function `{name}`");
        let error = self.error_at_name(expression, name, error);
        let near = match nearest(name, FUNCTIONS) {
            Some(near) => format!("did you mean `{near}`? "),
            None => String::new(),
        };
        error.hint(format!("{near}the functions are {}", FUNCTIONS.join(", ")))
    }

    /// The place of a call is its bracket, that of a selection its point: the
    /// name beside it is what people look for.
    fn error_at_name(&self, expression: &IdedExpr, name: &str, message: String) -> ConditionError {
        let (start, length) = self.place(expression);
        let before = self.source[..start].trim_end();
        let after = self.source[start..].strip_prefix('.').map(str::trim_start);
        let start = if before.ends_with(name) {
            before.len() - name.len()
        } else if let Some(after) = after.filter(|after| after.starts_with(name)) {
            self.source.len() - after.len()
        } else {
            return ConditionError::new(self.source, start, length, message);
        };
        ConditionError::new(self.source, start, name.len(), message)
    }

    fn error(&self, expression: &IdedExpr, message: String) -> ConditionError {
        let (start, length) = self.place(expression);
        ConditionError::new(self.source, start, length, message)
    }

    /// Returns where an expression was written: a byte offset and a length.
    fn place(&self, expression: &IdedExpr) -> (usize, usize) {
        // Places are in bytes, and those of a range end on its last one.
        let (start, stop) = self.places.offset_for(expression.id).unwrap_or((0, 0));
        let start = self.source.floor_char_boundary(start as usize);
        let stop = (stop as usize).saturating_add(1);
        (start, stop.saturating_sub(start).max(1))
    }
}
