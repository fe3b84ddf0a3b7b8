//! `events`: what is stored, what arrives, or the one and then the other.

mod filter;
mod summary;
mod tail;

use std::{collections::VecDeque, io::Write as _};

use jiff::Timestamp;
use shrike_proto::{
    event::{
        StoredEvent,
        compact::{Colour, write_compact},
        json::write_json,
    },
    wire::admin::{EventFilter, Order, QueryEventsRequest, StoredEvent as WireStoredEvent},
};

use crate::{
    args::{EventFormat, EventsArgs, Global},
    connection::Connection,
    failure::{Exit, Failure},
    output::{Output, stdout_closed},
};
use summary::Summary;
use tail::Tail;

/// `events`
pub(crate) async fn run(
    global: &Global,
    args: EventsArgs,
    output: &Output,
) -> Result<Exit, Failure> {
    let filter = filter::from_args(&args, Timestamp::now());
    let connection = Connection::open(global).await?;
    let printer = Printer {
        format: args.output,
        colour: output.colour(),
    };
    let mut summary = Summary::default();
    let result = tokio::select! {
        // Whoever presses Ctrl-C has seen enough, and wants the summary.
        result = interrupted() => result,
        () = stdout_closed() => return Ok(Exit::Ok),
        result = print(&connection, &args, filter, &printer, &mut summary) => result,
    };
    if !args.quiet && !is_closed(&result) {
        summary.report(output);
    }
    result?;
    Ok(Exit::Ok)
}

async fn interrupted() -> Result<(), Failure> {
    tokio::signal::ctrl_c()
        .await
        .map_err(|error| Failure::failed(error).doing("cannot listen for Ctrl-C"))
}

fn is_closed(result: &Result<(), Failure>) -> bool {
    result.as_ref().is_err_and(Failure::is_closed_pipe)
}

async fn print(
    connection: &Connection,
    args: &EventsArgs,
    filter: EventFilter,
    printer: &Printer,
    summary: &mut Summary,
) -> Result<(), Failure> {
    if !args.follow {
        return query(connection, args, filter, printer, summary).await;
    }
    summary.follow();
    let mut tail = Tail::open(connection, args, filter).await?;
    while let Some(message) = tail.next().await? {
        let events = decode(message.events, summary);
        summary.printed += events.len() as u64;
        summary.skipped += message.skipped;
        printer.print(&events)?;
        if let Some(history) = message.history {
            summary.end(history, None);
        }
    }
    Ok(())
}

async fn query(
    connection: &Connection,
    args: &EventsArgs,
    filter: EventFilter,
    printer: &Printer,
    summary: &mut Summary,
) -> Result<(), Failure> {
    let newest_first = args.newest || args.last.is_some();
    let order = if newest_first {
        Order::NewestFirst
    } else {
        Order::OldestFirst
    };
    let limit = args.last.or(args.limit);
    if limit == Some(0) {
        return Ok(());
    }
    let mut stream = connection
        .events()
        .query_events(QueryEventsRequest {
            filter: Some(filter),
            order: order.into(),
            limit: limit.unwrap_or_default(),
        })
        .await?
        .into_inner();
    // `--last` turns the order around, and is bounded by its own range.
    let mut held: VecDeque<StoredEvent> = VecDeque::new();
    while let Some(response) = stream.message().await? {
        let events = decode(response.events, summary);
        if args.last.is_some() {
            for event in events {
                held.push_front(event);
            }
        } else {
            summary.printed += events.len() as u64;
            printer.print(&events)?;
        }
        if let Some(end) = response.summary {
            summary.end(end, limit);
        }
    }
    summary.printed += held.len() as u64;
    printer.print(held.make_contiguous())
}

/// Converts events; one that this version cannot read is counted, not fatal.
fn decode(events: Vec<WireStoredEvent>, summary: &mut Summary) -> Vec<StoredEvent> {
    events
        .into_iter()
        .filter_map(|event| match StoredEvent::try_from(event) {
            Ok(event) => Some(event),
            Err(error) => {
                summary.unreadable(error);
                None
            }
        })
        .collect()
}

struct Printer {
    format: EventFormat,
    colour: Colour,
}

impl Printer {
    /// Prints events in one write, so that readers see whole lines at once.
    fn print(&self, events: &[StoredEvent]) -> Result<(), Failure> {
        if events.is_empty() {
            return Ok(());
        }
        let mut text = Vec::with_capacity(events.len() * 256);
        for event in events {
            match self.format {
                EventFormat::Compact => write_compact(&mut text, event, self.colour)?,
                EventFormat::Json => write_json(&mut text, event)?,
            }
        }
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(&text)?;
        stdout.flush()?;
        Ok(())
    }
}
