//! Export: every event that is whole, one JSON object a line, also from a
//! store that is damaged.

use std::io::{self, Write};

use prost::Message as _;
use shrike_proto::{
    batch,
    event::{Event, StoredEvent, json},
    wire::event as wire,
};

use super::{
    Damage, Store as _, StoreError,
    block::{self, BLOCK_RAW_BYTES_MAX, BlockKey},
    sled::SledStore,
};
use crate::chain::chain;

/// What an export did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Whole blocks written.
    pub blocks: u64,
    /// Events in them.
    pub events: u64,
    /// What was not whole.
    pub damages: Vec<Damage>,
}

/// An export that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The store cannot be read at all.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The output takes nothing more.
    #[error("cannot write the export")]
    Write(#[from] io::Error),
}

/// Writes every whole block's events, block after block.
///
/// # Errors
/// [`ExportError`] when the store cannot be listed or `out` fails.
pub fn export(store: &SledStore, out: &mut impl Write) -> Result<Exported, ExportError> {
    let (keys, damages) = store.salvage_keys()?;
    let mut exported = Exported {
        damages,
        ..Exported::default()
    };
    for key in keys {
        match events(store, &key) {
            Ok(events) => {
                exported.blocks += 1;
                exported.events += events.len() as u64;
                for event in events {
                    let stored = StoredEvent {
                        node: key.node.clone(),
                        epoch: key.epoch,
                        event,
                    };
                    json::write_json(out, &stored)?;
                }
            }
            Err(why) => exported.damages.push(Damage {
                what: key.to_string(),
                why,
            }),
        }
    }
    out.flush()?;
    Ok(exported)
}

/// Decodes a block by its footer, or without where the footer is not whole:
/// the payload has its own checksum, and its events their own numbers.
fn events(store: &SledStore, key: &BlockKey) -> Result<Vec<Event>, String> {
    let payload = store
        .payload(key)
        .map_err(|error| chain(&error))?
        .ok_or("its payload is missing")?;
    if let Ok(Some(footer)) = store.footer(key) {
        return block::decode_payload(key, &footer, &payload).map_err(|error| chain(&error));
    }
    let raw = zstd::bulk::decompress(&payload, BLOCK_RAW_BYTES_MAX)
        .map_err(|error| format!("its payload does not decompress: {error}"))?;
    let list = wire::EventList::decode(raw.as_slice())
        .map_err(|error| format!("its payload does not decode: {error}"))?;
    let count = u32::try_from(list.events.len()).map_err(|error| error.to_string())?;
    batch::decode(&raw, key.first_sequence, count).map_err(|error| chain(&error))
}
