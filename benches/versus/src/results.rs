//! What was measured, by rival and by callers, one figure per round.

use std::collections::HashMap;

use crate::figures::{float, median};
use crate::load::{Load, QUANTILES};
use crate::replay::Replays;
use crate::rivals::Kind;
use crate::round_trips::RoundTrips;

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Callers {
    Threads(usize),
    Tasks(usize),
}

impl Callers {
    pub(crate) fn label(self) -> String {
        match self {
            Self::Threads(count) => count.to_string(),
            Self::Tasks(count) => format!("tokio-{count}"),
        }
    }

    pub(crate) fn count(self) -> usize {
        match self {
            Self::Threads(count) | Self::Tasks(count) => count,
        }
    }
}

/// One rival with so many callers, over the rounds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cell {
    pub(crate) cycles_per_s: Vec<f64>,
    latencies_us: Vec<[u64; QUANTILES.len()]>,
}

impl Cell {
    pub(crate) fn add(&mut self, load: &Load) {
        self.cycles_per_s.push(load.cycles_per_s);
        self.latencies_us.extend(load.latency_us);
    }

    /// One of [`QUANTILES`] in each round that has it.
    pub(crate) fn latencies_us(&self, quantile: usize) -> Vec<f64> {
        let rounds = self.latencies_us.iter();
        rounds.map(|round| float(round[quantile])).collect()
    }

    /// How often the throughput of the other goes into this one's: the median over the rounds, each of
    /// which had the same moment of the disk for both.
    pub(crate) fn ratio_to(&self, other: &Self) -> f64 {
        let rounds = self.cycles_per_s.iter().zip(&other.cycles_per_s);
        let ratios: Vec<f64> = rounds.map(|(this, other)| this / other).collect();
        median(&ratios)
    }
}

/// With the keys that were loaded beforehand, and without.
#[derive(Clone, Debug)]
pub(crate) struct Preloaded {
    pub(crate) keys: u64,
    pub(crate) threads: usize,
    pub(crate) onceward: Cell,
    pub(crate) onceward_empty: Cell,
    pub(crate) redb_grouped: Option<Cell>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Results {
    pub(crate) kinds: Vec<Kind>,
    pub(crate) columns: Vec<Callers>,
    pub(crate) cells: HashMap<(Kind, Callers), Cell>,
    /// Replays per second, by round.
    pub(crate) replays: HashMap<(Kind, Replays), Vec<f64>>,
    pub(crate) preloaded: Option<Preloaded>,
    pub(crate) round_trips: Vec<RoundTrips>,
    /// Why rivals are missing.
    pub(crate) left_out: Vec<String>,
}
