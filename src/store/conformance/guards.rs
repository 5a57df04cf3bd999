//! What can be done with a guard, and when no longer.

use super::Make;
use super::bench::{LEASE, RETENTION};
use crate::decision::{Command, Holder, Verdict};
use crate::outcome::{OnAbandon, Resolution};

pub(super) fn a_lapsed_attempt_that_nobody_took_over_can_complete(make: &Make<'_>) {
    let bench = make(OnAbandon::Rerun);
    let grant = bench.granted("request");
    bench.pass(LEASE);
    assert_eq!(bench.complete(grant.token, "a"), Verdict::Done);
    assert!(bench.is_replayed("request", "a"));
}

pub(super) fn a_lapsed_attempt_that_nobody_took_over_can_be_released(make: &Make<'_>) {
    let bench = make(OnAbandon::Rerun);
    let first = bench.granted("request");
    bench.pass(LEASE);
    assert_eq!(bench.release(first.token), Verdict::Done);
    assert_eq!(bench.record(), None);
    bench.granted("request");
    bench.pass(LEASE);
    let second = bench.granted("request");
    bench.pass(LEASE);
    assert_eq!(bench.release(second.token), Verdict::Done);
    assert_eq!(bench.granted("request").attempt, 3);
}

pub(super) fn a_repeated_completion_is_done_and_another_reply_is_lost(make: &Make<'_>) {
    let bench = make(OnAbandon::Rerun);
    let grant = bench.granted("request");
    bench.complete(grant.token, "a");
    assert_eq!(bench.complete(grant.token, "a"), Verdict::Done);
    let lost = Verdict::LeaseLost(Holder::Completed { attempt: 1 });
    assert_eq!(bench.complete(grant.token, "b"), lost);
    assert_eq!(bench.renew(grant.token), lost);
    assert_eq!(bench.release(grant.token), lost);
    assert!(bench.is_replayed("request", "a"));
}

pub(super) fn a_renewal_starts_the_lease_over_lapsed_or_not(make: &Make<'_>) {
    let bench = make(OnAbandon::Rerun);
    let grant = bench.granted("request");
    bench.pass_nearly(LEASE);
    assert!(matches!(bench.renew(grant.token), Verdict::Renewed { .. }));
    bench.pass_nearly(LEASE);
    assert!(bench.is_in_flight("request", false));
    bench.pass_the_rest();
    assert!(matches!(bench.renew(grant.token), Verdict::Renewed { .. }));
    assert!(bench.is_in_flight("request", false));
}

pub(super) fn a_first_attempt_that_is_released_frees_the_key(make: &Make<'_>) {
    let bench = make(OnAbandon::Rerun);
    let first = bench.granted("request");
    assert_eq!(bench.release(first.token), Verdict::Done);
    assert_eq!(bench.record(), None);
    let second = bench.granted("other");
    assert_eq!(second.attempt, 1);
    assert!(second.token > first.token);
}

pub(super) fn a_later_attempt_that_is_released_keeps_the_count(make: &Make<'_>) {
    let bench = make(OnAbandon::Rerun);
    bench.granted("request");
    bench.pass(LEASE);
    let second = bench.granted("request");
    assert_eq!(bench.release(second.token), Verdict::Done);
    assert!(matches!(bench.begin("other"), Verdict::Conflict(_)));
    assert_eq!(bench.granted("request").attempt, 3);
}

pub(super) fn a_guard_that_was_taken_over_can_do_nothing(make: &Make<'_>) {
    let bench = make(OnAbandon::Rerun);
    let first = bench.granted("request");
    bench.pass(LEASE);
    let second = bench.granted("request");
    let before = bench.record();
    let lost = Verdict::LeaseLost(Holder::InFlight { attempt: 2 });
    assert_eq!(bench.complete(first.token, "a"), lost);
    assert_eq!(bench.renew(first.token), lost);
    assert_eq!(bench.release(first.token), lost);
    assert_eq!(bench.record(), before);
    bench.complete(second.token, "b");
    let lost = Verdict::LeaseLost(Holder::Completed { attempt: 2 });
    assert_eq!(bench.complete(first.token, "b"), lost);
    assert!(bench.is_replayed("request", "b"));
}

pub(super) fn a_guard_whose_record_is_gone_can_do_nothing(make: &Make<'_>) {
    let bench = make(OnAbandon::Rerun);
    let grant = bench.granted("request");
    bench.release(grant.token);
    let lost = Verdict::LeaseLost(Holder::Nobody);
    assert_eq!(bench.complete(grant.token, "a"), lost);
    assert_eq!(bench.renew(grant.token), lost);
    assert_eq!(bench.release(grant.token), lost);
    assert_eq!(bench.record(), None);
}

pub(super) fn an_attempt_that_is_renewed_past_the_retention_is_remembered_after_its_lease(
    make: &Make<'_>,
) {
    let bench = make(OnAbandon::Rerun);
    let grant = bench.granted("request");
    bench.pass_nearly(RETENTION);
    bench.renew(grant.token);
    bench.pass_nearly(LEASE);
    assert!(bench.is_in_flight("request", false));
    bench.store.sweep().unwrap();
    assert!(bench.is_in_flight("request", false));
    bench.pass_the_rest();
    bench.store.sweep().unwrap();
    assert!(matches!(bench.begin("other"), Verdict::Conflict(_)));
    let second = bench.granted("request");
    assert_eq!(second.attempt, 2);
    bench.pass_nearly(RETENTION);
    bench.renew(second.token);
    bench.pass_nearly(LEASE + RETENTION);
    bench.store.sweep().unwrap();
    assert!(matches!(bench.begin("other"), Verdict::Conflict(_)));
    bench.pass_the_rest();
    assert_eq!(bench.record(), None);
}

pub(super) fn nothing_can_be_done_with_an_answer_that_has_expired(make: &Make<'_>) {
    let bench = make(OnAbandon::Rerun);
    let grant = bench.granted("request");
    bench.complete(grant.token, "a");
    bench.pass(RETENTION);
    let lost = Verdict::LeaseLost(Holder::Nobody);
    assert_eq!(bench.complete(grant.token, "a"), lost);
    assert_eq!(bench.renew(grant.token), lost);
    assert_eq!(bench.release(grant.token), lost);
    assert_eq!(bench.ask(Command::Forget), Verdict::Nothing);
    let resolve = Command::Resolve(Resolution::Release);
    assert_eq!(bench.ask(resolve), Verdict::Nothing);
}
