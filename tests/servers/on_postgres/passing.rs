//! Refusals that pass: a call lives through them, if they pass within its timeout.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use onceward::{Engine, Outcome, Reply};
use onceward_postgres::Postgres;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

use super::{granted, key, node, replayed, request};
use support::start::postgres::PostgresServer;

const A_WHILE: Duration = Duration::from_millis(800);

/// Connections, as many as the server still has.
fn all_that_are_left(server: &PostgresServer) -> Vec<Client> {
    let mut clients = Vec::new();
    while let Some(client) = one_more(server) {
        clients.push(client);
    }
    clients
}

fn one_more(server: &PostgresServer) -> Option<Client> {
    // In a thread of its own, which ends with the connection.
    let (tell, told) = std::sync::mpsc::channel();
    let url = server.url();
    thread::spawn(move || {
        Runtime::new().unwrap().block_on(async {
            match tokio_postgres::connect(&url, NoTls).await {
                Ok((client, connection)) => {
                    tell.send(Some(client)).unwrap();
                    drop(connection.await);
                }
                Err(_) => tell.send(None).unwrap(),
            }
        });
    });
    told.recv().unwrap()
}

#[test]
fn a_completion_lives_through_a_while_in_which_others_have_all_connections() {
    let Some(server) = PostgresServer::start_with(&["max_connections=12"]) else {
        return;
    };
    let engine = node(&server.url());
    let guard = granted(&engine, "key");
    let mut others = all_that_are_left(&server);
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'onceward'";
    let first = others.first().unwrap();
    Runtime::new()
        .unwrap()
        .block_on(first.batch_execute(end))
        .unwrap();
    let completed = thread::scope(|scope| {
        others.extend(all_that_are_left(&server));
        let completed = scope.spawn(|| guard.complete(Reply::new(201, "body")));
        thread::sleep(A_WHILE);
        others.extend(all_that_are_left(&server));
        thread::sleep(A_WHILE / 4);
        drop(others);
        completed.join().unwrap()
    });
    completed.unwrap();
    replayed(&engine, "key");
}

#[test]
fn a_begin_and_a_completion_live_through_a_server_that_starts_again() {
    let Some(mut server) = PostgresServer::start() else {
        return;
    };
    let engine = node(&server.url());
    let guard = granted(&engine, "key");
    server.kill();
    let (begun, completed) = thread::scope(|scope| {
        let begun = scope.spawn(|| engine.begin(&key("new"), &request()));
        let completed = scope.spawn(|| guard.complete(Reply::new(201, "body")));
        thread::sleep(Duration::from_millis(300));
        server.restart();
        (begun.join().unwrap(), completed.join().unwrap())
    });
    completed.unwrap();
    assert!(matches!(begun, Ok(Outcome::Proceed(_))), "{begun:?}");
}

#[test]
fn nodes_that_make_their_table_in_a_database_whose_default_is_serializable_fail_nothing() {
    const NODES: usize = 4;
    const CALLERS: usize = 10;
    const KEYS: usize = 50;
    let settings = ["default_transaction_isolation=serializable"];
    let Some(server) = PostgresServer::start_with(&settings) else {
        return;
    };
    let default = server.query("SHOW default_transaction_isolation");
    assert_eq!(default, "serializable");
    let refused = AtomicUsize::new(0);
    thread::scope(|scope| {
        for number in 0..NODES {
            let (server, refused) = (&server, &refused);
            scope.spawn(move || {
                let postgres = Postgres::builder(server.url()).build().unwrap();
                let engine = Engine::builder().open_on(postgres).unwrap();
                thread::scope(|scope| {
                    for caller in 0..CALLERS {
                        let engine = &engine;
                        scope.spawn(move || {
                            for key in 0..KEYS {
                                let name = format!("{number}-{caller}-{key}");
                                let done = done(engine, name);
                                refused.fetch_add(usize::from(!done), Ordering::SeqCst);
                            }
                        });
                    }
                });
            });
        }
    });
    let refused = refused.into_inner();
    println!("{refused} of {} were refused", NODES * CALLERS * KEYS);
    assert_eq!(refused, 0);
}

#[test]
fn transactions_are_read_committed_whatever_the_database_makes_them_by_default() {
    let settings = ["default_transaction_isolation=serializable"];
    let Some(server) = PostgresServer::start_with(&settings) else {
        return;
    };
    let engine = node(&server.url());
    server.query("CREATE TABLE seen (isolation text)");
    server.query(
        "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS \
         'BEGIN INSERT INTO seen VALUES (current_setting(''transaction_isolation'')); RETURN NEW; END'",
    );
    server.query(
        "CREATE TRIGGER sees BEFORE INSERT OR UPDATE ON onceward_records FOR EACH ROW EXECUTE FUNCTION see()",
    );
    assert!(done(&engine, "key".to_owned()));
    let seen = server.query("SELECT string_agg(DISTINCT isolation, ', ') FROM seen");
    assert_eq!(seen, "read committed");
}

fn done(engine: &Engine, name: String) -> bool {
    match engine.begin(&key(name), &request()) {
        Ok(Outcome::Proceed(guard)) => guard.complete(Reply::new(201, "body")).is_ok(),
        other => {
            println!("{other:?}");
            false
        }
    }
}
