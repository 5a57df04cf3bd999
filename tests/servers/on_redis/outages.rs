//! Servers that die, hang, or lack their replicas.

use std::error::Error as _;
use std::time::{Duration, Instant};

use onceward::{Engine, ErrorKind, Reply};
use onceward_redis::Redis;

use super::{TIMEOUT, begin, completed, engine, granted, hasty, is_replayed, register};
use support::start::eventually;
use support::start::redis::Server;

/// What a busy machine may add to a call's timeout.
const SLACK: Duration = Duration::from_secs(1);

fn names(prefix: &str) -> Vec<String> {
    (0..50).map(|number| format!("{prefix}{number}")).collect()
}

fn fails_closed(engine: &Engine, name: &str) {
    let start = Instant::now();
    let refused = begin(engine, name).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    let took = start.elapsed();
    println!("a begin failed after {took:?}; its timeout is {TIMEOUT:?}");
    assert!(took < TIMEOUT + SLACK);
}

fn recovers(engine: &Engine, name: &str) {
    let next = eventually("the engine has recovered", || begin(engine, name).ok());
    drop(next);
}

#[test]
fn a_server_that_is_killed_comes_back_with_all_that_was_acknowledged() {
    let Some(mut server) = Server::start() else {
        return;
    };
    let engine = engine(hasty(&server.url()));
    let names = names("before");
    for name in &names {
        completed(&engine, name);
    }
    let guard = granted(&engine, "running");
    server.kill();
    fails_closed(&engine, "new");
    let refused = guard.complete(Reply::new(201, "the answer to running"));
    let (guard, reply, error) = refused.unwrap_err().into_parts();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    server.restart();
    recovers(&engine, "another");
    for name in &names {
        assert!(is_replayed(&engine, name), "{name}");
    }
    guard.complete(reply).unwrap();
    assert!(is_replayed(&engine, "running"));
}

#[test]
fn a_server_that_hangs_is_given_up_in_time_and_found_again() {
    let Some(server) = Server::start() else {
        return;
    };
    let engine = engine(hasty(&server.url()));
    let names = names("before");
    for name in &names {
        completed(&engine, name);
    }
    server.stop();
    fails_closed(&engine, "new");
    fails_closed(&engine, "another");
    server.go_on();
    recovers(&engine, "third");
    for name in &names {
        assert!(is_replayed(&engine, name), "{name}");
    }
}

#[test]
fn an_engine_is_not_opened_without_its_server() {
    let Some(mut server) = Server::start() else {
        return;
    };
    let url = server.url();
    server.kill();
    let refused = Engine::builder().open_on(hasty(&url)).map(drop);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unavailable);
    server.restart();
    let two = format!("{url},{url}");
    let refused = Engine::builder().open_on(hasty(&two)).unwrap_err();
    let cause = refused.source().unwrap().to_string();
    assert!(cause.contains("nodes of one Redis Cluster"), "{cause}");
}

#[test]
fn a_change_that_too_few_replicas_have_has_an_unknown_outcome_until_they_have_it() {
    let Some(server) = Server::start() else {
        return;
    };
    let replica = server.replica();
    // Far longer than a replica takes that is there, and in all still within the timeout.
    let builder = Redis::builder(&server.url()).timeout(Duration::from_secs(12));
    let builder = builder.wait_for_replicas(1, Duration::from_millis(500));
    let engine = engine(builder.build().unwrap());
    completed(&engine, "before");
    let guard = granted(&engine, "key");
    replica.stop();
    let refused = guard.complete(Reply::new(201, "the answer to key"));
    let (guard, reply, error) = refused.unwrap_err().into_parts();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let cause = error.source().unwrap().to_string();
    assert!(cause.contains("0 of 1 replicas"), "{cause}");
    // It was made after all, and others see it.
    assert!(is_replayed(&engine, "key"));
    replica.go_on();
    guard.complete(reply).unwrap();
    completed(&engine, "after");
}

#[test]
fn a_server_that_has_become_a_replica_is_found_again_as_a_primary() {
    let (Some(server), Some(other)) = (Server::start(), Server::start()) else {
        return;
    };
    let engine = engine(hasty(&server.url()));
    completed(&engine, "before");
    let address = other.address();
    let (host, port) = address.split_once(':').unwrap();
    server.cli(&["CONFIG", "SET", "replica-read-only", "yes"]);
    server.cli(&["REPLICAOF", host, port]);
    fails_closed(&engine, "new");
    server.cli(&["REPLICAOF", "NO", "ONE"]);
    recovers(&engine, "another");
}

#[test]
fn a_full_server_refuses_new_keys_at_once() {
    let Some(server) = Server::start() else {
        return;
    };
    let engine = engine(register(&server.url()));
    completed(&engine, "before");
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let refused = begin(&engine, "new").unwrap_err();
    let cause = refused.source().unwrap().to_string();
    assert!(cause.contains("OOM"), "{cause}");
    server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    completed(&engine, "new");
}

#[test]
fn while_replicas_are_missing_retries_are_answered_and_new_keys_refused() {
    let Some(server) = Server::start() else {
        return;
    };
    let engine = engine(hasty(&server.url()));
    completed(&engine, "before");
    server.cli(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    assert!(is_replayed(&engine, "before"));
    fails_closed(&engine, "new");
    server.cli(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    recovers(&engine, "another");
}
