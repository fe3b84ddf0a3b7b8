//! `export`: stored events into a file, for other programs.
//!
//! Events are written as they come, and never more than a row group of them
//! is in memory. A file gets its name when everything is in it.

mod parquet;

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use shrike_proto::{
    event::{StoredEvent, json::write_json},
    wire::admin::{EventFilter, Order, QueryEventsRequest},
};

use self::parquet::ParquetWriter;
use crate::{
    args::{ExportArgs, ExportFormat, Global},
    connection::Connection,
    events::{
        filter,
        reading::{Reading, interrupted},
        summary::Summary,
    },
    failure::{Exit, Failure},
    output::Output,
};

/// `export`
pub(crate) async fn run(
    global: &Global,
    args: ExportArgs,
    output: &Output,
) -> Result<Exit, Failure> {
    if args.output.is_none() && args.format == ExportFormat::Parquet && output.is_terminal() {
        return Err(
            Failure::input(anyhow::anyhow!("Parquet is not for a terminal"))
                .hint("write it into a file with --output FILE"),
        );
    }
    let filter = filter::from_args(&args.filter, Timestamp::now());
    let connection = Connection::open(global).await?;
    let mut summary = Summary::default();
    let destination = Destination::open(args.output.as_deref())?;
    let sink: Box<dyn Write + Send> = match &destination {
        Some(destination) => Box::new(BufWriter::new(destination.file()?)),
        None => Box::new(io::stdout()),
    };
    tokio::select! {
        result = write(&connection, filter, args.format, sink, &mut summary) => result?,
        result = interrupted() => {
            result?;
            return Err(Failure::failed(anyhow::anyhow!("interrupted: the export is not whole")));
        }
    }
    if let Some(destination) = destination {
        destination.finish()?;
    }
    summary.report(output);
    Ok(Exit::Ok)
}

async fn write(
    connection: &Connection,
    filter: EventFilter,
    format: ExportFormat,
    sink: Box<dyn Write + Send>,
    summary: &mut Summary,
) -> Result<(), Failure> {
    let request = QueryEventsRequest {
        filter: Some(filter),
        order: Order::OldestFirst.into(),
        limit: 0,
        after: None,
    };
    let mut reading = Reading::open(connection, request).await?;
    let mut writer = Writer::new(format, sink)?;
    while let Some(events) = reading.next(summary).await? {
        summary.printed += events.len() as u64;
        writer.write(&events)?;
    }
    writer.finish(&summary.to_string())
}

enum Writer {
    Ndjson(Box<dyn Write + Send>),
    Parquet(Box<ParquetWriter<Box<dyn Write + Send>>>),
}

impl Writer {
    fn new(format: ExportFormat, sink: Box<dyn Write + Send>) -> Result<Self, Failure> {
        Ok(match format {
            ExportFormat::Ndjson => Self::Ndjson(sink),
            ExportFormat::Parquet => Self::Parquet(Box::new(ParquetWriter::new(sink)?)),
        })
    }

    fn write(&mut self, events: &[StoredEvent]) -> Result<(), Failure> {
        match self {
            Self::Ndjson(sink) => {
                let mut text = Vec::with_capacity(events.len() * 512);
                for event in events {
                    write_json(&mut text, event)?;
                }
                sink.write_all(&text)?;
                Ok(())
            }
            Self::Parquet(writer) => events.iter().try_for_each(|event| writer.write(event)),
        }
    }

    /// Ends the file. Parquet has a place for what is to be said of all of it.
    fn finish(self, summary: &str) -> Result<(), Failure> {
        match self {
            Self::Ndjson(mut sink) => Ok(sink.flush()?),
            Self::Parquet(writer) => writer.finish(summary),
        }
    }
}

/// A file that gets its name when it is whole; without that it is removed.
struct Destination {
    path: PathBuf,
    partial: PathBuf,
    is_whole: bool,
}

impl Destination {
    fn open(path: Option<&Path>) -> Result<Option<Self>, Failure> {
        let Some(path) = path else { return Ok(None) };
        if path.is_dir() {
            let error = anyhow::anyhow!("{} is a folder", path.display());
            return Err(Failure::input(error));
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        Ok(Some(Self {
            path: path.to_owned(),
            partial: partial.into(),
            is_whole: false,
        }))
    }

    fn file(&self) -> Result<File, Failure> {
        let doing = format!("cannot write {}", self.partial.display());
        File::create(&self.partial).map_err(|error| Failure::input(error).doing(doing))
    }

    fn finish(mut self) -> Result<(), Failure> {
        let doing = format!("cannot write {}", self.path.display());
        fs::rename(&self.partial, &self.path)
            .map_err(|error| Failure::failed(error).doing(doing))?;
        self.is_whole = true;
        Ok(())
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        if !self.is_whole {
            // There may be none.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_gets_its_name_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let destination = Destination::open(Some(&path)).unwrap().unwrap();
        destination.file().unwrap().write_all(b"half").unwrap();
        drop(destination);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let destination = Destination::open(Some(&path)).unwrap().unwrap();
        destination.file().unwrap().write_all(b"whole").unwrap();
        destination.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert!(Destination::open(Some(folder.path())).is_err());
    }
}
