//! Calls of which nobody can say whether they took effect, and what becomes of their keys.

use onceward::faults::Failures;
use onceward::{Engine, Error, ErrorKind, Fingerprint, Guard, Outcome, Reply};

use crate::expected::key;
use crate::io_faults::{Failing, wait_until_well};
use crate::user::{LEASE, builder};

/// How many stores a process leaves behind; what their disks show is different each time.
const LEFT_BEHIND: usize = 40;

fn begin(engine: &Engine, number: usize) -> onceward::Result<Outcome> {
    engine.begin(&key(number), &Fingerprint::of("request"))
}

fn granted(engine: &Engine, number: usize) -> Guard {
    match begin(engine, number) {
        Ok(Outcome::Proceed(guard)) => guard,
        other => panic!("key {number} isn't granted: {other:?}"),
    }
}

/// What an error says of itself: its kind, whether it passes, and whether the outcome is unknown.
fn says(error: &Error) -> (ErrorKind, bool, bool) {
    (
        error.kind(),
        error.is_transient(),
        error.is_outcome_unknown(),
    )
}

#[test]
fn a_begin_whose_commit_failed_leaves_its_key_free_as_soon_as_the_store_goes_on() {
    let bench = Failing::open(Failures::None);
    let held = granted(&bench.engine, 0);
    bench.recorder.fail(Failures::Syncs);
    let unclear = begin(&bench.engine, 1).unwrap_err();
    assert_eq!(says(&unclear), (ErrorKind::Io, true, true), "{unclear}");
    bench.recorder.fail(Failures::None);
    wait_until_well(&bench.engine, "after a begin that failed");
    // The clock stands still: no lease has passed.
    let guard = granted(&bench.engine, 1);
    assert_eq!(guard.attempt(), 1);
    assert!(guard.token() > held.token());
    guard.complete(Reply::new(200, "once")).unwrap();
    bench.engine.clone().close().unwrap();
    let again = builder(&bench.clock).open(&bench.path).unwrap();
    assert!(matches!(begin(&again, 1), Ok(Outcome::Replay(_))));
}

#[test]
fn a_begin_whose_commit_failed_before_the_process_ended_holds_its_key_for_a_lease_at_most() {
    let (mut free, mut taken) = (0, 0);
    for before in 0..LEFT_BEHIND {
        let bench = Failing::open(Failures::None);
        for number in 2..2 + before % 5 {
            let body = vec![7; 50 * before];
            let completed = granted(&bench.engine, number).complete(Reply::new(200, body));
            completed.unwrap();
        }
        bench.recorder.fail(Failures::Syncs);
        let unclear = begin(&bench.engine, 1).unwrap_err();
        if !unclear.is_outcome_unknown() {
            // A sync of the background's has failed first.
            assert_eq!(unclear.kind(), ErrorKind::Unavailable, "{unclear:?}");
            continue;
        }
        // Nothing can be noted any more, as if the process were killed.
        drop(bench.engine.clone().close());
        bench.recorder.fail(Failures::None);
        let again = builder(&bench.clock).open(&bench.path).unwrap();
        match begin(&again, 1).unwrap() {
            Outcome::Proceed(guard) => {
                assert_eq!(guard.attempt(), 1);
                free += 1;
            }
            Outcome::InFlight(found) => {
                assert_eq!(found.lease_left(), LEASE);
                bench.clock.advance(LEASE);
                assert_eq!(granted(&again, 1).attempt(), 2);
                taken += 1;
            }
            other => panic!("the key gives {other:?}"),
        }
    }
    assert!(free + taken > LEFT_BEHIND / 2);
    println!("{free} begins of unclear outcome left nothing, {taken} a lease that ran out");
}

#[test]
fn what_is_asked_while_the_store_is_interrupted_has_not_been_made_and_passes() {
    let bench = Failing::open(Failures::None);
    let (held, given_back) = (granted(&bench.engine, 0), granted(&bench.engine, 1));
    bench.recorder.fail(Failures::Syncs);
    let known = (ErrorKind::Unavailable, true, false);
    let unclear = held.complete(Reply::new(200, "x")).unwrap_err();
    assert_eq!(says(unclear.error()), (ErrorKind::Io, true, true));
    let (mut held, reply, _) = unclear.into_parts();
    assert_eq!(says(&begin(&bench.engine, 2).unwrap_err()), known);
    assert_eq!(says(&held.renew().unwrap_err()), known);
    let refused = given_back.release().unwrap_err();
    assert_eq!(says(refused.error()), known);
    let (given_back, _) = refused.into_parts();
    let refused = held.complete(reply).unwrap_err();
    assert_eq!(says(refused.error()), known);
    let (held, reply, _) = refused.into_parts();
    assert_eq!(says(&bench.engine.forget(&key(5)).unwrap_err()), known);
    bench.recorder.fail(Failures::None);
    wait_until_well(&bench.engine, "after calls that were refused");
    held.complete(reply).unwrap();
    given_back.release().unwrap();
    assert_eq!(granted(&bench.engine, 2).attempt(), 1);
}

#[test]
fn what_was_in_the_writers_hands_when_it_panicked_may_have_been_made_and_what_is_asked_later_was_not()
 {
    let steps = [
        "Decided",
        "Committing",
        "Committed",
        "Published",
        "Interrupted",
    ];
    for step in steps {
        let bench = Failing::open(Failures::None);
        let held = granted(&bench.engine, 0);
        bench.recorder.panic_at(step, 0);
        if step == "Interrupted" {
            bench.recorder.fail(Failures::Syncs);
        }
        let unclear = begin(&bench.engine, 1).unwrap_err();
        assert_eq!(says(&unclear), (ErrorKind::Failed, false, true), "{step}");
        let has_failed = |engine: &Engine| {
            let health = engine.health();
            let mut reason = health.reason().into_iter();
            reason.any(|reason| reason.kind() == ErrorKind::Failed)
        };
        while !has_failed(&bench.engine) {
            std::thread::yield_now();
        }
        bench.recorder.fail(Failures::None);
        let known = (ErrorKind::Failed, false, false);
        assert_eq!(says(&begin(&bench.engine, 2).unwrap_err()), known, "{step}");
        let refused = held.complete(Reply::new(200, "x")).unwrap_err();
        assert_eq!(says(refused.error()), known, "{step}");
        drop(bench.engine.clone().close());
        let closed = (ErrorKind::Closed, false, false);
        assert_eq!(says(&begin(&bench.engine, 2).unwrap_err()), closed);
        let again = builder(&bench.clock).open(&bench.path).unwrap();
        assert!(matches!(
            begin(&again, 1),
            Ok(Outcome::Proceed(_) | Outcome::InFlight(_))
        ));
        bench.clock.advance(LEASE);
        assert!(matches!(begin(&again, 1), Ok(Outcome::Proceed(_))));
    }
}
