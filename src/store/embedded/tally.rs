//! What a segment is called and counts as, from its first entry to its unlinking.

use std::sync::atomic::{AtomicI64, Ordering};

use serde::{Deserialize, Serialize};

/// The count of a segment that was unlinked.
const GONE: i64 = i64::MIN;

/// What a segment's file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SegmentHeader {
    pub(super) store_id: [u8; 16],
    pub(super) id: u64,
    pub(super) first_sequence: u64,
}

/// A segment's count of live keys. The journal has it, and the sealed segment that takes its place.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) header: SegmentHeader,
    /// How many keys have their newest entry in the segment, and aren't free by it.
    live_keys: AtomicI64,
}

impl Tally {
    pub(super) fn new(header: SegmentHeader, live_keys: u64) -> Self {
        Self {
            header,
            live_keys: AtomicI64::new(i64::try_from(live_keys).unwrap_or(i64::MAX)),
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
        let less = |live| (live != GONE).then_some(live - 1);
        let order = Ordering::Relaxed;
        self.live_keys.fetch_update(order, order, less).is_ok()
    }

    /// Ends the count, and gives what it was.
    pub(super) fn take(&self) -> u64 {
        let live = self.live_keys.swap(GONE, Ordering::Relaxed);
        u64::try_from(live).unwrap_or(0)
    }

    pub(super) fn live_keys(&self) -> u64 {
        u64::try_from(self.live_keys.load(Ordering::Relaxed)).unwrap_or(0)
    }
}
