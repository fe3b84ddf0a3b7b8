//! `shrike-agent counters`: what the hooks of this machine counted, for each
//! CPU, where the ledger adds them up. It changes nothing, and looks on while an
//! agent runs.

use std::io::{self, Write as _};

use serde_json::json;

use crate::{
    args::CountersArgs,
    error::AgentError,
    kernel::{CpuCounters, HookCounters, PinError, Place, SensorError},
};

/// Prints what is counted in each set of programs that is pinned.
///
/// # Errors
/// When nothing is pinned, it cannot be read, or nobody reads standard output.
pub fn counters(args: &CountersArgs) -> Result<(), AgentError> {
    let places = match Place::below(&args.pin) {
        Err(PinError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Vec::new(),
        places => places.map_err(SensorError::from)?,
    };
    if places.is_empty() {
        return Err(AgentError::NothingPinned(args.pin.clone()));
    }
    let mut text = String::new();
    for place in &places {
        let counted = place.counted().map_err(SensorError::from)?;
        if args.json {
            for one in &counted {
                text.push_str(&json_line(place, one));
            }
        } else {
            if places.len() > 1 {
                text.push_str(&format!("{}\n", place.path.display()));
            }
            text.push_str(&table(&counted));
        }
    }
    match io::stdout().write_all(text.as_bytes()) {
        // Somebody has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(AgentError::Output),
    }
}

/// Names of the columns, as in the ledger.
const NAMES: [&str; 9] = [
    "seen",
    "submitted",
    "filtered_own",
    "filtered_repeated",
    "lost_ring_full",
    "lost_pending_full",
    "lost_oversize",
    "lost_unreadable",
    "missed",
];

fn values(counts: &HookCounters) -> [u64; NAMES.len()] {
    let HookCounters {
        seen,
        submitted,
        filtered_own,
        filtered_repeated,
        lost_ring_full,
        lost_pending_full,
        lost_oversize,
        lost_unreadable,
        missed,
    } = *counts;
    [
        seen,
        submitted,
        filtered_own,
        filtered_repeated,
        lost_ring_full,
        lost_pending_full,
        lost_oversize,
        lost_unreadable,
        missed,
    ]
}

fn json_line(place: &Place, one: &CpuCounters) -> String {
    let mut object = serde_json::Map::from_iter([
        ("programs".to_owned(), json!(place.path)),
        ("hook".to_owned(), json!(one.hook)),
        ("cpu".to_owned(), json!(one.cpu)),
    ]);
    for (name, value) in NAMES.iter().zip(values(&one.counts)) {
        object.insert((*name).to_owned(), json!(value));
    }
    format!("{}\n", serde_json::Value::Object(object))
}

/// Columns under the ledger's names; the reasons of what nobody lost are left
/// out.
fn table(counted: &[CpuCounters]) -> String {
    let rows: Vec<[u64; NAMES.len()]> = counted.iter().map(|one| values(&one.counts)).collect();
    let shown: Vec<usize> = (0..NAMES.len())
        .filter(|column| *column < 2 || rows.iter().any(|row| row[*column] > 0))
        .collect();
    let heading = ["HOOK".to_owned(), "CPU".to_owned()].into_iter().chain(
        shown
            .iter()
            .map(|column| NAMES[*column].replace('_', " ").to_uppercase()),
    );
    let mut lines: Vec<Vec<String>> = vec![heading.collect()];
    lines.extend(counted.iter().zip(&rows).map(|(one, row)| {
        [one.hook.to_owned(), one.cpu.to_string()]
            .into_iter()
            .chain(shown.iter().map(|column| row[*column].to_string()))
            .collect()
    }));
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].len())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..shown.len() + 2).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        // Names begin where their column begins, numbers end where it ends.
        text.push_str(&format!("{:1$}", line[0], widths[0]));
        for (value, width) in line.iter().zip(&widths).skip(1) {
            text.push_str(&format!("  {value:>width$}"));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_has_a_line_for_each_hook_and_only_reasons_that_happened() {
        let one = |hook, cpu, seen, lost_ring_full| CpuCounters {
            hook,
            cpu,
            counts: HookCounters {
                seen,
                submitted: seen - lost_ring_full,
                lost_ring_full,
                ..HookCounters::default()
            },
        };
        let counted = [one("file-open", 0, 120, 0), one("process-exec", 11, 7, 3)];
        assert_eq!(
            table(&counted),
            "\
HOOK          CPU  SEEN  SUBMITTED  LOST RING FULL
file-open       0   120        120               0
process-exec   11     7          4               3
"
        );
    }
}
