//! The one conversion between policies and `shrike.policy.v1`.

use super::{
    Access, Comm, Matcher, MatcherError, Mode, OnUnknown, PathPattern, Policy, PolicyError,
    PolicySet, Rule, Trigger,
};
use crate::{
    event::{Action, WireError},
    id::{Generation, IdError, PolicyName, RuleName},
    wire::{event::Action as WireAction, policy as wire},
};

/// A policy from the wire that cannot be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyWireError {
    /// A field is missing or unknown.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A name is not of its form.
    #[error(transparent)]
    Id(#[from] IdError),
    /// A value of a rule's word is not of its form.
    #[error("rule {rule}: {source}")]
    Matcher {
        /// The rule.
        rule: RuleName,
        /// What is wrong with it.
        source: MatcherError,
    },
    /// The words do not go together.
    #[error("policy {policy}: {source}")]
    Policy {
        /// The policy.
        policy: PolicyName,
        /// What is wrong with it.
        source: PolicyError,
    },
    /// The set is not what its hash says.
    #[error("the policy set of generation {0} does not have the hash that it came with")]
    Hash(Generation),
}

impl From<Policy> for wire::Policy {
    fn from(policy: Policy) -> Self {
        Self {
            name: policy.name.to_string(),
            mode: match policy.mode {
                Mode::Enforce => wire::Mode::Enforce,
                Mode::Observe => wire::Mode::Observe,
            }
            .into(),
            nodes: policy.nodes,
            rules: policy.rules.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::Policy> for Policy {
    type Error = PolicyWireError;

    /// Converts and checks: what comes out is a policy that a node can be
    /// asked to carry out.
    fn try_from(policy: wire::Policy) -> Result<Self, PolicyWireError> {
        let policy = Self {
            name: PolicyName::parse(&policy.name)?,
            mode: match wire::Mode::try_from(policy.mode) {
                Ok(wire::Mode::Enforce) => Mode::Enforce,
                Ok(wire::Mode::Observe) => Mode::Observe,
                Ok(wire::Mode::Unspecified) | Err(_) => {
                    return Err(unknown("policy.mode", policy.mode));
                }
            },
            nodes: policy.nodes,
            rules: policy
                .rules
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()?,
        };
        policy.check().map_err(|source| PolicyWireError::Policy {
            policy: policy.name.clone(),
            source,
        })?;
        Ok(policy)
    }
}

impl From<Rule> for wire::Rule {
    fn from(rule: Rule) -> Self {
        Self {
            name: rule.name.to_string(),
            trigger: match rule.trigger {
                Trigger::Open => wire::Trigger::Open,
                Trigger::Exec => wire::Trigger::Exec,
            }
            .into(),
            matcher: Some(rule.matcher.into()),
            access: rule
                .access
                .into_iter()
                .map(|access| match access {
                    Access::Read => wire::Access::Read.into(),
                    Access::Write => wire::Access::Write.into(),
                })
                .collect(),
            unless: rule.unless.map(Into::into),
            action: WireAction::from(rule.action).into(),
            on_unknown: match rule.on_unknown {
                // As policies without it are written, whose hash must not
                // change.
                OnUnknown::Record => WireAction::Unspecified,
                OnUnknown::Deny => WireAction::Deny,
                OnUnknown::Kill => WireAction::Kill,
            }
            .into(),
        }
    }
}

impl TryFrom<wire::Rule> for Rule {
    type Error = PolicyWireError;

    fn try_from(rule: wire::Rule) -> Result<Self, PolicyWireError> {
        let name = RuleName::parse(&rule.name)?;
        let matcher = |matcher: wire::Matcher| {
            Matcher::try_from(matcher).map_err(|source| PolicyWireError::Matcher {
                rule: name.clone(),
                source,
            })
        };
        Ok(Self {
            trigger: match wire::Trigger::try_from(rule.trigger) {
                Ok(wire::Trigger::Open) => Trigger::Open,
                Ok(wire::Trigger::Exec) => Trigger::Exec,
                Ok(wire::Trigger::Unspecified) | Err(_) => {
                    return Err(unknown("rule.trigger", rule.trigger));
                }
            },
            matcher: matcher(rule.matcher.ok_or(WireError::Missing("rule.matcher"))?)?,
            access: rule
                .access
                .into_iter()
                .map(|access| match wire::Access::try_from(access) {
                    Ok(wire::Access::Read) => Ok(Access::Read),
                    Ok(wire::Access::Write) => Ok(Access::Write),
                    Ok(wire::Access::Unspecified) | Err(_) => Err(unknown("rule.access", access)),
                })
                .collect::<Result<_, _>>()?,
            unless: rule.unless.map(matcher).transpose()?,
            action: Action::from_wire(rule.action, "rule.action")?,
            on_unknown: match WireAction::try_from(rule.on_unknown) {
                Ok(WireAction::Unspecified | WireAction::Record) => OnUnknown::Record,
                Ok(WireAction::Deny) => OnUnknown::Deny,
                Ok(WireAction::Kill) => OnUnknown::Kill,
                Ok(WireAction::Ignore | WireAction::Alert) | Err(_) => {
                    return Err(unknown("rule.on_unknown", rule.on_unknown));
                }
            },
            name,
        })
    }
}

impl From<Matcher> for wire::Matcher {
    fn from(matcher: Matcher) -> Self {
        Self {
            paths: matcher.paths.iter().map(ToString::to_string).collect(),
            comm: matcher.comm.iter().map(ToString::to_string).collect(),
            exe: matcher.exe.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<wire::Matcher> for Matcher {
    type Error = MatcherError;

    fn try_from(matcher: wire::Matcher) -> Result<Self, MatcherError> {
        let paths = |paths: &[String]| -> Result<Vec<_>, MatcherError> {
            paths.iter().map(|path| PathPattern::parse(path)).collect()
        };
        Ok(Self {
            paths: paths(&matcher.paths)?,
            comm: matcher
                .comm
                .iter()
                .map(|comm| Comm::parse(comm))
                .collect::<Result<_, _>>()?,
            exe: paths(&matcher.exe)?,
        })
    }
}

impl From<PolicySet> for wire::PolicySet {
    fn from(set: PolicySet) -> Self {
        Self {
            generation: set.generation.0,
            hash: set.hash().0.to_vec(),
            policies: set.policies.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::PolicySet> for PolicySet {
    type Error = PolicyWireError;

    fn try_from(set: wire::PolicySet) -> Result<Self, PolicyWireError> {
        let policies = set
            .policies
            .into_iter()
            .map(TryInto::try_into)
            .collect::<Result<_, _>>()?;
        let converted = Self::new(Generation(set.generation), policies);
        if converted.hash().0.as_slice() != set.hash {
            return Err(PolicyWireError::Hash(converted.generation));
        }
        Ok(converted)
    }
}

fn unknown(field: &'static str, value: i32) -> PolicyWireError {
    WireError::UnknownValue { field, value }.into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn path() -> impl Strategy<Value = PathPattern> {
        "(/[a-z]{1,4}){1,5}/?".prop_map(|path| PathPattern::parse(&path).unwrap())
    }

    prop_compose! {
        fn matcher()(paths in prop::collection::vec(path(), 1..4), comm in prop::collection::vec("[a-z]{1,15}", 0..3), exe in prop::collection::vec(path(), 0..3)) -> Matcher {
            Matcher { paths, comm: comm.iter().map(|c| Comm::parse(c).unwrap()).collect(), exe }
        }
    }

    prop_compose! {
        fn policy()(
            name in "[a-z]{1,9}",
            observe: bool,
            nodes in prop::collection::btree_map("[a-z]{1,4}", "[a-z]{1,4}", 0..3),
            rules in prop::collection::vec((any::<bool>(), matcher(), prop::option::of(matcher()), 0..3usize), 1..5),
        ) -> Policy {
            Policy {
                name: PolicyName::parse(&name).unwrap(),
                mode: if observe { Mode::Observe } else { Mode::Enforce },
                nodes,
                rules: rules.into_iter().enumerate().map(|(index, (open, matcher, unless, action))| Rule {
                    name: RuleName::parse(&format!("rule-{index}")).unwrap(),
                    trigger: if open { Trigger::Open } else { Trigger::Exec },
                    matcher,
                    access: if open { vec![Access::Write] } else { Vec::new() },
                    on_unknown: OnUnknown::Record,
                    unless,
                    action: [Action::Record, Action::Alert, Action::Kill][action],
                }).collect(),
            }
        }
    }

    proptest! {
        #[test]
        fn policy_set_survives_the_wire(policy in policy(), generation: u64) {
            let set = PolicySet::new(Generation(generation), vec![policy]);
            prop_assert_eq!(PolicySet::try_from(wire::PolicySet::from(set.clone())), Ok(set));
        }
    }

    #[test]
    fn altered_set_is_refused() {
        let set = PolicySet::new(
            Generation(3),
            vec![Policy {
                name: PolicyName::parse("p").unwrap(),
                mode: Mode::Observe,
                nodes: BTreeMap::new(),
                rules: vec![Rule {
                    name: RuleName::parse("r").unwrap(),
                    trigger: Trigger::Open,
                    matcher: Matcher {
                        paths: vec![PathPattern::parse("/etc/shadow").unwrap()],
                        ..Matcher::default()
                    },
                    access: Vec::new(),
                    on_unknown: OnUnknown::Record,
                    unless: None,
                    action: Action::Kill,
                }],
            }],
        );
        let mut altered = wire::PolicySet::from(set);
        altered.policies[0].mode = wire::Mode::Enforce.into();
        assert_eq!(
            PolicySet::try_from(altered),
            Err(PolicyWireError::Hash(Generation(3)))
        );
    }
}
