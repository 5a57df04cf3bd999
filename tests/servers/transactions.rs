//! Replies that commit in the caller's own transactions on PostgreSQL: in the row of an engine on the same database, and in
//! the outcomes of an engine with a folder.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use onceward::{
    Engine, ErrorKind, Fingerprint, Guard, Key, ManualClock, Outcome, Reply, Uncommitted,
};
use onceward_postgres::Postgres;
use tempfile::TempDir;
use tokio::runtime::{self, Runtime};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, NoTls, Transaction};

use support::start::postgres::PostgresServer;
use support::start::proxy::Proxy;
use support::start::{eventually, folder};

/// The server's clock can't be moved.
const LEASE: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(20);

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut runtime = runtime::Builder::new_multi_thread();
    runtime.worker_threads(1).enable_all().build().unwrap()
});

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    SameRow,
    Outcomes,
}

/// An engine, and a database of the caller's.
struct Bench {
    form: Form,
    server: PostgresServer,
    clock: ManualClock,
    folder: TempDir,
    lease: Duration,
}

impl Bench {
    fn new(form: Form) -> Option<Self> {
        let server = PostgresServer::start()?;
        server.query("CREATE TABLE payments (body text)");
        Some(Self {
            form,
            server,
            clock: ManualClock::new(),
            folder: folder(),
            lease: LEASE,
        })
    }

    fn open(&self) -> Engine {
        self.open_at(&self.server.url()).unwrap()
    }

    fn open_at(&self, url: &str) -> onceward::Result<Engine> {
        let postgres = Postgres::builder(url).timeout(Duration::from_secs(2));
        let postgres = postgres.build()?;
        let builder = Engine::builder().lease(self.lease);
        match self.form {
            Form::SameRow => builder.replay_cache_time(Duration::ZERO).open_on(postgres),
            Form::Outcomes => builder
                .clock(self.clock.clone())
                .outcomes_in(Arc::new(postgres))
                .open(self.folder.path().join("engine")),
        }
    }

    fn client(&self) -> Client {
        client(&self.server.url())
    }

    fn payments(&self) -> String {
        self.server
            .query("SELECT string_agg(body, ' ') FROM payments")
    }

    /// What a begin gets once the lease has ended.
    fn after_lease(&self, engine: &Engine) -> Outcome {
        self.clock.advance(self.lease);
        engine.begin_or_wait(&key(), &request(), PATIENCE).unwrap()
    }
}

/// The same with either form.
fn on_both(test: impl Fn(&mut Bench)) {
    for form in [Form::SameRow, Form::Outcomes] {
        if let Some(mut bench) = Bench::new(form) {
            println!("{form:?}");
            test(&mut bench);
        }
    }
}

fn client(url: &str) -> Client {
    let connected = RUNTIME.block_on(tokio_postgres::connect(url, NoTls));
    let (client, connection) = connected.unwrap();
    RUNTIME.spawn(connection);
    client
}

/// A transaction that has made its effect.
fn paid<'a>(client: &'a mut Client, body: &str) -> Transaction<'a> {
    let pay = "INSERT INTO payments VALUES ($1)";
    let transaction = RUNTIME.block_on(client.transaction()).unwrap();
    // A prepared statement would be closed later, in a round trip of its own.
    let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&body, Type::TEXT)];
    let paying = transaction.execute_typed(pay, &parameters);
    RUNTIME.block_on(paying).unwrap();
    transaction
}

fn commit(transaction: Transaction<'_>) -> Result<(), Error> {
    RUNTIME.block_on(transaction.commit())
}

fn completed(guard: Guard, transaction: &Transaction<'_>, body: &'static str) -> Uncommitted {
    guard
        .complete_in(transaction, Reply::new(201, body))
        .unwrap()
}

fn key() -> Key {
    Key::new("tenant", "key").unwrap()
}

fn request() -> Fingerprint {
    Fingerprint::of("request")
}

fn begin(engine: &Engine) -> Outcome {
    engine.begin(&key(), &request()).unwrap()
}

fn granted(outcome: Outcome) -> Guard {
    match outcome {
        Outcome::Proceed(guard) => guard,
        other => panic!("it was not granted: {other:?}"),
    }
}

fn assert_replayed(outcome: &Outcome, body: &str) {
    let Outcome::Replay(reply) = outcome else {
        panic!("it was not replayed: {outcome:?}");
    };
    assert_eq!(reply.body(), body);
}

#[test]
fn effect_and_reply_commit_together_and_a_retry_is_replayed() {
    on_both(|bench| {
        bench.lease = PATIENCE;
        let engine = bench.open();
        // A folder is one engine's.
        let other = (bench.form == Form::SameRow).then(|| bench.open());
        let mut client = bench.client();
        let guard = granted(begin(&engine));
        let transaction = paid(&mut client, "paid");
        let uncommitted = completed(guard, &transaction, "paid");
        assert_eq!(bench.payments(), "");
        for engine in [Some(&engine), other.as_ref()].into_iter().flatten() {
            assert!(matches!(begin(engine), Outcome::InFlight(_)));
        }
        commit(transaction).unwrap();
        uncommitted.confirm().unwrap();
        assert_replayed(&begin(&engine), "paid");
        assert_eq!(bench.payments(), "paid");
    });
}

#[test]
fn after_a_rollback_nothing_is_kept_and_the_guard_goes_on() {
    on_both(|bench| {
        let engine = bench.open();
        let mut client = bench.client();
        let guard = granted(begin(&engine));
        let transaction = paid(&mut client, "lost");
        let uncommitted = completed(guard, &transaction, "lost");
        RUNTIME.block_on(transaction.rollback()).unwrap();
        let guard = uncommitted.rolled_back();
        let transaction = paid(&mut client, "paid");
        let uncommitted = completed(guard, &transaction, "paid");
        commit(transaction).unwrap();
        uncommitted.confirm().unwrap();
        assert_replayed(&begin(&engine), "paid");
        assert_eq!(bench.payments(), "paid");
    });
}

#[test]
fn a_guard_is_released_after_a_rollback() {
    on_both(|bench| {
        let engine = bench.open();
        let mut client = bench.client();
        let transaction = paid(&mut client, "lost");
        let uncommitted = completed(granted(begin(&engine)), &transaction, "lost");
        drop(transaction);
        // What the client is told next comes after the rollback.
        RUNTIME.block_on(client.batch_execute("")).unwrap();
        uncommitted.rolled_back().release().unwrap();
        assert_eq!(granted(begin(&engine)).attempt(), 1);
        assert_eq!(bench.payments(), "");
    });
}

#[test]
fn what_was_committed_and_never_confirmed_is_replayed_and_not_granted_again() {
    on_both(|bench| {
        let engine = bench.open();
        let mut client = bench.client();
        let transaction = paid(&mut client, "paid");
        let uncommitted = completed(granted(begin(&engine)), &transaction, "paid");
        commit(transaction).unwrap();
        drop(uncommitted);
        assert_replayed(&bench.after_lease(&engine), "paid");
    });
}

#[test]
fn what_was_committed_and_never_confirmed_is_replayed_from_the_next_open_on() {
    on_both(|bench| {
        let engine = bench.open();
        let mut client = bench.client();
        let transaction = paid(&mut client, "paid");
        let uncommitted = completed(granted(begin(&engine)), &transaction, "paid");
        commit(transaction).unwrap();
        drop(uncommitted);
        engine.close().unwrap();
        // No time has passed for the engine with a folder.
        assert_replayed(&begin(&bench.open()), "paid");
    });
}

#[test]
fn an_attempt_that_was_taken_over_cannot_commit_whatever_its_caller_makes_of_the_error() {
    on_both(|bench| {
        let engine = bench.open();
        let (mut client, mut other) = (bench.client(), bench.client());
        let early = granted(begin(&engine));
        let late = granted(bench.after_lease(&engine));
        assert_eq!(late.attempt(), 2);
        let transaction = paid(&mut client, "early");
        let refused = early.complete_in(&transaction, Reply::new(201, "early"));
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::LeaseLost);
        // PostgreSQL answers with a rollback, which the client library takes for an answer like any other.
        commit(transaction).unwrap();
        assert_eq!(bench.payments(), "");
        let transaction = paid(&mut other, "late");
        let uncommitted = completed(late, &transaction, "late");
        commit(transaction).unwrap();
        uncommitted.confirm().unwrap();
        assert_replayed(&begin(&engine), "late");
        assert_eq!(bench.payments(), "late");
    });
}

#[test]
fn of_two_attempts_that_are_under_way_only_the_first_to_commit_does() {
    let Some(bench) = Bench::new(Form::Outcomes) else {
        return;
    };
    let engine = bench.open();
    let (mut client, mut other) = (bench.client(), bench.client());
    let transaction = paid(&mut client, "early");
    let early = completed(granted(begin(&engine)), &transaction, "early");
    let late = granted(bench.after_lease(&engine));
    commit(transaction).unwrap();
    let transaction = paid(&mut other, "late");
    let refused = late.complete_in(&transaction, Reply::new(201, "late"));
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::LeaseLost);
    commit(transaction).unwrap();
    assert_replayed(&begin(&engine), "early");
    early.confirm().unwrap();
    assert_replayed(&begin(&engine), "early");
    assert_eq!(bench.payments(), "early");
}

#[test]
fn while_a_transaction_has_completed_the_row_nobody_else_is_granted_it() {
    let Some(bench) = Bench::new(Form::SameRow) else {
        return;
    };
    let (engine, other) = (bench.open(), bench.open());
    let mut client = bench.client();
    let transaction = paid(&mut client, "early");
    let early = completed(granted(begin(&engine)), &transaction, "early");
    // Its lease has ended by then.
    let waits = other.begin_or_wait(&key(), &request(), PATIENCE);
    assert_eq!(waits.unwrap_err().kind(), ErrorKind::Unavailable);
    commit(transaction).unwrap();
    assert_replayed(&begin(&other), "early");
    early.confirm().unwrap();
    assert_replayed(&begin(&engine), "early");
}

#[test]
fn a_later_attempt_cannot_complete_by_itself_while_an_earlier_ones_transaction_is_open() {
    let Some(bench) = Bench::new(Form::Outcomes) else {
        return;
    };
    let engine = bench.open();
    let mut client = bench.client();
    let transaction = paid(&mut client, "early");
    let early = completed(granted(begin(&engine)), &transaction, "early");
    let late = granted(bench.after_lease(&engine));
    let refused = late.complete(Reply::new(409, "late")).unwrap_err();
    let (late, reply, error) = refused.into_parts();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    commit(transaction).unwrap();
    let refused = late.complete(reply).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::LeaseLost);
    early.confirm().unwrap();
    assert_replayed(&begin(&engine), "early");
}

#[test]
fn a_completion_in_a_transaction_takes_one_round_trip_of_its_connection_and_none_besides() {
    on_both(|bench| {
        bench.lease = PATIENCE;
        let ways = [0; 2].map(|_| Proxy::to_postgres(bench.server.port()));
        let [own, engines] = &ways;
        let engine = bench
            .open_at(&PostgresServer::url_at(engines.port))
            .unwrap();
        let mut client = client(&PostgresServer::url_at(own.port));
        if bench.form == Form::SameRow {
            let listens = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'";
            eventually("it listens", || {
                (bench.server.query(listens) == "1").then_some(())
            });
        }
        let guard = granted(begin(&engine));
        let transaction = paid(&mut client, "paid");
        let mut uncommitted = None;
        let mut on_own = 0;
        let besides = engines.trips(|| {
            on_own = own.trips(|| uncommitted = Some(completed(guard, &transaction, "paid")));
        });
        let on_commit = own.trips(|| commit(transaction).unwrap());
        let on_confirmation = engines.trips(|| uncommitted.take().unwrap().confirm().unwrap());
        println!(
            "round trips: completion {on_own}, commit {on_commit}, confirmation {on_confirmation}, besides {besides}"
        );
        assert_eq!([on_own, on_commit, on_confirmation, besides], [1, 1, 1, 0]);
    });
}

#[test]
fn a_rollback_that_nobody_noticed_is_noticed_by_the_confirmation() {
    on_both(|bench| {
        let engine = bench.open();
        let mut client = bench.client();
        let transaction = paid(&mut client, "failed");
        let uncommitted = completed(granted(begin(&engine)), &transaction, "failed");
        let failed = RUNTIME.block_on(transaction.batch_execute("SELECT 1 / 0"));
        failed.unwrap_err();
        commit(transaction).unwrap();
        let refused = uncommitted.confirm().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::LeaseLost);
        let (guard, ..) = refused.into_parts();
        let transaction = paid(&mut client, "paid");
        let uncommitted = completed(guard, &transaction, "paid");
        commit(transaction).unwrap();
        uncommitted.confirm().unwrap();
        assert_replayed(&begin(&engine), "paid");
        assert_eq!(bench.payments(), "paid");
    });
}

#[test]
fn opening_makes_the_table_of_the_outcomes_and_fails_while_the_database_does_not_answer() {
    let Some(mut bench) = Bench::new(Form::Outcomes) else {
        return;
    };
    drop(bench.open());
    let rows = bench.server.query("SELECT count(*) FROM onceward_records");
    // The database's mark.
    assert_eq!(rows, "1");
    bench.server.kill();
    let refused = bench.open_at(&bench.server.url()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    bench.server.restart();
    granted(begin(&bench.open())).release().unwrap();
}

#[test]
fn a_transaction_of_a_database_that_the_engine_does_not_know_gives_guard_and_reply_back() {
    let Some(bench) = Bench::new(Form::SameRow) else {
        return;
    };
    let engine = Engine::builder().open_in_memory().unwrap();
    let mut client = bench.client();
    let transaction = paid(&mut client, "paid");
    let refused = granted(begin(&engine)).complete_in(&transaction, Reply::new(201, "paid"));
    let (guard, reply, error) = refused.unwrap_err().into_parts();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    guard.complete(reply).unwrap();
    assert_replayed(&begin(&engine), "paid");
}
