//! Whether the store can answer.

use crate::error::{Error, Result};
use crate::store::{failed, interrupted};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU8, Ordering};

const OPEN: u8 = 0;
const CLOSED: u8 = 1;
const INTERRUPTED: u8 = 2;
const FAILED: u8 = 3;

/// Open, closed, interrupted by an error of the disk, or failed for good. Checked by every call, so it costs one
/// load while open.
#[derive(Debug, Default)]
pub(super) struct Condition {
    state: AtomicU8,
    /// Of an interruption or a failure that isn't over, whether the store was closed since or not.
    reason: Mutex<Option<String>>,
}

impl Condition {
    /// Whether the store can change something.
    pub(super) fn check(&self) -> Result<()> {
        match self.state.load(Ordering::Acquire) {
            OPEN => Ok(()),
            CLOSED => Err(Error::closed()),
            INTERRUPTED => Err(interrupted(&self.reason())),
            _ => Err(failed(&self.reason())),
        }
    }

    /// Whether the store can tell what is published. That is durable, and stays true while nothing can change.
    pub(super) fn check_readable(&self) -> Result<()> {
        match self.state.load(Ordering::Acquire) {
            OPEN | INTERRUPTED => Ok(()),
            _ => self.check(),
        }
    }

    pub(super) fn close(&self) {
        self.state.store(CLOSED, Ordering::Release);
    }

    /// Notes that nothing can be changed until further notice.
    pub(super) fn interrupt(&self, reason: &str) {
        self.note(reason, |state| state.exchange(OPEN, INTERRUPTED));
    }

    /// Whether anything can ever change again; a store that is closed finishes what is queued.
    pub(super) fn check_not_failed(&self) -> Result<()> {
        if self.is_failed() {
            return self.check();
        }
        Ok(())
    }

    /// Ends an interruption.
    pub(super) fn resume(&self) {
        let mut reason = self.reason.lock();
        self.exchange(INTERRUPTED, OPEN);
        if !self.is_failed() {
            *reason = None;
        }
    }

    /// Notes that nothing will ever change again. A store that is closed stays so.
    pub(super) fn fail(&self, reason: &str) {
        self.note(reason, |state| {
            state.exchange(OPEN, FAILED);
            state.exchange(INTERRUPTED, FAILED);
        });
    }

    /// Whether it has failed or is interrupted, closed since or not.
    pub(super) fn has_failed(&self) -> bool {
        self.reason.lock().is_some()
    }

    /// What it has failed of for good stays the reason, whatever comes of that.
    fn note(&self, reason: &str, change: impl FnOnce(&Self)) {
        let mut noted = self.reason.lock();
        if !self.is_failed() {
            *noted = Some(reason.to_owned());
        }
        change(self);
    }

    fn is_failed(&self) -> bool {
        self.state.load(Ordering::Acquire) == FAILED
    }

    fn reason(&self) -> String {
        let reason = self.reason.lock().clone();
        reason.unwrap_or_else(|| "the disk failed".to_owned())
    }

    fn exchange(&self, from: u8, to: u8) {
        let _ = self
            .state
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
    }
}
