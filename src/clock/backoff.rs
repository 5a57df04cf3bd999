//! How long is waited between two tries of the same.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Time is whole milliseconds: less would be no pause.
const LEAST: Duration = Duration::from_millis(2);

/// Pauses that double up to a longest one, each with some jitter, so that those who failed together
/// don't come back together.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
    longest: Duration,
    tries: u64,
    jitter: RandomState,
}

impl Backoff {
    /// The first pause, and the longest one, both without their jitter.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self {
            next: first,
            longest,
            tries: 0,
            jitter: RandomState::new(),
        }
    }

    /// For what has to be done under a lease: from a twentieth of it to a quarter.
    pub fn within(lease: Duration) -> Self {
        Self::new(lease / 20, lease / 4)
    }

    /// The next pause: three quarters to five quarters of what it would be without jitter.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next.min(self.longest).max(LEAST);
        self.next = pause.saturating_mul(2);
        self.tries += 1;
        let share = u32::try_from(self.jitter.hash_one(self.tries) % 512).unwrap_or_default();
        pause * 3 / 4 + pause * share / 1_024
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_differ_by_a_quarter_at_most() {
        let mut backoff = Backoff::within(Duration::from_secs(20));
        for whole in [1, 2, 4, 5, 5, 5] {
            let (pause, whole) = (backoff.pause(), Duration::from_secs(whole));
            assert!(
                pause >= whole * 3 / 4 && pause <= whole * 5 / 4,
                "{pause:?}"
            );
        }
    }
}
