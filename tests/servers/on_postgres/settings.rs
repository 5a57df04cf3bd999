//! What the server's settings and the builder's are worth.

use std::time::Duration;

use onceward::{Engine, ErrorKind, Reply};
use onceward_postgres::Postgres;

use tokio_postgres::NoTls;

use super::{granted, node, replayed};
use support::start::eventually;
use support::start::postgres::PostgresServer;

#[test]
fn settings_that_break_promises_are_warned_of() {
    let Some(server) = PostgresServer::start_with(&["full_page_writes=off"]) else {
        return;
    };
    let postgres = Postgres::builder(server.url()).build().unwrap();
    assert!(postgres.warnings().is_empty());
    let engine = Engine::builder().open_on(postgres.clone()).unwrap();
    drop(granted(&engine, "key"));
    let warnings = postgres.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("full_page_writes"));
}

/// A server that commits long before the disk has it.
const LAZY: [&str; 2] = ["synchronous_commit=off", "wal_writer_delay=10s"];

fn names() -> Vec<String> {
    (0..50).map(|number| number.to_string()).collect()
}

fn has_all_after_a_crash(mut server: PostgresServer) {
    server.kill();
    server.restart();
    let engine = node(&server.url());
    for name in names() {
        assert_eq!(replayed(&engine, &name).body(), "body");
    }
}

#[test]
fn a_completion_is_on_the_disk_though_the_server_commits_before_by_default() {
    let Some(server) = PostgresServer::start_with(&LAZY) else {
        return;
    };
    let engine = node(&server.url());
    for name in names() {
        let guard = granted(&engine, &name);
        guard.complete(Reply::new(201, "body")).unwrap();
    }
    has_all_after_a_crash(server);
}

#[test]
fn a_completion_is_on_the_disk_though_the_server_has_begun_to_commit_before() {
    let Some(server) = PostgresServer::start_with(&["wal_writer_delay=10s"]) else {
        return;
    };
    let postgres = Postgres::builder(server.url()).connections(1);
    let engine = Engine::builder()
        .open_on(postgres.build().unwrap())
        .unwrap();
    drop(granted(&engine, "before"));
    server.query("ALTER SYSTEM SET synchronous_commit = off");
    server.query("SELECT pg_reload_conf()");
    eventually("a connection finds it changed", || {
        (server.query("SHOW synchronous_commit") == "off").then_some(())
    });
    for name in names() {
        let guard = granted(&engine, &name);
        guard.complete(Reply::new(201, "body")).unwrap();
    }
    has_all_after_a_crash(server);
}

#[test]
fn a_completion_in_a_callers_transaction_is_on_the_disk_too() {
    let Some(server) = PostgresServer::start_with(&LAZY) else {
        return;
    };
    let engine = node(&server.url());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (mut client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
        tokio::spawn(connection);
        for name in names() {
            let guard = granted(&engine, &name);
            let transaction = client.transaction().await.unwrap();
            let reply = Reply::new(201, "body");
            let uncommitted = guard.complete_in_async(&transaction, reply).await.unwrap();
            transaction.commit().await.unwrap();
            uncommitted.confirm_async().await.unwrap();
        }
    });
    has_all_after_a_crash(server);
}

#[test]
fn a_table_of_ones_own_migration_is_used_and_none_is_made() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    let postgres = || {
        let builder = Postgres::builder(server.url()).table("payments.keys");
        builder.makes_table(false).build().unwrap()
    };
    let refused = Engine::builder().open_on(postgres()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    server.query("CREATE SCHEMA payments");
    for statement in postgres().schema().split_inclusive(';') {
        server.query(statement);
    }
    let engine = Engine::builder().open_on(postgres()).unwrap();
    drop(granted(&engine, "key"));
    assert_ne!(server.query("SELECT count(*) FROM payments.keys"), "0");
}

#[test]
fn what_cannot_be_is_refused_when_it_is_built() {
    let builder = || Postgres::builder("postgres://user:secret@127.0.0.1/database");
    assert!(builder().build().is_ok());
    for builder in [
        Postgres::builder("postgres://host:port"),
        Postgres::builder("http://host"),
        builder().table("a;b"),
        builder().connections(0),
        builder().timeout(Duration::ZERO),
        builder().timeout(Duration::from_secs(3_600)),
    ] {
        let refused = builder.build().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidConfig, "{refused}");
    }
    assert!(!format!("{:?}{:?}", builder(), builder().build()).contains("secret"));
}
