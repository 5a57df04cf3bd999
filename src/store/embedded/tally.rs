//! What a segment is called and counts as, from its first entry to its unlinking.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use serde::{Deserialize, Serialize};

/// The count of a segment that was unlinked.
const GONE: i64 = i64::MIN;

/// What a segment's file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SegmentHeader {
    pub(super) store_id: [u8; 16],
    /// Segments are numbered in the order of their age.
    pub(super) id: u64,
    /// The lowest number of the segments that were merged into this one; its own if none was.
    pub(super) first_id: u64,
    pub(super) first_sequence: u64,
}

/// A segment's count of live keys. The journal has it, and the sealed segment that takes its place.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) header: SegmentHeader,
    /// How many keys have their newest entry in the segment, and aren't free by it.
    live_keys: AtomicI64,
    /// The counts of the segments that were merged into this one: somebody who looked at the set before may
    /// still count there.
    merged: Vec<Arc<Tally>>,
}

impl Tally {
    pub(super) fn new(header: SegmentHeader, live_keys: u64) -> Self {
        Self {
            header,
            live_keys: AtomicI64::new(i64::try_from(live_keys).unwrap_or(i64::MAX)),
            merged: Vec::new(),
        }
    }

    /// The tally of the segment that others are merged into.
    pub(super) fn merging<'a>(
        header: SegmentHeader,
        members: impl Iterator<Item = &'a Arc<Self>>,
    ) -> Self {
        let with_theirs = |member: &'a Arc<Self>| member.merged.iter().chain([member]);
        Self {
            merged: members.flat_map(with_theirs).cloned().collect(),
            ..Self::new(header, 0)
        }
    }

    pub(super) fn id(&self) -> u64 {
        self.header.id
    }

    pub(super) fn add(&self) {
        self.live_keys.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one key less, and gives whether it was counted: not in a segment that is gone.
    pub(super) fn subtract(&self) -> bool {
        let less = |live| (live != GONE).then(|| live - 1);
        let order = Ordering::Relaxed;
        self.live_keys.fetch_update(order, order, less).is_ok()
    }

    /// Ends the count, and gives what it was.
    pub(super) fn take(&self) -> u64 {
        let live = self.sum(|live_keys| live_keys.swap(GONE, Ordering::Relaxed));
        u64::try_from(live).unwrap_or(0)
    }

    pub(super) fn live_keys(&self) -> u64 {
        let live = self.sum(|live_keys| live_keys.load(Ordering::Relaxed));
        u64::try_from(live).unwrap_or(0)
    }

    /// One of them alone may be below zero: what is counted no more was counted in another.
    fn sum(&self, read: impl Fn(&AtomicI64) -> i64 + Copy) -> i64 {
        let own = read(&self.live_keys);
        let merged = self.merged.iter().map(|tally| read(&tally.live_keys));
        merged.fold(own, i64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_a_segment_that_is_gone_is_not_counted_off() {
        let header = SegmentHeader {
            store_id: [1; 16],
            id: 1,
            first_id: 1,
            first_sequence: 1,
        };
        let tally = Tally::new(header, 2);
        assert!(tally.subtract());
        assert_eq!(tally.take(), 1);
        // As whoever publishes with the set of segments from before does.
        assert!(!tally.subtract());
        assert_eq!(tally.take(), 0);
    }
}
