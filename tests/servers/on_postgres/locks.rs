//! What others lock: the table itself, or what is made at the same moment.

use std::thread;
use std::time::Duration;

use onceward::{Engine, Reply};
use tokio_postgres::{Client, NoTls};

use super::{granted, node, replayed};
use support::start::eventually;
use support::start::postgres::PostgresServer;

/// Longer than a statement waits for a lock that isn't a patient one.
const A_WHILE: Duration = Duration::from_millis(200);

/// Does something on a connection whose locks are let go of once somebody has waited for them for a while.
fn while_locked<T: Send>(
    server: &PostgresServer,
    lock: &str,
    work: impl FnOnce() -> T + Send,
) -> T {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client: Client = runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
        tokio::spawn(connection);
        let begin = format!("BEGIN; {lock}");
        client.batch_execute(&begin).await.unwrap();
        client
    });
    thread::scope(|scope| {
        let work = scope.spawn(work);
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        eventually("somebody waits", || {
            (server.query(waits) != "0").then_some(())
        });
        thread::sleep(A_WHILE);
        runtime.block_on(client.batch_execute("COMMIT")).unwrap();
        work.join().unwrap()
    })
}

#[test]
fn a_table_that_is_altered_for_a_moment_is_waited_for() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    let engine = node(&server.url());
    let guard = granted(&engine, "completed");
    guard.complete(Reply::new(201, "body")).unwrap();
    let other = node(&server.url());
    let lock = "LOCK TABLE onceward_records IN ACCESS EXCLUSIVE MODE";
    let found = while_locked(&server, lock, || replayed(&other, "completed"));
    assert_eq!(found.body(), "body");
    let guard = while_locked(&server, lock, || granted(&other, "new"));
    while_locked(&server, lock, || guard.complete(Reply::new(201, "body"))).unwrap();
    let found = while_locked(&server, lock, || other.export().count());
    assert_eq!(found, 2);
}

#[test]
fn a_table_that_another_node_is_making_is_waited_for() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    let postgres = || {
        onceward_postgres::Postgres::builder(server.url())
            .build()
            .unwrap()
    };
    let schema = postgres().schema().to_owned();
    let open = || Engine::builder().open_on(postgres()).unwrap();
    let engine = while_locked(&server, &schema, open);
    drop(granted(&engine, "key"));
}
