//! The blocking face of the engine's futures.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::thread_local;
use super::waking::ThreadWaker;

thread_local! {
    static WAKER: (Arc<ThreadWaker>, Waker) = {
        let waker = Arc::new(ThreadWaker::new());
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
            let polled = thread.blocking(|| future.as_mut().poll(&mut context));
            if let Poll::Ready(output) = polled {
                return output;
            }
            thread.wait();
        }
    })
}
