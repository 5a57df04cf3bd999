//! How long something is asked of a server again that it refuses for a while.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::clock::Backoff;

/// The pause after the first try; each further one is twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// The tries of one call on a register, and when they end: for what a server refuses for a while, and is asked for again after
/// pauses that grow to 0.2 s and differ by chance. It needs tokio's timers.
#[derive(Debug)]
pub struct Tries {
    until: Instant,
    backoff: Backoff,
}

impl Tries {
    /// For a register's call with that timeout: a little less than the engine waits, so that it is
    /// told why.
    pub fn within(timeout: Duration) -> Self {
        Self::until(Instant::now() + timeout / 10 * 9)
    }

    /// Until then.
    pub fn until(until: Instant) -> Self {
        Self {
            until,
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
        }
    }

    /// When they end.
    pub fn end(&self) -> Instant {
        self.until
    }

    /// How long it is until they end.
    pub fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Waits a little, longer each time; `false` if the time is up.
    pub async fn pause(&mut self) -> bool {
        let pause = self.backoff.pause();
        if Instant::now() + pause >= self.until {
            return false;
        }
        sleep(pause).await;
        true
    }
}
