//! A real OpenTelemetry receiver and the spans that reached it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Local, free_port, poll};
use crate::layout::Layout;
use crate::setup::receiver;

const START_TIMEOUT: Duration = Duration::from_secs(30);

/// The receiver, running; it prints every span that it gets.
pub struct Receiver {
    process: Local,
    port: u16,
}

/// A span as the receiver got it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Span {
    /// Which trace it belongs to, hexadecimal.
    pub trace: String,
    /// Its own id, hexadecimal.
    pub id: String,
    /// Its parent's id; empty for a root.
    pub parent: String,
    /// What was done.
    pub name: String,
    /// `service.name` of who did it.
    pub service: String,
    /// `service.instance.id` of who did it.
    pub instance: String,
}

impl Receiver {
    pub(super) fn start(layout: &Layout, folder: &Path) -> Result<Self> {
        let (grpc, http) = (free_port()?, free_port()?);
        let mut command = receiver::command(layout);
        command
            .arg("start")
            .args(["--otlp-grpc-endpoint", &format!("127.0.0.1:{grpc}")])
            .args(["--otlp-http-endpoint", &format!("127.0.0.1:{http}")])
            .args(["--exporter", "blackhole"])
            .args(["--debug-log", "traces", "--debug-log-verbosity", "detailed"])
            .arg("--pid-file")
            .arg(folder.join("rotel.pid"))
            .arg("--log-file")
            .arg(folder.join("rotel-daemon.log"));
        let mut process = Local::start(&command, &folder.join("rotel.log"))?;
        poll(START_TIMEOUT, || {
            if let Some(status) = process.ended()? {
                bail!("rotel ended ({status}); it said:\n{}", process.said());
            }
            Ok(std::net::TcpStream::connect(("127.0.0.1", grpc)).ok())
        })
        .context("rotel does not listen")?;
        Ok(Self {
            process,
            port: grpc,
        })
    }

    /// Its address for someone who knows this machine as `host`.
    pub fn endpoint(&self, host: &str) -> String {
        format!("http://{host}:{}", self.port)
    }

    /// Everything that it printed.
    pub fn said(&self) -> String {
        self.process.said()
    }

    /// The spans that have arrived.
    pub fn spans(&self) -> Vec<Span> {
        parse(&self.process.said())
    }
}

/// Reads what the receiver's detailed debug log prints of each span.
///
/// ```text
/// ResourceSpans #0
/// Resource attributes:
///      -> service.name: Str(shrikectl)
/// Span #0
///     Trace ID       : 5b8efff798038103d269b633813fc60c
///     Parent ID      :
///     ID             : eee19b7ec3c1b173
///     Name           : policy push
/// ```
fn parse(log: &str) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let (mut service, mut instance) = (String::new(), String::new());
    let mut in_resource = false;
    for line in log.lines() {
        if line.starts_with("ResourceSpans #") {
            service.clear();
            instance.clear();
            in_resource = true;
        } else if line.starts_with("ScopeSpans #") {
            in_resource = false;
        } else if line.starts_with("Span #") {
            spans.push(Span {
                service: service.clone(),
                instance: instance.clone(),
                ..Span::default()
            });
        } else if let Some((key, value)) = attribute(line) {
            // A span's own attributes may have the same names.
            match key {
                "service.name" if in_resource => service = value.to_owned(),
                "service.instance.id" if in_resource => instance = value.to_owned(),
                _ => {}
            }
        } else if let (Some(span), Some((key, value))) = (spans.last_mut(), field(line)) {
            match key {
                "Trace ID" => span.trace = value.to_owned(),
                "Parent ID" => span.parent = value.to_owned(),
                "ID" => span.id = value.to_owned(),
                "Name" => span.name = value.to_owned(),
                _ => {}
            }
        }
    }
    // The last one may still be being written.
    spans.retain(|span| !span.name.is_empty());
    spans
}

fn attribute(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.trim_start().strip_prefix("-> ")?.split_once(": ")?;
    Some((key, value.strip_prefix("Str(")?.strip_suffix(')')?))
}

fn field(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.strip_prefix("    ")?.split_once(':')?;
    Some((key.trim_end(), value.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As rotel 0.0.1a15 prints it.
    const LOG: &str = "\
ResourceSpans #0
Resource SchemaURL: 
Resource attributes:
     -> service.name: Str(shrikectl)
     -> service.instance.id: Str(ada)
ScopeSpans #0
ScopeSpans SchemaURL: 
InstrumentationScope s 
Span #0
    Trace ID       : 5b8efff798038103d269b633813fc60c
    Parent ID      : eee19b7ec3c1b173
    ID             : eee19b7ec3c1b174
    Name           : policy push
    Kind           : SPAN_KIND_SERVER
Start time: 1544712660000000000
End time: 1544712661000000000
Attributes:
     -> service.name: Str(misleading)
Span #1
    Trace ID       : 5b8efff798038103d269b633813fc60c
    Parent ID      : 
    ID             : eee19b7ec3c1b173
    Name           : root: span
    Kind           : SPAN_KIND_SERVER
";

    #[test]
    fn spans_come_with_their_service_and_parent() {
        let spans = parse(LOG);
        assert_eq!(spans.len(), 2);
        assert_eq!(spans[0].name, "policy push");
        assert_eq!(spans[0].parent, spans[1].id);
        assert_eq!(spans[0].trace, spans[1].trace);
        assert_eq!(
            (&*spans[0].service, &*spans[0].instance),
            ("shrikectl", "ada")
        );
        assert_eq!(spans[1].name, "root: span");
        assert_eq!(spans[1].parent, "");
        assert_eq!(spans[1].service, "shrikectl");
    }

    #[test]
    fn any_cut_of_the_log_is_read_without_harm() {
        for end in 0..LOG.len() {
            assert!(parse(&LOG[..end]).len() <= 2);
        }
    }
}
