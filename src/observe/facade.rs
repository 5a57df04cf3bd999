//! The facade `metrics`, as much of it as is needed. Handles are made once, when an engine is opened:
//! looking them up each time would cost more than the rest of a replay.

use std::fmt;
use std::time::Instant;

use metrics::{Label, Unit};

#[derive(Clone)]
pub(super) struct Counter(metrics::Counter);

#[derive(Clone)]
pub(super) struct Gauge(metrics::Gauge);

#[derive(Clone)]
pub(super) struct Histogram(metrics::Histogram);

/// A moment from which a time is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment(Instant);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.increment(count);
    }
}

#[allow(clippy::cast_precision_loss)] // The facade wants it so; 2^52 is enough.
impl Gauge {
    pub(super) fn put(&self, value: u64) {
        self.0.set(value as f64);
    }

    pub(super) fn raise(&self) {
        self.0.increment(1.0);
    }

    pub(super) fn lower(&self) {
        self.0.decrement(1.0);
    }
}

#[allow(clippy::cast_precision_loss)]
impl Histogram {
    pub(super) fn note(&self, count: usize) {
        self.0.record(count as f64);
    }

    pub(super) fn note_since(&self, moment: Moment) {
        self.0.record(moment.0.elapsed().as_secs_f64());
    }
}

impl Moment {
    pub(super) fn now() -> Self {
        Self(Instant::now())
    }
}

pub(super) fn counter(
    name: &'static str,
    engine: &str,
    label: Option<(&'static str, &'static str)>,
    about: &'static str,
) -> Counter {
    metrics::describe_counter!(name, Unit::Count, about);
    let mut labels = vec![Label::new("engine", engine.to_owned())];
    labels.extend(label.map(|(name, value)| Label::from_static_parts(name, value)));
    Counter(metrics::counter!(name, labels))
}

pub(super) fn gauge(name: &'static str, engine: &str, about: &'static str) -> Gauge {
    let unit = if name.ends_with("_bytes") {
        Unit::Bytes
    } else {
        Unit::Count
    };
    metrics::describe_gauge!(name, unit, about);
    Gauge(metrics::gauge!(name, "engine" => engine.to_owned()))
}

/// A histogram of times.
pub(super) fn seconds(name: &'static str, engine: &str, about: &'static str) -> Histogram {
    metrics::describe_histogram!(name, Unit::Seconds, about);
    Histogram(metrics::histogram!(name, "engine" => engine.to_owned()))
}

/// A histogram of numbers of things.
pub(super) fn counts(name: &'static str, engine: &str, about: &'static str) -> Histogram {
    metrics::describe_histogram!(name, Unit::Count, about);
    Histogram(metrics::histogram!(name, "engine" => engine.to_owned()))
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counter")
    }
}

impl fmt::Debug for Gauge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gauge")
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Histogram")
    }
}
