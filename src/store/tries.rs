//! How long something is asked of a server again that it refuses for a while.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// The pause after the first try; each further one is twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// The tries of one call, and when they end.
pub(crate) struct Tries {
    until: Instant,
    pause: Duration,
}

impl Tries {
    /// For a register's call with that timeout: a little less than the engine waits, so that it is told why.
    pub(crate) fn within(timeout: Duration) -> Self {
        Self::until(Instant::now() + timeout / 10 * 9)
    }

    /// Until then.
    pub(crate) fn until(until: Instant) -> Self {
        Self {
            until,
            pause: FIRST_PAUSE,
        }
    }

    #[cfg(feature = "postgres")]
    pub(crate) fn end(&self) -> Instant {
        self.until
    }

    /// How long it is until they end.
    #[cfg(feature = "postgres")]
    pub(crate) fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Waits a little, longer each time; `false` if the time is up.
    pub(crate) async fn pause(&mut self) -> bool {
        let pause = about(self.pause);
        if Instant::now() + pause >= self.until {
            return false;
        }
        sleep(pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }
}

/// Half of it up to all of it, at random: those that were refused together don't come again together.
fn about(pause: Duration) -> Duration {
    const PARTS: u32 = 1 << 10;
    // Each state hashes otherwise.
    let random = RandomState::new().hash_one(());
    let part = u32::try_from(random % u64::from(PARTS)).unwrap_or(0);
    pause / 2 + (pause / 2) * part / PARTS
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn pauses_differ_and_are_between_half_of_what_is_meant_and_all_of_it() {
        let meant = Duration::from_millis(200);
        let pauses: HashSet<_> = (0..100).map(|_| about(meant)).collect();
        assert!(pauses.len() > 50, "{pauses:?}");
        assert!(pauses.iter().all(|it| (meant / 2..=meant).contains(it)));
    }
}
