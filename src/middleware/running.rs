//! How many handlers run at once, and waiting for the last of them.

use std::fmt;
use std::sync::Arc;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Waits for the handlers that a layer runs.
///
/// They run detached from their connections, so that a client that hangs up can't cancel them half way; a
/// shutdown that only waits for connections would cut them off. Stop taking requests, wait here, then close the
/// engine.
#[derive(Clone)]
pub struct Drain {
    shared: Arc<Shared>,
}

struct Shared {
    slots: Arc<Semaphore>,
    max_running: usize,
    left: Notify,
}

impl Drain {
    pub(super) fn new(max_running: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                slots: Arc::new(Semaphore::new(max_running)),
                max_running,
                left: Notify::new(),
            }),
        }
    }

    /// How many handlers are running, or about to.
    pub fn running(&self) -> usize {
        self.shared.max_running - self.shared.slots.available_permits()
    }

    /// Ends once no handler is running. It refuses nothing: stop the server first.
    pub async fn wait(&self) {
        loop {
            let left = self.shared.left.notified();
            let mut left = std::pin::pin!(left);
            // From here on a slot that is given back is noticed.
            left.as_mut().enable();
            if self.running() == 0 {
                return;
            }
            left.await;
        }
    }

    /// A slot, if one is free.
    pub(super) fn try_slot(&self) -> Option<Slot> {
        let permit = Arc::clone(&self.shared.slots).try_acquire_owned().ok()?;
        Some(self.slot(permit))
    }

    /// A slot, as soon as one is free. First come, first served.
    pub(super) async fn next_slot(&self) -> Slot {
        let permit = Arc::clone(&self.shared.slots).acquire_owned().await;
        self.slot(permit.expect("the semaphore is never closed"))
    }

    fn slot(&self, permit: OwnedSemaphorePermit) -> Slot {
        Slot {
            permit: Some(permit),
            drain: self.clone(),
        }
    }
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain")
            .field("running", &self.running())
            .field("max_running", &self.shared.max_running)
            .finish()
    }
}

/// The right to run one handler.
#[derive(Debug)]
pub(super) struct Slot {
    permit: Option<OwnedSemaphorePermit>,
    drain: Drain,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.permit = None;
        self.drain.shared.left.notify_waiters();
    }
}
