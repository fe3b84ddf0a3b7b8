//! The book as it lies in the store: the policies in force by name, and each
//! generation by number.

use std::collections::BTreeMap;

use prost::Message;
use shrike_proto::{
    id::{Generation, IdError, PolicyName},
    policy::{Policy, PolicyWireError},
    wire::admin,
};

use super::book::{Book, Document, GenerationRecord, Origin};
use crate::store::{Collection, Damage, RecordChange, Store, StoreError};

impl From<Document> for admin::PolicyDocument {
    fn from(document: Document) -> Self {
        Self {
            policy: Some(document.policy.into()),
            source: document.source,
            generation: document.generation.0,
            pushed_by: document.origin.by,
            pushed_unix_ns: document.origin.at_unix_ns,
        }
    }
}

/// A record of the book that is not of its form.
#[derive(Debug, thiserror::Error)]
pub enum BookRecordError {
    /// Not the message that it should be.
    #[error("it does not decode")]
    Decode(#[from] prost::DecodeError),
    /// A document without a policy.
    #[error("its policy is missing")]
    NoPolicy,
    /// A policy that cannot be believed.
    #[error(transparent)]
    Policy(#[from] PolicyWireError),
    /// A name that is none.
    #[error(transparent)]
    Name(#[from] IdError),
}

impl TryFrom<admin::PolicyDocument> for Document {
    type Error = BookRecordError;

    fn try_from(document: admin::PolicyDocument) -> Result<Self, BookRecordError> {
        Ok(Self {
            policy: Policy::try_from(document.policy.ok_or(BookRecordError::NoPolicy)?)?,
            source: document.source,
            generation: Generation(document.generation),
            origin: Origin {
                by: document.pushed_by,
                at_unix_ns: document.pushed_unix_ns,
            },
        })
    }
}

#[derive(Clone, PartialEq, Message)]
struct StoredGeneration {
    #[prost(uint64, tag = "1")]
    generation: u64,
    #[prost(string, tag = "2")]
    by: String,
    #[prost(int64, tag = "3")]
    at_unix_ns: i64,
    #[prost(message, repeated, tag = "4")]
    pushed: Vec<admin::PolicyDocument>,
    #[prost(string, repeated, tag = "5")]
    deleted: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    touched: Vec<StoredSelector>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredSelector {
    #[prost(btree_map = "string, string", tag = "1")]
    labels: BTreeMap<String, String>,
}

impl GenerationRecord {
    /// Returns the changes that make this generation durable.
    pub fn changes(&self) -> Vec<RecordChange> {
        let stored = StoredGeneration {
            generation: self.generation.0,
            by: self.origin.by.clone(),
            at_unix_ns: self.origin.at_unix_ns,
            pushed: self.pushed.iter().cloned().map(Into::into).collect(),
            deleted: self.deleted.iter().map(ToString::to_string).collect(),
            touched: self
                .touched
                .iter()
                .map(|labels| StoredSelector {
                    labels: labels.clone(),
                })
                .collect(),
        };
        let mut changes = vec![RecordChange {
            collection: Collection::Generations,
            key: self.generation.0.to_be_bytes().to_vec(),
            value: Some(stored.encode_to_vec()),
        }];
        changes.extend(self.pushed.iter().map(|document| RecordChange {
            collection: Collection::Policies,
            key: document.policy.name.as_str().as_bytes().to_vec(),
            value: Some(admin::PolicyDocument::from(document.clone()).encode_to_vec()),
        }));
        changes.extend(self.deleted.iter().map(|name| RecordChange {
            collection: Collection::Policies,
            key: name.as_str().as_bytes().to_vec(),
            value: None,
        }));
        changes
    }
}

impl TryFrom<StoredGeneration> for GenerationRecord {
    type Error = BookRecordError;

    fn try_from(stored: StoredGeneration) -> Result<Self, BookRecordError> {
        Ok(Self {
            generation: Generation(stored.generation),
            origin: Origin {
                by: stored.by,
                at_unix_ns: stored.at_unix_ns,
            },
            pushed: stored
                .pushed
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()?,
            deleted: stored
                .deleted
                .iter()
                .map(|name| PolicyName::parse(name))
                .collect::<Result<_, _>>()?,
            touched: stored
                .touched
                .into_iter()
                .map(|selector| selector.labels)
                .collect(),
        })
    }
}

/// Reads the book from the store.
///
/// # Errors
/// [`StoreError`] names the record that is not whole.
pub fn load(store: &dyn Store) -> Result<Book, StoreError> {
    let documents = read(store, Collection::Policies, |bytes| {
        Document::try_from(admin::PolicyDocument::decode(bytes)?)
    })?;
    let history = read(store, Collection::Generations, |bytes| {
        GenerationRecord::try_from(StoredGeneration::decode(bytes)?)
    })?;
    Ok(Book::new(documents, history))
}

fn read<T>(
    store: &dyn Store,
    collection: Collection,
    decode: impl Fn(&[u8]) -> Result<T, BookRecordError>,
) -> Result<Vec<T>, StoreError> {
    store
        .records(collection)?
        .into_iter()
        .map(|(key, value)| {
            decode(&value).map_err(|error| {
                StoreError::Damaged(Damage {
                    what: format!("{collection:?} record {}", String::from_utf8_lossy(&key)),
                    why: crate::chain::chain(&error),
                })
            })
        })
        .collect()
}
