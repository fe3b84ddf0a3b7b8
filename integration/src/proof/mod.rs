//! The proof: one real attempt for every way that we know to open, execute
//! or change what a policy protects, on every kernel and with every kind of
//! hook, and what came of it.
//!
//! ```text
//!   host                                machine
//!   case ─ what must happen             guest proof prepare ─► files
//!   policy ─ a rule for each case  ──►  shrike-agent watch ──► events ─┐
//!                                       guest proof attempt ─► ends ───┤
//!                                       guest proof inspect ─► files ──┤
//!   join ─ what did happen ◄───────────────────────────────────────────┘
//!   table ─ both, for a reader (PROOF.md)
//! ```
//!
//! The cases are the one place that says what must happen; an end that
//! differs from the rule carries its explanation there.

pub mod attempt;
pub mod case;
pub mod cases;
pub mod finding;
pub mod fuzz;
pub mod policy;
pub mod run;
pub mod table;

use anyhow::Result;

use crate::build::Binaries;
use crate::layout::Layout;
use crate::setup::Kernel;
use case::Setting;
use finding::differences;
use table::Column;

/// What all runs came to.
pub struct Proof {
    /// The table's text.
    pub table: String,
    /// How many runs it is made from.
    pub columns: usize,
    /// What is not as it must be, in lines that a person can read.
    pub differences: Vec<String>,
}

/// Makes every attempt on every kernel and with every kind of hook.
///
/// # Errors
/// When a machine does not come up or a part cannot be carried out.
pub fn prove(
    layout: &Layout,
    binaries: &Binaries,
    kernels: &[Kernel],
    settings: &[Setting],
    say: &mut dyn FnMut(&str),
) -> Result<Proof> {
    let mut columns = Vec::new();
    let mut lines = Vec::new();
    for &kernel in kernels {
        say(&format!("booting {kernel}"));
        let machine = run::boot(layout, binaries, kernel)?;
        for &setting in settings {
            say(&format!(
                "{kernel}, {setting}: {} attempts",
                cases::all().count()
            ));
            let findings = match run::run(&machine, setting) {
                Ok(run) => run.findings(setting)?,
                Err(error) => {
                    // What the other kernel does is worth knowing all the same.
                    lines.push(format!("{kernel}, {setting}: {error:#}"));
                    break;
                }
            };
            for line in differences(&findings, setting) {
                lines.push(format!("{kernel}, {setting}: {line}"));
            }
            columns.push(Column {
                kernel,
                setting,
                findings,
            });
        }
    }
    Ok(Proof {
        table: table::render(&columns),
        columns: columns.len(),
        differences: lines,
    })
}
