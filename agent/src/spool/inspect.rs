//! `shrike-agent spool`: what a node's spool holds, for a person. It changes
//! nothing, and may look on while an agent runs.

use std::{
    fmt::{self, Write as _},
    io::{self, Write as _},
    path::Path,
    sync::Arc,
};

use shrike_proto::{
    batch,
    event::{TimeText, compact::Colour},
    id::{Epoch, NodeId},
};

use super::{
    Class, Disk,
    files::LookedAt,
    found::Found,
    log::{EpochLog, Recovered},
    quarantine,
};
use crate::{
    args::{InspectArgs, Output},
    error::AgentError,
    node::hostname,
    run::SPOOL,
    spool::SpoolError,
    watch::{Form, Page, Writer},
};

/// Says what the spool holds, and prints its events if that is wanted.
///
/// # Errors
/// When the folder cannot be read, or nobody reads standard output.
pub fn inspect(args: &InspectArgs) -> Result<(), AgentError> {
    let disk = look_at(&args.state);
    let found = Found::read(&disk, 0).map_err(SpoolError::from)?;
    let mut text = String::new();
    if found.logs.is_empty() {
        let _ = writeln!(
            text,
            "nothing is spooled in {}",
            args.state.join(SPOOL).display()
        );
    }
    for recovered in &found.logs {
        let _ = writeln!(text, "{}", EpochText(recovered));
    }
    for (name, damage) in &found.unusable {
        let _ = writeln!(text, "{name} is unusable: {damage}");
    }
    let refused = quarantine::read(&disk).map_err(SpoolError::from)?;
    if !refused.is_empty() {
        let _ = writeln!(
            text,
            "quarantine: {} refused batches, see `shrike-agent spool quarantine`",
            refused.len()
        );
    }
    print(text.as_bytes())?;
    if args.events {
        for recovered in found.logs {
            print_events(recovered.log, args.output)?;
        }
    }
    Ok(())
}

/// Shows the batches that the collector refused.
///
/// # Errors
/// When the folder cannot be read, or nobody reads standard output.
pub fn quarantine(args: &InspectArgs) -> Result<(), AgentError> {
    let disk = look_at(&args.state);
    let refused = quarantine::read(&disk).map_err(SpoolError::from)?;
    if refused.is_empty() {
        return print(b"no batch was refused\n");
    }
    let mut clock = TimeText::default();
    for (name, refused) in refused {
        let refused = match refused {
            Ok(refused) => refused,
            Err(error) => {
                print(format!("{name}: cannot be read: {error}\n").as_bytes())?;
                continue;
            }
        };
        let batch = refused.batch.unwrap_or_default();
        let mut line = clock.text(refused.time_unix_ns);
        let _ = writeln!(
            line,
            "  {} events from {}: {}",
            batch.count,
            batch.first_sequence,
            refused.reason.escape_debug()
        );
        print(line.as_bytes())?;
        if args.events {
            match batch::open(&batch) {
                Ok(events) => {
                    let epoch = Epoch::from_wire(&batch.epoch).unwrap_or(Epoch([0; 16]));
                    let (mut page, mut writer) = (Page::default(), writer(epoch, args.output)?);
                    for event in &events {
                        writer.write(&mut page, event);
                    }
                    print(page.text())?;
                }
                Err(error) => print(format!("  cannot be decoded: {error}\n").as_bytes())?,
            }
        }
    }
    Ok(())
}

fn look_at(state: &Path) -> Disk {
    Disk::immediate(Arc::new(LookedAt(state.join(SPOOL))))
}

fn print(text: &[u8]) -> Result<(), AgentError> {
    match io::stdout().write_all(text) {
        // Somebody has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(AgentError::Output),
    }
}

fn writer(epoch: Epoch, output: Output) -> Result<Writer, AgentError> {
    let form = match output {
        Output::Compact => Form::Compact(Colour::Plain),
        Output::Json => Form::Json,
    };
    let node = NodeId::parse(&hostname().to_lowercase())
        .or_else(|_| NodeId::parse("localhost"))
        .map_err(|error| AgentError::Output(io::Error::other(error)))?;
    Ok(Writer::new(form, node, epoch))
}

fn print_events(mut log: EpochLog, output: Output) -> Result<(), AgentError> {
    let mut writer = writer(log.epoch(), output)?;
    let mut page = Page::default();
    while let Some(batch) = log.take_next() {
        for lost in &batch.lost {
            let last = lost.first_sequence + lost.count - 1;
            eprintln!("events {} to {last} are lost", lost.first_sequence);
        }
        match batch::open(&batch) {
            Ok(events) => {
                for event in &events {
                    writer.write(&mut page, event);
                }
            }
            Err(error) => eprintln!("the batch from {}: {error}", batch.first_sequence),
        }
        print(page.text())?;
        page.clear();
    }
    Ok(())
}

/// An epoch, for a person.
struct EpochText<'a>(&'a Recovered);

impl fmt::Display for EpochText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let log = &self.0.log;
        write!(
            f,
            "epoch {} of boot {}\n  numbers     acknowledged up to {}, given up to {}\n  waiting     {} events, {} bytes",
            log.epoch(),
            log.boot_id(),
            log.first_sequence().0 - 1,
            log.next_sequence().0 - 1,
            log.waiting(),
            log.bytes(),
        )?;
        for class in Class::ALL {
            write!(
                f,
                "\n    {:<9} {} bytes",
                class.as_str(),
                log.class_bytes(class)
            )?;
        }
        for (reason, count) in log.lost() {
            write!(f, "\n  lost        {count} {}", reason.as_str())?;
        }
        if !self.0.clean {
            write!(f, "\n  its journal is torn behind its last whole entry")?;
        }
        Ok(())
    }
}
