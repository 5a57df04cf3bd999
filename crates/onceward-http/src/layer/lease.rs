//! Keeps an attempt's lease running while its handler does.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use onceward::ErrorKind;
use onceward::layer::{Backoff, Lease, Timestamp};
use tokio::select;

use crate::mutant::{self, Mutant};

/// A pause between renewals is never shorter, whatever the lease.
const LEAST_PAUSE: Duration = Duration::from_millis(1);

/// Runs `work` to its end, and renews the lease whenever half of it is over, until `renew_until`.
///
/// A renewal that fails for a passing reason is tried again, after the lease's end too: it works
/// for as long as nobody has taken over.
pub(crate) async fn under_lease<W: Future>(
    lease: &Lease,
    renew_until: Timestamp,
    work: W,
) -> W::Output {
    let mut work = pin!(work);
    let mut failed: Option<Backoff> = None;
    while lease.now() < renew_until {
        let pause = match &mut failed {
            None => lease.left() / 2,
            Some(backoff) => before_the_end(lease, backoff.pause()),
        };
        let limit = renew_until.since(lease.now());
        let pause = pause.min(limit).max(LEAST_PAUSE);
        // The timer is told only of handlers that aren't done at once.
        let pausing = async { lease.pause(pause).await };
        select! {
            biased;
            output = work.as_mut() => return output,
            () = pausing => {}
        }
        let renewed = select! {
            biased;
            output = work.as_mut() => return output,
            renewed = lease.renew() => renewed,
        };
        match renewed {
            Ok(()) => failed = None,
            Err(error) if ends(error.kind()) => break,
            Err(_) => {
                failed.get_or_insert_with(|| Backoff::within(lease.length()));
            }
        }
    }
    work.await
}

/// Whether an error of a call with a guard is the last one: trying again can't help.
pub(crate) fn is_final(error: ErrorKind) -> bool {
    !matches!(
        error,
        ErrorKind::Unavailable | ErrorKind::Io | ErrorKind::Overloaded
    )
}

/// Whether no later renewal can succeed.
fn ends(error: ErrorKind) -> bool {
    is_final(error) || mutant::is_on(Mutant::StopsRenewing)
}

/// A pause after which something of the lease is left, if that is so now.
fn before_the_end(lease: &Lease, pause: Duration) -> Duration {
    match lease.left() {
        Duration::ZERO => pause,
        left => pause.min((left / 2).max(lease.length() / 20)),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::task::{Context, Poll, Wake, Waker};

    use super::*;
    use onceward::{Engine, EntryState, Fingerprint, Guard, Key, ManualClock, Outcome};

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

        fn under_lease<W: Future>(
            &self,
            guard: &Guard,
            renew_for: Duration,
            work: W,
        ) -> impl Future<Output = W::Output> {
            let renew_until = self.engine.moment_in(renew_for);
            let lease = Arc::clone(guard.lease());
            async move { under_lease(&lease, renew_until, work).await }
        }

        /// What is left of the lease, by the record.
        fn left(&self) -> Duration {
            use onceward::Clock;
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
        let guard = bench.guard();
        let work = poll_fn(|_| {
            if is_done.get() {
                Poll::Ready("done")
            } else {
                Poll::Pending
            }
        });
        let mut run = pin!(bench.under_lease(&guard, LEASE * 2, work));
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
        let guard = bench.guard();
        let work = std::future::pending::<()>();
        let mut run = pin!(bench.under_lease(&guard, Duration::ZERO, work));
        assert!(bench.poll(run.as_mut()).is_pending());
        bench.clock.advance(LEASE / 2);
        assert!(bench.poll(run.as_mut()).is_pending());
        assert_eq!(bench.left(), LEASE / 2);
    }

    #[test]
    fn an_attempt_that_was_taken_over_is_not_renewed_and_goes_on() {
        let (bench, is_done) = (Bench::new(), Cell::new(false));
        let guard = bench.guard();
        let work = poll_fn(|_| {
            if is_done.get() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        });
        let mut run = pin!(bench.under_lease(&guard, LEASE * 9, work));
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
