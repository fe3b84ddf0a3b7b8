//! The programs that are attached: what keeps each of them where it is.
//!
//! A program runs for as long as its link is open, or pinned.

use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::PathBuf,
};

use aya::programs::{kprobe::KProbeLink, links::FdLink};

use super::pins::{PinError, bpf_error, io_error, open_descriptor};

/// A program that is attached.
pub struct Attached {
    /// Its name in the object.
    pub name: &'static str,
    /// The program.
    pub program: OwnedFd,
    /// What attaches it.
    pub link: Link,
    /// How many instructions the verifier looked at, where the kernel says.
    pub instructions: Option<u32>,
}

/// What attaches a program.
pub enum Link {
    /// A link, which can be pinned.
    Own(FdLink),
    /// A link that is pinned.
    Pinned(OwnedFd),
    /// A kprobe of a kernel that knows no links for them (before 5.15): it
    /// ends with the agent.
    Legacy(KProbeLink),
}

/// Every program that is attached, in the order that they were.
#[derive(Default)]
pub struct Programs {
    attached: Vec<Attached>,
}

impl Programs {
    /// Takes them in.
    pub fn new(attached: Vec<Attached>) -> Self {
        Self { attached }
    }

    /// Returns each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Attached> {
        self.attached.iter()
    }

    /// Returns how often the kernel did not run one of them because it, or
    /// another one, was running on the CPU.
    pub fn recursion_misses(&self) -> u64 {
        self.attached
            .iter()
            .filter_map(|attached| misses(&attached.program).ok())
            .sum()
    }

    /// Returns each one's name and how many instructions the verifier looked
    /// at.
    pub fn verified_instructions(&self) -> Vec<(String, u32)> {
        self.attached
            .iter()
            .filter_map(|attached| Some((attached.name.to_owned(), attached.instructions?)))
            .collect()
    }

    /// Pins each one's link: from here on it stays attached without this
    /// process.
    ///
    /// # Errors
    /// [`PinError`]; the program is detached then.
    pub fn pin_links(&mut self, place: impl Fn(&str) -> PathBuf) -> Result<(), PinError> {
        let legacy = |one: &Attached| matches!(one.link, Link::Legacy(_));
        if self.attached.iter().any(legacy) {
            return Err(PinError::NotPinnable);
        }
        self.attached = std::mem::take(&mut self.attached)
            .into_iter()
            .map(|attached| {
                let path = place(attached.name);
                let Link::Own(link) = attached.link else {
                    return Err(PinError::NotPinnable);
                };
                let pinned = link.pin(&path).map_err(bpf_error("make", &path))?;
                let link = open_descriptor(&path).map_err(io_error("open", &path))?;
                drop(pinned);
                Ok(Attached {
                    link: Link::Pinned(link),
                    ..attached
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(())
    }

    /// Detaches them, one after the other. Those that are pinned stay.
    pub fn detach(&mut self) {
        self.attached.clear();
    }
}

fn misses(program: &OwnedFd) -> io::Result<u64> {
    let fd = program.as_fd().as_raw_fd();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
    Ok(info
        .lines()
        .find_map(|line| line.strip_prefix("recursion_misses:"))
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0))
}
