//! What the test servers keep their keys in: here, each in a memory of its own, on a clock that stands still.
//!
//! In `tests/servers` another module of this name puts the same tests on servers that machines share.

use std::time::Duration;

use onceward::{Engine, ManualClock};

use support::engine::MS;

/// What a test moves.
pub(super) type Clock = ManualClock;

/// How long before an end a test looks, and how long after it.
pub(super) const BEFORE: Duration = MS;
pub(super) const AFTER: Duration = Duration::ZERO;
/// One in so many requests is made of those that a test makes by the thousand.
pub(super) const SHARE: u64 = 1;

/// An engine in which none of the tests' keys are yet.
pub(super) fn fresh() -> (Engine, Clock) {
    let clock = ManualClock::new();
    let engine = Engine::builder().clock(clock.clone()).open_in_memory();
    (engine.unwrap(), clock)
}

/// What the tests' scopes begin with.
pub(super) fn tenant() -> String {
    String::new()
}
