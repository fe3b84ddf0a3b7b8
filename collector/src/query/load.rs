//! Blocks into the events that are asked for, several at a time.
//!
//! An event is looked at in its encoded form first, and built only when the
//! simple terms leave it: a search that finds little spends its time on
//! decompression.

use std::{
    num::NonZero,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use shrike_proto::{
    batch::{self, BY_PLACE, BatchError},
    event::Event,
};

use super::{Filter, Window};
use crate::{
    chain::chain,
    ingest::glance::{Listed, glance_event},
    store::{
        Damage, Store, StoreError,
        block::{self, BlockError, BlockKey, Footer},
    },
};

/// Loads blocks on as many threads as there are processors; results are in
/// the blocks' order.
pub(super) fn load_all(
    store: &dyn Store,
    blocks: &[(BlockKey, Footer)],
    filter: &Filter,
    window: Option<&Window>,
) -> Vec<Result<Vec<Event>, StoreError>> {
    let one = |(key, footer): &(BlockKey, Footer)| load(store, key, footer, filter, window);
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
    store: &dyn Store,
    key: &BlockKey,
    footer: &Footer,
    filter: &Filter,
    window: Option<&Window>,
) -> Result<Vec<Event>, StoreError> {
    // Retention may have been faster.
    let Some(payload) = store.payload(key)? else {
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
) -> Result<Vec<Event>, BlockError> {
    let raw = block::unpack_events(footer, payload)?;
    let (first, stream) = (key.first_sequence, key.stream());
    let is_wanted = |event: &Event| {
        window.is_none_or(|window| window.holds(&stream, event))
            && filter.matches(&stream.node, stream.epoch, event)
    };
    let (mut found, mut index) = (Vec::new(), 0);
    let mut listed = Listed::of(&raw);
    loop {
        match listed.next() {
            Some(Some(encoded)) => {
                let is_left_out = glance_event(encoded).is_some_and(|glanced| {
                    let number = first.0.wrapping_add(index as u64);
                    [BY_PLACE, number].contains(&glanced.sequence)
                        && !filter.may_match_event(&key.node, &glanced.mention)
                });
                if !is_left_out {
                    let event = batch::decode_event(encoded, first, index)?;
                    found.extend(is_wanted(&event).then_some(event));
                }
                index += 1;
            }
            Some(None) if index == footer.count as usize => return Ok(found),
            Some(None) => {
                return Err(BlockError::Decode(BatchError::Count {
                    claimed: footer.count,
                    actual: index,
                }));
            }
            // Decoding has the last word on what is no plain list of events.
            None => {
                let mut events = batch::decode(&raw, first, footer.count)?;
                events.retain(is_wanted);
                return Ok(events);
            }
        }
    }
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
        assert!(
            matches!(error, BlockError::Decode(BatchError::Count { .. })),
            "{error}"
        );
    }
}
