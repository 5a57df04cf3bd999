//! What a begin is told.

use super::Make;
use super::bench::{LEASE, RETENTION};
use crate::decision::{Command, Holder, Verdict};
use crate::outcome::OnAbandon;
use crate::record::Record;

pub(super) fn an_absent_key_is_granted_as_attempt_1(make: &Make<'_>) {
    let bench = make(OnAbandon::Rerun);
    let grant = bench.granted("request");
    assert_eq!(grant.attempt, 1);
    let Some(Record::InFlight(record)) = bench.record() else {
        panic!("no record");
    };
    assert_eq!(record.token, grant.token);
    // It is counted anew if a register's clock was ahead of what the node assumed.
    let lease = record.lease_until.since(record.started_at);
    assert!((LEASE..LEASE + bench.margin()).contains(&lease));
}

pub(super) fn a_key_past_its_retention_is_granted_as_attempt_1(make: &Make<'_>) {
    let bench = make(OnAbandon::Rerun);
    let first = bench.granted("request");
    bench.complete(first.token, "a");
    bench.pass_nearly(RETENTION);
    assert!(bench.is_replayed("request", "a"));
    bench.pass_the_rest();
    let second = bench.granted("other");
    assert_eq!(second.attempt, 1);
    assert!(second.token > first.token);
}

pub(super) fn another_fingerprint_conflicts_whatever_the_state(make: &Make<'_>) {
    let bench = make(OnAbandon::Rerun);
    let grant = bench.granted("request");
    assert!(matches!(bench.begin("other"), Verdict::Conflict(_)));
    bench.pass(LEASE);
    assert!(matches!(bench.begin("other"), Verdict::Conflict(_)));
    bench.complete(grant.token, "a");
    assert!(matches!(bench.begin("other"), Verdict::Conflict(_)));
}

pub(super) fn a_running_attempt_is_in_flight_until_its_lease_ends(make: &Make<'_>) {
    let bench = make(OnAbandon::Rerun);
    bench.granted("request");
    assert!(bench.is_in_flight("request", false));
    bench.pass_nearly(LEASE);
    assert!(bench.is_in_flight("request", false));
    bench.pass_the_rest();
    assert_eq!(bench.granted("request").attempt, 2);
}

pub(super) fn a_lapsed_attempt_is_taken_over_with_a_higher_token(make: &Make<'_>) {
    let bench = make(OnAbandon::Rerun);
    let mut last = bench.granted("request");
    for attempt in 2..6 {
        bench.pass(LEASE);
        let grant = bench.granted("request");
        assert_eq!(grant.attempt, attempt);
        assert!(grant.token > last.token);
        last = grant;
    }
}

pub(super) fn under_hold_a_lapsed_attempt_stays_in_flight_and_is_marked(make: &Make<'_>) {
    let bench = make(OnAbandon::Hold);
    bench.granted("request");
    assert!(bench.is_in_flight("request", false));
    bench.pass(LEASE);
    assert!(bench.is_in_flight("request", true));
    bench.pass(10 * RETENTION);
    assert!(bench.is_in_flight("request", true));
    assert!(matches!(bench.begin("other"), Verdict::Conflict(_)));
}

pub(super) fn a_completed_key_replays_until_it_expires(make: &Make<'_>) {
    let bench = make(OnAbandon::Rerun);
    let grant = bench.granted("request");
    assert_eq!(bench.complete(grant.token, "a"), Verdict::Done);
    assert!(bench.is_replayed("request", "a"));
    bench.pass_nearly(RETENTION);
    assert!(bench.is_replayed("request", "a"));
    bench.pass_the_rest();
    assert_eq!(bench.record(), None);
}

pub(super) fn an_attempt_abandoned_for_a_retention_is_absent(make: &Make<'_>) {
    let bench = make(OnAbandon::Rerun);
    let grant = bench.granted("request");
    bench.pass_nearly(LEASE + RETENTION);
    assert!(matches!(bench.begin("other"), Verdict::Conflict(_)));
    bench.pass_the_rest();
    assert_eq!(bench.record(), None);
    let lost = Verdict::LeaseLost(Holder::Nobody);
    assert_eq!(bench.complete(grant.token, "a"), lost);
    assert_eq!(bench.granted("other").attempt, 1);
}

pub(super) fn an_attempt_whose_retention_is_shorter_than_its_lease_is_remembered_after_its_lease(
    make: &Make<'_>,
) {
    let bench = make(OnAbandon::Rerun);
    let retention = LEASE / 2;
    let begin = || bench.ask(bench.begin_kept_for("request", retention));
    for attempt in 1..4 {
        assert!(
            matches!(begin(), Verdict::Proceed(grant) if grant.attempt == attempt),
            "attempt {attempt} isn't granted as such: the key has {:?}",
            bench.record()
        );
        bench.pass(LEASE);
        bench.store.sweep().unwrap();
        assert!(matches!(bench.begin("other"), Verdict::Conflict(_)));
    }
    begin();
    bench.pass_nearly(LEASE + retention);
    bench.store.sweep().unwrap();
    assert!(matches!(bench.begin("other"), Verdict::Conflict(_)));
    bench.pass_the_rest();
    assert_eq!(bench.record(), None);
    assert_eq!(bench.granted("other").attempt, 1);
}

pub(super) fn tokens_rise_and_are_never_used_again(make: &Make<'_>) {
    let bench = make(OnAbandon::Rerun);
    let mut last = 0;
    for round in 0..50 {
        let key = format!("key {}", round % 7);
        if let Verdict::Proceed(grant) = bench.ask_key(&key, bench.begin_command("request")) {
            assert!(grant.token > last);
            last = grant.token;
            if round % 3 == 0 {
                bench.ask_key(&key, Command::Release { token: last });
            }
        }
        bench.pass(LEASE);
    }
}
