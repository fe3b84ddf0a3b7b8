//! The compiled form and the engine against a matcher that just looks.

use proptest::prelude::*;
use shrike_agent_ebpf::matching::{
    ACCESS_READ, ACCESS_WRITE, Action as Asked, Descent, Evaluation, Trigger as Asking,
};
use shrike_proto::policy::{Comm, Policy, Rule};

use super::*;

/// One operation to judge.
#[derive(Debug, Clone)]
struct Operation {
    trigger: Trigger,
    access: u32,
    path: String,
    comm: String,
    exe: String,
}

/// The ground of every test: no file is there.
fn ground(slot: u32, seed: Seed) -> Ground<'static> {
    Ground {
        slot,
        seed,
        attachment: Attachment::Lsm,
        identify: &|_| None,
    }
}

/// Judges as the programs do, with a tree map in the place of the hash map.
fn judge(compiled: &Compiled, operation: &Operation) -> Option<(u32, u32, u32)> {
    let plan = &compiled.plan;
    let slot = 1;
    let hits = |path: &str, depths: PathDepths, exact, below| {
        let mut hits = Entry::default();
        let mut add = |key: Option<Key>| {
            if let Some(entry) = key.and_then(|key| compiled.entries.get(&key)) {
                hits.add(entry);
            }
        };
        let mut descent = Descent::at_root(plan);
        for name in components(path.as_bytes()) {
            add(descent.below(slot, depths.below, below));
            descent.enter(Digest::component(plan.seed, name));
        }
        add(descent.exact(slot, depths.exact, exact));
        hits
    };
    let trigger = match operation.trigger {
        Trigger::Open => Asking::Open,
        Trigger::Exec => Asking::Exec,
    };
    let mut evaluation = Evaluation::begin(plan, trigger as u32, operation.access);
    if evaluation.needs(plan, Word::Comm) {
        let digest = Digest::component(plan.seed, operation.comm.as_bytes());
        let entry = compiled
            .entries
            .get(&Key::new(slot, Dimension::Comm, digest))
            .copied()
            .unwrap_or_default();
        evaluation.narrow(plan, Word::Comm, &entry);
    }
    if evaluation.needs(plan, Word::Path) {
        let entry = hits(
            &operation.path,
            plan.path_depths,
            Dimension::PathExact,
            Dimension::PathBelow,
        );
        evaluation.narrow(plan, Word::Path, &entry);
    }
    if evaluation.needs(plan, Word::Exe) {
        let entry = hits(
            &operation.exe,
            plan.exe_depths,
            Dimension::ExeExact,
            Dimension::ExeBelow,
        );
        evaluation.narrow(plan, Word::Exe, &entry);
    }
    evaluation
        .decide(plan)
        .map(|decision| (decision.rule, decision.action, decision.observe))
}

/// Judges by looking at each rule in turn.
fn look(set: &PolicySet, operation: &Operation) -> Option<(u32, u32, u32)> {
    let any_path = |patterns: &[PathPattern], path: &str| {
        patterns.is_empty()
            || patterns
                .iter()
                .any(|pattern| pattern.matches(path.as_bytes()))
    };
    let holds = |matcher: &Matcher| {
        any_path(&matcher.paths, &operation.path)
            && any_path(&matcher.exe, &operation.exe)
            && (matcher.comm.is_empty()
                || matcher
                    .comm
                    .iter()
                    .any(|comm| comm.as_str() == operation.comm))
    };
    set.policies
        .iter()
        .flat_map(|policy| policy.rules.iter().map(move |rule| (policy.mode, rule)))
        .enumerate()
        .filter(|(_, (_, rule))| {
            let access = rule.trigger == Trigger::Exec
                || rule.access.is_empty()
                || rule.access.iter().any(|access| match access {
                    Access::Read => operation.access & ACCESS_READ != 0,
                    Access::Write => operation.access & ACCESS_WRITE != 0,
                });
            rule.trigger == operation.trigger
                && access
                && holds(&rule.matcher)
                && !rule.unless.as_ref().is_some_and(holds)
        })
        .map(|(number, (mode, rule))| {
            let action = match rule.action {
                Action::Ignore => Asked::Ignore,
                Action::Record => Asked::Record,
                Action::Deny => Asked::Deny,
                Action::Alert => Asked::Alert,
                Action::Kill => Asked::Kill,
            };
            (
                u32::try_from(number).unwrap(),
                action as u32,
                u32::from(mode == Mode::Observe),
            )
        })
        .min_by_key(|(number, action, _)| (std::cmp::Reverse(*action), *number))
}

fn path(pattern: &str) -> PathPattern {
    PathPattern::parse(pattern).unwrap()
}

fn rule(name: &str, matcher: Matcher) -> Rule {
    Rule {
        name: RuleName::parse(name).unwrap(),
        trigger: Trigger::Open,
        matcher,
        access: Vec::new(),
        on_unknown: OnUnknown::Record,
        unless: None,
        action: Action::Kill,
    }
}

fn set(rules: Vec<Rule>) -> PolicySet {
    PolicySet::new(
        Generation(1),
        vec![Policy {
            name: PolicyName::parse("p").unwrap(),
            mode: Mode::Enforce,
            nodes: BTreeMap::new(),
            rules,
        }],
    )
}

#[test]
fn rules_past_the_last_bit_are_refused() {
    let many = |count: usize| {
        let rules = (0..count)
            .map(|number| {
                rule(
                    &format!("r{number}"),
                    Matcher {
                        paths: vec![path("/a")],
                        ..Matcher::default()
                    },
                )
            })
            .collect();
        compile(&set(rules), &ground(0, [1, 2]))
    };
    assert_eq!(many(256).unwrap().table.len(), 256);
    assert_eq!(many(257), Err(CompileError::TooManyRules(257)));
}

#[test]
fn generation_zero_is_refused() {
    let mut none = set(vec![]);
    none.generation = Generation::NONE;
    assert_eq!(
        compile(&none, &ground(0, [0, 0])),
        Err(CompileError::NoGeneration)
    );
}

#[test]
fn policy_that_does_not_hold_together_is_refused_by_name() {
    let empty = set(vec![rule("r", Matcher::default())]);
    assert_eq!(
        compile(&empty, &ground(0, [0, 0])).unwrap_err().to_string(),
        "policy p: rule r has nothing to look at: give it `paths`, `comm` or `exe`"
    );
}

#[test]
fn empty_set_matches_nothing() {
    let compiled = compile(
        &PolicySet::new(Generation(9), Vec::new()),
        &ground(1, [1, 2]),
    )
    .unwrap();
    assert_eq!(compiled.plan.generation, 9);
    assert!(compiled.entries.is_empty());
}

fn any_path() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof!["a", "b", "ab"], 0..5)
        .prop_map(|names| format!("/{}", names.join("/")))
}

fn any_pattern() -> impl Strategy<Value = PathPattern> {
    (any_path(), any::<bool>()).prop_map(|(text, directory)| {
        let text = if directory && text != "/" {
            format!("{text}/")
        } else {
            text
        };
        path(&text)
    })
}

fn any_matcher() -> impl Strategy<Value = Matcher> {
    (
        proptest::collection::vec(any_pattern(), 0..3),
        proptest::collection::vec(prop_oneof!["x", "y"], 0..2),
        proptest::collection::vec(any_pattern(), 0..2),
    )
        .prop_map(|(paths, comm, exe)| Matcher {
            paths,
            comm: comm.iter().map(|name| Comm::parse(name).unwrap()).collect(),
            exe,
        })
        .prop_filter("a rule looks at something", |matcher| !matcher.is_empty())
}

fn any_trigger() -> impl Strategy<Value = Trigger> {
    prop_oneof![Just(Trigger::Open), Just(Trigger::Exec)]
}

prop_compose! {
    fn any_rule()(
        trigger in any_trigger(),
        matcher in any_matcher(),
        access in proptest::collection::vec(prop_oneof![Just(Access::Read), Just(Access::Write)], 0..2),
        unless in proptest::option::of(any_matcher()),
        action in proptest::sample::select(Action::ALL.to_vec()),
    ) -> Rule {
        Rule {
            access: if trigger == Trigger::Exec { Vec::new() } else { access },
            trigger,
            unless,
            action: match action {
                Action::Ignore if trigger == Trigger::Exec => Action::Record,
                action => action,
            },
            ..rule("r", matcher)
        }
    }
}

prop_compose! {
    fn any_set()(
        policies in proptest::collection::vec(
            (any::<bool>(), proptest::collection::vec(any_rule(), 1..40)), 0..4),
    ) -> PolicySet {
        let policies = policies
            .into_iter()
            .enumerate()
            .map(|(number, (observe, mut rules))| {
                for (number, rule) in rules.iter_mut().enumerate() {
                    rule.name = RuleName::parse(&format!("r{number}")).unwrap();
                }
                Policy {
                    name: PolicyName::parse(&format!("p{number}")).unwrap(),
                    mode: if observe { Mode::Observe } else { Mode::Enforce },
                    nodes: BTreeMap::new(),
                    rules,
                }
            })
            .collect();
        PolicySet::new(Generation(1), policies)
    }
}

prop_compose! {
    fn any_operation()(
        trigger in any_trigger(),
        access in 1_u32..4,
        path in any_path(),
        comm in prop_oneof!["x", "y", "z"],
        exe in any_path(),
    ) -> Operation {
        Operation { trigger, access, path, comm, exe }
    }
}

proptest! {
    #[test]
    fn engine_agrees_with_a_look_at_each_rule(
        set in any_set(),
        operations in proptest::collection::vec(any_operation(), 1..20),
    ) {
        let compiled = compile(&set, &ground(1, [11, 22])).unwrap();
        for operation in operations {
            prop_assert_eq!(
                judge(&compiled, &operation),
                look(&set, &operation),
                "{:?}", operation
            );
        }
    }
}
