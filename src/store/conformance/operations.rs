//! What operators and the sweeper do.

use super::Make;
use super::bench::{LEASE, RETENTION};
use crate::decision::{Command, Holder, Verdict};
use crate::outcome::{OnAbandon, Resolution};
use crate::reply::Reply;

pub(super) fn forget_frees_what_is_completed_or_lapsed_and_refuses_what_runs(make: &Make<'_>) {
    for on_abandon in [OnAbandon::Rerun, OnAbandon::Hold] {
        let bench = make(on_abandon);
        assert_eq!(bench.ask(Command::Forget), Verdict::Nothing);
        let grant = bench.granted("request");
        assert_eq!(bench.ask(Command::Forget), Verdict::Running);
        bench.complete(grant.token, "a");
        assert_eq!(bench.ask(Command::Forget), Verdict::Done);
        assert_eq!(bench.record(), None);
        let grant = bench.granted("other");
        bench.pass(LEASE);
        assert_eq!(bench.ask(Command::Forget), Verdict::Done);
        let lost = Verdict::LeaseLost(Holder::Nobody);
        assert_eq!(bench.complete(grant.token, "a"), lost);
    }
}

pub(super) fn resolve_settles_what_is_lapsed_and_nothing_else(make: &Make<'_>) {
    for on_abandon in [OnAbandon::Rerun, OnAbandon::Hold] {
        let bench = make(on_abandon);
        let reply = Resolution::Complete(Reply::new(201, "resolved"));
        let resolve = |resolution: &Resolution| bench.ask(Command::Resolve(resolution.clone()));
        assert_eq!(resolve(&reply), Verdict::Nothing);
        let grant = bench.granted("request");
        assert_eq!(resolve(&reply), Verdict::Running);
        bench.pass(LEASE);
        assert_eq!(resolve(&reply), Verdict::Done);
        assert!(bench.is_replayed("request", "resolved"));
        assert_eq!(resolve(&Resolution::Release), Verdict::Nothing);
        let lost = Verdict::LeaseLost(Holder::Completed { attempt: 1 });
        assert_eq!(bench.complete(grant.token, "late"), lost);
        bench.ask(Command::Forget);
        bench.granted("request");
        bench.pass(LEASE);
        assert_eq!(resolve(&Resolution::Release), Verdict::Done);
        assert_eq!(bench.granted("other").attempt, 1);
    }
}

pub(super) fn a_condition_that_does_not_hold_changes_nothing(make: &Make<'_>) {
    let bench = make(OnAbandon::Rerun);
    let forget_if = |token| {
        let then = Box::new(Command::Forget);
        bench.ask(Command::If { token, then })
    };
    assert_eq!(forget_if(None), Verdict::Nothing);
    assert_eq!(forget_if(Some(1)), Verdict::Nothing);
    let first = bench.granted("request");
    bench.pass(LEASE);
    assert_eq!(forget_if(None), Verdict::Running);
    let second = bench.granted("request");
    bench.complete(second.token, "a");
    assert_eq!(forget_if(Some(first.token)), Verdict::Running);
    assert!(bench.is_replayed("request", "a"));
    assert_eq!(forget_if(Some(second.token)), Verdict::Done);
    assert_eq!(bench.record(), None);
}

pub(super) fn a_sweep_removes_what_is_over_and_nothing_else(make: &Make<'_>) {
    let bench = make(OnAbandon::Rerun);
    for key in 0..20 {
        let key = key.to_string();
        let Verdict::Proceed(grant) = bench.ask_key(&key, bench.begin_command("request")) else {
            panic!("not granted");
        };
        let complete = Command::Complete {
            token: grant.token,
            reply: Reply::new(200, "old"),
            retention: RETENTION,
        };
        bench.ask_key(&key, complete);
    }
    bench.pass(RETENTION / 2);
    let young = bench.granted("request");
    bench.complete(young.token, "young");
    bench.pass(RETENTION / 2);
    bench.store.sweep().unwrap();
    assert!(bench.is_replayed("request", "young"));
    bench.pass(RETENTION);
    bench.store.sweep().unwrap();
    assert_eq!(bench.record(), None);
    assert_eq!(bench.in_flight(), 0);
}
