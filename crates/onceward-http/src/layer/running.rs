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
    pub(crate) fn new(max_running: usize) -> Self {
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

    /// Ends once no handler is running, however long that takes: put a timeout around it. It refuses nothing, so let no
    /// new requests in before.
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
    pub(crate) fn try_slot(&self) -> Option<Slot> {
        let permit = Arc::clone(&self.shared.slots).try_acquire_owned().ok()?;
        Some(Slot {
            permit: Some(permit),
            drain: self.clone(),
        })
    }

    /// A slot, as soon as one is free. First come, first served.
    pub(crate) async fn next_slot(&self) -> Slot {
        // Made before the wait: a permit may be handed to a future that is dropped before it sees it,
        // and then goes back unseen. This is dropped after that, and tells whoever waits for the last one.
        let mut slot = Slot {
            permit: None,
            drain: self.clone(),
        };
        let permit = Arc::clone(&self.shared.slots).acquire_owned().await;
        slot.permit = Some(permit.expect("the semaphore is never closed"));
        slot
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
pub(crate) struct Slot {
    permit: Option<OwnedSemaphorePermit>,
    drain: Drain,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.permit = None;
        self.drain.shared.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_slot_that_is_handed_to_a_dropped_waiter_is_noticed_by_the_drain() {
        let drain = Drain::new(1);
        let running = drain.try_slot().unwrap();
        let woken = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut wait = pin!(drain.wait());
        assert!(
            wait.as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
        {
            let mut next = pin!(drain.next_slot());
            let mut context = Context::from_waker(Waker::noop());
            assert!(next.as_mut().poll(&mut context).is_pending());
            drop(running); // Its permit is the waiter's now.
            assert!(
                wait.as_mut()
                    .poll(&mut Context::from_waker(&waker))
                    .is_pending()
            );
        }
        assert_eq!(drain.running(), 0);
        assert!(woken.0.load(Ordering::SeqCst) > 1);
        assert_eq!(wait.poll(&mut Context::from_waker(&waker)), Poll::Ready(()));
    }
}
