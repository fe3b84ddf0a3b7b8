//! The programs in the kernel, and what keeps each of them attached.
//!
//! A program runs for as long as its link is open, or pinned. Those that only
//! judge are loaded from the start, and attached while some rule asks: an
//! LSM program that does nothing adds three percent to an open.

use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
    path::PathBuf,
};

use aya::programs::{kprobe::KProbeLink, links::FdLink};
use shrike_proto::policy::{PolicySet, Trigger};

use super::{
    misses,
    pins::{PinError, Place, bpf_error, call, io_error, open_descriptor, pin_descriptor},
};

/// A program that was loaded.
pub struct Loaded {
    /// Its name in the object.
    pub name: &'static str,
    /// The program.
    pub program: OwnedFd,
    /// What attaches it; `None`: it waits for rules that ask.
    pub link: Option<Link>,
    /// It is attached while rules ask about some of this; `None`: always.
    pub judges: Option<Asked>,
    /// How many instructions the verifier looked at, where the kernel says.
    pub instructions: Option<u32>,
}

/// What attaches a program.
pub enum Link {
    /// A link of aya's, which can be pinned.
    Own(FdLink),
    /// The descriptor of a link.
    Descriptor(OwnedFd),
    /// A kprobe of a kernel that knows no links for them (before 5.15): it
    /// ends with the agent.
    Legacy(KProbeLink),
}

/// What the rules in force ask about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asked {
    /// Opens, and changes.
    pub opens: bool,
    /// Execs.
    pub execs: bool,
}

impl Asked {
    /// Everything, as far as one knows.
    pub const ALL: Self = Self {
        opens: true,
        execs: true,
    };

    /// Returns what the rules of a set ask about.
    pub fn by(set: &PolicySet) -> Self {
        let has = |trigger| {
            let mut rules = set.policies.iter().flat_map(|policy| &policy.rules);
            rules.any(|rule| rule.trigger == trigger)
        };
        Self {
            opens: has(Trigger::Open),
            execs: has(Trigger::Exec),
        }
    }

    /// Returns what either asks about.
    pub fn and(self, other: Self) -> Self {
        Self {
            opens: self.opens || other.opens,
            execs: self.execs || other.execs,
        }
    }

    /// Says whether anything is asked that the other asks as well.
    pub fn meets(self, other: Self) -> bool {
        self.opens && other.opens || self.execs && other.execs
    }
}

/// Every program, in the order that they were attached or are to be.
#[derive(Default)]
pub struct Programs {
    loaded: Vec<Loaded>,
}

impl Programs {
    /// Takes them in.
    pub fn new(loaded: Vec<Loaded>) -> Self {
        Self { loaded }
    }

    /// Returns each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Loaded> {
        self.loaded.iter()
    }

    /// Says whether everything is attached that is to be when rules ask about
    /// this.
    pub fn are_armed(&self, asked: Asked) -> bool {
        self.loaded.iter().all(|program| {
            program.link.is_some() || program.judges.is_some_and(|judges| !asked.meets(judges))
        })
    }

    /// Attaches what judges what is asked about, and pins the links where the
    /// others are. Returns whether there was anything to do.
    ///
    /// # Errors
    /// [`PinError`]; what was attached until then stays.
    pub fn arm(&mut self, asked: Asked, place: Option<&Place>) -> Result<bool, PinError> {
        let mut changed = false;
        for program in &mut self.loaded {
            let judges = program.judges.is_some_and(|judges| asked.meets(judges));
            if !judges || program.link.is_some() {
                continue;
            }
            let link = link(&program.program).map_err(|source| PinError::Attach {
                program: program.name,
                source,
            })?;
            if let Some(place) = place {
                let path = place.link(program.name);
                pin_descriptor(link.as_fd(), &path).map_err(io_error("make", &path))?;
            }
            program.link = Some(Link::Descriptor(link));
            changed = true;
        }
        Ok(changed)
    }

    /// Detaches what judges only what is not asked about. Returns whether
    /// there was anything to do.
    ///
    /// # Errors
    /// [`PinError`] for a pin that cannot be removed.
    pub fn disarm(&mut self, asked: Asked, place: Option<&Place>) -> Result<bool, PinError> {
        let mut changed = false;
        for program in &mut self.loaded {
            let idle = program.judges.is_some_and(|judges| !asked.meets(judges));
            if !idle || program.link.is_none() {
                continue;
            }
            if let Some(place) = place {
                let path = place.link(program.name);
                fs::remove_file(&path).map_err(io_error("remove", &path))?;
            }
            program.link = None;
            changed = true;
        }
        Ok(changed)
    }

    /// Returns how often the kernel did not run one of them, as far as it says
    /// so.
    pub fn misses(&self) -> u64 {
        self.loaded
            .iter()
            .map(|loaded| misses::of(&loaded.program, loaded.link.as_ref()))
            .sum()
    }

    /// Says whether this kernel tells how often it left out a kprobe.
    pub fn tell_probe_misses(&self) -> bool {
        self.loaded
            .iter()
            .any(|loaded| loaded.link.as_ref().is_some_and(misses::are_told))
    }

    /// Returns each one's name and how many instructions the verifier looked
    /// at.
    pub fn verified_instructions(&self) -> Vec<(String, u32)> {
        self.loaded
            .iter()
            .filter_map(|loaded| Some((loaded.name.to_owned(), loaded.instructions?)))
            .collect()
    }

    /// Pins each one's link: from here on it stays attached without this
    /// process.
    ///
    /// # Errors
    /// [`PinError`]; the program is detached then.
    pub fn pin_links(&mut self, place: impl Fn(&str) -> PathBuf) -> Result<(), PinError> {
        let legacy = |one: &Loaded| matches!(one.link, Some(Link::Legacy(_)));
        if self.loaded.iter().any(legacy) {
            return Err(PinError::NotPinnable);
        }
        self.loaded = std::mem::take(&mut self.loaded)
            .into_iter()
            .map(|loaded| {
                let path = place(loaded.name);
                let link = match loaded.link {
                    None => None,
                    Some(Link::Own(link)) => {
                        let pinned = link.pin(&path).map_err(bpf_error("make", &path))?;
                        let link = open_descriptor(&path).map_err(io_error("open", &path))?;
                        drop(pinned);
                        Some(Link::Descriptor(link))
                    }
                    Some(Link::Descriptor(_) | Link::Legacy(_)) => {
                        return Err(PinError::NotPinnable);
                    }
                };
                Ok(Loaded { link, ..loaded })
            })
            .collect::<Result<_, _>>()?;
        Ok(())
    }

    /// Detaches them, one after the other. Those that are pinned stay.
    pub fn detach(&mut self) {
        self.loaded.clear();
    }
}

/// Attaches an LSM, fentry or fexit program where it was loaded for.
fn link(program: &OwnedFd) -> io::Result<OwnedFd> {
    const BPF_RAW_TRACEPOINT_OPEN: libc::c_int = 17;
    // `union bpf_attr` of this command: no name, and the program.
    let arguments = [0, program.as_raw_fd() as u64];
    let link = call(BPF_RAW_TRACEPOINT_OPEN, &arguments)?;
    // SAFETY: the kernel has just made it, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(link) })
}
