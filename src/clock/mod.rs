//! Where time comes from: two readings, one time line made of them, and a timer on it.

mod manual;
mod timeline;
mod timer;

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

pub use manual::ManualClock;
pub(crate) use timeline::{Timeline, Timestamp};
pub(crate) use timer::{Timer, TimerId};

/// A source of time: the wall clock, and a clock that only ever goes forward.
///
/// The engine reads the wall clock once, when it is opened. From then on its time advances with the
/// monotonic reading alone, so that no step of the wall clock can shorten or prolong a lease.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// The time of day, which may be stepped by an operator or by NTP.
    fn wall(&self) -> SystemTime;

    /// The time since some fixed moment in this process; never less than an earlier reading.
    fn monotonic(&self) -> Duration;

    /// Registers what has to be called whenever the monotonic reading moved by other means than time
    /// passing. The system's clock never does, so that the default keeps nothing.
    fn on_step(&self, wake: Box<dyn Fn() + Send + Sync>) {
        drop(wake);
    }
}

impl<C: Clock + ?Sized> Clock for std::sync::Arc<C> {
    fn wall(&self) -> SystemTime {
        (**self).wall()
    }

    fn monotonic(&self) -> Duration {
        (**self).monotonic()
    }

    fn on_step(&self, wake: Box<dyn Fn() + Send + Sync>) {
        (**self).on_step(wake);
    }
}

/// The operating system's clocks.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock whose monotonic reading starts now.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}
