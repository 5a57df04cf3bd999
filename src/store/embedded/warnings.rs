//! What fails behind the scenes while the store goes on.

use std::collections::BTreeMap;

use super::files::edge::with_causes;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Mutex;

/// Work that no caller waits for, and that is tried again by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Chore {
    Rolling,
    Sealing,
    Merging,
    Sweeping,
}

impl Chore {
    fn failing(self) -> &'static str {
        match self {
            Self::Rolling => "a full segment can't be rolled, and grows",
            Self::Sealing => "rolled segments can't be sealed, and take memory",
            Self::Merging => "segments can't be merged, and take memory",
            Self::Sweeping => "the sweep fails, and what is over takes room on the disk",
        }
    }
}

/// The last failure of each chore whose last try failed.
#[derive(Debug, Default)]
pub(super) struct Warnings(Mutex<BTreeMap<Chore, (ErrorKind, String)>>);

impl Warnings {
    /// Notes how a try has ended.
    pub(super) fn note<T>(&self, chore: Chore, result: &Result<T>) {
        match result {
            Ok(_) => self.clear(chore),
            Err(error) => self.failed(chore, error),
        }
    }

    /// Notes that a try has failed. One that the store's own end has ended says nothing.
    pub(super) fn failed(&self, chore: Chore, error: &Error) {
        if !matches!(error.kind(), ErrorKind::Closed | ErrorKind::Failed) {
            let reason = with_causes(error);
            self.0.lock().insert(chore, (error.kind(), reason));
        }
    }

    pub(super) fn clear(&self, chore: Chore) {
        self.0.lock().remove(&chore);
    }

    pub(super) fn all(&self) -> Vec<Error> {
        let failures = self.0.lock();
        let warning = |(chore, (kind, reason)): (&Chore, &(ErrorKind, String))| {
            let failing = chore.failing();
            Error::new(*kind, format!("{failing}; it is tried again: {reason}"))
        };
        failures.iter().map(warning).collect()
    }
}
