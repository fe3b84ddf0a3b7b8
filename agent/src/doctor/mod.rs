//! `shrike-agent doctor`: what this kernel gives, and whether it works.
//!
//! It loads a sensor of its own beside a running agent's, tries it on a child
//! and two private files, and leaves nothing behind. A hook that attaches and
//! is never called shows here.

mod canary;
mod self_test;

pub use canary::Trial;
pub use self_test::{Bystanders, Report, self_test};

use crate::{
    args::DoctorArgs,
    error::AgentError,
    hooks,
    kernel::{Attachment, Opens, SensorOptions},
    node::NodeFacts,
    run::load,
};

/// Examines this machine and prints what it found.
///
/// # Errors
/// [`AgentError::Unwell`] when something that should work does not; else what
/// kept the sensor from being loaded.
pub async fn doctor(args: DoctorArgs) -> Result<(), AgentError> {
    let facts = NodeFacts::read().map_err(AgentError::Facts)?;
    println!("kernel {}", facts.kernel_release);
    let mut sensor = load(
        &SensorOptions {
            opens: Opens::First,
            processes: args.processes.into(),
            attachment: args.attach.map(Into::into),
            ..SensorOptions::default()
        },
        &[],
    )?;
    for line in hooks::lines(sensor.hooks()) {
        println!("{line}");
    }
    if args.offsets {
        for (field, offset) in sensor.offsets() {
            match offset {
                Some(offset) => println!("offset {field}  {offset}"),
                None => println!("offset {field}  not in this kernel"),
            }
        }
    }
    if args.programs {
        for (program, instructions) in sensor.verified_instructions() {
            println!("program {program}  {instructions}");
        }
    }
    println!("{}", abilities(sensor.attachment()));
    if let Some(told) = sensor.tells_probe_misses() {
        println!("{}", probe_misses(told));
    }
    let (report, _) = self_test(&mut sensor).await?;
    for line in report.lines() {
        println!("{line}");
    }
    if let Report::Skipped(_) = report {
        return Err(AgentError::Unwell(Trial::ALL.len()));
    }
    let failed = report.failed();
    if failed == 0 {
        println!("doctor: ok");
        return Ok(());
    }
    Err(AgentError::Unwell(failed))
}

/// Says whether the ledger knows of kprobes that the kernel left out.
fn probe_misses(told: bool) -> &'static str {
    if told {
        "kprobes that the kernel leaves out are counted"
    } else {
        "kprobes that the kernel leaves out while it handles another one are not counted: it tells from Linux 6.7 on"
    }
}

/// Says what can and cannot be enforced.
pub fn abilities(attachment: Attachment) -> &'static str {
    match attachment {
        Attachment::Lsm => {
            "enforces kill and deny: what a rule forbids is refused before it happens"
        }
        Attachment::Fentry | Attachment::Kprobe => {
            "enforces kill, not deny: a killed process may still have created or changed the file"
        }
    }
}
