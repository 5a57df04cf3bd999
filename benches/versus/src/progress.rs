//! Where the run is, on standard error.

use std::time::{Duration, Instant};

pub(crate) struct Progress {
    measurements: usize,
    done: usize,
    since: Instant,
}

impl Progress {
    pub(crate) fn new(measurements: usize) -> Self {
        Self {
            measurements,
            done: 0,
            since: Instant::now(),
        }
    }

    /// Says what a measurement found, and how long those that are left may take.
    pub(crate) fn measured(&mut self, what: &str, found: &str) {
        self.done += 1;
        let left = self.measurements.saturating_sub(self.done);
        let each = self.since.elapsed().as_secs_f64() / small(self.done);
        let seconds = each * small(left);
        eprintln!(
            "[{}/{}] {what}: {found} a second; about {} left",
            self.done,
            self.measurements,
            rough(Duration::from_secs_f64(seconds))
        );
    }
}

fn small(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

fn rough(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..=90 => format!("{seconds} s"),
        seconds => format!("{} min", seconds.div_ceil(60)),
    }
}
