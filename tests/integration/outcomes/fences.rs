//! Transactions that are open while others settle their key.

use std::sync::Arc;
use std::thread;

use onceward::{Engine, ErrorKind, Guard, OnAbandon, Reply, Resolution};
use redb::Database;

use super::Ledger;
use crate::support::{LEASE, RETENTION, folder, granted, in_flight, key, replayed};

#[test]
fn a_later_attempt_that_completes_by_itself_gives_way_to_what_was_committed() {
    let ledger = Ledger::new();
    let engine = ledger.open();
    let early = granted(&engine, "key");
    let transaction = ledger.paid();
    let reply = Reply::new(201, "early");
    let uncommitted = early.complete_in(&transaction, reply).unwrap();
    ledger.clock.advance(LEASE);
    let late = granted(&engine, "key");
    transaction.commit().unwrap();
    let refused = late.complete(Reply::new(409, "late")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::LeaseLost);
    uncommitted.confirm().unwrap();
    assert_eq!(replayed(&engine, "key").body(), "early");
}

#[test]
fn after_a_confirmation_retries_have_the_reply_though_a_later_attempt_is_running() {
    let ledger = Ledger::new();
    let engine = ledger.open();
    let early = granted(&engine, "key");
    let transaction = ledger.paid();
    let reply = Reply::new(201, "early");
    let uncommitted = early.complete_in(&transaction, reply).unwrap();
    ledger.clock.advance(LEASE);
    let late = granted(&engine, "key");
    transaction.commit().unwrap();
    uncommitted.confirm().unwrap();
    assert_eq!(replayed(&engine, "key").body(), "early");
    let refused = late.complete(Reply::new(409, "late")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::LeaseLost);
}

/// Settles the key in another thread while an attempt's transaction is open, which then commits or not.
fn while_open<P: Send, T: Send>(
    on_abandon: OnAbandon,
    commits: bool,
    prepare: impl FnOnce(&Engine) -> P,
    settle: impl FnOnce(&Engine, P) -> T + Send,
) -> (Ledger, Engine, T) {
    let ledger = Ledger::new();
    let engine = ledger.open_with(on_abandon);
    let early = granted(&engine, "key");
    let transaction = ledger.paid();
    let reply = Reply::new(201, "early");
    let uncommitted = early.complete_in(&transaction, reply).unwrap();
    ledger.clock.advance(LEASE);
    let prepared = prepare(&engine);
    let settled = thread::scope(|scope| {
        let settled = scope.spawn(|| settle(&engine, prepared));
        if commits {
            transaction.commit().unwrap();
        } else {
            transaction.abort().unwrap();
        }
        settled.join().unwrap()
    });
    drop(uncommitted);
    assert_eq!(ledger.balance(), u64::from(commits));
    (ledger, engine, settled)
}

#[test]
fn a_later_attempt_waits_for_an_open_transaction_before_it_completes() {
    let grant = |engine: &Engine| granted(engine, "key");
    let complete = |_: &Engine, late: Guard| {
        let completed = late.complete(Reply::new(409, "late"));
        completed.map_err(|error| error.kind())
    };
    let (_ledger, engine, completed) = while_open(OnAbandon::Rerun, true, grant, complete);
    assert_eq!(completed, Err(ErrorKind::LeaseLost));
    assert_eq!(replayed(&engine, "key").body(), "early");
}

#[test]
fn an_operator_waits_for_an_open_transaction_too() {
    let complete = |engine: &Engine, (): ()| {
        let resolution = Resolution::Complete(Reply::new(200, "operator"));
        let resolved = engine.resolve(&key("key"), resolution);
        resolved.map_err(|error| error.kind())
    };
    let (_ledger, engine, resolved) = while_open(OnAbandon::Hold, true, |_| (), complete);
    assert_eq!(resolved, Err(ErrorKind::NotInFlight));
    assert_eq!(replayed(&engine, "key").body(), "early");
    let (_ledger, engine, resolved) = while_open(OnAbandon::Hold, false, |_| (), complete);
    assert_eq!(resolved, Ok(()));
    assert_eq!(replayed(&engine, "key").body(), "operator");
}

#[test]
fn forgetting_waits_for_an_open_transaction_too() {
    let forget = |engine: &Engine, (): ()| engine.forget(&key("key")).unwrap();
    for commits in [true, false] {
        let (ledger, engine, forgotten) = while_open(OnAbandon::Rerun, commits, |_| (), forget);
        assert!(forgotten);
        assert_eq!(ledger.outcomes(), 0);
        let anew = granted(&engine, "key");
        assert_eq!(anew.attempt(), 1);
        ledger.pay_and_die(anew, "anew");
        ledger.clock.advance(LEASE);
        assert_eq!(replayed(&engine, "key").body(), "anew");
    }
}

#[test]
fn an_attempt_that_was_resolved_cannot_commit_any_more() {
    let ledger = Ledger::new();
    let engine = ledger.open_with(OnAbandon::Hold);
    let early = granted(&engine, "key");
    ledger.clock.advance(LEASE);
    engine.resolve(&key("key"), Resolution::Release).unwrap();
    let transaction = ledger.paid();
    let refused = early.complete_in(&transaction, Reply::new(201, "early"));
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::LeaseLost);
    transaction.commit().unwrap_err();
    ledger.pay_and_die(granted(&engine, "key"), "anew");
    ledger.clock.advance(LEASE);
    assert_eq!(replayed(&engine, "key").body(), "anew");
    assert_eq!(ledger.balance(), 1);
}

#[test]
fn an_outcome_of_another_request_is_never_replayed() {
    let ledger = Ledger::new();
    let open = |name: &str| {
        let builder = Engine::builder().clock(ledger.clock.clone());
        let builder = builder.pepper(*b"the same secret of both engines.");
        let builder = builder.outcomes_in(Arc::clone(&ledger.database));
        builder.open(ledger.folder.path().join(name)).unwrap()
    };
    let one = open("one");
    ledger.pay_and_die(granted(&one, "key"), "first");
    // Another folder, as after a loss: it knows nothing of the key.
    let other = open("other");
    let second = onceward::Fingerprint::of("another request");
    let begin = || match other.begin(&key("key"), &second).unwrap() {
        onceward::Outcome::Proceed(guard) => guard,
        found => panic!("it was not granted: {found:?}"),
    };
    let guard = begin();
    let transaction = ledger.paid();
    let refused = guard.complete_in(&transaction, Reply::new(201, "second"));
    let refused = refused.unwrap_err();
    assert!(refused.error().to_string().contains("another request"));
    transaction.commit().unwrap_err();
    drop(refused);
    ledger.clock.advance(LEASE);
    // It is granted again, and forgotten in the end.
    drop(begin());
    ledger.clock.advance(LEASE);
    assert!(other.forget(&key("key")).unwrap());
    let transaction = ledger.paid();
    let uncommitted = begin().complete_in(&transaction, Reply::new(201, "second"));
    transaction.commit().unwrap();
    uncommitted.unwrap().confirm().unwrap();
}

#[test]
fn a_rollback_that_nobody_noticed_is_noticed_by_the_confirmation() {
    let ledger = Ledger::new();
    let engine = ledger.open();
    let guard = granted(&engine, "key");
    let transaction = ledger.paid();
    let reply = Reply::new(201, "paid");
    let uncommitted = guard.complete_in(&transaction, reply).unwrap();
    transaction.abort().unwrap();
    let refused = uncommitted.confirm().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::LeaseLost);
    let (guard, reply, _) = refused.into_parts();
    let transaction = ledger.paid();
    let uncommitted = guard.complete_in(&transaction, reply).unwrap();
    transaction.commit().unwrap();
    uncommitted.confirm().unwrap();
    assert_eq!(replayed(&engine, "key").body(), "paid");
}

#[test]
fn a_transaction_of_another_database_is_refused() {
    let ledger = Ledger::new();
    let engine = ledger.open();
    let elsewhere = folder();
    let other = Database::create(elsewhere.path().join("other.redb")).unwrap();
    let transaction = other.begin_write().unwrap();
    let guard = granted(&engine, "key");
    let refused = guard.complete_in(&transaction, Reply::new(201, "paid"));
    let refused = refused.unwrap_err();
    assert!(refused.error().to_string().contains("outcomes_in"));
    transaction.commit().unwrap_err();
    let (guard, reply, _) = refused.into_parts();
    let transaction = ledger.paid();
    let uncommitted = guard.complete_in(&transaction, reply).unwrap();
    transaction.commit().unwrap();
    uncommitted.confirm().unwrap();
}

#[test]
fn under_hold_what_was_committed_isnt_held_however_long_ago() {
    let ledger = Ledger::new();
    let engine = ledger.open_with(OnAbandon::Hold);
    ledger.pay_and_die(granted(&engine, "paid"), "paid");
    drop(granted(&engine, "open"));
    engine.close().unwrap();
    ledger.clock.advance(RETENTION + LEASE);
    let engine = ledger.open_with(OnAbandon::Hold);
    assert_eq!(granted(&engine, "paid").attempt(), 1);
    assert!(in_flight(&engine, "open").is_held());
}
