//! What the server's settings and the builder's are worth.

use std::time::Duration;

use onceward::postgres::Postgres;
use onceward::{Engine, ErrorKind, Reply};

use super::{granted, node, replayed};
use crate::start::postgres::PostgresServer;

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

#[test]
fn a_completion_is_on_the_disk_though_the_server_commits_before_by_default() {
    let lazy = ["synchronous_commit=off", "wal_writer_delay=10s"];
    let Some(mut server) = PostgresServer::start_with(&lazy) else {
        return;
    };
    let names: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    let engine = node(&server.url());
    for name in &names {
        let guard = granted(&engine, name);
        guard.complete(Reply::new(201, "body")).unwrap();
    }
    server.kill();
    server.restart();
    let engine = node(&server.url());
    for name in &names {
        assert_eq!(replayed(&engine, name).body(), "body");
    }
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
