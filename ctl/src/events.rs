//! `events`: what is stored, what arrives, or the one and then the other.

pub(crate) mod filter;
mod printer;
pub(crate) mod reading;
pub(crate) mod summary;
mod tail;

use std::collections::VecDeque;

use jiff::Timestamp;
use shrike_proto::{
    event::StoredEvent,
    wire::admin::{EventFilter, Order, QueryEventsRequest},
};

use crate::{
    args::{EventsArgs, Global},
    connection::Connection,
    failure::{Exit, Failure},
    output::{Output, stdout_closed},
};
use printer::Printer;
use reading::{Reading, decode, interrupted};
use summary::Summary;
use tail::Tail;

/// `events`
pub(crate) async fn run(
    global: &Global,
    args: EventsArgs,
    output: &Output,
) -> Result<Exit, Failure> {
    let filter = filter::from_args(&args.filter, Timestamp::now());
    let connection = Connection::open(global).await?;
    let mut printer = Printer::new(args.output, output.colour());
    let mut summary = Summary::default();
    let result = tokio::select! {
        // Whoever presses Ctrl-C has seen enough, and wants the summary. The
        // stream is dropped with the future, and that ends the collector's
        // work.
        result = interrupted() => result,
        () = stdout_closed() => return Ok(Exit::Ok),
        result = print(&connection, &args, filter, &mut printer, &mut summary) => result,
    };
    if !args.quiet && !result.as_ref().is_err_and(Failure::is_closed_pipe) {
        summary.report(output);
    }
    result?;
    Ok(Exit::Ok)
}

async fn print(
    connection: &Connection,
    args: &EventsArgs,
    filter: EventFilter,
    printer: &mut Printer,
    summary: &mut Summary,
) -> Result<(), Failure> {
    printer.begin()?;
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
    printer: &mut Printer,
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
    let request = QueryEventsRequest {
        filter: Some(filter),
        order: order.into(),
        limit: limit.unwrap_or_default(),
        after: None,
    };
    let mut reading = Reading::open(connection, request).await?;
    // `--last` turns the order around, and is bounded by its own range.
    let mut held: VecDeque<StoredEvent> = VecDeque::new();
    while let Some(events) = reading.next(summary).await? {
        if args.last.is_some() {
            for event in events {
                held.push_front(event);
            }
        } else {
            summary.printed += events.len() as u64;
            printer.print(&events)?;
        }
    }
    summary.printed += held.len() as u64;
    printer.print(held.make_contiguous())
}
