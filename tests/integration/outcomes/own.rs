//! Outcomes in a database of the caller's own sort, which does something in the midst of the engine's look.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use futures::FutureExt;
use onceward::register::{RecordId, Refused, Value};
use onceward::transaction::{Database, OutcomeRow, Replaces, Transaction, Written};
use onceward::{
    Engine, EntryState, ErrorKind, Fingerprint, Guard, ManualClock, Outcome, Reply, Uncommitted,
};
use tokio::sync::Semaphore;

use crate::support::{LEASE, RETENTION, folder, granted, in_flight, key, replayed};

#[derive(Default)]
struct Bank {
    rows: Mutex<BTreeMap<RecordId, OutcomeRow>>,
    /// Done once, at the next load.
    meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    fails: AtomicBool,
    /// What a put outside of transactions waits for, if anything.
    gate: Mutex<Option<Arc<Semaphore>>>,
}

impl Bank {
    fn replace(&self, row: &OutcomeRow) -> Written {
        let mut rows = self.rows.lock().unwrap();
        let version = |id| rows.get(&id).map(|row: &OutcomeRow| row.value.version);
        let mark = version(RecordId::from_bytes([0; 32]));
        let is_marked = row.mark.is_none() || row.mark == mark;
        let fits = match row.replaces {
            Replaces::Version(expected) => version(row.id) == Some(expected),
            Replaces::Older(now_ms) => rows.get(&row.id).is_none_or(|found| {
                found.value.version.to_bits() < row.value.version.to_bits()
                    && (found.ends_at_ms <= now_ms || found.value.bytes.is_empty())
            }),
        };
        if !(is_marked && fits) {
            return Written::Superseded;
        }
        rows.insert(row.id, row.clone());
        Written::Done
    }

    /// Without the mark and fences.
    fn outcomes(&self) -> usize {
        let rows = self.rows.lock().unwrap();
        let outcomes = rows
            .iter()
            .filter(|(id, row)| id.as_bytes() != &[0; 32] && !row.value.bytes.is_empty());
        outcomes.count()
    }

    fn answer(&self) -> Result<(), Refused> {
        let meanwhile = self.meanwhile.lock().unwrap().take();
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
        if self.fails.load(Ordering::SeqCst) {
            return Err(Refused::unchanged("out of order"));
        }
        Ok(())
    }
}

/// Looks again when it commits.
#[derive(Default)]
struct Payment {
    rows: Mutex<Vec<OutcomeRow>>,
}

impl Payment {
    fn commit(self, bank: &Bank) -> Written {
        let rows = self.rows.into_inner().unwrap();
        bank.replace(&rows[0])
    }
}

impl Transaction<Bank> for Payment {
    async fn write(&self, _: &Bank, row: &OutcomeRow) -> Result<Written, Refused> {
        self.rows.lock().unwrap().push(row.clone());
        Ok(Written::Done)
    }
}

impl Database for Bank {
    async fn put(self: &Arc<Self>, row: &OutcomeRow) -> Result<Written, Refused> {
        let gate = self.gate.lock().unwrap().clone();
        if let Some(gate) = gate {
            drop(gate.acquire().await);
        }
        Ok(self.replace(row))
    }

    async fn load(self: &Arc<Self>, id: RecordId) -> Result<Option<Value>, Refused> {
        self.answer()?;
        let rows = self.rows.lock().unwrap();
        Ok(rows.get(&id).map(|row| row.value.clone()))
    }

    async fn sweep(self: &Arc<Self>, now_ms: u64) -> Result<u64, Refused> {
        let mut rows = self.rows.lock().unwrap();
        let before = rows.len();
        rows.retain(|_, row| row.ends_at_ms > now_ms);
        Ok((before - rows.len()) as u64)
    }
}

struct Bench {
    bank: Arc<Bank>,
    clock: ManualClock,
    engine: Arc<Engine>,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let (bank, clock, folder) = (Arc::<Bank>::default(), ManualClock::new(), folder());
        let engine = Arc::new(Self::open(&bank, &clock, &folder));
        Self {
            bank,
            clock,
            engine,
            folder,
        }
    }

    fn open(bank: &Arc<Bank>, clock: &ManualClock, folder: &tempfile::TempDir) -> Engine {
        let builder = Engine::builder().clock(clock.clone());
        let builder = builder.outcomes_in(Arc::clone(bank));
        builder.open(folder.path().join("engine")).unwrap()
    }

    /// A second attempt at the key whose completion is under way and waits for the database, and nobody for it.
    fn dropped_completion(&self) -> Arc<Semaphore> {
        drop(granted(&self.engine, "key"));
        self.clock.advance(LEASE);
        let late = granted(&self.engine, "key");
        let gate = Arc::new(Semaphore::new(0));
        *self.bank.gate.lock().unwrap() = Some(Arc::clone(&gate));
        let completion = late.complete_async(Reply::new(201, "late"));
        assert!(completion.now_or_never().is_none());
        in_flight(&self.engine, "key");
        gate
    }
}

fn paid(bank: &Bank, guard: Guard, body: &'static str) -> Uncommitted {
    let payment = Payment::default();
    let uncommitted = guard.complete_in(&payment, Reply::new(201, body)).unwrap();
    assert_eq!(payment.commit(bank), Written::Done);
    uncommitted
}

#[test]
fn a_database_of_ones_own_keeps_outcomes() {
    let bench = Bench::new();
    let completed = |guard: Guard, body| {
        let payment = Payment::default();
        let uncommitted = guard.complete_in(&payment, Reply::new(201, body));
        (payment, uncommitted.unwrap())
    };
    let (early, unconfirmed) = completed(granted(&bench.engine, "key"), "early");
    bench.clock.advance(LEASE);
    let (late, uncommitted) = completed(granted(&bench.engine, "key"), "late");
    assert_eq!(early.commit(&bench.bank), Written::Done);
    assert_eq!(late.commit(&bench.bank), Written::Superseded);
    drop((unconfirmed, uncommitted.rolled_back()));
    bench.clock.advance(LEASE);
    assert_eq!(replayed(&bench.engine, "key").body(), "early");
}

#[test]
fn forgetting_leaves_the_outcome_of_who_was_granted_the_key_meanwhile() {
    let bench = Bench::new();
    let (engine, bank) = (Arc::clone(&bench.engine), Arc::clone(&bench.bank));
    let granted_meanwhile = Arc::new(Mutex::new(None));
    let kept = Arc::clone(&granted_meanwhile);
    *bench.bank.meanwhile.lock().unwrap() = Some(Box::new(move || {
        let guard = granted(&engine, "key");
        *kept.lock().unwrap() = Some(paid(&bank, guard, "meanwhile"));
    }));
    let refused = bench.engine.forget(&key("key")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InFlight);
    let uncommitted = granted_meanwhile.lock().unwrap().take().unwrap();
    uncommitted.confirm().unwrap();
    assert_eq!(replayed(&bench.engine, "key").body(), "meanwhile");
}

#[test]
fn an_outcome_that_has_ended_is_kept_until_it_has_settled_its_key() {
    let bench = Bench::new();
    drop(paid(&bench.bank, granted(&bench.engine, "key"), "body"));
    bench.clock.advance(RETENTION + LEASE);
    bench.bank.fails.store(true, Ordering::SeqCst);
    let refused = bench.engine.sweep().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    assert_eq!(bench.bank.outcomes(), 1);
    bench.bank.fails.store(false, Ordering::SeqCst);
    bench.engine.sweep().unwrap();
    assert_eq!(bench.bank.outcomes(), 0);
    assert_eq!(granted(&bench.engine, "key").attempt(), 1);
}

#[test]
fn a_later_attempts_completion_that_is_dropped_while_it_asks_the_database_goes_on() {
    let bench = Bench::new();
    bench.dropped_completion().add_permits(1);
    let is_completed = || {
        let entry = bench.engine.lookup(&key("key")).unwrap().unwrap();
        matches!(entry.state, EntryState::Completed { .. })
    };
    while !is_completed() {
        thread::yield_now();
    }
    assert_eq!(replayed(&bench.engine, "key").body(), "late");
}

#[test]
fn a_close_waits_for_a_completion_that_asks_the_database() {
    let bench = Bench::new();
    let gate = bench.dropped_completion();
    let closing = Engine::clone(&bench.engine);
    let closing = thread::spawn(move || closing.close());
    let is_closing = || {
        let refused = bench.engine.forget(&key("another")).err();
        refused.is_some_and(|error| error.kind() == ErrorKind::Closed)
    };
    while !is_closing() {
        thread::yield_now();
    }
    gate.add_permits(1);
    closing.join().unwrap().unwrap();
    let engine = Bench::open(&bench.bank, &bench.clock, &bench.folder);
    assert_eq!(replayed(&engine, "key").body(), "late");
}

#[test]
fn another_request_is_granted_the_key_once_an_attempt_is_remembered_for_long_enough() {
    let bench = Bench::new();
    drop(granted(&bench.engine, "key"));
    let begin = || {
        let other = Fingerprint::of("another request");
        bench.engine.begin(&key("key"), &other).unwrap()
    };
    assert!(matches!(begin(), Outcome::Conflict(_)));
    // Nobody has swept.
    bench.clock.advance(RETENTION + LEASE);
    match begin() {
        Outcome::Proceed(guard) => assert_eq!(guard.attempt(), 1),
        other => panic!("not granted: {other:?}"),
    }
}
