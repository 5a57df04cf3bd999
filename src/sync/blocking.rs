//! The blocking face of the engine's futures.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use super::atomic::{AtomicBool, Ordering};
use super::thread::{self, Thread};
use super::thread_local;

/// Wakes a thread that waits in [`block_on`].
struct ThreadWaker {
    thread: Thread,
    /// Set by each wake, so that one survives a park token that something else has used up.
    is_woken: AtomicBool,
}

impl Wake for ThreadWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_woken.swap(true, Ordering::Release) {
            self.thread.unpark();
        }
    }
}

thread_local! {
    static WAKER: (Arc<ThreadWaker>, Waker) = {
        let waker = Arc::new(ThreadWaker {
            thread: thread::current(),
            is_woken: AtomicBool::new(false),
        });
        (Arc::clone(&waker), Waker::from(waker))
    };
}

/// Runs a future of the engine's to its end in this thread.
///
/// The futures of the engine run no caller's code while they are polled, so that one of these calls
/// never stands inside another.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    WAKER.with(|(thread, waker)| {
        let mut context = Context::from_waker(waker);
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return output;
            }
            while !thread.is_woken.swap(false, Ordering::Acquire) {
                thread::park();
            }
        }
    })
}
