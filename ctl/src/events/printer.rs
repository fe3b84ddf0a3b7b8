//! Events on stdout, in the format that was asked for.

use std::{borrow::Cow, io::Write as _};

use shrike_proto::event::{
    StoredEvent,
    compact::{Colour, write_compact},
    ecs::to_ecs,
    field::{Field, FieldValue},
    json::{format_time, write_json},
    ocsf::to_ocsf,
};

use crate::{args::EventFormat, failure::Failure};

pub(super) struct Printer {
    format: EventFormat,
    colour: Colour,
}

impl Printer {
    pub(super) fn new(format: EventFormat, colour: Colour) -> Self {
        Self { format, colour }
    }

    /// Prints what comes before the first event, even if none comes.
    pub(super) fn begin(&self) -> Result<(), Failure> {
        match self.format {
            EventFormat::Csv => write(&csv_rows([Field::NAMES
                .iter()
                .map(|name| Cow::from(*name))])?),
            EventFormat::Compact | EventFormat::Json | EventFormat::Ocsf | EventFormat::Ecs => {
                Ok(())
            }
        }
    }

    /// Prints events in one write, so that readers see whole lines at once.
    pub(super) fn print(&mut self, events: &[StoredEvent]) -> Result<(), Failure> {
        if events.is_empty() {
            return Ok(());
        }
        let mut text = Vec::with_capacity(events.len() * 256);
        match self.format {
            EventFormat::Compact => {
                for event in events {
                    write_compact(&mut text, event, self.colour)?;
                }
            }
            EventFormat::Json => {
                for event in events {
                    write_json(&mut text, event)?;
                }
            }
            EventFormat::Ocsf => {
                for event in events {
                    writeln!(text, "{}", to_ocsf(event))?;
                }
            }
            EventFormat::Ecs => {
                for event in events {
                    writeln!(text, "{}", to_ecs(event))?;
                }
            }
            EventFormat::Csv => text = csv_rows(events.iter().map(cells))?,
        }
        write(&text)
    }
}

fn write(text: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text)?;
    stdout.flush()?;
    Ok(())
}

fn csv_rows<'a, R>(rows: impl IntoIterator<Item = R>) -> Result<Vec<u8>, Failure>
where
    R: IntoIterator<Item = Cow<'a, str>>,
{
    let mut writer = csv::WriterBuilder::new()
        .terminator(csv::Terminator::CRLF)
        .from_writer(Vec::new());
    for row in rows {
        writer
            .write_record(row.into_iter().map(|cell| cell.into_owned()))
            .map_err(Failure::failed)?;
    }
    let text = writer.into_inner().map_err(|error| {
        Failure::failed(std::io::Error::other(error.to_string())).doing("cannot write CSV")
    })?;
    Ok(text)
}

/// A cell for each field; one that the event does not have is empty. Several
/// texts are a JSON array.
fn cells(stored: &StoredEvent) -> impl Iterator<Item = Cow<'_, str>> {
    Field::ALL.iter().map(
        |field| match field.of(&stored.node, stored.epoch, &stored.event) {
            None => Cow::Borrowed(""),
            Some(FieldValue::Bool(value)) => if value { "true" } else { "false" }.into(),
            Some(FieldValue::Int(value)) => value.to_string().into(),
            Some(FieldValue::Text(text)) => text,
            Some(FieldValue::Time(unix_ns)) => format_time(unix_ns).into(),
            Some(FieldValue::Texts(texts)) => serde_json::json!(texts).to_string().into(),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn csv_has_one_row_for_each_event_and_quotes_what_needs_it() {
        let mut exec = sample::exec("web-1", 7, 10, 1, &["sh", "-c", "echo \"a,b\"\nx"]);
        exec.event.process.comm = b"a,b".as_slice().into();
        let mut text = csv_rows([Field::NAMES.iter().map(|name| Cow::from(*name))]).unwrap();
        text.extend(csv_rows([&exec, &sample::exit("web-1", 7, 10, 3)].map(cells)).unwrap());
        assert!(text.starts_with(b"time,node,kind,pid,"));
        let mut rows = csv::ReaderBuilder::new().from_reader(text.as_slice());
        let header = rows.headers().unwrap().clone();
        let column = |name: &str| header.iter().position(|it| it == name).unwrap();
        let rows: Vec<_> = rows.records().map(Result::unwrap).collect();
        assert_eq!(rows.len(), 2);
        assert_eq!(&rows[0][column("comm")], "a,b");
        let argv: Vec<String> = serde_json::from_str(&rows[0][column("argv")]).unwrap();
        assert_eq!(argv[2], "echo \"a,b\"\nx");
        assert_eq!(&rows[0][column("exit_code")], "");
        assert_eq!(&rows[1][column("exit_code")], "3");
        assert_eq!(text.windows(2).filter(|pair| pair == b"\r\n").count(), 3);
    }
}
