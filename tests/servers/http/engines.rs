//! Engines of several processes on one store, each with time of its own that runs and is moved.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use onceward::Engine;
use onceward::testkit::{Local, Shifted};

use crate::node::Told;
use crate::shared::Shared;

/// What a test moves.
pub(super) type Clock = Shifted<()>;

/// How long before an end a test looks, and how long after it: longer than what it does meanwhile takes.
pub(super) const BEFORE: Duration = Duration::from_secs(30);
pub(super) const AFTER: Duration = BEFORE;
/// One in so many requests is made of those that a test makes by the thousand.
pub(super) const SHARE: u64 = 25;

/// An engine on the store that all tests of all processes share.
pub(super) fn fresh() -> (Engine, Clock) {
    const TIMEOUT: Duration = Duration::from_secs(60);
    let clock = Shifted::new(());
    let builder = Engine::builder().clock(clock.clock());
    let engine = match Told::here() {
        Some(told) => builder.open_on(clock.beside(Shared::within(&told.store, TIMEOUT))),
        None => builder.open_on(clock.beside(Local::default())),
    };
    (engine.unwrap(), clock)
}

/// What the scopes of one test server begin with, and those of no other of any process.
pub(super) fn tenant() -> String {
    static SERVERS: AtomicUsize = AtomicUsize::new(0);
    let number = SERVERS.fetch_add(1, Ordering::Relaxed);
    format!("{}-{number} ", std::process::id())
}
