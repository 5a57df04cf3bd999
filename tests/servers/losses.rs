//! Servers that forget the first cell, or everything.

use std::thread;
use std::time::{Duration, Instant};

use onceward::{Engine, ErrorKind, Outcome, Reply};

use crate::shared::Shared;
use support::engine::{granted, key, replayed, request};
use support::start::eventually;
use support::start::postgres::PostgresServer;
use support::start::redis::Server;

const LEASE: Duration = Duration::from_secs(3);
/// By then each node has looked.
const NOTICED_WITHIN: Duration = Duration::from_secs(12);

/// What is left of the keys.
#[derive(Clone, Copy, PartialEq)]
enum Keys {
    Left,
    Gone,
}

fn node(url: &str) -> Engine {
    let builder = Engine::builder().lease(LEASE);
    builder.open_on(Shared::at(url)).unwrap()
}

/// A node that has noticed it grants nothing, answers what it knows, and says why.
fn has_noticed(node: &Engine, name: &str) -> bool {
    let health = node.health();
    let Some(reason) = health.reason().map(ToString::to_string) else {
        return false;
    };
    if !reason.contains("first cell") && !reason.contains("lost") {
        return false;
    }
    let refused = node.begin(&key(name), &request()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
    true
}

fn forgets(url: &str, keys: Keys, lose: impl FnOnce()) {
    let old = [node(url), node(url)];
    for (number, node) in old.iter().enumerate() {
        let guard = granted(node, &format!("kept {number}"));
        guard.complete(Reply::new(201, "body")).unwrap();
    }
    // Each has its own in its cache, which what it hears of others may have kept from it.
    for _ in 0..2 {
        for (number, node) in old.iter().enumerate() {
            replayed(node, &format!("kept {number}"));
            thread::sleep(Duration::from_millis(50));
        }
    }
    let guard = granted(&old[0], "running");
    lose();
    let lost_at = Instant::now();
    let later = node(url);
    if keys == Keys::Left {
        assert_eq!(replayed(&later, "kept 0").body(), "body");
    }
    thread::scope(|scope| {
        for (number, node) in old.iter().enumerate() {
            scope.spawn(move || {
                while !has_noticed(node, "new") {
                    assert!(lost_at.elapsed() < NOTICED_WITHIN, "node {number} goes on");
                    thread::sleep(Duration::from_millis(50));
                }
                println!("node {number} has noticed it after {:?}", lost_at.elapsed());
                replayed(node, &format!("kept {number}"));
            });
        }
    });
    if keys == Keys::Left {
        guard.complete(Reply::new(201, "late")).unwrap();
        assert_eq!(replayed(&old[1], "running").body(), "late");
    }
    for (number, node) in old.iter().chain([&later]).enumerate() {
        let new = eventually("grants go on", || {
            let name = key(format!("new {number}"));
            node.begin(&name, &request()).ok()
        });
        assert!(matches!(new, Outcome::Proceed(_)), "{new:?}");
    }
    assert!(old.iter().all(|node| node.health().is_ready()));
    for node in &old {
        assert!(node.stats().register_losses >= 1);
    }
}

#[test]
fn nodes_notice_that_redis_has_lost_the_first_cell_alone_and_agree_on_every_key() {
    if let Some(server) = Server::start() {
        forgets(&server.url(), Keys::Left, || {
            let first = "return redis.call('DEL', 'onceward:' .. string.rep(string.char(0), 32))";
            assert_eq!(server.cli(&["EVAL", first, "0"]).trim(), "1");
        });
    }
}

#[test]
fn nodes_notice_that_redis_was_flushed() {
    if let Some(server) = Server::start() {
        forgets(&server.url(), Keys::Gone, || {
            assert_eq!(server.cli(&["FLUSHALL"]).trim(), "OK");
        });
    }
}

#[test]
fn nodes_notice_that_redis_has_started_again_without_what_it_had() {
    if let Some(mut server) = Server::start_with(&["--appendonly", "no"]) {
        let url = server.url();
        forgets(&url, Keys::Gone, || {
            server.kill();
            server.restart();
        });
    }
}

#[test]
fn nodes_notice_that_postgresql_has_lost_the_first_row_alone_and_agree_on_every_key() {
    if let Some(server) = PostgresServer::start() {
        forgets(&server.url(), Keys::Left, || {
            server.query("DELETE FROM onceward_records WHERE id = decode(repeat('00', 32), 'hex')");
        });
    }
}

#[test]
fn nodes_notice_that_postgresqls_table_was_truncated() {
    if let Some(server) = PostgresServer::start() {
        forgets(&server.url(), Keys::Gone, || {
            server.query("TRUNCATE onceward_records");
        });
    }
}
