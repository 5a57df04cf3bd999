//! What time it is on the server, between two of its answers.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::clock::{Timeline, Timestamp};

/// An answer that took longer is compared with what was known before.
const SLOW_MS: u64 = 100;

/// The server's time is taken for the latest that it can be, so that a lease that is reckoned by it ends no earlier than
/// it should, and later by no more than a round trip.
#[derive(Debug)]
pub(super) struct ServerTime {
    timeline: Timeline,
    /// By how much the server is ahead of the timeline, at most.
    ahead_ms: AtomicI64,
    /// The same, at least.
    ahead_ms_least: AtomicI64,
}

impl ServerTime {
    /// Not the server's before the first answer was [learnt](ServerTime::learn).
    pub(super) fn new(timeline: Timeline) -> Self {
        Self {
            timeline,
            ahead_ms: AtomicI64::new(0),
            ahead_ms_least: AtomicI64::new(0),
        }
    }

    /// This node's own time, for [`learn`](ServerTime::learn).
    pub(super) fn asking(&self) -> Timestamp {
        self.timeline.now()
    }

    /// Takes over what an answer said to what was asked at `asked`: the server's clock can't have been further
    /// ahead than if it had been read at once, and no less far than if it had been read just now. Gives the time on the server when it was asked, at the earliest: as if
    /// it had been read just now.
    pub(super) fn learn(&self, asked: Timestamp, answered: Timestamp) -> Timestamp {
        let ahead_of = |own: Timestamp| {
            let ahead = i128::from(answered.0) - i128::from(own.0);
            i64::try_from(ahead).unwrap_or(i64::MAX)
        };
        let now = self.timeline.now();
        let took = now.0.saturating_sub(asked.0);
        let (mut most, mut least) = (ahead_of(asked), ahead_of(now));
        if took > SLOW_MS {
            // It tells little, and too much if a suspend fell into it: what was known and may be
            // true is kept.
            let known = self.ahead_ms.load(Ordering::Relaxed);
            let known_least = self.ahead_ms_least.load(Ordering::Relaxed);
            if known_least <= most && least <= known {
                (most, least) = (most.min(known), least.max(known_least));
            }
        }
        self.ahead_ms.store(most, Ordering::Relaxed);
        self.ahead_ms_least.store(least, Ordering::Relaxed);
        Timestamp(answered.0.saturating_sub(took))
    }

    /// When a moment of the server's comes on the engine's time line, at the earliest.
    pub(super) fn local(&self, at: Timestamp) -> Timestamp {
        let ahead = self.ahead_ms.load(Ordering::Relaxed);
        Timestamp(at.0.saturating_sub_signed(ahead))
    }

    /// The same, at the latest.
    pub(super) fn local_at_latest(&self, at: Timestamp) -> Timestamp {
        let ahead = self.ahead_ms_least.load(Ordering::Relaxed);
        Timestamp(at.0.saturating_sub_signed(ahead.saturating_sub(1)))
    }

    /// The latest that it can be on the server.
    pub(super) fn latest(&self) -> Timestamp {
        let ahead = self.ahead_ms.load(Ordering::Relaxed);
        Timestamp(self.timeline.now().0.saturating_add_signed(ahead))
    }

    /// The earliest that it can be on the server, where times are whole milliseconds.
    pub(super) fn earliest(&self) -> Timestamp {
        let ahead = self.ahead_ms_least.load(Ordering::Relaxed);
        let ahead = ahead.saturating_sub(1);
        Timestamp(self.timeline.now().0.saturating_add_signed(ahead))
    }
}
