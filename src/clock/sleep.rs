//! Waiting for a moment on the engine's time line.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_channel::oneshot;

use super::{Timer, TimerId, Timestamp};

/// Waits for a moment on the engine's time line, which a test's clock may move; ends at once when the engine closes.
#[derive(Debug)]
#[must_use = "a future waits for nothing until it is polled"]
pub struct Sleep {
    timer: Timer,
    id: TimerId,
    done: oneshot::Receiver<()>,
}

impl Timer {
    /// Ends at `when`, or at once when the timer stops.
    pub(crate) fn sleep_until(&self, when: Timestamp) -> Sleep {
        let (sender, done) = oneshot::channel();
        let timer = self.clone();
        let id = timer.schedule(when, move || {
            let _is_waited_for = sender.send(());
        });
        Sleep { timer, id, done }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.done).poll(context).map(drop)
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.timer.cancel(self.id);
    }
}
