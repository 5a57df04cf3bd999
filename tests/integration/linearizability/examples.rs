//! Histories made by hand: what the checker has to let through, and what it has to find.

use super::checker::{Event, check};
use super::reference::{Begun, Forgot, LEASE, Op, RETENTION, Record, Time};

/// Operations one after the other with their times, each by a thread of its own.
fn one_by_one(ops: impl IntoIterator<Item = (Time, Op)>) -> Vec<Event> {
    let numbered = ops.into_iter().enumerate();
    let spans = numbered.map(|(at, (now, op))| (2 * at as u64, 2 * at as u64 + 1, now, op));
    overlapping(spans)
}

/// Operations with their calls, their returns and their times.
fn overlapping(spans: impl IntoIterator<Item = (u64, u64, Time, Op)>) -> Vec<Event> {
    let numbered = spans.into_iter().enumerate();
    let event = |(thread, (called, returned, now, op))| Event {
        called,
        returned,
        thread,
        op,
        times: vec![now],
    };
    numbered.map(event).collect()
}

fn holds(events: &[Event]) -> bool {
    check(events).is_ok()
}

fn proceed(token: u64, attempt: u32, until: u64) -> Op {
    let found = Begun::Proceed {
        token,
        attempt,
        until,
    };
    Op::Begin { request: 0, found }
}

fn replay(body: u64) -> Op {
    Op::Begin {
        request: 0,
        found: Begun::Replay { body },
    }
}

fn in_flight(attempt: u32) -> Op {
    Op::Begin {
        request: 0,
        found: Begun::InFlight {
            attempt,
            left: None,
        },
    }
}

fn complete(token: u64, body: u64, is_done: bool) -> Op {
    Op::Complete {
        token,
        body,
        is_done,
    }
}

#[test]
fn a_whole_life_is_let_through() {
    let completed = Record::Completed {
        token: 2,
        attempt: 2,
        completed_at: LEASE,
        expires_at: LEASE + RETENTION,
        body: 8,
    };
    let end = LEASE + RETENTION;
    assert!(holds(&one_by_one([
        (0, proceed(1, 1, LEASE)),
        (LEASE - 1, in_flight(1)),
        (LEASE, proceed(2, 2, 2 * LEASE)),
        (LEASE, complete(1, 7, false)),
        (LEASE, Op::Forget(Forgot::Refused)),
        (
            LEASE,
            Op::Renew {
                token: 2,
                until: Some(2 * LEASE)
            }
        ),
        (LEASE, complete(2, 8, true)),
        (LEASE, replay(8)),
        (
            end - 1,
            Op::Begin {
                request: 1,
                found: Begun::Conflict
            }
        ),
        (end - 1, Op::Lookup(completed)),
        (end, Op::Lookup(Record::Absent)),
        (end, proceed(3, 1, end + LEASE)),
        (
            end,
            Op::Release {
                token: 3,
                is_done: true
            }
        ),
        (end, Op::Forget(Forgot::Nothing)),
    ])));
}

#[test]
fn what_overlaps_may_have_happened_in_any_order() {
    // The replay was called before the completion returned, and the second grant before the forgetting did.
    assert!(holds(&overlapping([
        (0, 1, 0, proceed(1, 1, LEASE)),
        (2, 5, 0, complete(1, 7, true)),
        (3, 4, 0, replay(7)),
        (6, 9, 0, Op::Forget(Forgot::Something)),
        (7, 8, 0, proceed(2, 1, LEASE)),
    ])));
    // The other order.
    assert!(holds(&overlapping([
        (0, 1, 0, proceed(1, 1, LEASE)),
        (2, 5, 0, complete(1, 7, true)),
        (3, 4, 0, in_flight(1)),
        (6, 7, 0, replay(7)),
    ])));
}

#[test]
fn what_overlaps_a_move_of_the_clock_may_have_been_before_or_after_it() {
    let release = Op::Release {
        token: 2,
        is_done: true,
    };
    let mut events = one_by_one([
        (0, proceed(1, 1, LEASE)),
        (0, proceed(2, 2, 2 * LEASE)),
        (LEASE, release),
    ]);
    assert!(!holds(&events));
    events[1].times.push(LEASE);
    assert!(holds(&events));
    // What changes something isn't decided before what was changed earlier.
    events[2].times = vec![0];
    assert!(!holds(&events));
}

#[test]
fn a_release_at_the_end_of_its_lease_may_have_been_earlier() {
    // Decided after the move, the release would have changed nothing; its reader says that it did.
    let release = Op::Release {
        token: 2,
        is_done: true,
    };
    let released = Op::Lookup(Record::InFlight {
        token: 2,
        attempt: 2,
        started_at: LEASE,
        lease_until: LEASE,
    });
    let mut events = one_by_one([
        (0, proceed(1, 1, LEASE)),
        (LEASE, proceed(2, 2, 2 * LEASE)),
        (2 * LEASE, release),
        (2 * LEASE, released),
    ]);
    assert!(!holds(&events));
    events[2].times.push(LEASE);
    assert!(holds(&events));
}

#[test]
fn a_double_grant_is_found() {
    let first = || proceed(1, 1, LEASE);
    assert!(!holds(&one_by_one([
        (0, first()),
        (0, proceed(2, 1, LEASE))
    ])));
    let both = [(0, 2, 0, first()), (1, 3, 0, proceed(2, 1, LEASE))];
    assert!(!holds(&overlapping(both)));
    let early = LEASE - 1;
    assert!(!holds(&one_by_one([
        (0, first()),
        (early, proceed(2, 2, early + LEASE))
    ])));
}

#[test]
fn a_lost_completion_is_found() {
    let life = |then: Op| {
        one_by_one([
            (0, proceed(1, 1, LEASE)),
            (0, complete(1, 7, true)),
            (RETENTION - 1, then),
        ])
    };
    assert!(holds(&life(replay(7))));
    assert!(!holds(&life(in_flight(1))));
    assert!(!holds(&life(proceed(2, 1, RETENTION - 1 + LEASE))));
    assert!(!holds(&life(Op::Lookup(Record::Absent))));
    // Seen by one reader and then unseen by the next, while the completion is still under way.
    assert!(!holds(&overlapping([
        (0, 1, 0, proceed(1, 1, LEASE)),
        (2, 7, 0, complete(1, 7, true)),
        (3, 4, 0, replay(7)),
        (5, 6, 0, in_flight(1)),
    ])));
}

#[test]
fn a_replay_of_another_body_is_found() {
    let life = |then: Op| {
        one_by_one([
            (0, proceed(1, 1, LEASE)),
            (0, complete(1, 7, true)),
            (0, then),
        ])
    };
    assert!(!holds(&life(replay(8))));
    let found = Begun::Replay { body: 7 };
    assert!(!holds(&life(Op::Begin { request: 1, found })));
}

#[test]
fn an_accepted_completion_of_a_stale_guard_is_found() {
    let life = |is_done| {
        one_by_one([
            (0, proceed(1, 1, LEASE)),
            (LEASE, proceed(2, 2, 2 * LEASE)),
            (LEASE, complete(1, 7, is_done)),
        ])
    };
    assert!(holds(&life(false)));
    assert!(!holds(&life(true)));
}

#[test]
fn a_token_that_does_not_rise_is_found() {
    let life = |token| {
        let release = Op::Release {
            token: 5,
            is_done: true,
        };
        one_by_one([
            (0, proceed(5, 1, LEASE)),
            (0, release),
            (0, proceed(token, 1, LEASE)),
        ])
    };
    assert!(holds(&life(6)));
    assert!(!holds(&life(5)));
    assert!(!holds(&life(4)));
}

#[test]
fn a_key_that_stays_taken_after_its_lease_is_found() {
    let life = |then: Op| one_by_one([(0, proceed(1, 1, LEASE)), (LEASE, then)]);
    assert!(holds(&life(proceed(2, 2, 2 * LEASE))));
    assert!(!holds(&life(in_flight(1))));
    assert!(!holds(&life(Op::Forget(Forgot::Refused))));
}
