//! Replays: how fast retries get their answers.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use onceward::Key;

use crate::figures::per_second;
use crate::interrupt;
use crate::rival::{REPLY_BYTES, Reader, key};

const HOT_KEYS: usize = 1_000;
const COLD_KEYS: usize = 100_000;
/// Coprime to the counts of keys, so that all have their turn, and no two neighbours follow each other.
const STRIDE: usize = 7_919;
/// How many replays go between two looks at the clock.
const REPLAYS_PER_LOOK: u64 = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Replays {
    Hot { threads: usize },
    Cold,
}

impl Replays {
    pub(crate) const ALL: [Self; 3] = [
        Self::Hot { threads: 1 },
        Self::Hot { threads: 2 },
        Self::Cold,
    ];

    pub(crate) fn label(self) -> String {
        match self {
            Self::Hot { threads: 1 } => "hot, 1 thread".to_owned(),
            Self::Hot { threads } => format!("hot, {threads} threads"),
            Self::Cold => "cold, 1 thread".to_owned(),
        }
    }

    pub(crate) fn threads(self) -> usize {
        match self {
            Self::Hot { threads } => threads,
            Self::Cold => 1,
        }
    }

    /// The keys that are asked for, among those that were completed: the first, or spread over all.
    pub(crate) fn keys(self, completed: &[u64]) -> Result<Vec<Key>> {
        let most = match self {
            Self::Hot { .. } => HOT_KEYS,
            Self::Cold => COLD_KEYS,
        };
        let every = match self {
            Self::Hot { .. } => 1,
            Self::Cold => completed.len().div_ceil(most).max(1),
        };
        let numbers = completed.iter().step_by(every).take(most);
        numbers.map(|number| key(*number)).collect()
    }
}

/// Replays per second of all readers together, each in its thread.
pub(crate) fn measure(
    readers: &mut [Box<dyn Reader>],
    keys: &[Key],
    warms_up: bool,
    time: Duration,
) -> Result<f64> {
    ensure!(
        !keys.is_empty(),
        "nothing was completed that could be replayed"
    );
    if warms_up {
        for reader in &mut *readers {
            for key in keys {
                replay(reader.as_mut(), key)?;
            }
        }
    }
    let until = Instant::now() + time;
    let rates: Result<Vec<f64>> = std::thread::scope(|scope| {
        let threads: Vec<_> = readers
            .iter_mut()
            .map(|reader| scope.spawn(move || in_thread(reader.as_mut(), keys, until)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a reader panicked"))?)
            .collect()
    });
    interrupt::check()?;
    Ok(rates?.iter().sum())
}

fn in_thread(reader: &mut dyn Reader, keys: &[Key], until: Instant) -> Result<f64> {
    let (mut count, mut at, since) = (0, 0, Instant::now());
    while Instant::now() < until && !interrupt::is_set() {
        for _ in 0..REPLAYS_PER_LOOK {
            replay(reader, &keys[at])?;
            at = (at + STRIDE) % keys.len();
        }
        count += REPLAYS_PER_LOOK;
    }
    Ok(per_second(count, since.elapsed()))
}

fn replay(reader: &mut dyn Reader, key: &Key) -> Result<()> {
    let reply = reader.replay(key)?;
    ensure!(
        reply
            .as_ref()
            .is_some_and(|reply| reply.len() == REPLY_BYTES),
        "{key:?} has no reply or another one: {reply:?}"
    );
    Ok(())
}
