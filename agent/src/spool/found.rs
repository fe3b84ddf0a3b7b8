//! The epochs that are on the disk when an agent starts.

use std::{collections::VecDeque, io};

use super::{
    Origin,
    disk::Disk,
    log::{Damage, EpochLog, Recovered},
};

/// A folder that is no log any more is kept under this name.
const DAMAGED: &str = "damaged_";

/// What the folder of an epoch is called, before its ordinal.
pub const EPOCH: &str = "epoch_";

/// Logs that were found, in their order.
#[derive(Debug, Default)]
pub struct Found {
    /// Each as it was left.
    pub logs: VecDeque<Recovered>,
    /// The highest number of a folder.
    pub ordinal: u64,
    /// Logs whose events another one has.
    pub void: Vec<EpochLog>,
    /// Folders that are no log any more.
    pub unusable: Vec<(String, Damage)>,
}

impl Found {
    /// Reads them.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn read(disk: &Disk, segment_bytes: u64) -> io::Result<Self> {
        let mut folders: Vec<(u64, String)> = disk
            .list("")?
            .into_iter()
            .filter_map(|name| {
                let (ordinal, _) = name.strip_prefix(EPOCH)?.split_once('_')?;
                Some((ordinal.parse().ok()?, name))
            })
            .collect();
        folders.sort_unstable();
        let mut found = Self::default();
        for (ordinal, name) in folders {
            let is_next = std::mem::replace(&mut found.ordinal, ordinal) + 1 == ordinal;
            match EpochLog::recover(disk.clone(), name.clone(), segment_bytes)? {
                Ok(recovered) if recovered.is_partial => found.void.push(recovered.log),
                Ok(recovered) => {
                    if recovered.has_carried && is_next {
                        let before = found.logs.pop_back().map(|before| before.log);
                        found.void.extend(before);
                    }
                    found.logs.push_back(recovered);
                }
                Err(damage) => found.unusable.push((name, damage)),
            }
        }
        Ok(found)
    }

    /// Sets aside what is no log, and says so.
    pub fn set_aside_unusable(&self, disk: &Disk) {
        for (name, damage) in &self.unusable {
            let aside = format!("{DAMAGED}{name}");
            tracing::error!(
                kept_as = aside,
                "the spool of an epoch is unusable: {damage}"
            );
            if let Err(error) = disk.rename_folder(name, &aside) {
                tracing::error!(%error, name, "it cannot be set aside");
            }
        }
    }

    /// Says why none of them goes on.
    pub fn origin(&self, boot_id: &str) -> Origin {
        let reason = match (self.unusable.last(), self.logs.back()) {
            (Some((_, damage)), _) => format!("the last one is unusable: {damage}"),
            (None, None) => return Origin::New,
            (None, Some(last)) if last.log.boot_id() != boot_id => {
                "the machine was booted since".to_owned()
            }
            (None, Some(_)) => "the journal of the last one is torn".to_owned(),
        };
        Origin::Begun(reason)
    }
}
