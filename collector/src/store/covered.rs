//! Which events were dealt with already, by stream and sequence number.

use std::collections::{BTreeMap, HashMap};

use shrike_proto::id::SequenceNumber;

use super::{block::Run, stream::StreamKey};

/// Ranges of sequence numbers; neighbours become one.
#[derive(Debug, Default)]
pub struct Covered {
    /// For each stream, last number by first number, none touching another.
    ranges: HashMap<StreamKey, BTreeMap<u64, u64>>,
}

impl Covered {
    /// Takes a run in.
    pub fn add(&mut self, run: &Run) {
        let ranges = self.ranges.entry(run.stream.clone()).or_default();
        let (mut first, mut last) = (run.first_sequence.0, run.last().0);
        // Those that begin up to right behind it, from the back.
        while let Some((start, end)) = ranges
            .range(..=last.saturating_add(1))
            .next_back()
            .map(|(start, end)| (*start, *end))
            && end.saturating_add(1) >= first
        {
            ranges.remove(&start);
            first = first.min(start);
            last = last.max(end);
        }
        ranges.insert(first, last);
    }

    /// Says whether a number was taken in.
    pub fn holds(&self, stream: &StreamKey, sequence: SequenceNumber) -> bool {
        self.ranges.get(stream).is_some_and(|ranges| {
            ranges
                .range(..=sequence.0)
                .next_back()
                .is_some_and(|(_, last)| *last >= sequence.0)
        })
    }

    /// Says whether nothing was taken in.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::sample;

    proptest! {
        #[test]
        fn what_was_taken_in_is_held_and_nothing_else(
            runs in prop::collection::vec((1..60u64, 1..8u32), 0..20),
        ) {
            let stream = sample::stream();
            let (mut covered, mut expected) = (Covered::default(), BTreeSet::new());
            for (first, count) in runs {
                covered.add(&Run {
                    stream: stream.clone(),
                    first_sequence: SequenceNumber(first),
                    count,
                });
                expected.extend(first..first + u64::from(count));
            }
            for sequence in 0..80 {
                prop_assert_eq!(
                    covered.holds(&stream, SequenceNumber(sequence)),
                    expected.contains(&sequence)
                );
            }
            // Neighbours are one range.
            let ranges = covered.ranges.get(&stream).map_or(0, BTreeMap::len);
            let gaps = expected.iter().filter(|it| !expected.contains(&(**it + 1))).count();
            prop_assert_eq!(ranges, gaps);
        }
    }
}
