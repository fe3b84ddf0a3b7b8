//! The JSON Schema of policy documents, for editors.

/// JSON Schema (draft 7, what YAML editors speak) of one policy document.
///
/// It accepts what [`parse`](super::parse) accepts, save what a schema cannot
/// say: names that are unique in a list of rules, and the length of a path in
/// bytes.
pub const JSON_SCHEMA: &str = include_str!("schema.json");
