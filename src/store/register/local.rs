//! A register in this process, whose server has a clock of its own.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::{Cursor, Loaded, Page, RecordId, Refused, Register, Swapped, Value, Version};
use crate::clock::Timeline;
use crate::sync::Mutex;

#[derive(Clone, Debug)]
pub(crate) struct Local {
    /// The server's.
    timeline: Timeline,
    cells: Arc<Mutex<BTreeMap<RecordId, (Value, u64)>>>,
}

impl Local {
    pub(crate) fn new(timeline: Timeline) -> Self {
        Self {
            timeline,
            cells: Arc::default(),
        }
    }
}

impl Register for Local {
    async fn load(&self, id: RecordId) -> Result<Loaded, Refused> {
        Ok(Loaded {
            value: self.cells.lock().get(&id).map(|(value, _)| value.clone()),
            now_ms: self.timeline.now().0,
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
        let now_ms = self.timeline.now().0;
        let value = cells.get(&id).map(|(value, _)| value);
        if value.map(|value| value.version) != expected {
            let value = value.cloned();
            return Ok(Swapped::Mismatch(Loaded { value, now_ms }));
        }
        cells.insert(id, (new, ends_at_ms));
        Ok(Swapped::Done { now_ms })
    }

    async fn sweep(&self) -> Result<u64, Refused> {
        let now_ms = self.timeline.now().0;
        let mut cells = self.cells.lock();
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
        Ok(Page::in_order(values, most, self.timeline.now().0))
    }
}
