//! Blocks into the events that are asked for, several at a time.
//!
//! An event is looked at in its encoded form first, and built only when the
//! simple terms leave it: a search that finds little spends its time on
//! decompression.

use std::{
    num::NonZero,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use shrike_proto::{
    batch::{self, BY_PLACE},
    event::Event,
};

use super::{Filter, Window};
use crate::{
    chain::chain,
    ingest::glance::glance_event,
    store::{
        Damage, StoreError,
        block::{self, BlockError, BlockKey, Footer, Run},
        stream::StreamKey,
    },
};

/// What was asked for of one stream in a block.
#[derive(Debug, PartialEq)]
pub(super) struct Loaded {
    pub(super) stream: StreamKey,
    pub(super) events: Vec<Event>,
}

/// A payload as it was read; `None` for one that retention took away.
type Payload = Result<Option<Vec<u8>>, StoreError>;

/// Loads blocks from their payloads on as many threads as there are processors;
/// results are in the blocks' order.
pub(super) fn load_all(
    blocks: &[(BlockKey, Footer)],
    payloads: Vec<Payload>,
    filter: &Filter,
    window: Option<&Window>,
) -> Vec<Result<Vec<Loaded>, StoreError>> {
    let blocks: Vec<_> = blocks
        .iter()
        .zip(payloads)
        .map(|(block, payload)| (block, Mutex::new(Some(payload))))
        .collect();
    // Each is taken once, by whichever thread comes to it.
    let one = |((key, footer), payload): &(&(BlockKey, Footer), Mutex<Option<Payload>>)| {
        let payload = payload
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        load(key, footer, payload.unwrap_or(Ok(None))?, filter, window)
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = threads.min(blocks.len());
    if threads < 2 {
        return blocks.iter().map(one).collect();
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            match blocks.get(index) {
                Some(block) => done.push((index, one(block))),
                None => return done,
            }
        }
    };
    let mut loaded = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut loaded = work();
        for other in others {
            match other.join() {
                Ok(done) => loaded.extend(done),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        loaded
    });
    loaded.sort_unstable_by_key(|(index, _)| *index);
    loaded.into_iter().map(|(_, result)| result).collect()
}

fn load(
    key: &BlockKey,
    footer: &Footer,
    payload: Option<Vec<u8>>,
    filter: &Filter,
    window: Option<&Window>,
) -> Result<Vec<Loaded>, StoreError> {
    let Some(payload) = payload else {
        return Ok(Vec::new());
    };
    select(key, footer, &payload, filter, window).map_err(|error| {
        StoreError::Damaged(Damage {
            what: key.to_string(),
            why: chain(&error),
        })
    })
}

/// Returns the events of a payload that are asked for. None that is not is
/// kept, and few are built.
fn select(
    key: &BlockKey,
    footer: &Footer,
    payload: &[u8],
    filter: &Filter,
    window: Option<&Window>,
) -> Result<Vec<Loaded>, BlockError> {
    let unpacked = block::unpack(key, footer, payload)?;
    let mut rows = unpacked.rows.iter();
    let mut found = Vec::new();
    for run in &unpacked.runs {
        let rows = rows.by_ref().take(run.count as usize);
        let is_wanted = filter.selects_node(&run.stream.node)
            && window.is_none_or(|window| window.may_hold_of(run));
        if !is_wanted {
            rows.for_each(drop);
            continue;
        }
        let stream = &run.stream;
        let mut events = Vec::new();
        for (index, row) in rows.enumerate() {
            if may_match(row, run, index, filter) {
                let event = batch::decode_event(row, run.first_sequence, index)?;
                let is_asked_for = window.is_none_or(|window| window.holds(stream, &event))
                    && filter.matches(&stream.node, stream.epoch, &event);
                events.extend(is_asked_for.then_some(event));
            }
        }
        found.push(Loaded {
            stream: stream.clone(),
            events,
        });
    }
    Ok(found)
}

/// Says whether the terms leave an encoded event; one that cannot be glanced at
/// is decoding's to judge.
fn may_match(row: &[u8], run: &Run, index: usize, filter: &Filter) -> bool {
    glance_event(row).is_none_or(|glanced| {
        let number = run.first_sequence.0.wrapping_add(index as u64);
        ![BY_PLACE, number].contains(&glanced.sequence)
            || filter.may_match_event(&run.stream.node, &glanced.mention)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;
    use proptest::prelude::*;
    use shrike_proto::wire::admin;

    fn filter(condition: &str) -> Filter {
        Filter::try_from(admin::EventFilter {
            r#where: condition.to_owned(),
            ..admin::EventFilter::default()
        })
        .unwrap()
    }

    proptest! {
        #[test]
        fn what_is_asked_for_is_found_and_nothing_else(
            first in 1..100u64,
            count in 1..60u64,
            condition in prop::sample::select(vec![
                r#"exe == "/usr/bin/cat""#,
                r#"path == "/etc/shadow""#,
                r#"kind == "exit" || kind == "alert""#,
                r#"pid in [3, 5, 7]"#,
                "verdict",
                r#"action == "kill" && path.startsWith("/etc/")"#,
                r#"comm.endsWith("sh") || pid > 3"#,
                r#"uid == 1 && time >= timestamp("2025-01-01T00:00:00.030Z")"#,
            ]),
        ) {
            let filter = filter(condition);
            let events = sample::events(first, count);
            let block = sample::blocks(&events).remove(0);
            let found = select(&block.key, &block.footer, &block.payload, &filter, None).unwrap();
            let found: Vec<Event> =
                found.into_iter().flat_map(|loaded| loaded.events).collect();
            let (node, epoch) = (&block.key.node, block.key.epoch);
            let mut expected = events;
            expected.retain(|event| filter.matches(node, epoch, event));
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn block_with_another_number_of_events_is_damaged() {
        let block = sample::blocks(&sample::events(1, 9)).remove(0);
        let footer = Footer {
            count: 8,
            ..block.footer
        };
        let none = filter("uid == 77");
        let error = select(&block.key, &footer, &block.payload, &none, None).unwrap_err();
        assert!(matches!(error, BlockError::OtherRuns), "{error}");
    }
}
