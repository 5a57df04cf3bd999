//! Where time comes from: two readings, one time line made of them, and a timer on it.

mod backoff;
mod manual;
mod sleep;
mod timeline;
mod timer;

use std::fmt;
use std::time::{Duration, SystemTime};

pub use backoff::Backoff;
pub use manual::ManualClock;
pub use sleep::Sleep;
pub(crate) use timeline::Timeline;
pub use timeline::Timestamp;
pub(crate) use timer::{Timer, TimerId};

/// A source of time: the wall clock, and a clock that only ever goes forward.
///
/// The engine reads the wall clock once, when it is opened. From then on its time advances with the
/// monotonic reading alone, so that no step of the wall clock can shorten or prolong a lease.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// The time of day, which may be stepped by an operator or by NTP.
    fn wall(&self) -> SystemTime;

    /// The time since some fixed moment in this process; never less than an earlier reading. It
    /// should go on while the machine is suspended: leases elsewhere do.
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
///
/// On Linux the monotonic reading goes on while the machine is suspended (`CLOCK_BOOTTIME`).
/// Elsewhere, and while a virtual machine is paused from outside, it may stand still: a node then
/// takes a lease to run for longer than it does.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Reading,
}

#[cfg(target_os = "linux")]
type Reading = Duration;
#[cfg(not(target_os = "linux"))]
type Reading = std::time::Instant;

#[cfg(target_os = "linux")]
fn reading() -> Reading {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.try_into().unwrap_or_default()
}

#[cfg(not(target_os = "linux"))]
fn reading() -> Reading {
    std::time::Instant::now()
}

#[cfg(target_os = "linux")]
fn passed(since: Reading) -> Duration {
    reading().saturating_sub(since)
}

#[cfg(not(target_os = "linux"))]
fn passed(since: Reading) -> Duration {
    since.elapsed()
}

impl SystemClock {
    /// A clock whose monotonic reading starts now.
    pub fn new() -> Self {
        Self { start: reading() }
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
        passed(self.start)
    }
}
