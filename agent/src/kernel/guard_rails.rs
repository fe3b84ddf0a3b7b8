//! The maps that keep a policy from doing harm: programs that are never
//! killed, and each rule's count of kills.

use std::collections::BTreeSet;

use aya::maps::{Array, HashMap, MapData, MapError};
use shrike_agent_ebpf::{
    guard_rail::{Kills, PROTECTED_MAX, Program},
    plan::RULES_MAX,
};
use shrike_proto::policy::PathPattern;

use super::identity::identify;

/// Both maps, and the programs' paths.
pub struct GuardRails {
    protected: HashMap<MapData, Program, u8>,
    kills: Array<MapData, Kills>,
    programs: Vec<PathPattern>,
    held: BTreeSet<(u64, u64)>,
}

impl GuardRails {
    /// Takes over the maps.
    pub fn new(
        protected: HashMap<MapData, Program, u8>,
        kills: Array<MapData, Kills>,
        programs: Vec<PathPattern>,
    ) -> Self {
        Self {
            protected,
            kills,
            programs,
            held: BTreeSet::new(),
        }
    }

    /// Looks the programs up: the files that their paths stand for are never
    /// killed, and nothing else is spared. One that is not there is left out.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn protect(&mut self) -> Result<(), MapError> {
        let wanted: BTreeSet<(u64, u64)> = self
            .programs
            .iter()
            .filter_map(identify)
            .map(|identity| (identity.inode, identity.device.into()))
            .take(PROTECTED_MAX as usize)
            .collect();
        self.held = wanted;
        self.mend().map(|_| ())
    }

    /// Puts the programs back that were looked up last, and removes others.
    /// Returns whether there was anything to do.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn mend(&mut self) -> Result<bool, MapError> {
        let held = self.protected.keys().collect::<Result<Vec<_>, _>>()?;
        let held: BTreeSet<(u64, u64)> = held
            .into_iter()
            .map(|program| (program.inode, program.device))
            .collect();
        for (inode, device) in held.difference(&self.held) {
            self.protected.remove(&Program {
                inode: *inode,
                device: *device,
            })?;
        }
        for (inode, device) in self.held.difference(&held) {
            let program = Program {
                inode: *inode,
                device: *device,
            };
            self.protected.insert(program, 1, 0)?;
        }
        Ok(held != self.held)
    }

    /// Forgets what the rules of a slot have killed: they are armed again.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn rearm(&mut self, slot: u32) -> Result<(), MapError> {
        let first = slot * RULES_MAX as u32;
        (first..first + RULES_MAX as u32)
            .try_for_each(|rule| self.kills.set(rule, Kills::default(), 0))
    }
}
