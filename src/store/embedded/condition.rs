//! Whether the store can answer.

use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::store::unavailable;

const OPEN: u8 = 0;
const CLOSED: u8 = 1;
const FAILED: u8 = 2;

/// Open, closed, or failed with a reason. Checked by every call, so it costs one load while open.
#[derive(Debug, Default)]
pub(super) struct Condition {
    state: AtomicU8,
    reason: Mutex<String>,
}

impl Condition {
    pub(super) fn check(&self) -> Result<()> {
        match self.state.load(Ordering::Acquire) {
            OPEN => Ok(()),
            CLOSED => Err(Error::closed()),
            _ => Err(unavailable(&self.reason.lock())),
        }
    }

    pub(super) fn close(&self) {
        self.state.store(CLOSED, Ordering::Release);
    }

    /// Notes the first failure; a store that is closed stays so.
    pub(super) fn fail(&self, reason: &str) {
        let mut first = self.reason.lock();
        if first.is_empty() {
            reason.clone_into(&mut first);
        }
        drop(first);
        let _ = self
            .state
            .compare_exchange(OPEN, FAILED, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Whether it ever failed, closed since or not.
    pub(super) fn has_failed(&self) -> bool {
        !self.reason.lock().is_empty()
    }
}
