//! Nodes that don't agree on the time.

use std::time::{Duration, SystemTime};

use onceward::testkit::{Shifted, ShiftedClock};
use onceward::{Clock, Engine, ErrorKind, Outcome, Reply};

use crate::shared::Shared;
use support::engine::{granted, key, request};
use support::start::postgres::PostgresServer;
use support::start::redis::Server;

const MINUTE: Duration = Duration::from_secs(60);
const LEASE: Duration = Duration::from_secs(120);
const RETENTION: Duration = Duration::from_secs(86_400);
/// More than what a slow machine takes for a few calls.
const SLACK: Duration = Duration::from_secs(30);

/// A clock that is wrong by so much.
#[derive(Debug)]
struct Wrong {
    clock: ShiftedClock,
    ahead: Duration,
    behind: Duration,
}

impl Clock for Wrong {
    fn wall(&self) -> SystemTime {
        self.clock.wall() + self.ahead - self.behind
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    fn on_step(&self, wake: Box<dyn Fn() + Send + Sync>) {
        self.clock.on_step(wake);
    }
}

fn agree(url: &str) {
    let time = Shifted::new(());
    let node = |ahead, behind| {
        let clock = Wrong {
            clock: time.clock(),
            ahead,
            behind,
        };
        let builder = Engine::builder().clock(clock).lease(LEASE);
        let builder = builder.replay_cache_time(Duration::ZERO);
        let register = time.beside(Shared::at(url));
        builder.retention(RETENTION).open_on(register).unwrap()
    };
    let ahead = node(10 * MINUTE, Duration::ZERO);
    let behind = node(Duration::ZERO, 10 * MINUTE);
    let held = |engine: &Engine, name: &str| match engine.begin(&key(name), &request()).unwrap() {
        Outcome::InFlight(found) => found.lease_left(),
        other => panic!("{name} is not held: {other:?}"),
    };
    for (name, one, other) in [
        ("of ahead", &ahead, &behind),
        ("of behind", &behind, &ahead),
    ] {
        let late = granted(one, name);
        assert!(held(other, name) <= LEASE + SLACK);
        time.advance(LEASE.checked_sub(SLACK).unwrap());
        assert!(held(other, name) <= 2 * SLACK);
        assert!(held(one, name) <= 2 * SLACK);
        time.advance(2 * SLACK);
        let guard = granted(other, name);
        assert_eq!(guard.attempt(), 2);
        let refused = late.complete(Reply::new(201, "late")).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::LeaseLost);
        guard.complete(Reply::new(201, "body")).unwrap();
        time.advance(RETENTION.checked_sub(SLACK).unwrap());
        for engine in [one, other] {
            let found = engine.begin(&key(name), &request()).unwrap();
            assert!(matches!(found, Outcome::Replay(_)), "{found:?}");
        }
        time.advance(2 * SLACK);
        assert_eq!(granted(one, name).attempt(), 1);
    }
}

#[test]
fn nodes_on_postgresql_whose_clocks_are_twenty_minutes_apart_agree_on_leases_and_retentions() {
    if let Some(server) = PostgresServer::start() {
        agree(&server.url());
    }
}

#[test]
fn nodes_on_redis_whose_clocks_are_twenty_minutes_apart_agree_on_leases_and_retentions() {
    if let Some(server) = Server::start() {
        agree(&server.url());
    }
}
