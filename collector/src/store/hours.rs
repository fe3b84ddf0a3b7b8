//! What became of everything that a stream counted, hour by hour.
//!
//! An agent tells how its ledger stood at the end of each hour of its clock
//! ([`HourMark`]); between two marks lie the counts of one hour, and the
//! sequence numbers that were given in it. What became of those numbers is
//! known here: they are stored, lost by a range that says so, or still on their
//! way.
//!
//! ```text
//! seen      = filtered + lost without a number + numbered + on its way to one
//! numbered  = stored + lost with a number + in flight
//! ```
//!
//! An hour is *open* while it may change, and lies in the stream's watermark
//! then. It is closed when a later one has begun and every number of it is
//! durable: then it becomes a small record of its own, which lies in the store
//! for as long as the hour's events would.
//!
//! A range that is lost is booked on the hour that has its numbers as far as
//! the agent has told; the agent tells every second, so a loss in the last
//! second of an hour may be in the hour before.

use std::collections::{BTreeMap, VecDeque};

use prost::Message;
use shrike_proto::{
    id::SequenceNumber,
    ledger::{HOURS_MAX, Hour, HourMark, LossReason, losses_from_wire, losses_to_wire},
    wire::event as wire,
};

use super::{
    Collection, RecordChange, Store, StoreError,
    block::{KeyError, sortable, unsortable},
    damaged_record, layout,
    stream::{LostRange, StreamKey},
};

/// What became of what a stream counted in an hour.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HourCounts {
    /// What the hooks set out to record.
    pub seen: u64,
    /// Left out on purpose.
    pub filtered: u64,
    /// Lost, by reason, with or without a number.
    pub lost: BTreeMap<LossReason, u64>,
    /// Events that got a number.
    pub sequenced: u64,
    /// Of those: not durable yet.
    pub in_flight: u64,
    /// What was seen by the end of the hour since the epoch began, and neither
    /// filtered, lost nor numbered: on its way. Less than 0: something counts
    /// wrong.
    pub unaccounted: i64,
    /// Number of the last mark that is in it.
    pub number: u64,
}

impl HourCounts {
    /// Returns how many events of the hour were stored, those included that
    /// retention removed since.
    pub fn stored(&self) -> u64 {
        let lost: u64 = self
            .lost
            .iter()
            .filter(|(reason, _)| reason.stage() == shrike_proto::ledger::Stage::Numbered)
            .map(|(_, count)| *count)
            .sum();
        self.sequenced
            .saturating_sub(lost)
            .saturating_sub(self.in_flight)
    }

    /// Takes in what another mark of the same hour says.
    pub fn add(&mut self, other: &Self) {
        self.seen = self.seen.saturating_add(other.seen);
        self.filtered = self.filtered.saturating_add(other.filtered);
        add_losses(&mut self.lost, &other.lost);
        self.sequenced = self.sequenced.saturating_add(other.sequenced);
        self.in_flight = self.in_flight.saturating_add(other.in_flight);
        if other.number >= self.number {
            self.number = other.number;
            self.unaccounted = other.unaccounted;
        }
    }
}

/// Adds counts by reason to others.
pub fn add_losses(lost: &mut BTreeMap<LossReason, u64>, more: &BTreeMap<LossReason, u64>) {
    for (reason, count) in more {
        let entry = lost.entry(*reason).or_default();
        *entry = entry.saturating_add(*count);
    }
}

/// The hours of a stream that may change still.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OpenHours {
    /// How the ledger stood at the end of the last hour that was closed.
    before: HourMark,
    open: VecDeque<OpenHour>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct OpenHour {
    mark: HourMark,
    /// Of its numbers.
    lost: BTreeMap<LossReason, u64>,
}

impl OpenHours {
    /// Says whether the agent never told of an hour.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Takes in what an agent tells; what is known already changes nothing.
    pub fn take_in(&mut self, marks: &VecDeque<HourMark>) {
        for mark in marks {
            let last = self.last_number();
            if mark.number > last {
                self.push(mark.clone());
            } else if let Some(open) = self
                .open
                .iter_mut()
                .find(|open| open.mark.number == mark.number)
            {
                // An older ledger may arrive late.
                if mark.seen >= open.mark.seen && mark.sequenced >= open.mark.sequenced {
                    open.mark = mark.clone();
                }
            }
        }
    }

    fn last_number(&self) -> u64 {
        self.open
            .back()
            .map_or(self.before.number, |open| open.mark.number)
    }

    fn push(&mut self, mark: HourMark) {
        self.open.push_back(OpenHour {
            mark,
            lost: BTreeMap::new(),
        });
        if self.open.len() > HOURS_MAX
            && let Some(oldest) = self.open.pop_front()
            && let Some(next) = self.open.front_mut()
        {
            // Its counts become the next one's, as at the agent.
            add_losses(&mut next.lost, &oldest.lost);
        }
    }

    /// Books a range of numbers that hold no event.
    pub fn lose(&mut self, range: &LostRange) {
        let mut from = range.first.0;
        let last = range.last();
        let end = self.open.len();
        for (index, open) in self.open.iter_mut().enumerate() {
            let upto = match index + 1 == end {
                true => last,
                false => last.min(open.mark.sequenced),
            };
            if from > last || upto < from {
                continue;
            }
            let lost = open.lost.entry(range.reason).or_default();
            *lost = lost.saturating_add(upto - from + 1);
            from = upto.saturating_add(1);
        }
    }

    /// Takes out the hours that will not change any more.
    pub fn close(&mut self, durable: SequenceNumber) -> Vec<(Hour, HourCounts)> {
        let mut closed = Vec::new();
        while self.open.len() > 1
            && let Some(open) = self
                .open
                .pop_front_if(|open| open.mark.sequenced <= durable.0)
        {
            closed.push((open.mark.hour, open.counts(&self.before, durable)));
            self.before = later(&self.before, &open.mark);
        }
        closed
    }

    /// Returns the hours that may change, as they stand.
    pub fn counts(&self, durable: SequenceNumber) -> Vec<(Hour, HourCounts)> {
        let mut before = self.before.clone();
        self.open
            .iter()
            .map(|open| {
                let counts = open.counts(&before, durable);
                before = later(&before, &open.mark);
                (open.mark.hour, counts)
            })
            .collect()
    }

    /// Returns `seen - filtered - lost - numbered` as the agent told it last.
    pub fn unaccounted(&self) -> i128 {
        self.open.back().map_or(0, |open| open.mark.unaccounted())
    }

    pub(super) fn to_disk(&self) -> OpenHoursRecord {
        OpenHoursRecord {
            before: Some(self.before.clone().into()),
            open: self
                .open
                .iter()
                .map(|open| OpenHourRecord {
                    mark: Some(open.mark.clone().into()),
                    lost: losses_to_wire(open.lost.clone()),
                })
                .collect(),
        }
    }

    pub(super) fn from_disk(record: OpenHoursRecord) -> Self {
        Self {
            before: record.before.map(Into::into).unwrap_or_default(),
            open: record
                .open
                .into_iter()
                .map(|open| OpenHour {
                    mark: open.mark.map(Into::into).unwrap_or_default(),
                    lost: losses_from_wire(open.lost),
                })
                .collect(),
        }
    }
}

/// Returns a mark with what is higher of either: an agent that begins counts some
/// records again that were on their way when the one before it ended.
fn later(before: &HourMark, mark: &HourMark) -> HourMark {
    let mut lost = before.lost.clone();
    for (reason, count) in &mark.lost {
        let entry = lost.entry(*reason).or_default();
        *entry = (*entry).max(*count);
    }
    HourMark {
        hour: mark.hour,
        number: mark.number,
        seen: before.seen.max(mark.seen),
        filtered: before.filtered.max(mark.filtered),
        lost,
        sequenced: before.sequenced.max(mark.sequenced),
    }
}

impl OpenHour {
    fn counts(&self, before: &HourMark, durable: SequenceNumber) -> HourCounts {
        let mark = &self.mark;
        let mut lost: BTreeMap<LossReason, u64> = mark
            .lost
            .iter()
            .map(|(reason, count)| {
                let known = before.lost.get(reason).copied().unwrap_or(0);
                (*reason, count.saturating_sub(known))
            })
            .collect();
        add_losses(&mut lost, &self.lost);
        lost.retain(|_, count| *count > 0);
        let begins = before.sequenced.max(durable.0);
        HourCounts {
            seen: mark.seen.saturating_sub(before.seen),
            filtered: mark.filtered.saturating_sub(before.filtered),
            lost,
            sequenced: mark.sequenced.saturating_sub(before.sequenced),
            in_flight: mark.sequenced.saturating_sub(begins),
            unaccounted: i64::try_from(mark.unaccounted()).unwrap_or(i64::MIN),
            number: mark.number,
        }
    }
}

/// [`OpenHours`] as they lie in a watermark.
#[derive(Clone, PartialEq, Message)]
pub(super) struct OpenHoursRecord {
    #[prost(message, optional, tag = "1")]
    before: Option<wire::HourMark>,
    #[prost(message, repeated, tag = "2")]
    open: Vec<OpenHourRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct OpenHourRecord {
    #[prost(message, optional, tag = "1")]
    mark: Option<wire::HourMark>,
    #[prost(message, repeated, tag = "2")]
    lost: Vec<wire::LossCount>,
}

/// An hour that was closed, as it lies in the store.
#[derive(Clone, PartialEq, Message)]
struct ClosedHourRecord {
    #[prost(uint64, tag = "1")]
    seen: u64,
    #[prost(uint64, tag = "2")]
    filtered: u64,
    #[prost(message, repeated, tag = "3")]
    lost: Vec<wire::LossCount>,
    #[prost(uint64, tag = "4")]
    sequenced: u64,
    #[prost(sint64, tag = "5")]
    unaccounted: i64,
    #[prost(uint64, tag = "6")]
    number: u64,
}

fn encode(counts: &HourCounts) -> Vec<u8> {
    ClosedHourRecord {
        seen: counts.seen,
        filtered: counts.filtered,
        lost: losses_to_wire(counts.lost.clone()),
        sequenced: counts.sequenced,
        unaccounted: counts.unaccounted,
        number: counts.number,
    }
    .encode_to_vec()
}

fn decode(bytes: &[u8]) -> Result<HourCounts, prost::DecodeError> {
    let record = ClosedHourRecord::decode(bytes)?;
    Ok(HourCounts {
        seen: record.seen,
        filtered: record.filtered,
        lost: losses_from_wire(record.lost),
        sequenced: record.sequenced,
        in_flight: 0,
        unaccounted: record.unaccounted,
        number: record.number,
    })
}

/// Key of a closed hour's record: the hour (8, sortable), the stream.
fn record_key(hour: Hour, stream: &StreamKey) -> Vec<u8> {
    let mut key = sortable(hour.0).to_vec();
    key.extend(layout::stream_key(stream));
    key
}

fn parse_record_key(key: &[u8]) -> Result<(Hour, StreamKey), KeyError> {
    let (hour, stream) = key.split_first_chunk::<8>().ok_or(KeyError::Short)?;
    Ok((
        Hour(unsortable(*hour)),
        layout::parse_watermark_key(stream)?,
    ))
}

/// Hours that were closed and are to be written.
#[derive(Debug, Default)]
pub struct ClosedHours(BTreeMap<(Hour, StreamKey), HourCounts>);

impl ClosedHours {
    /// Takes in hours of a stream.
    pub fn add(&mut self, stream: &StreamKey, hours: Vec<(Hour, HourCounts)>) {
        for (hour, counts) in hours {
            self.0
                .entry((hour, stream.clone()))
                .or_default()
                .add(&counts);
        }
    }

    /// Returns what is to be written: with what the store has of the same hours,
    /// where a clock was set back.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub fn changes(&self, store: &dyn Store) -> Result<Vec<RecordChange>, StoreError> {
        self.0
            .iter()
            .map(|((hour, stream), counts)| {
                let key = record_key(*hour, stream);
                let value = match store.record(Collection::Hours, &key)? {
                    None => encode(counts),
                    Some(known) => {
                        let mut all = open_record(&key, &known)?;
                        all.add(counts);
                        encode(&all)
                    }
                };
                Ok(RecordChange {
                    collection: Collection::Hours,
                    key,
                    value: Some(value),
                })
            })
            .collect()
    }
}

fn open_record(key: &[u8], value: &[u8]) -> Result<HourCounts, StoreError> {
    decode(value).map_err(|error| damaged_record(Collection::Hours, key, &error))
}

/// One stream's hour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamHour {
    /// Which hour.
    pub hour: Hour,
    /// Whose.
    pub stream: StreamKey,
    /// What became of it.
    pub counts: HourCounts,
}

/// Lists the hours from `first` to `last`, both included, of the streams that
/// `selects` takes, in the order of hour and stream.
///
/// # Errors
/// [`StoreError`] when the store cannot be read.
pub fn list(
    store: &dyn Store,
    first: Hour,
    last: Hour,
    selects: impl Fn(&StreamKey) -> bool,
) -> Result<Vec<StreamHour>, StoreError> {
    // First what is open: what is closed in between is there twice then, and not
    // in neither.
    let marks = store.watermarks()?;
    let mut found: BTreeMap<(Hour, StreamKey), HourCounts> = BTreeMap::new();
    let until = Hour(last.0.saturating_add(1));
    let (from, until) = (sortable(first.0), sortable(until.0));
    for (key, value) in store.records_between(Collection::Hours, &from, &until)? {
        let (hour, stream) = parse_record_key(&key)
            .map_err(|error| damaged_record(Collection::Hours, &key, &error))?;
        if selects(&stream) {
            found.insert((hour, stream), open_record(&key, &value)?);
        }
    }
    for (stream, mark) in marks {
        if !selects(&stream) {
            continue;
        }
        for (hour, counts) in mark.hours.counts(mark.durable) {
            if (first..=last).contains(&hour) {
                let known = found.entry((hour, stream.clone())).or_default();
                if counts.number > known.number {
                    known.add(&counts);
                }
            }
        }
    }
    Ok(found
        .into_iter()
        .map(|((hour, stream), counts)| StreamHour {
            hour,
            stream,
            counts,
        })
        .collect())
}

/// Returns the changes that remove closed hours before one, at most `limit`.
///
/// # Errors
/// [`StoreError`] when the store cannot be read.
pub fn removals(
    store: &dyn Store,
    before: Hour,
    limit: usize,
) -> Result<Vec<RecordChange>, StoreError> {
    let until = sortable(before.0);
    let found = store.records_between(Collection::Hours, &[], &until)?;
    Ok(found
        .into_iter()
        .take(limit)
        .map(|(key, _)| RecordChange {
            collection: Collection::Hours,
            key,
            value: None,
        })
        .collect())
}

#[cfg(test)]
mod tests;
