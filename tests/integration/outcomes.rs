//! Replies that commit in the caller's own redb transactions, with the effect.

mod fences;
mod own;

use std::sync::Arc;

use onceward::{Engine, ErrorKind, Guard, ManualClock, OnAbandon, Outcome, Reply};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use crate::support::{LEASE, MS, RETENTION, folder, granted, in_flight, key, replayed, request};

const BALANCES: TableDefinition<'_, &str, u64> = TableDefinition::new("balances");

/// An engine of a folder, and the database of a caller's beside it.
struct Ledger {
    database: Arc<Database>,
    clock: ManualClock,
    folder: tempfile::TempDir,
}

impl Ledger {
    fn new() -> Self {
        let folder = folder();
        let database = Database::create(folder.path().join("ledger.redb")).unwrap();
        Self {
            database: Arc::new(database),
            clock: ManualClock::new(),
            folder,
        }
    }

    fn open_with(&self, on_abandon: OnAbandon) -> Engine {
        let builder = Engine::builder().clock(self.clock.clone());
        let builder = builder.on_abandon(on_abandon);
        let builder = builder.outcomes_in(Arc::clone(&self.database));
        builder.open(self.folder.path().join("engine")).unwrap()
    }

    fn open(&self) -> Engine {
        self.open_with(OnAbandon::Rerun)
    }

    /// A transaction that has made its effect.
    fn paid(&self) -> WriteTransaction {
        let transaction = self.database.begin_write().unwrap();
        {
            let mut balances = transaction.open_table(BALANCES).unwrap();
            let balance = balances.get("ada").unwrap().map_or(0, |row| row.value());
            balances.insert("ada", balance + 1).unwrap();
        }
        transaction
    }

    fn balance(&self) -> u64 {
        let transaction = self.database.begin_read().unwrap();
        let Ok(balances) = transaction.open_table(BALANCES) else {
            return 0;
        };
        balances.get("ada").unwrap().map_or(0, |row| row.value())
    }

    fn outcomes(&self) -> u64 {
        let transaction = self.database.begin_read().unwrap();
        let table: TableDefinition<'_, &[u8; 32], (u64, u64, &[u8])> =
            TableDefinition::new("onceward_outcomes");
        let rows = transaction.open_table(table).unwrap();
        // Neither fences nor the database's mark.
        let rows = rows.iter().unwrap().map(|row| row.unwrap());
        let outcomes = rows.filter(|(id, row)| *id.value() != [0; 32] && !row.value().2.is_empty());
        outcomes.count() as u64
    }

    /// Commits and tells nobody, as if the process had died there.
    fn pay_and_die(&self, guard: Guard, body: &'static str) {
        let transaction = self.paid();
        let uncommitted = guard
            .complete_in(&transaction, Reply::new(201, body))
            .unwrap();
        transaction.commit().unwrap();
        drop(uncommitted);
    }
}

#[test]
fn effect_and_reply_commit_together_and_a_retry_is_replayed() {
    let ledger = Ledger::new();
    let engine = ledger.open();
    let guard = granted(&engine, "key");
    let transaction = ledger.paid();
    let uncommitted = guard
        .complete_in(&transaction, Reply::new(201, "paid"))
        .unwrap();
    in_flight(&engine, "key");
    transaction.commit().unwrap();
    in_flight(&engine, "key");
    uncommitted.confirm().unwrap();
    assert_eq!(replayed(&engine, "key").body(), "paid");
    assert_eq!(ledger.balance(), 1);
}

#[test]
fn what_was_committed_and_not_confirmed_is_replayed_from_the_next_open_on() {
    let ledger = Ledger::new();
    let engine = ledger.open();
    ledger.pay_and_die(granted(&engine, "key"), "paid");
    engine.close().unwrap();
    let engine = ledger.open();
    assert_eq!(replayed(&engine, "key").body(), "paid");
}

#[test]
fn what_was_committed_and_not_confirmed_is_replayed_instead_of_granted_again() {
    let ledger = Ledger::new();
    let engine = ledger.open();
    ledger.pay_and_die(granted(&engine, "key"), "paid");
    in_flight(&engine, "key");
    ledger.clock.advance(LEASE);
    assert_eq!(replayed(&engine, "key").body(), "paid");
    assert_eq!(ledger.balance(), 1);
}

#[test]
fn a_sweep_settles_what_was_committed_and_not_confirmed() {
    let ledger = Ledger::new();
    let engine = ledger.open();
    ledger.pay_and_die(granted(&engine, "key"), "paid");
    engine.sweep().unwrap();
    assert_eq!(replayed(&engine, "key").body(), "paid");
}

#[test]
fn an_attempt_without_an_outcome_is_granted_again_as_the_next() {
    let ledger = Ledger::new();
    let engine = ledger.open();
    let guard = granted(&engine, "key");
    let transaction = ledger.paid();
    let uncommitted = guard
        .complete_in(&transaction, Reply::new(201, "lost"))
        .unwrap();
    drop((transaction, uncommitted));
    ledger.clock.advance(LEASE - MS);
    assert!(!in_flight(&engine, "key").is_held());
    ledger.clock.advance(MS);
    let guard = granted(&engine, "key");
    assert_eq!(guard.attempt(), 2);
    assert_eq!(ledger.balance(), 0);
    ledger.pay_and_die(guard, "second");
    ledger.clock.advance(LEASE);
    assert_eq!(replayed(&engine, "key").body(), "second");
    assert_eq!(ledger.balance(), 1);
}

#[test]
fn after_a_rollback_the_guard_goes_on() {
    let ledger = Ledger::new();
    let engine = ledger.open();
    let guard = granted(&engine, "key");
    let transaction = ledger.paid();
    let uncommitted = guard
        .complete_in(&transaction, Reply::new(201, "lost"))
        .unwrap();
    transaction.abort().unwrap();
    uncommitted.rolled_back().release().unwrap();
    assert_eq!(granted(&engine, "key").attempt(), 1);
    assert_eq!(ledger.balance(), 0);
}

#[test]
fn the_first_outcome_wins_and_a_transaction_that_comes_later_cannot_commit() {
    let ledger = Ledger::new();
    let engine = ledger.open();
    let early = granted(&engine, "key");
    ledger.clock.advance(LEASE);
    let late = granted(&engine, "key");
    // The first attempt lost its lease: its transaction is doomed, whatever its caller makes of the error.
    let transaction = ledger.paid();
    let refused = early
        .complete_in(&transaction, Reply::new(201, "early"))
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::LeaseLost);
    transaction.commit().unwrap_err();
    ledger.pay_and_die(late, "late");
    ledger.clock.advance(LEASE);
    assert_eq!(replayed(&engine, "key").body(), "late");
    assert_eq!(ledger.balance(), 1);
}

#[test]
fn an_attempt_that_commits_after_its_lease_makes_the_next_one_fail_and_that_one_gets_its_reply() {
    let ledger = Ledger::new();
    let engine = ledger.open();
    let early = granted(&engine, "key");
    let transaction = ledger.paid();
    let uncommitted = early
        .complete_in(&transaction, Reply::new(201, "early"))
        .unwrap();
    ledger.clock.advance(LEASE);
    let late = granted(&engine, "key");
    transaction.commit().unwrap();
    let transaction = ledger.paid();
    let refused = late
        .complete_in(&transaction, Reply::new(201, "late"))
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::LeaseLost);
    transaction.commit().unwrap_err();
    assert_eq!(replayed(&engine, "key").body(), "early");
    uncommitted.confirm().unwrap();
    assert_eq!(replayed(&engine, "key").body(), "early");
    assert_eq!(ledger.balance(), 1);
}

#[test]
fn a_key_that_is_forgotten_takes_its_outcome_along() {
    let ledger = Ledger::new();
    let engine = ledger.open();
    ledger.pay_and_die(granted(&engine, "key"), "paid");
    let refused = engine.forget(&key("key")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InFlight);
    assert_eq!(ledger.outcomes(), 1);
    ledger.clock.advance(LEASE);
    assert!(engine.forget(&key("key")).unwrap());
    assert_eq!(ledger.outcomes(), 0);
    ledger.pay_and_die(granted(&engine, "key"), "anew");
    ledger.clock.advance(LEASE);
    assert_eq!(replayed(&engine, "key").body(), "anew");
}

#[test]
fn an_outcome_ends_with_its_retention_and_a_sweep_removes_it() {
    let ledger = Ledger::new();
    let engine = ledger.open();
    ledger.pay_and_die(granted(&engine, "once"), "first");
    ledger.pay_and_die(granted(&engine, "again"), "first");
    drop(granted(&engine, "abandoned"));
    ledger.clock.advance(LEASE + RETENTION);
    ledger.pay_and_die(granted(&engine, "again"), "second");
    engine.sweep().unwrap();
    assert_eq!(ledger.outcomes(), 1);
    assert_eq!(replayed(&engine, "again").body(), "second");
    for name in ["once", "abandoned"] {
        assert_eq!(engine.lookup(&key(name)).unwrap(), None, "{name}");
    }
}

#[test]
fn under_hold_an_outcome_settles_an_attempt_and_nothing_else_does() {
    let ledger = Ledger::new();
    let engine = ledger.open_with(OnAbandon::Hold);
    ledger.pay_and_die(granted(&engine, "paid"), "paid");
    drop(granted(&engine, "open"));
    ledger.clock.advance(2 * LEASE);
    assert_eq!(replayed(&engine, "paid").body(), "paid");
    assert!(in_flight(&engine, "open").is_held());
    let held = engine.held().unwrap();
    assert_eq!(held.len(), 1);
}

#[test]
fn what_was_committed_cannot_be_resolved_to_anything_else() {
    let ledger = Ledger::new();
    let engine = ledger.open_with(OnAbandon::Hold);
    ledger.pay_and_die(granted(&engine, "key"), "paid");
    ledger.clock.advance(LEASE);
    let refused = engine
        .resolve(&key("key"), onceward::Resolution::Release)
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotInFlight);
    assert_eq!(replayed(&engine, "key").body(), "paid");
}

#[test]
fn an_engine_that_knows_no_outcomes_gives_guard_and_reply_back() {
    let ledger = Ledger::new();
    let engine = Engine::builder().open_in_memory().unwrap();
    let transaction = ledger.paid();
    let guard = granted(&engine, "key");
    let refused = guard
        .complete_in(&transaction, Reply::new(201, "paid"))
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidConfig);
    let (guard, reply, _) = refused.into_parts();
    guard.complete(reply).unwrap();
    let outcome = engine.begin(&key("key"), &request()).unwrap();
    assert!(matches!(outcome, Outcome::Replay(_)));
}

#[cfg(unix)]
#[test]
fn a_transaction_gets_no_reply_once_the_folder_was_removed() {
    let ledger = Ledger::new();
    let engine = ledger.open();
    let guard = granted(&engine, "key");
    std::fs::remove_dir_all(ledger.folder.path().join("engine")).unwrap();
    let transaction = ledger.paid();
    let refused = guard.complete_in(&transaction, Reply::new(201, "paid"));
    let refused = refused.unwrap_err();
    assert_eq!(refused.error().kind(), ErrorKind::Failed, "{refused}");
    drop(transaction);
    assert_eq!(ledger.balance(), 0);
    assert!(!engine.health().is_ready());
}
