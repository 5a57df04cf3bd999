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
        let half = engine.moment_in(pause);
        // The timer is told only of handlers that aren't done at once.
        let pausing = async { engine.sleep_until(half).await };
        if let First::Left(output) = first(work.as_mut(), pin!(pausing)).await {
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::task::{Context, Wake, Waker};

    use super::*;
    use crate::clock::ManualClock;
    use crate::fingerprint::Fingerprint;
    use crate::key::Key;
    use crate::outcome::{EntryState, Outcome};

    const LEASE: Duration = Duration::from_secs(120);

    struct Told(Sender<()>);

    impl Wake for Told {
        fn wake(self: Arc<Self>) {
            self.0.send(()).ok();
        }
    }

    struct Bench {
        clock: ManualClock,
        engine: Engine,
        key: Key,
        wakes: Receiver<()>,
        waker: Waker,
    }

    impl Bench {
        fn new() -> Self {
            let clock = ManualClock::new();
            let engine = Engine::builder()
                .clock(clock.clone())
                .open_in_memory()
                .unwrap();
            let (sender, wakes) = channel();
            Self {
                clock,
                engine,
                key: Key::new("tenant", "key").unwrap(),
                wakes,
                waker: Arc::new(Told(sender)).into(),
            }
        }

        fn guard(&self) -> Guard {
            match self
                .engine
                .begin(&self.key, &Fingerprint::of("request"))
                .unwrap()
            {
                Outcome::Proceed(guard) => guard,
                other => panic!("{other:?}"),
            }
        }

        /// What is left of the lease, by the record.
        fn left(&self) -> Duration {
            use crate::clock::Clock;
            match self.engine.lookup(&self.key).unwrap().unwrap().state {
                EntryState::InFlight { lease_until, .. } => lease_until
                    .duration_since(self.clock.wall())
                    .unwrap_or_default(),
                other => panic!("{other:?}"),
            }
        }

        /// Lets time pass and polls once the timer has woken the task.
        fn pass<F: Future>(&self, by: Duration, future: Pin<&mut F>) -> Poll<F::Output> {
            self.clock.advance(by);
            self.wakes.recv().unwrap();
            self.poll(future)
        }

        fn poll<F: Future>(&self, future: Pin<&mut F>) -> Poll<F::Output> {
            future.poll(&mut Context::from_waker(&self.waker))
        }
    }

    #[test]
    fn the_lease_is_renewed_at_its_half_until_the_limit_has_passed() {
        let (bench, is_done) = (Bench::new(), Cell::new(false));
        let mut guard = bench.guard();
        let work = poll_fn(|_| {
            if is_done.get() {
                Poll::Ready("done")
            } else {
                Poll::Pending
            }
        });
        let mut run = pin!(under_lease(&bench.engine, &mut guard, LEASE * 2, work));
        assert!(bench.poll(run.as_mut()).is_pending());
        for _ in 0..4 {
            assert!(bench.pass(LEASE / 2, run.as_mut()).is_pending());
            assert_eq!(bench.left(), LEASE);
        }
        // Four halves are the limit: nothing is renewed any more.
        bench.clock.advance(LEASE);
        assert!(bench.poll(run.as_mut()).is_pending());
        assert_eq!(bench.left(), Duration::ZERO);
        is_done.set(true);
        assert_eq!(bench.poll(run.as_mut()), Poll::Ready("done"));
    }

    #[test]
    fn without_a_limit_above_zero_nothing_is_renewed() {
        let bench = Bench::new();
        let mut guard = bench.guard();
        let work = std::future::pending::<()>();
        let mut run = pin!(under_lease(&bench.engine, &mut guard, Duration::ZERO, work));
        assert!(bench.poll(run.as_mut()).is_pending());
        bench.clock.advance(LEASE / 2);
        assert!(bench.poll(run.as_mut()).is_pending());
        assert_eq!(bench.left(), LEASE / 2);
    }

    #[test]
    fn an_attempt_that_was_taken_over_is_not_renewed_and_goes_on() {
        let (bench, is_done) = (Bench::new(), Cell::new(false));
        let mut guard = bench.guard();
        let work = poll_fn(|_| {
            if is_done.get() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        });
        let mut run = pin!(under_lease(&bench.engine, &mut guard, LEASE * 9, work));
        assert!(bench.poll(run.as_mut()).is_pending());
        bench.clock.advance(LEASE);
        let second = bench.guard();
        bench.wakes.recv().unwrap();
        assert!(bench.poll(run.as_mut()).is_pending());
        assert_eq!((bench.left(), second.attempt()), (LEASE, 2));
        is_done.set(true);
        assert!(bench.poll(run.as_mut()).is_ready());
    }
}
