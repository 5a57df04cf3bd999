//! The register on PostgreSQL.

mod cut_off;
mod isolation;
mod locks;
mod passing;
mod places;
mod settings;
mod sweeps;
mod together;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use onceward::{Engine, ErrorKind, ManualClock, Outcome, Reply};
use onceward_postgres::Postgres;

use support::engine::{granted, key, replayed, request};
use support::start::eventually;
use support::start::postgres::PostgresServer;
use support::start::proxy::Proxy;

const TIMEOUT: Duration = Duration::from_secs(2);
/// What a busy machine may add to a call's timeout.
const SLACK: Duration = Duration::from_secs(1);

/// A begin is refused within its timeout.
fn fails_closed(engine: &Engine, name: &str) {
    let start = Instant::now();
    let refused = engine.begin(&key(name), &request()).unwrap_err();
    let took = start.elapsed();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    println!("a begin failed after {took:?}; its timeout is {TIMEOUT:?}");
    assert!(took < TIMEOUT + SLACK);
}

fn node(url: &str) -> Engine {
    let postgres = Postgres::builder(url).timeout(TIMEOUT).build().unwrap();
    Engine::builder().open_on(postgres).unwrap()
}

#[test]
fn a_new_key_a_replay_and_a_completion_take_one_round_trip_each() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    let proxy = Proxy::to_postgres(server.port());
    let postgres = Postgres::builder(PostgresServer::url_at(proxy.port)).connections(1);
    let engine = Engine::builder().replay_cache_time(Duration::ZERO);
    let engine = engine.open_on(postgres.build().unwrap()).unwrap();
    // The statements are prepared when they are first needed.
    granted(&engine, "first")
        .complete(Reply::new(201, "body"))
        .unwrap();
    replayed(&engine, "first");
    granted(&engine, "released").release().unwrap();
    let mut guard = None;
    let new_key = proxy.trips(|| guard = Some(granted(&engine, "key")));
    let in_flight = proxy.trips(|| drop(engine.begin(&key("key"), &request()).unwrap()));
    let renewal = proxy.trips(|| guard.as_mut().unwrap().renew().unwrap());
    let completion = proxy.trips(|| {
        let guard = guard.take().unwrap();
        guard.complete(Reply::new(201, "body")).unwrap();
    });
    let replay = proxy.trips(|| drop(replayed(&engine, "key")));
    println!(
        "round trips: new key {new_key}, in flight {in_flight}, renewal {renewal}, completion {completion}, replay {replay}"
    );
    assert_eq!([new_key, in_flight, renewal, completion, replay], [1; 5]);
}

#[test]
fn a_server_that_goes_away_fails_a_begin_in_time_and_one_that_comes_back_is_found_again() {
    let Some(mut server) = PostgresServer::start() else {
        return;
    };
    let engine = node(&server.url());
    granted(&engine, "before")
        .complete(Reply::new(201, "body"))
        .unwrap();
    let guard = granted(&engine, "guarded");
    server.kill();
    fails_closed(&engine, "meanwhile");
    let refused = guard.complete(Reply::new(201, "late")).unwrap_err();
    let (guard, reply, error) = refused.into_parts();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    server.restart();
    guard.complete(reply).unwrap();
    assert_eq!(replayed(&engine, "guarded").body(), "late");
    drop(granted(&engine, "after"));
    server.stop();
    fails_closed(&engine, "frozen");
    server.go_on();
    granted(&engine, "awake")
        .complete(Reply::new(201, "body"))
        .unwrap();
    let other = node(&server.url());
    for name in ["before", "guarded", "awake"] {
        replayed(&other, name);
    }
}

#[test]
fn who_waits_on_one_node_is_told_by_another() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    // By its own clock, which stands still, a waiter would never look again.
    let clock = ManualClock::new();
    let postgres = Postgres::builder(server.url()).build().unwrap();
    let waiting = Engine::builder().clock(clock).open_on(postgres).unwrap();
    let other = node(&server.url());
    let guard = granted(&other, "key");
    let waiting = Arc::new(waiting);
    let engine = Arc::clone(&waiting);
    let waiter = thread::spawn(move || {
        let hour = Duration::from_secs(3_600);
        engine.begin_or_wait(&key("key"), &request(), hour).unwrap()
    });
    let listens = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'";
    eventually("both listen", || {
        (server.query(listens) == "2").then_some(())
    });
    eventually("it waits", || (waiting.stats().waiters == 1).then_some(()));
    guard.complete(Reply::new(201, "body")).unwrap();
    let Outcome::Replay(reply) = waiter.join().unwrap() else {
        panic!("it was not replayed");
    };
    assert_eq!(reply.body(), "body");
}
