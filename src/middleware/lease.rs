//! Keeps an attempt's lease running while its handler does.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use crate::engine::{Engine, Guard};

/// A pause between renewals is never shorter, whatever the lease.
const LEAST_PAUSE: Duration = Duration::from_millis(1);

/// Runs `work` to its end, and renews the lease whenever half of it is over, until `renew_for` has passed.
pub(super) async fn under_lease<W: Future>(
    engine: &Engine,
    guard: &mut Guard,
    renew_for: Duration,
    work: W,
) -> W::Output {
    let mut work = pin!(work);
    let mut passed = Duration::ZERO;
    while passed < renew_for {
        let limit = renew_for.saturating_sub(passed);
        let pause = (guard.lease_left() / 2).min(limit).max(LEAST_PAUSE);
        if let First::Left(output) = first(work.as_mut(), pin!(engine.sleep(pause))).await {
            return output;
        }
        passed += pause;
        match first(work.as_mut(), pin!(guard.renew_async())).await {
            First::Left(output) => return output,
            First::Right(Ok(())) => {}
            // The lease was taken over, or the store has failed: no later renewal succeeds.
            First::Right(Err(_)) => break,
        }
    }
    work.await
}

/// Which of two futures ended first.
pub(super) enum First<L, R> {
    Left(L),
    Right(R),
}

/// Waits for the first of two futures; the left one if both are ready.
pub(super) async fn first<L: Future, R: Future>(
    mut left: Pin<&mut L>,
    mut right: Pin<&mut R>,
) -> First<L::Output, R::Output> {
    poll_fn(|context| {
        if let Poll::Ready(output) = left.as_mut().poll(context) {
            return Poll::Ready(First::Left(output));
        }
        right.as_mut().poll(context).map(First::Right)
    })
    .await
}
