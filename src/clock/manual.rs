//! A clock for tests, which moves when it is told to.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Clock;
use crate::sync::Mutex;

/// A clock that stands still until a test moves it.
///
/// Clones share one time, so that a test keeps a handle to the clock that it gave to an engine.
///
/// ```
/// use std::time::Duration;
/// use onceward::{Engine, Fingerprint, Key, ManualClock, Outcome};
///
/// let clock = ManualClock::new();
/// let engine = Engine::builder().clock(clock.clone()).open_in_memory()?;
/// let (key, fingerprint) = (Key::new("tenant", "key")?, Fingerprint::of("request"));
///
/// drop(engine.begin(&key, &fingerprint)?); // the guard is abandoned
/// clock.advance(Duration::from_secs(119));
/// assert!(matches!(engine.begin(&key, &fingerprint)?, Outcome::InFlight(_)));
/// clock.advance(Duration::from_secs(1)); // the lease of 2 minutes is over
/// assert!(matches!(engine.begin(&key, &fingerprint)?, Outcome::Proceed(_)));
/// # Ok::<(), onceward::Error>(())
/// ```
#[derive(Clone)]
pub struct ManualClock {
    shared: Arc<Shared>,
}

struct Shared {
    readings: Mutex<(SystemTime, Duration)>,
    wakes: Mutex<Vec<Box<dyn Fn() + Send + Sync>>>,
}

impl ManualClock {
    /// A clock whose wall reading is some fixed moment of 2025.
    pub fn new() -> Self {
        Self::at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_750_000_000))
    }

    /// A clock whose wall reading is `wall`.
    pub fn at(wall: SystemTime) -> Self {
        Self {
            shared: Arc::new(Shared {
                readings: Mutex::new((wall, Duration::ZERO)),
                wakes: Mutex::new(Vec::new()),
            }),
        }
    }

    /// Lets time pass: both readings move, and whoever waits for a moment that has come is woken.
    pub fn advance(&self, by: Duration) {
        {
            let mut readings = self.shared.readings.lock();
            readings.0 = readings.0.checked_add(by).unwrap_or(readings.0);
            readings.1 = readings.1.saturating_add(by);
        }
        for wake in self.shared.wakes.lock().iter() {
            wake();
        }
    }

    /// Steps the wall clock to `wall`, forwards or backwards, while no time passes.
    pub fn set_wall(&self, wall: SystemTime) {
        self.shared.readings.lock().0 = wall;
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> SystemTime {
        self.shared.readings.lock().0
    }

    fn monotonic(&self) -> Duration {
        self.shared.readings.lock().1
    }

    fn on_step(&self, wake: Box<dyn Fn() + Send + Sync>) {
        self.shared.wakes.lock().push(wake);
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManualClock")
            .field("wall", &self.wall())
            .finish_non_exhaustive()
    }
}
