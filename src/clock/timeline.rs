//! The engine's time: wall-clock milliseconds that never run backwards.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Clock;

/// A moment on an engine's time line, in milliseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub(crate) u64);

impl Timestamp {
    /// A moment that never comes.
    pub(crate) const NEVER: Self = Self(u64::MAX);

    pub(crate) fn of(time: SystemTime) -> Self {
        let since_1970 = time
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Self(millis(since_1970))
    }

    /// The moment that lies so much later; the last one that there is, if that lies beyond.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }

    /// The time from `earlier` to this moment, zero if it lies later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    pub(crate) fn to_system_time(self) -> SystemTime {
        // Year 9999 stands for every later moment, so that no platform's SystemTime overflows.
        const LATEST_MS: u64 = 253_402_300_799_999;
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.0.min(LATEST_MS))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The wall clock as it stood at the anchor, carried on by the monotonic clock.
///
/// The anchor is the wall clock's reading at open, or the highest time on record where the wall
/// clock has fallen behind it. A step of the wall clock while the engine runs is never seen.
#[derive(Clone)]
pub(crate) struct Timeline {
    clock: Arc<dyn Clock>,
    anchor: Timestamp,
    anchor_monotonic: Duration,
}

impl Timeline {
    pub(crate) fn new(clock: Arc<dyn Clock>, highest_on_record: Timestamp) -> Self {
        Self {
            anchor: Timestamp::of(clock.wall()).max(highest_on_record),
            anchor_monotonic: clock.monotonic(),
            clock,
        }
    }

    /// A time that is `now`, whatever the wall clock says: somebody else's.
    #[cfg(any(test, feature = "register"))]
    pub(crate) fn beginning_at(clock: Arc<dyn Clock>, now: Timestamp) -> Self {
        Self {
            anchor: now,
            anchor_monotonic: clock.monotonic(),
            clock,
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        let elapsed = self.clock.monotonic().saturating_sub(self.anchor_monotonic);
        self.anchor.plus(elapsed)
    }

    pub(crate) fn on_step(&self, wake: Box<dyn Fn() + Send + Sync>) {
        self.clock.on_step(wake);
    }
}

impl fmt::Debug for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timeline")
            .field("anchor", &self.anchor)
            .field("clock", &self.clock)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::ManualClock;
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn a_step_of_the_wall_clock_while_running_changes_nothing() {
        let clock = ManualClock::new();
        let timeline = Timeline::new(Arc::new(clock.clone()), Timestamp(0));
        let start = timeline.now();
        for wall in [SystemTime::UNIX_EPOCH, clock.wall() + 24 * HOUR] {
            clock.set_wall(wall);
            assert_eq!(timeline.now(), start);
        }
        clock.advance(Duration::from_millis(1_500));
        assert_eq!(timeline.now(), Timestamp(start.0 + 1_500));
    }

    #[test]
    fn a_wall_clock_behind_the_record_starts_at_the_record() {
        let clock = ManualClock::new();
        let record = Timestamp::of(clock.wall() + HOUR);
        let timeline = Timeline::new(Arc::new(clock.clone()), record);
        assert_eq!(timeline.now(), record);
        clock.advance(HOUR);
        assert_eq!(timeline.now(), record.plus(HOUR));
    }

    #[test]
    fn arithmetic_saturates_instead_of_wrapping() {
        assert_eq!(Timestamp(u64::MAX - 1).plus(HOUR), Timestamp::NEVER);
        assert_eq!(Timestamp(1).since(Timestamp(2)), Duration::ZERO);
        assert!(Timestamp::NEVER.to_system_time() > SystemTime::UNIX_EPOCH);
    }
}
