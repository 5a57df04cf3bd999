//! A register in this process.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::clock::{Clock, SystemClock, Timestamp};
use crate::store::register::{
    Cursor, Loaded, Page, RecordId, Refused, Register, Swapped, Value, Version,
};
use crate::sync::Mutex;

/// A register in this process, for tests: a map that all clones share, and the clock of its server.
///
/// With a [`ManualClock`](crate::ManualClock) the server's time passes when a test says so. Nothing is announced, and
/// cells that have ended are there until they are swept.
///
/// ```
/// use std::time::Duration;
/// use onceward::{Engine, Fingerprint, Key, ManualClock, Outcome, testkit::Local};
///
/// let clock = ManualClock::new();
/// let server = Local::new(clock.clone());
/// let node = || Engine::builder().clock(clock.clone()).open_on(server.clone());
/// let (one, other) = (node()?, node()?);
/// let (key, fingerprint) = (Key::new("tenant", "key")?, Fingerprint::of("request"));
///
/// drop(one.begin(&key, &fingerprint)?); // the guard is abandoned
/// assert!(matches!(other.begin(&key, &fingerprint)?, Outcome::InFlight(_)));
/// clock.advance(Duration::from_secs(120)); // the lease is over
/// assert!(matches!(other.begin(&key, &fingerprint)?, Outcome::Proceed(_)));
/// # Ok::<(), onceward::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Local {
    clock: Arc<dyn Clock>,
    /// With the moment when each has ended.
    cells: Arc<Mutex<BTreeMap<RecordId, (Value, u64)>>>,
}

impl Local {
    /// An empty register whose server has this clock's wall time.
    pub fn new(clock: impl Clock) -> Self {
        Self {
            clock: Arc::new(clock),
            cells: Arc::default(),
        }
    }

    fn now_ms(&self) -> u64 {
        Timestamp::of(self.clock.wall()).0
    }
}

/// An empty register whose server has the system's clock.
impl Default for Local {
    fn default() -> Self {
        Self::new(SystemClock::new())
    }
}

impl Register for Local {
    async fn load(&self, id: RecordId) -> Result<Loaded, Refused> {
        let cells = self.cells.lock();
        Ok(Loaded {
            value: cells.get(&id).map(|(value, _)| value.clone()),
            now_ms: self.now_ms(),
        })
    }

    async fn swap(
        &self,
        id: RecordId,
        expected: Option<Version>,
        new: Value,
        ends_at_ms: u64,
    ) -> Result<Swapped, Refused> {
        let mut cells = self.cells.lock();
        let now_ms = self.now_ms();
        let value = cells.get(&id).map(|(value, _)| value);
        if value.map(|value| value.version) != expected {
            let value = value.cloned();
            return Ok(Swapped::Mismatch(Loaded { value, now_ms }));
        }
        cells.insert(id, (new, ends_at_ms));
        Ok(Swapped::Done { now_ms })
    }

    async fn sweep(&self) -> Result<u64, Refused> {
        let mut cells = self.cells.lock();
        let now_ms = self.now_ms();
        let before = cells.len();
        cells.retain(|_, (_, ends_at_ms)| *ends_at_ms > now_ms);
        Ok((before - cells.len()) as u64)
    }

    async fn scan(&self, from: Option<Cursor>, most: usize) -> Result<Page, Refused> {
        let after = from.and_then(|cursor| cursor.after());
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let cells = self.cells.lock();
        let page = cells.range((from, Bound::Unbounded)).take(most);
        let values = page.map(|(id, (value, _))| (*id, value.clone())).collect();
        Ok(Page::in_order(values, most, self.now_ms()))
    }
}
