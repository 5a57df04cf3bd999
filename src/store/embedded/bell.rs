//! How a thread of the store is woken and stopped.

use crate::sync::{Mutex, Receiver, Sender, bounded};

/// Wakes a thread that waits at the other end, until it is to stop.
#[derive(Debug)]
pub(super) struct Bell(Mutex<Option<Sender<()>>>);

impl Bell {
    pub(super) fn new() -> (Self, Receiver<()>) {
        let (rings, rung) = bounded(1);
        (Self(Mutex::new(Some(rings))), rung)
    }

    pub(super) fn ring(&self) {
        if let Some(rings) = &*self.0.lock() {
            // A ring that waits already is enough.
            let _is_heard = rings.try_send(());
        }
    }

    /// The thread hears no more, and that there is nobody any more who could ring.
    pub(super) fn stop(&self) {
        self.0.lock().take();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.0.lock().is_none()
    }
}
