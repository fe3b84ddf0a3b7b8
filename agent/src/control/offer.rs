//! One offer and what the node answers, without a network or a kernel.

use shrike_proto::{
    id::Generation,
    policy::{PolicyHash, PolicySet},
    wire::control::{Offer, PolicyState, PolicyStatus},
};
use tokio::sync::oneshot;
use tracing::Span;

use crate::error::chain;

/// A generation that is in force on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// Which.
    pub generation: Generation,
    /// Of the set, as the collector has it.
    pub hash: PolicyHash,
    /// Of what the kernel's maps hold, read back from them.
    pub map_digest: [u8; 32],
}

/// Asks the owner of the sensor to put a set into the kernel.
#[derive(Debug)]
pub struct ApplyRequest {
    /// The set, checked.
    pub set: PolicySet,
    /// The span that the map update belongs to.
    pub span: Span,
    /// Where the outcome goes: what is in force, or why not, for a person.
    pub reply: oneshot::Sender<Result<Applied, String>>,
}

/// What to do about an offer.
#[derive(Debug, PartialEq)]
pub(super) enum Judgement {
    /// It is in force already: say so.
    InForce(Applied),
    /// Put it into the kernel.
    Apply(PolicySet),
    /// It is not what it says; the reason, for a person.
    Reject(String),
}

/// Checks an offer against its hash and what is in force.
pub(super) fn judge(offer: Offer, applied: Option<Applied>) -> (Generation, Judgement) {
    let Some(set) = offer.set else {
        let reason = "the offer has no policy set".to_owned();
        return (Generation::NONE, Judgement::Reject(reason));
    };
    let generation = Generation(set.generation);
    let judgement = match PolicySet::try_from(set) {
        Err(error) => Judgement::Reject(chain(&error)),
        Ok(set) => match applied {
            Some(applied) if applied.generation == generation && applied.hash == set.hash() => {
                Judgement::InForce(applied)
            }
            Some(_) | None => Judgement::Apply(set),
        },
    };
    (generation, judgement)
}

pub(super) fn received(generation: Generation) -> PolicyStatus {
    PolicyStatus {
        generation: generation.0,
        state: PolicyState::Received.into(),
        ..PolicyStatus::default()
    }
}

pub(super) fn outcome(generation: Generation, result: Result<Applied, String>) -> PolicyStatus {
    match result {
        Ok(applied) => PolicyStatus {
            generation: applied.generation.0,
            state: PolicyState::Applied.into(),
            hash: applied.hash.0.to_vec(),
            map_digest: applied.map_digest.to_vec(),
            reason: String::new(),
        },
        Err(reason) => PolicyStatus {
            generation: generation.0,
            state: PolicyState::Rejected.into(),
            reason,
            ..PolicyStatus::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use shrike_proto::wire::policy as wire;

    use super::*;

    fn set(generation: u64) -> PolicySet {
        PolicySet::new(Generation(generation), Vec::new())
    }

    fn offer(set: wire::PolicySet) -> Offer {
        Offer {
            set: Some(set),
            traceparent: String::new(),
        }
    }

    fn applied(generation: u64) -> Applied {
        Applied {
            generation: Generation(generation),
            hash: set(generation).hash(),
            map_digest: [1; 32],
        }
    }

    #[test]
    fn new_generation_is_applied() {
        let (generation, judgement) = judge(offer(set(2).into()), Some(applied(1)));
        assert_eq!(generation, Generation(2));
        assert_eq!(judgement, Judgement::Apply(set(2)));
    }

    #[test]
    fn generation_in_force_is_not_written_again() {
        let (_, judgement) = judge(offer(set(2).into()), Some(applied(2)));
        assert_eq!(judgement, Judgement::InForce(applied(2)));
    }

    #[test]
    fn offer_that_is_not_what_it_says_is_rejected() {
        let check = |offer: Offer, expect: &str| {
            let (_, judgement) = judge(offer, None);
            assert!(
                matches!(&judgement, Judgement::Reject(reason) if reason.contains(expect)),
                "{judgement:?}"
            );
        };
        check(Offer::default(), "no policy set");
        let mut altered = wire::PolicySet::from(set(2));
        altered.hash[0] ^= 1;
        check(offer(altered), "does not have the hash");
        let mut nameless = wire::PolicySet::from(set(2));
        nameless.policies.push(wire::Policy::default());
        check(offer(nameless), "policy name");
    }

    #[test]
    fn outcome_carries_digest_or_reason() {
        let status = outcome(Generation(2), Ok(applied(2)));
        assert_eq!(status.state, i32::from(PolicyState::Applied));
        assert_eq!(status.map_digest, [1; 32]);
        let status = outcome(Generation(2), Err("too many".to_owned()));
        assert_eq!(status.state, i32::from(PolicyState::Rejected));
        assert_eq!((status.generation, status.reason.as_str()), (2, "too many"));
    }
}
