//! How many begins may be under way at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::decision::Command;
use crate::error::{Error, ErrorKind, Result};

/// The engine's limit on begins, and how long one waits for room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) depth: usize,
    pub(crate) wait: Duration,
}

#[derive(Debug)]
pub(super) struct Room {
    begins: Semaphore,
    wait: Duration,
    refused: AtomicU64,
}

impl Room {
    pub(super) fn new(Limit { depth, wait }: Limit) -> Self {
        Self {
            begins: Semaphore::new(depth),
            wait,
            refused: AtomicU64::new(0),
        }
    }

    /// Waits for room, if the command is one that has to: what is done with a guard never does.
    pub(super) async fn take(&self, command: &Command) -> Result<Option<SemaphorePermit<'_>>> {
        if !matches!(command, Command::Begin { .. }) {
            return Ok(None);
        }
        if let Ok(permit) = self.begins.try_acquire() {
            return Ok(Some(permit));
        }
        match timeout(self.wait, self.begins.acquire()).await {
            Ok(Ok(permit)) => Ok(Some(permit)),
            Ok(Err(_)) => Err(Error::closed()),
            Err(_) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                Err(Error::new(
                    ErrorKind::Overloaded,
                    "as many begins wait for the store's server as may; retry later, or raise queue_depth",
                ))
            }
        }
    }

    /// Nobody waits any more.
    pub(super) fn close(&self) {
        self.begins.close();
    }

    /// How many were refused.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}
