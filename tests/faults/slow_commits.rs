//! Commits that take longer than a lease: a grant that comes with none of its lease left is no
//! grant.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use onceward::faults::{Failures, Recorder};
use onceward::{Engine, ErrorKind, Fingerprint, Guard, Outcome};

use crate::expected::key;
use crate::io_faults::Failing;
use crate::user::LEASE;

/// How long each sync takes that is held: longer than the lease, and not so long that the segment
/// rolls.
const TOO_LONG: Duration = Duration::from_secs(130);

type Beginning = JoinHandle<onceward::Result<Outcome>>;

fn begin(engine: &Engine) -> onceward::Result<Outcome> {
    engine.begin(&key(1), &Fingerprint::of("request"))
}

fn beginning(engine: &Engine) -> Beginning {
    let engine = engine.clone();
    thread::spawn(move || begin(&engine))
}

/// Waits until a sync is held, or the begin has returned without one.
fn wait_for_sync(recorder: &Arc<Recorder>, begin: &Beginning) {
    while recorder.syncs_held() == 0 && !begin.is_finished() {
        thread::yield_now();
    }
}

fn is_worth_it(guard: &Guard) -> bool {
    guard.lease_left() >= LEASE / 2
}

#[test]
fn a_grant_whose_commit_outlasts_its_lease_is_renewed_before_it_is_handed_out() {
    let bench = Failing::open(Failures::None);
    bench.recorder.hold_syncs(true);
    let first = beginning(&bench.engine);
    wait_for_sync(&bench.recorder, &first);
    bench.clock.advance(TOO_LONG);
    bench.recorder.hold_syncs(false);
    let Ok(Outcome::Proceed(guard)) = first.join().unwrap() else {
        panic!("not granted");
    };
    let second = begin(&bench.engine).unwrap();
    assert!(
        is_worth_it(&guard) && matches!(second, Outcome::InFlight(_)),
        "the guard has {:?} left of its lease, and another begin gives {second:?}",
        guard.lease_left()
    );
}

#[test]
fn of_two_begins_that_a_commit_longer_than_the_lease_keeps_waiting_one_is_granted() {
    let bench = Failing::open(Failures::None);
    bench.recorder.hold_syncs(true);
    let first = beginning(&bench.engine);
    wait_for_sync(&bench.recorder, &first);
    // Queued behind the commit, and decided when the first one's lease is over.
    let second = beginning(&bench.engine);
    while bench.engine.stats().queued == 0 {
        thread::yield_now();
    }
    bench.clock.advance(TOO_LONG);
    bench.recorder.hold_syncs(false);
    let outcomes = [first, second].map(|begin| begin.join().unwrap());
    let mut guards = 0;
    for outcome in &outcomes {
        match outcome {
            Ok(Outcome::Proceed(guard)) => {
                assert!(is_worth_it(guard), "{outcomes:?}");
                guards += 1;
            }
            Ok(Outcome::InFlight(_)) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}"),
            Ok(other) => panic!("the key gives {other:?}"),
        }
    }
    assert_eq!(guards, 1, "{outcomes:?}");
}

#[test]
fn a_grant_whose_renewal_outlasts_its_lease_as_well_is_released_and_the_begin_is_refused() {
    let bench = Failing::open(Failures::None);
    bench.recorder.hold_syncs(true);
    let commits = bench.engine.stats().commits;
    let first = beginning(&bench.engine);
    wait_for_sync(&bench.recorder, &first);
    bench.clock.advance(TOO_LONG);
    // A commit may sync more than once.
    while bench.engine.stats().commits == commits {
        bench.recorder.release_held_syncs();
        while bench.recorder.syncs_held() == 0 && bench.engine.stats().commits == commits {
            thread::yield_now();
        }
    }
    // The renewal's commit.
    wait_for_sync(&bench.recorder, &first);
    bench.clock.advance(TOO_LONG);
    bench.recorder.hold_syncs(false);
    let refused = first.join().unwrap();
    assert!(
        matches!(&refused, Err(error) if error.kind() == ErrorKind::Unavailable && error.is_transient()),
        "{refused:?}"
    );
    let Ok(Outcome::Proceed(guard)) = begin(&bench.engine) else {
        panic!("the key isn't free");
    };
    assert!(is_worth_it(&guard));
}
