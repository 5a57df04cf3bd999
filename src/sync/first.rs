//! Waiting for the first of two futures.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

/// Which of two futures ended first.
pub(crate) enum First<L, R> {
    Left(L),
    Right(R),
}

/// Waits for the first of two futures; the left one if both are ready.
pub(crate) async fn first<L: Future, R: Future>(
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
