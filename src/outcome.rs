//! What `begin` finds, and what an operator sees of a key.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::clock::Timestamp;
use crate::key::Key;
use crate::reply::Reply;

/// What a begin found under the key, with a grant of sort `G`. [`Engine::begin`](crate::Engine::begin) gives a
/// [`Guard`](crate::Guard).
///
/// The enum is exhaustive on purpose: a caller says what happens in all four cases.
#[derive(Debug)]
#[must_use = "an outcome that is dropped abandons a granted key until its lease ends"]
pub enum Outcome<G> {
    /// The key was free, or its last attempt was abandoned: run the handler, then complete the guard.
    Proceed(G),
    /// The request was carried out before; this is its first answer.
    Replay(Reply),
    /// The key belongs to another request.
    Conflict(Conflict),
    /// The same request is being carried out now, or was left by an attempt that is held.
    InFlight(InFlight),
}

/// Another request than the key's first one came with the key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conflict {
    pub(crate) part: Option<Arc<str>>,
}

impl Conflict {
    /// The name of the first part, in the order of names, in which the two requests differ.
    ///
    /// `None` if both fingerprints have no named parts ([`Fingerprint::of`](crate::Fingerprint::of)), or
    /// were framed by different versions of the crate.
    pub fn part(&self) -> Option<&str> {
        self.part.as_deref()
    }
}

/// The same request is still being carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InFlight {
    pub(crate) attempt: u32,
    pub(crate) started_at: Timestamp,
    pub(crate) lease_until: Timestamp,
    pub(crate) is_held: bool,
    pub(crate) now: Timestamp,
}

impl InFlight {
    /// How long a client should wait before it asks again, in whole seconds.
    ///
    /// As long as the running attempt has already taken, at least 1 s, at most what is left of its
    /// lease, rounded up to a whole second. For a held key, whose end nobody can foretell: 60 s.
    pub fn retry_after(&self) -> Duration {
        const HELD: Duration = Duration::from_secs(60);
        const LEAST: Duration = Duration::from_secs(1);
        if self.is_held {
            return HELD;
        }
        let wait = self
            .now
            .since(self.started_at)
            .max(LEAST)
            .min(self.lease_left());
        let whole_seconds = wait.as_millis().div_ceil(1_000).max(1);
        Duration::from_secs(u64::try_from(whole_seconds).unwrap_or(u64::MAX))
    }

    /// What is left of the running attempt's lease; zero if the key is held.
    pub fn lease_left(&self) -> Duration {
        self.lease_until.since(self.now)
    }

    /// Which attempt is running, counted from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Whether the attempt was abandoned under [`OnAbandon::Hold`] and waits for an operator's
    /// [`resolve`](crate::Engine::resolve).
    pub fn is_held(&self) -> bool {
        self.is_held
    }
}

/// What becomes of an attempt that was abandoned: its guard was dropped, or its process died.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnAbandon {
    /// The next begin after the lease's end is granted, as the next attempt.
    #[default]
    Rerun,
    /// The key stays taken until an operator decides with [`resolve`](crate::Engine::resolve).
    Hold,
}

/// How an operator settles an abandoned attempt; for [`Engine::resolve`](crate::Engine::resolve).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resolution {
    /// The effect happened: retries get this reply.
    Complete(Reply),
    /// The effect didn't happen: the key is free.
    Release,
}

/// What an operator sees of one key; from [`Engine::lookup`](crate::Engine::lookup) and
/// [`Engine::held`](crate::Engine::held).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The key, unless the engine keeps digests only.
    pub key: Option<Key>,
    /// The attempt that the entry is about, counted from 1.
    pub attempt: u32,
    /// That attempt's fencing token.
    pub token: u64,
    /// How far the attempt has come.
    pub state: EntryState,
}

/// How far an attempt has come.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EntryState {
    /// Granted and not settled.
    #[non_exhaustive]
    InFlight {
        /// When this attempt was granted.
        started_at: SystemTime,
        /// When its lease ends, or ended.
        lease_until: SystemTime,
        /// Whether it was abandoned and waits for an operator.
        is_held: bool,
    },
    /// Completed; its reply is replayed.
    #[non_exhaustive]
    Completed {
        /// When the completion was decided.
        completed_at: SystemTime,
        /// From when on the key is free again.
        expires_at: SystemTime,
        /// The answer that retries get.
        reply: Reply,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_flight(taken_ms: u64, left_ms: u64) -> InFlight {
        InFlight {
            attempt: 1,
            started_at: Timestamp(1_000_000),
            now: Timestamp(1_000_000 + taken_ms),
            lease_until: Timestamp(1_000_000 + taken_ms + left_ms),
            is_held: false,
        }
    }

    #[test]
    fn retry_after_is_the_time_taken_between_a_second_and_the_lease_in_whole_seconds() {
        for (taken_ms, left_ms, seconds) in [
            (0, 120_000, 1),
            (1_000, 119_000, 1),
            (1_001, 118_999, 2),
            (30_000, 90_000, 30),
            (100_000, 20_000, 20),
            (119_900, 100, 1),
        ] {
            assert_eq!(
                in_flight(taken_ms, left_ms).retry_after(),
                Duration::from_secs(seconds),
                "taken {taken_ms} ms, left {left_ms} ms"
            );
        }
    }

    #[test]
    fn a_held_key_has_a_fixed_retry_after() {
        let held = InFlight {
            is_held: true,
            ..in_flight(500_000, 0)
        };
        assert_eq!(held.retry_after(), Duration::from_secs(60));
    }
}
