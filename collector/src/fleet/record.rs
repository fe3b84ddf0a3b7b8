//! Nodes as they lie in the store.

use prost::Message;
use shrike_proto::{
    id::{Epoch, Generation, NodeId},
    wire::{control::PolicyState, ingest::NodeInfo},
};

use super::node::{Answer, Applied, Node};
use crate::store::{Collection, Damage, RecordChange, Store, StoreError};

#[derive(Clone, PartialEq, Message)]
struct StoredNode {
    #[prost(message, optional, tag = "1")]
    info: Option<NodeInfo>,
    #[prost(string, tag = "2")]
    boot_id: String,
    #[prost(bytes = "vec", tag = "3")]
    epoch: Vec<u8>,
    #[prost(int64, tag = "4")]
    last_seen_unix_ns: i64,
    #[prost(uint64, tag = "5")]
    applied_generation: u64,
    #[prost(bytes = "vec", tag = "6")]
    applied_hash: Vec<u8>,
    #[prost(uint64, tag = "7")]
    answer_generation: u64,
    #[prost(enumeration = "PolicyState", tag = "8")]
    answer_state: i32,
    #[prost(string, tag = "9")]
    answer_reason: String,
}

impl Node {
    /// Returns the change that makes the node durable.
    pub fn change(&self) -> RecordChange {
        let mut stored = StoredNode {
            info: Some(self.info.clone()),
            boot_id: self.boot_id.clone(),
            epoch: self.epoch.map(|epoch| epoch.0.to_vec()).unwrap_or_default(),
            last_seen_unix_ns: self.last_seen_unix_ns,
            applied_generation: self.applied.generation.0,
            applied_hash: self.applied.hash.clone(),
            ..StoredNode::default()
        };
        if let Some(answer) = &self.answer {
            stored.answer_generation = answer.generation.0;
            stored.set_answer_state(answer.state);
            stored.answer_reason.clone_from(&answer.reason);
        }
        self.replaced_by(Some(stored.encode_to_vec()))
    }

    /// Returns the change that removes the node from the store.
    pub fn removal(&self) -> RecordChange {
        self.replaced_by(None)
    }

    fn replaced_by(&self, value: Option<Vec<u8>>) -> RecordChange {
        RecordChange {
            collection: Collection::Nodes,
            key: self.name.as_str().as_bytes().to_vec(),
            value,
        }
    }
}

fn decode(key: &[u8], value: &[u8]) -> Result<Node, Box<dyn std::error::Error + Send + Sync>> {
    let stored = StoredNode::decode(value)?;
    Ok(Node {
        name: NodeId::parse(std::str::from_utf8(key)?)?,
        epoch: Epoch::from_wire(&stored.epoch).ok(),
        last_seen_unix_ns: stored.last_seen_unix_ns,
        applied: Applied {
            generation: Generation(stored.applied_generation),
            hash: stored.applied_hash.clone(),
        },
        answer: match stored.answer_state() {
            PolicyState::Unspecified => None,
            state => Some(Answer {
                generation: Generation(stored.answer_generation),
                state,
                reason: stored.answer_reason.clone(),
            }),
        },
        boot_id: stored.boot_id,
        info: stored.info.unwrap_or_default(),
    })
}

/// Reads every node from the store.
///
/// # Errors
/// [`StoreError`] names the record that is not whole.
pub fn load(store: &dyn Store) -> Result<Vec<Node>, StoreError> {
    store
        .records(Collection::Nodes)?
        .into_iter()
        .map(|(key, value)| {
            decode(&key, &value).map_err(|error| {
                StoreError::Damaged(Damage {
                    what: format!("record of node {}", String::from_utf8_lossy(&key)),
                    why: error.to_string(),
                })
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Commit, memory::MemoryStore};

    #[test]
    fn node_survives_the_store() {
        let node = Node {
            info: NodeInfo {
                kernel_release: "6.1".to_owned(),
                ..NodeInfo::default()
            },
            boot_id: "b".to_owned(),
            epoch: Some(Epoch([3; 16])),
            last_seen_unix_ns: 5,
            applied: Applied {
                generation: Generation(4),
                hash: vec![1; 32],
            },
            answer: Some(Answer {
                generation: Generation(5),
                state: PolicyState::Rejected,
                reason: "no".to_owned(),
            }),
            ..Node::new(NodeId::parse("node-a").unwrap())
        };
        let store = MemoryStore::default();
        store
            .commit(&Commit {
                records: vec![node.change()],
                ..Commit::default()
            })
            .unwrap();
        assert_eq!(load(&store).unwrap(), [node]);
    }
}
