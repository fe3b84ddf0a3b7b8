//! What the verifier has to look at: how many instructions of each program,
//! on each kernel, in each way of attachment, and the budget for that.
//!
//! A kernel refuses a program of which its verifier looks at a million
//! instructions, and each kernel counts otherwise: a change that seems small
//! can double a number. The budget shows it in the change that did it.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, bail, ensure};

use crate::build::Binaries;
use crate::layout::Layout;
use crate::setup::Kernel;
use crate::vm::{Machine, Outcome, Spec};

/// The budget, in the workspace.
pub const FILE: &str = "integration/verifier-budget.txt";

/// The command that writes it.
const UPDATE: &str = "cargo xtask verifier --write";

/// How much more than the budget says is taken: compilers differ a little
/// from one release to the next.
const HEADROOM_PERCENT: u64 = 10;

/// `BPF_COMPLEXITY_LIMIT_INSNS`, include/linux/bpf.h.
const KERNEL_MAX: u64 = 1_000_000;

/// Where the agent lies in a machine.
const AGENT: &str = "/usr/bin/shrike-agent";

const ATTACHMENTS: [&str; 3] = ["lsm", "fentry", "kprobe"];

/// One program, where it was loaded.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Place {
    /// The kernel's release as people say it.
    pub kernel: String,
    /// How the decisions were attached.
    pub attachment: String,
    /// The program.
    pub program: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.kernel, self.attachment, self.program)
    }
}

/// Instructions by place.
pub type Counts = BTreeMap<Place, u64>;

/// Loads every program on these kernels, in every way, and returns what their
/// verifiers looked at.
///
/// # Errors
/// When a machine does not come up, or a program is refused.
pub fn measure(layout: &Layout, binaries: &Binaries, kernels: &[Kernel]) -> Result<Counts> {
    let mut counts = Counts::new();
    for &kernel in kernels {
        let name = format!("verifier-{kernel}").replace('.', "-");
        let spec = Spec::new(&name, kernel).program(&binaries.agent, AGENT);
        let machine = Machine::boot(layout, &binaries.guest, spec)?;
        for attachment in ATTACHMENTS {
            let ran = machine
                .command("shrike-agent")
                .args(["doctor", "--programs", "--attach", attachment])
                .run()?;
            let said = ran.stdout_text();
            ensure!(
                ran.outcome == Outcome::SUCCESS,
                "{kernel}, {attachment}: {:?}\n{said}{}",
                ran.outcome,
                ran.stderr_text()
            );
            let before = counts.len();
            for line in said.lines().filter_map(|it| it.strip_prefix("program ")) {
                let line = format!("{kernel} {attachment} {line}");
                let (place, count) = read_line(&line)?;
                counts.insert(place, count);
            }
            ensure!(counts.len() > before, "doctor names no program:\n{said}");
        }
    }
    Ok(counts)
}

/// Writes the budget's file.
pub fn render(counts: &Counts) -> String {
    let mut text = format!(
        "# Instructions that the verifier looks at: kernel, attachment, program, count.\n\
         # Held by a test, with {HEADROOM_PERCENT} % to spare; the kernel takes {KERNEL_MAX}.\n\
         # Written by `{UPDATE}`: do that where more are worth it.\n"
    );
    for (place, count) in counts {
        text.push_str(&format!("{place} {count}\n"));
    }
    text
}

/// Reads the budget's file.
///
/// # Errors
/// With the line that is none.
pub fn parse(text: &str) -> Result<Counts> {
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(read_line)
        .collect()
}

fn read_line(line: &str) -> Result<(Place, u64)> {
    let [kernel, attachment, program, count] = line.split_whitespace().collect::<Vec<_>>()[..]
    else {
        bail!("not a kernel, an attachment, a program and a count: {line}");
    };
    let place = Place {
        kernel: kernel.to_owned(),
        attachment: attachment.to_owned(),
        program: program.to_owned(),
    };
    let count = count.parse().with_context(|| line.to_owned())?;
    Ok((place, count))
}

/// Returns what is outside of the budget, a line each; none when all is well.
pub fn complaints(budget: &Counts, measured: &Counts) -> Vec<String> {
    let mut lines = Vec::new();
    for (place, count) in measured {
        let Some(planned) = budget.get(place) else {
            lines.push(format!("{place}: {count} instructions, and no budget"));
            continue;
        };
        if count * 100 > planned * (100 + HEADROOM_PERCENT) {
            lines.push(format!(
                "{place}: {count} instructions, the budget is {planned} and \
                 {HEADROOM_PERCENT} % (the kernel takes {KERNEL_MAX})"
            ));
        }
    }
    for place in budget.keys().filter(|place| !measured.contains_key(place)) {
        lines.push(format!("{place}: has a budget, and was not loaded"));
    }
    if !lines.is_empty() {
        lines.push(format!(
            "if that is as it should be, write {FILE} anew: {UPDATE}"
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(text: &str) -> Counts {
        parse(text).unwrap()
    }

    #[test]
    fn budget_reads_back_as_written() {
        let counts = counts("6.1 lsm guard_open 1000\n6.12 kprobe decide_open 2000\n");
        assert_eq!(parse(&render(&counts)).unwrap(), counts);
        assert!(parse("6.1 lsm guard_open\n").is_err());
        assert!(parse("6.1 lsm guard_open many\n").is_err());
    }

    #[test]
    fn only_what_is_outside_is_complained_about() {
        let budget = counts("6.1 lsm a 1000\n6.1 lsm b 1000\n6.1 lsm gone 1\n");
        let check = |measured: &str, expect: &[&str]| {
            let lines = complaints(&budget, &counts(measured));
            let begins: Vec<&str> = lines
                .iter()
                .filter_map(|line| line.split_once(':').map(|(place, _)| place))
                .collect();
            assert_eq!(
                begins[..begins.len().saturating_sub(1)],
                *expect,
                "{lines:?}"
            );
        };
        check("6.1 lsm a 1100\n6.1 lsm b 500\n6.1 lsm gone 1\n", &[]);
        check(
            "6.1 lsm a 1101\n6.1 lsm b 1\n6.1 lsm gone 1\n",
            &["6.1 lsm a"],
        );
        check(
            "6.1 lsm a 1\n6.1 lsm b 1\n6.12 lsm a 1\n",
            &["6.12 lsm a", "6.1 lsm gone"],
        );
    }
}
