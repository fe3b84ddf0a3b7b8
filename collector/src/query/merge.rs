//! A query's way through the blocks: footers in order of time, payloads only
//! when their turn comes, events merged across blocks.
//!
//! ```text
//! footers ─prune→ [ blocks by earliest event ] ─load→ [ events by time ] → out
//! ```
//!
//! A query that goes on loads ever more blocks at once, so that one that ends
//! soon reads few and a long one uses every processor.
//!
//! An event goes out once nothing earlier can follow: neither from a block
//! that waits nor from one that was not listed yet. "Earlier" is in the
//! direction of the query. Towards the past, blocks are listed by their
//! oldest event, so an unlisted one may reach a block's span further.
//!
//! Blocks are merged meanwhile. Before each page of footers and each payload
//! the query hears which: a block that it has listed and not yet read gives
//! way to the one that holds its events, and events that it has had already
//! are left out of what it reads later.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeSet, BinaryHeap, VecDeque, binary_heap::PeekMut},
    ops::ControlFlow,
};

use shrike_proto::event::{Event, StoredEvent};

use super::{
    Filter, Window,
    load::{Loaded, load_all},
    place::{Key, Place, at},
};
use crate::store::{
    Damage, Order, Store, StoreError,
    block::{BLOCK_SPAN_NS_MAX, BlockKey, Footer},
    covered::Covered,
    listing::Listing,
    stream::StreamKey,
    succession::{Look, Replaced, Ticket},
};

/// Events that wait to be merged. Beyond, the order across blocks gives way:
/// it takes this many matching events within the span of a few blocks.
const WAITING_EVENTS_MAX: usize = 200_000;

/// Most blocks that are loaded at once: some milliseconds of every processor.
const ROUND_BLOCKS_MAX: usize = 32;

/// Most events of the blocks that are loaded at once, where there are two
/// blocks or more: all of them may be asked for.
const ROUND_EVENTS_MAX: usize = 65_536;

/// What a query did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueryStats {
    /// Events sent.
    pub matched: u64,
    /// Blocks decompressed.
    pub blocks_read: u64,
    /// Blocks skipped by their footers.
    pub blocks_pruned: u64,
    /// Blocks that cannot be read: what they held is missing.
    pub damaged: DamagedBlocks,
    /// The last event's place, where the limit was reached.
    pub next: Option<Place>,
}

/// Blocks that are not as they were written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DamagedBlocks {
    /// How many.
    pub blocks: u64,
    /// Events in them, of those whose footers can be read.
    pub events: u64,
    /// The first of them and what is wrong, for people.
    pub named: Vec<String>,
}

/// Damaged blocks that a query names: more of them are a matter for `store
/// verify`.
const NAMED_MAX: usize = 16;

impl DamagedBlocks {
    fn add(&mut self, damage: &Damage, events: u32) {
        tracing::error!(%damage, "a query leaves a damaged block out");
        self.blocks += 1;
        self.events += u64::from(events);
        if self.named.len() < NAMED_MAX {
            self.named.push(damage.to_string());
        }
    }

    /// Takes in what another part of the same query met.
    pub fn extend(&mut self, other: Self) {
        self.blocks += other.blocks;
        self.events += other.events;
        self.named.extend(other.named);
        self.named.truncate(NAMED_MAX);
    }
}

/// What is looked for, and for whom.
pub struct Search<'a> {
    /// Which events.
    pub filter: &'a Filter,
    /// Which part of the store; `None` for all of it.
    pub window: Option<&'a Window>,
    /// In which order they go out.
    pub order: Order,
    /// How many at most; 0 for all.
    pub limit: u64,
    /// Only what is behind this place.
    pub after: Option<&'a Place>,
    /// Says whether nobody waits for the answer any more. Asked for each
    /// block, because a search that finds nothing has nothing to send by
    /// which it would notice.
    pub is_abandoned: &'a dyn Fn() -> bool,
}

impl std::fmt::Debug for Search<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Search").finish_non_exhaustive()
    }
}

/// Runs a query; `emit` gets each event in order and may stop it.
///
/// A damaged block is left out, and told.
///
/// # Errors
/// [`StoreError`] when the store cannot be read.
pub fn run(
    store: &dyn Store,
    search: &Search<'_>,
    mut emit: impl FnMut(StoredEvent) -> ControlFlow<()>,
) -> Result<QueryStats, StoreError> {
    let Search {
        limit,
        is_abandoned,
        ..
    } = *search;
    let mut stats = QueryStats::default();
    let mut blocks = Blocks::new(store, search);
    let mut waiting = Waiting::default();
    loop {
        let earliest = blocks.earliest();
        let event_is_next = waiting.earliest().is_some_and(|at| {
            at < earliest || earliest == i64::MAX || waiting.events > WAITING_EVENTS_MAX
        });
        if event_is_next {
            if let Some(event) = waiting.take() {
                stats.matched += 1;
                let is_last = stats.matched == limit;
                if is_last {
                    stats.next = Some((&event.stored).into());
                }
                if emit(event.stored).is_break() || is_last {
                    return Ok(stats);
                }
            }
        } else if is_abandoned() {
            return Ok(stats);
        } else {
            match blocks.go_on(&mut stats) {
                Ok(ControlFlow::Continue(found)) => {
                    waiting.add(found);
                    if limit > 0 {
                        waiting.keep_first(limit - stats.matched);
                    }
                }
                Ok(ControlFlow::Break(())) => return Ok(stats),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Events that are not worth looking through.
const KEPT_ANYWAY: usize = 4096;

/// The blocks of a query: listed, waiting, or read.
struct Blocks<'a> {
    store: &'a dyn Store,
    search: &'a Search<'a>,
    ticket: Ticket<'a>,
    listing: Listing,
    /// Listed, and not yet looked at.
    page: VecDeque<Result<(BlockKey, Footer), StoreError>>,
    waiting: BinaryHeap<Reverse<WaitingBlock>>,
    /// The earliest that a block not looked at yet may hold.
    unlisted: i64,
    /// Events of blocks that were looked at and then merged into others.
    done: Covered,
    /// Blocks of the next round.
    at_once: usize,
}

impl<'a> Blocks<'a> {
    fn new(store: &'a dyn Store, search: &'a Search<'a>) -> Self {
        let filter = search.filter;
        Self {
            store,
            search,
            ticket: store.succession().enter(),
            listing: Listing::new(
                filter.since_unix_ns.saturating_sub(BLOCK_SPAN_NS_MAX),
                filter.until_unix_ns,
                search.order,
            ),
            page: VecDeque::new(),
            waiting: BinaryHeap::new(),
            unlisted: i64::MIN,
            done: Covered::default(),
            at_once: 1,
        }
    }

    /// Returns the earliest that is still to come.
    fn earliest(&self) -> i64 {
        let waiting = self.waiting.peek();
        waiting.map_or(self.unlisted, |Reverse(block)| {
            block.earliest.min(self.unlisted)
        })
    }

    /// Reads the next block or looks at the next footer; breaks behind the
    /// last one.
    fn go_on(
        &mut self,
        stats: &mut QueryStats,
    ) -> Result<ControlFlow<(), Vec<WaitingEvent>>, StoreError> {
        let look = self.look()?;
        if self.is_loading_next() {
            let round = self.take_round();
            self.at_once = (self.at_once * 2).min(ROUND_BLOCKS_MAX);
            stats.blocks_read += round.len() as u64;
            let payloads: Vec<_> = round
                .iter()
                .map(|(key, _)| self.store.payload(key))
                .collect();
            drop(look);
            return self
                .load(&round, payloads, stats)
                .map(ControlFlow::Continue);
        }
        if self.page.is_empty() && !self.listing.is_done {
            self.page = self.store.page(&mut self.listing).into();
        }
        drop(look);
        match self.page.pop_front() {
            Some(Ok((key, footer))) => {
                self.unlisted = unlisted_from(&key, self.search.order);
                if self.may_match(&key, &footer) {
                    self.wait_for(key, footer);
                } else {
                    stats.blocks_pruned += 1;
                }
            }
            Some(Err(StoreError::Damaged(damage))) => stats.damaged.add(&damage, 0),
            Some(Err(error)) => return Err(error),
            None if !self.listing.is_done => {}
            None if self.unlisted < i64::MAX => self.unlisted = i64::MAX,
            None => return Ok(ControlFlow::Break(())),
        }
        Ok(ControlFlow::Continue(Vec::new()))
    }

    /// Follows the merges since the last look; while the look is held, there
    /// are no others.
    fn look(&mut self) -> Result<Look<'a>, StoreError> {
        let look = self.ticket.look()?;
        for replaced in &look.replaced {
            self.follow(replaced);
        }
        Ok(look)
    }

    fn follow(&mut self, replaced: &Replaced) {
        let parts: BTreeSet<&BlockKey> = replaced.parts.iter().map(|part| &part.key).collect();
        // What waits gives way; nothing of it has been read.
        let mut given_way = BTreeSet::new();
        self.waiting.retain(|Reverse(block)| {
            let stays = !parts.contains(&block.key);
            if !stays {
                given_way.insert(block.key.clone());
            }
            stays
        });
        self.page.retain(|entry| match entry {
            Ok((key, _)) if parts.contains(key) => {
                given_way.insert(key.clone());
                false
            }
            Ok(_) | Err(_) => true,
        });
        let mut is_needed = false;
        for part in &replaced.parts {
            if self.listing.has_passed(&part.key) && !given_way.contains(&part.key) {
                part.runs.iter().for_each(|run| self.done.add(run));
            } else {
                is_needed = true;
            }
        }
        if is_needed
            && self.listing.has_passed(&replaced.key)
            && self.may_match(&replaced.key, &replaced.footer)
        {
            self.wait_for(replaced.key.clone(), replaced.footer.clone());
        }
    }

    fn may_match(&self, key: &BlockKey, footer: &Footer) -> bool {
        let window = self.search.window;
        window.is_none_or(|window| window.may_hold(key, footer))
            && self.search.filter.may_match(key, footer)
    }

    fn wait_for(&mut self, key: BlockKey, footer: Footer) {
        let block = WaitingBlock::new(key, footer, self.search.order);
        self.waiting.push(Reverse(block));
    }

    /// Says whether blocks are to be loaded, rather than more of them listed.
    fn is_loading_next(&self) -> bool {
        let is_listed = self.unlisted == i64::MAX;
        self.waiting.peek().is_some_and(|Reverse(next)| {
            is_listed || next.earliest <= self.unlisted && self.waiting.len() >= self.at_once
        })
    }

    /// Takes the blocks that are loaded next, earliest first.
    fn take_round(&mut self) -> Vec<(BlockKey, Footer)> {
        let (mut round, mut events) = (Vec::new(), 0);
        while round.len() < self.at_once
            && let Some(Reverse(next)) = self.waiting.peek()
            && (round.is_empty() || events + next.footer.count as usize <= ROUND_EVENTS_MAX)
            && let Some(Reverse(block)) = self.waiting.pop()
        {
            events += block.footer.count as usize;
            round.push((block.key, block.footer));
        }
        round
    }

    fn load(
        &self,
        round: &[(BlockKey, Footer)],
        payloads: Vec<Result<Option<Vec<u8>>, StoreError>>,
        stats: &mut QueryStats,
    ) -> Result<Vec<WaitingEvent>, StoreError> {
        let Search {
            filter,
            window,
            order,
            after,
            ..
        } = *self.search;
        let mut found = Vec::new();
        for ((_, footer), loaded) in round.iter().zip(load_all(round, payloads, filter, window)) {
            match loaded {
                Ok(loaded) => {
                    for Loaded { stream, events } in loaded {
                        found.extend(
                            events
                                .into_iter()
                                .filter(|event| !self.done.holds(&stream, event.sequence))
                                .map(|event| WaitingEvent::new(&stream, event, order))
                                .filter(|event| {
                                    after.is_none_or(|after| event.place() > after.key(order))
                                }),
                        );
                    }
                }
                Err(StoreError::Damaged(damage)) => stats.damaged.add(&damage, footer.count),
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

fn unlisted_from(listed: &BlockKey, order: Order) -> i64 {
    match order {
        Order::OldestFirst => listed.time_min_unix_ns,
        Order::NewestFirst => at(
            listed.time_min_unix_ns.saturating_add(BLOCK_SPAN_NS_MAX),
            order,
        ),
    }
}

struct WaitingBlock {
    earliest: i64,
    key: BlockKey,
    footer: Footer,
}

impl WaitingBlock {
    fn new(key: BlockKey, footer: Footer, order: Order) -> Self {
        let earliest = match order {
            Order::OldestFirst => key.time_min_unix_ns,
            Order::NewestFirst => footer.time_max_unix_ns,
        };
        Self {
            earliest: at(earliest, order),
            key,
            footer,
        }
    }
}

impl Ord for WaitingBlock {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.earliest, &self.key).cmp(&(other.earliest, &other.key))
    }
}

impl PartialOrd for WaitingBlock {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for WaitingBlock {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for WaitingBlock {}

/// Events that wait to be merged: those of each block in order by themselves,
/// so that none is moved before its turn.
#[derive(Default)]
struct Waiting {
    blocks: BinaryHeap<Reverse<FoundInBlock>>,
    events: usize,
}

impl Waiting {
    fn add(&mut self, found: Vec<WaitingEvent>) {
        self.events += found.len();
        let mut order: Vec<u32> = (0..).take(found.len()).collect();
        order.sort_by(|left, right| found[*left as usize].cmp(&found[*right as usize]));
        if !order.is_empty() {
            self.blocks.push(Reverse(FoundInBlock {
                events: found.into_iter().map(Some).collect(),
                order,
                taken: 0,
            }));
        }
    }

    fn earliest(&self) -> Option<i64> {
        let Reverse(block) = self.blocks.peek()?;
        block.head().map(|event| event.at)
    }

    fn take(&mut self) -> Option<WaitingEvent> {
        let mut first = self.blocks.peek_mut()?;
        let Reverse(block) = &mut *first;
        let event = block.take();
        if block.head().is_none() {
            PeekMut::pop(first);
        }
        self.events -= usize::from(event.is_some());
        event
    }

    /// Forgets events that are beyond the limit whatever comes, once they are
    /// many.
    fn keep_first(&mut self, wanted: u64) {
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        if self.events > wanted.saturating_mul(2).max(KEPT_ANYWAY) {
            let kept = std::iter::from_fn(|| self.take()).take(wanted).collect();
            *self = Self::default();
            self.add(kept);
        }
    }
}

/// What one block had, in order.
struct FoundInBlock {
    events: Vec<Option<WaitingEvent>>,
    /// Places in `events`.
    order: Vec<u32>,
    taken: usize,
}

impl FoundInBlock {
    fn head(&self) -> Option<&WaitingEvent> {
        let place = *self.order.get(self.taken)? as usize;
        self.events[place].as_ref()
    }

    fn take(&mut self) -> Option<WaitingEvent> {
        let place = *self.order.get(self.taken)? as usize;
        self.taken += 1;
        self.events[place].take()
    }
}

impl Ord for FoundInBlock {
    fn cmp(&self, other: &Self) -> Ordering {
        self.head().cmp(&other.head())
    }
}

impl PartialOrd for FoundInBlock {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for FoundInBlock {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for FoundInBlock {}

struct WaitingEvent {
    at: i64,
    /// Order within one instant: as the agent numbered them.
    sequence: i64,
    stored: StoredEvent,
}

impl WaitingEvent {
    fn new(stream: &StreamKey, event: Event, order: Order) -> Self {
        Self {
            at: at(event.time_unix_ns, order),
            sequence: at(event.sequence.0.cast_signed(), order),
            stored: StoredEvent {
                node: stream.node.clone(),
                epoch: stream.epoch,
                event,
            },
        }
    }

    fn place(&self) -> Key<'_> {
        (
            self.at,
            self.stored.node.as_str(),
            self.stored.epoch.0,
            self.sequence,
        )
    }
}

impl Ord for WaitingEvent {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place().cmp(&other.place())
    }
}

impl PartialOrd for WaitingEvent {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for WaitingEvent {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for WaitingEvent {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        sample,
        store::{Commit, block::Block, memory::MemoryStore},
    };
    use shrike_proto::wire::admin;

    fn search(filter: &Filter, order: Order, limit: u64) -> Search<'_> {
        Search {
            filter,
            window: None,
            order,
            limit,
            after: None,
            is_abandoned: &|| false,
        }
    }

    fn collect(store: &dyn Store, order: Order, limit: u64) -> (Vec<i64>, QueryStats) {
        let mut times = Vec::new();
        let stats = run(store, &search(&Filter::default(), order, limit), |stored| {
            times.push(stored.event.time_unix_ns);
            ControlFlow::Continue(())
        })
        .unwrap();
        (times, stats)
    }

    fn store_with(times: &[Vec<i64>]) -> MemoryStore {
        let store = MemoryStore::default();
        let mut first = 1;
        for times in times {
            let mut events = sample::events(first, times.len() as u64);
            for (event, time) in events.iter_mut().zip(times) {
                event.time_unix_ns = *time;
            }
            first += times.len() as u64;
            store
                .commit(&Commit {
                    blocks: sample::blocks(&events),
                    ..Commit::default()
                })
                .unwrap();
        }
        store
    }

    #[test]
    fn limit_reads_no_more_blocks_than_needed() {
        let second = 1_000_000_000;
        let store = store_with(
            &(0..100)
                .map(|n| vec![n * 100 * second; 10])
                .collect::<Vec<_>>(),
        );
        let (times, stats) = collect(&store, Order::OldestFirst, 15);
        assert_eq!(times.len(), 15);
        assert!(stats.blocks_read <= 3, "{stats:?}");
        let (times, stats) = collect(&store, Order::NewestFirst, 15);
        assert_eq!(times[0], 9900 * second);
        assert!(stats.blocks_read <= 3, "{stats:?}");
    }

    #[test]
    fn a_damaged_block_is_left_out_and_named() {
        let store = store_with(&[vec![1, 2, 3], vec![10, 20], vec![100]]);
        let broken = sample::blocks(&{
            let mut events = sample::events(4, 2);
            events[0].time_unix_ns = 10;
            events[1].time_unix_ns = 20;
            events
        })
        .remove(0);
        let payload = broken.payload[..broken.payload.len() - 1].to_vec();
        store
            .commit(&Commit {
                blocks: vec![Block {
                    payload,
                    ..broken.clone()
                }],
                ..Commit::default()
            })
            .unwrap();
        let (times, stats) = collect(&store, Order::OldestFirst, 0);
        assert_eq!(times, [1, 2, 3, 100]);
        assert_eq!((stats.damaged.blocks, stats.damaged.events), (1, 2));
        let named = &stats.damaged.named[0];
        assert!(named.contains(&broken.key.to_string()), "{named}");
    }

    #[test]
    fn reader_that_leaves_stops_the_query() {
        let store = store_with(&[vec![1; 50], vec![2; 50]]);
        let mut seen = 0;
        let filter = Filter::default();
        run(&store, &search(&filter, Order::OldestFirst, 0), |_| {
            seen += 1;
            ControlFlow::Break(())
        })
        .unwrap();
        assert_eq!(seen, 1);
    }

    #[test]
    fn search_that_finds_nothing_ends_when_its_reader_leaves() {
        let store = store_with(&(0..50).map(|n| vec![n * 1000; 10]).collect::<Vec<_>>());
        let filter = Filter::try_from(admin::EventFilter {
            r#where: r#"comm.endsWith("nothing")"#.to_owned(),
            ..admin::EventFilter::default()
        })
        .unwrap();
        let asked = std::cell::Cell::new(0);
        let stats = run(
            &store,
            &Search {
                is_abandoned: &|| {
                    asked.set(asked.get() + 1);
                    asked.get() > 5
                },
                ..search(&filter, Order::OldestFirst, 0)
            },
            |_| unreachable!("nothing matches"),
        )
        .unwrap();
        assert!(stats.blocks_read < 6, "{stats:?}");
    }

    #[test]
    fn what_is_beyond_the_limit_is_not_held() {
        let times: Vec<i64> = (0..3 * KEPT_ANYWAY as i64).collect();
        let store = store_with(&[times.iter().rev().copied().collect()]);
        let (found, _) = collect(&store, Order::OldestFirst, 10);
        assert_eq!(found, times[..10]);
    }

    proptest! {
        #[test]
        fn pages_are_the_whole_answer_in_its_order(
            times in prop::collection::vec(
                prop::collection::vec(0..20i64, 1..8), 1..12),
            newest: bool,
            size in 1..9u64,
        ) {
            let store = store_with(&times);
            let order = if newest { Order::NewestFirst } else { Order::OldestFirst };
            let filter = Filter::default();
            let read = |limit, after: Option<&Place>| {
                let mut places = Vec::new();
                let search = Search { after, ..search(&filter, order, limit) };
                let stats = run(&store, &search, |stored| {
                    places.push(Place::from(&stored));
                    ControlFlow::Continue(())
                })
                .unwrap();
                (places, stats.next)
            };
            let (whole, _) = read(0, None);
            prop_assert!(whole.is_sorted_by(|one, other| one.key(order) < other.key(order)));
            let (mut paged, mut next) = (Vec::new(), None);
            loop {
                let (page, behind) = read(size, next.as_ref());
                paged.extend(page);
                next = behind;
                if next.is_none() {
                    break;
                }
            }
            prop_assert_eq!(paged, whole);
        }

        #[test]
        fn events_come_in_order_of_time(
            times in prop::collection::vec(
                prop::collection::vec(0..200_000_000_000i64, 1..8), 1..12),
            newest: bool,
        ) {
            let store = store_with(&times);
            let order = if newest { Order::NewestFirst } else { Order::OldestFirst };
            let mut expected: Vec<i64> = times.into_iter().flatten().collect();
            expected.sort_unstable();
            if newest {
                expected.reverse();
            }
            let (found, stats) = collect(&store, order, 0);
            prop_assert_eq!(stats.matched, expected.len() as u64);
            prop_assert_eq!(found, expected);
        }
    }
}
