//! Calls that come at once, which share transactions.

use std::thread;
use std::time::Duration;

use onceward::testkit::Shifted;
use onceward::{Engine, ErrorKind, Reply};
use onceward_postgres::Postgres;
use tokio_postgres::NoTls;

use super::{TIMEOUT, granted, key, replayed, request};
use support::start::postgres::PostgresServer;

const CALLERS: usize = 64;
const ROUNDS: usize = 2;
const LEASE: Duration = Duration::from_secs(120);

#[test]
fn a_row_that_somebody_has_locked_fails_its_own_callers_and_nobody_else() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    let postgres = Postgres::builder(server.url()).timeout(TIMEOUT);
    let register = Shifted::new(postgres.build().unwrap());
    let builder = Engine::builder().clock(register.clock()).lease(LEASE);
    let engine = builder.open_on(register.clone()).unwrap();
    drop(granted(&engine, "locked"));
    register.advance(2 * LEASE);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
        tokio::spawn(connection);
        let lock = "BEGIN; SELECT 1 FROM onceward_records FOR UPDATE";
        client.batch_execute(lock).await.unwrap();
        client
    });
    for round in 0..ROUNDS {
        thread::scope(|scope| {
            for caller in 0..CALLERS {
                let engine = &engine;
                scope.spawn(move || {
                    if caller % 2 == 0 {
                        let refused = engine.begin(&key("locked"), &request()).unwrap_err();
                        assert_eq!(refused.kind(), ErrorKind::Unavailable);
                        return;
                    }
                    let name = format!("{round}-{caller}");
                    let guard = granted(engine, &name);
                    guard.complete(Reply::new(201, name)).unwrap();
                });
            }
        });
    }
    runtime.block_on(client.batch_execute("ROLLBACK")).unwrap();
    // A begin that was given up may have been made after all, once the row was free.
    register.advance(2 * LEASE);
    assert!(granted(&engine, "locked").attempt() >= 2);
    for caller in (1..CALLERS).step_by(2) {
        let name = format!("{}-{caller}", ROUNDS - 1);
        assert_eq!(replayed(&engine, &name).body(), name.as_str());
    }
}
