//! When what a segment holds is over: its answers, and its attempts, of which most are settled
//! elsewhere by then.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::index::{Slot, SlotKind};
use crate::clock::Timestamp;

/// A segment whose last record is over so soon after its retention, as a fraction of that, waits
/// for it.
const WAITS_PER_RETENTION: u32 = 24;

/// The ends of a journal's entries. Written by one thread and read by all.
#[derive(Debug, Default)]
pub(super) struct Ends {
    answers: AtomicU64,
    attempts: AtomicU64,
}

impl Ends {
    pub(super) fn new(answers: Timestamp, attempts: Timestamp) -> Self {
        Self {
            answers: AtomicU64::new(answers.0),
            attempts: AtomicU64::new(attempts.0),
        }
    }

    /// Notes when an entry is over.
    pub(super) fn note(&self, slot: Slot, ends_at: Timestamp) {
        let last = match slot.kind() {
            SlotKind::InFlight => &self.attempts,
            SlotKind::Completed | SlotKind::Removed => &self.answers,
        };
        last.fetch_max(ends_at.0, Ordering::Relaxed);
    }

    /// Includes those of other entries.
    pub(super) fn include(&self, others: &Self) {
        self.answers
            .fetch_max(others.answers().0, Ordering::Relaxed);
        self.attempts
            .fetch_max(others.attempts().0, Ordering::Relaxed);
    }

    /// When the last of all is over, unless it is held.
    pub(super) fn last(&self) -> Timestamp {
        self.answers().max(self.attempts())
    }

    /// When the last of the answers is over.
    pub(super) fn answers(&self) -> Timestamp {
        Timestamp(self.answers.load(Ordering::Relaxed))
    }

    /// When the last of the attempts is over, settled or not, unless it is held.
    pub(super) fn attempts(&self) -> Timestamp {
        Timestamp(self.attempts.load(Ordering::Relaxed))
    }
}

/// When a segment goes at the latest. An attempt is remembered for its lease and a retention, so
/// the last ones in a segment end a little later than a retention after it was rolled: to wait for
/// these costs less than to read the whole segment for what has to be carried forward.
pub(super) fn latest_due(
    rolled_at: Timestamp,
    ends_at: Timestamp,
    retention: Duration,
) -> Timestamp {
    let due = rolled_at.plus(retention);
    let waits_until = due.plus(retention / WAITS_PER_RETENTION);
    if ends_at <= waits_until {
        return due.max(ends_at);
    }
    due
}
