//! Export: every event that is whole, one JSON object a line, also from a
//! store that is damaged.
//!
//! A whole store is exported as it is. From a damaged one the blocks are
//! taken as [`scan`] finds them in the raw files, so that neither a broken
//! page nor a database that does not open hides the others.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use shrike_proto::event::{StoredEvent, json};

use super::{
    Damage, Order, Store as _, StoreError,
    block::{self, BlockKey, Unpacked},
    covered::Covered,
    scan::{Scan, scan},
    sled::{Existing, SledStore},
    verify::Verification,
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
    /// The store's files cannot be read.
    #[error("cannot read the files of the store {}", path.display())]
    Scan {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The output takes nothing more.
    #[error("cannot write the export")]
    Write(#[from] io::Error),
}

/// Opens and checks a store; one that does not even open is checked by its
/// raw files.
///
/// # Errors
/// [`ExportError`] when it cannot be read at all.
pub fn check(
    folder: &Path,
    existing: Existing,
) -> Result<(Option<SledStore>, Verification), ExportError> {
    let (store, mut verification) = match SledStore::open(folder, existing) {
        Ok(store) => {
            let verification = store.verify()?;
            (Some(store), verification)
        }
        Err(error @ StoreError::Corrupt { .. }) => {
            let mut verification = Verification::default();
            verification.damage("the database", chain(&error));
            (None, verification)
        }
        Err(error) => return Err(error.into()),
    };
    if store.is_none() {
        let scan = scan_folder(folder)?;
        verification.blocks = scan.whole.len() as u64;
        for key in &scan.damaged {
            verification.damage(key.to_string(), "it is nowhere whole in the store's files");
        }
    }
    Ok((store, verification))
}

fn scan_folder(folder: &Path) -> Result<Scan, ExportError> {
    scan(folder).map_err(|source| ExportError::Scan {
        path: folder.to_owned(),
        source,
    })
}

/// Writes every whole block's events, block after block.
///
/// # Errors
/// [`ExportError`] when the store cannot be read or `out` fails.
pub fn export(folder: &Path, out: &mut impl Write) -> Result<Exported, ExportError> {
    let (store, verification) = check(folder, Existing::Only)?;
    let mut exported = Exported::default();
    match store {
        Some(store) if verification.is_whole() => export_whole(&store, out, &mut exported)?,
        Some(_) | None => {
            exported.damages = verification.damages;
            // Sled's lock and cache go before its files are read raw.
            drop(store);
            export_scanned(&scan_folder(folder)?, out, &mut exported)?;
        }
    }
    out.flush()?;
    Ok(exported)
}

fn export_whole(
    store: &SledStore,
    out: &mut impl Write,
    exported: &mut Exported,
) -> Result<(), ExportError> {
    for entry in store.footers(i64::MIN, i64::MAX, Order::OldestFirst) {
        let (key, footer) = entry?;
        let unpacked = match store.payload(&key)? {
            Some(payload) => block::unpack(&key, &footer, &payload).map_err(|error| chain(&error)),
            None => Err("its payload is missing".to_owned()),
        };
        write_block(&key, unpacked, &mut Covered::default(), out, exported)?;
    }
    Ok(())
}

fn export_scanned(
    scan: &Scan,
    out: &mut impl Write,
    exported: &mut Exported,
) -> Result<(), ExportError> {
    // What was merged is found beside its parts, as long as sled has not used
    // their room again: each event counts once.
    let mut covered = Covered::default();
    for ((key, _), place) in &scan.whole {
        let unpacked = place
            .read()
            .map_err(|error| error.to_string())
            .and_then(|frames| {
                block::unpack_without_footer(key, &frames).map_err(|error| chain(&error))
            });
        write_block(key, unpacked, &mut covered, out, exported)?;
    }
    for key in &scan.damaged {
        let damage = Damage {
            what: key.to_string(),
            why: "it is nowhere whole in the store's files".to_owned(),
        };
        if !exported.damages.contains(&damage) {
            exported.damages.push(damage);
        }
    }
    Ok(())
}

fn write_block(
    key: &BlockKey,
    unpacked: Result<Unpacked, String>,
    covered: &mut Covered,
    out: &mut impl Write,
    exported: &mut Exported,
) -> Result<(), ExportError> {
    let decoded = match &unpacked {
        Ok(unpacked) => unpacked.decode(|_| true).map_err(|error| chain(&error)),
        Err(why) => Err(why.clone()),
    };
    let decoded = match decoded {
        Ok(decoded) => decoded,
        Err(why) => {
            exported.damages.push(Damage {
                what: key.to_string(),
                why,
            });
            return Ok(());
        }
    };
    exported.blocks += 1;
    for (run, events) in decoded {
        for event in events {
            if covered.holds(&run.stream, event.sequence) {
                continue;
            }
            exported.events += 1;
            let stored = StoredEvent {
                node: run.stream.node.clone(),
                epoch: run.stream.epoch,
                event,
            };
            json::write_json(out, &stored)?;
        }
        covered.add(run);
    }
    Ok(())
}
