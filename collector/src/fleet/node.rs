//! What is known of one node.

use shrike_proto::{
    id::{Epoch, Generation, NodeId},
    policy::PolicySet,
    wire::{control::PolicyState, ingest::NodeInfo},
};

use crate::policy::{Book, GenerationRecord};

/// A policy set as an agent has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// Its generation; 0 for none.
    pub generation: Generation,
    /// Its hash; empty for none.
    pub hash: Vec<u8>,
}

impl Applied {
    /// Says whether it is what is desired.
    pub fn is(&self, desired: &PolicySet) -> bool {
        self.generation == desired.generation
            && (desired.generation == Generation::NONE || self.hash == desired.hash().0)
    }
}

/// What an agent last said of an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The generation offered.
    pub generation: Generation,
    /// What became of it.
    pub state: PolicyState,
    /// Why it was rejected.
    pub reason: String,
}

/// A node.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Its name.
    pub name: NodeId,
    /// What its agent says of it.
    pub info: NodeInfo,
    /// Its boot.
    pub boot_id: String,
    /// Its newest stream of events.
    pub epoch: Option<Epoch>,
    /// When it last said anything that was kept.
    pub last_seen_unix_ns: i64,
    /// What it enforces.
    pub applied: Applied,
    /// What it last said of an offer.
    pub answer: Option<Answer>,
}

/// A node's state in one roll-out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    /// The node.
    pub node: NodeId,
    /// Its policy session is open.
    pub connected: bool,
    /// What it enforces.
    pub applied: Generation,
    /// What became of the generation.
    pub state: PolicyState,
    /// Why it was rejected.
    pub reason: String,
}

impl Rollout {
    /// Says whether nothing more is to be waited for.
    pub fn is_settled(&self) -> bool {
        !self.connected
            || match self.state {
                PolicyState::Applied | PolicyState::Rejected => true,
                PolicyState::Unspecified | PolicyState::Received => false,
            }
    }
}

impl Node {
    /// A node that nothing is known of.
    pub fn new(name: NodeId) -> Self {
        Self {
            name,
            info: NodeInfo::default(),
            boot_id: String::new(),
            epoch: None,
            last_seen_unix_ns: 0,
            applied: Applied::default(),
            answer: None,
        }
    }

    /// Returns what it shall enforce.
    pub fn desired(&self, book: &Book) -> PolicySet {
        book.desired(&self.info.labels)
    }

    /// Says whether a generation is about this node.
    pub fn is_touched_by(&self, record: &GenerationRecord) -> bool {
        record.touches(&self.info.labels)
    }

    /// Takes an agent's answer to the offer of `desired`.
    pub fn handle_answer(&mut self, mut answer: Answer, hash: Vec<u8>, desired: &PolicySet) {
        match answer.state {
            PolicyState::Applied => {
                self.applied = Applied {
                    generation: answer.generation,
                    hash,
                };
                if answer.generation == desired.generation && !self.applied.is(desired) {
                    answer.state = PolicyState::Rejected;
                    answer.reason =
                        "the agent applied another set than the one it was offered".to_owned();
                }
            }
            PolicyState::Unspecified | PolicyState::Received | PolicyState::Rejected => {}
        }
        self.answer = Some(answer);
    }

    /// Returns what became of a generation here, and the reason.
    pub fn state_of(&self, generation: Generation) -> (PolicyState, &str) {
        if let Some(answer) = &self.answer
            && answer.generation == generation
        {
            return (answer.state, &answer.reason);
        }
        if generation != Generation::NONE && self.applied.generation >= generation {
            return (PolicyState::Applied, "");
        }
        (PolicyState::Unspecified, "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Node {
        Node::new(NodeId::parse("a").unwrap())
    }

    fn answer(generation: u64, state: PolicyState) -> Answer {
        Answer {
            generation: Generation(generation),
            state,
            reason: "because".to_owned(),
        }
    }

    #[test]
    fn rejection_keeps_what_was_applied() {
        let desired = PolicySet::new(Generation(2), Vec::new());
        let mut node = node();
        node.applied.generation = Generation(1);
        node.handle_answer(answer(2, PolicyState::Rejected), Vec::new(), &desired);
        assert_eq!(node.applied.generation, Generation(1));
        assert_eq!(
            node.state_of(Generation(2)),
            (PolicyState::Rejected, "because")
        );
        assert_eq!(node.state_of(Generation(1)), (PolicyState::Applied, ""));
    }

    #[test]
    fn another_set_than_offered_is_no_success() {
        let desired = PolicySet::new(Generation(2), Vec::new());
        let mut node = node();
        node.handle_answer(answer(2, PolicyState::Applied), vec![0; 32], &desired);
        assert_eq!(node.state_of(Generation(2)).0, PolicyState::Rejected);
        let hash = desired.hash().0.to_vec();
        node.handle_answer(answer(2, PolicyState::Applied), hash, &desired);
        assert_eq!(node.state_of(Generation(2)).0, PolicyState::Applied);
    }

    #[test]
    fn later_generation_settles_an_earlier_one() {
        let mut node = node();
        node.applied.generation = Generation(5);
        assert_eq!(node.state_of(Generation(4)).0, PolicyState::Applied);
        assert_eq!(node.state_of(Generation(6)).0, PolicyState::Unspecified);
    }

    #[test]
    fn node_that_is_away_does_not_hold_up_a_rollout() {
        let rollout = |connected, state| Rollout {
            node: NodeId::parse("a").unwrap(),
            connected,
            applied: Generation::NONE,
            state,
            reason: String::new(),
        };
        assert!(rollout(false, PolicyState::Unspecified).is_settled());
        assert!(!rollout(true, PolicyState::Received).is_settled());
        assert!(rollout(true, PolicyState::Rejected).is_settled());
    }
}
