//! What engines promise, on one server.

use std::thread;
use std::time::Duration;

use onceward::testkit::Shifted;
use onceward::{Engine, ErrorKind, Fingerprint, ManualClock, Outcome, Reply};
use onceward_redis::Redis;

use super::{begin, completed, engine, granted, is_replayed, key, register};
use support::start::eventually;
use support::start::redis::Server;

/// A lease is two minutes.
const MOST_OF_A_LEASE: Duration = Duration::from_secs(90);
const REST_AND_MORE: Duration = Duration::from_secs(31);

#[test]
fn an_engine_on_redis_answers_as_on_any_store() {
    let Some(server) = Server::start() else {
        return;
    };
    let (one, other) = (
        engine(register(&server.url())),
        engine(register(&server.url())),
    );
    let guard = granted(&one, "key");
    assert!(matches!(begin(&other, "key"), Ok(Outcome::InFlight(_))));
    guard
        .complete(Reply::new(201, "the answer to key"))
        .unwrap();
    assert!(is_replayed(&one, "key"));
    assert!(is_replayed(&other, "key"));
    let conflict = other.begin(&key("key"), &Fingerprint::of("another request"));
    assert!(matches!(conflict, Ok(Outcome::Conflict(_))));
    assert!(other.forget(&key("key")).unwrap());
    granted(&one, "key").release().unwrap();
    completed(&other, "key");
    assert!(is_replayed(&one, "key"));
    assert_eq!(one.export().count(), 1);
}

#[test]
fn a_lease_that_ends_passes_the_key_to_another_node() {
    let Some(server) = Server::start() else {
        return;
    };
    let time = Shifted::new(());
    let node = || engine(time.beside(register(&server.url())));
    let (one, other) = (node(), node());
    let late = granted(&one, "key");
    time.advance(MOST_OF_A_LEASE);
    assert!(matches!(begin(&other, "key"), Ok(Outcome::InFlight(_))));
    time.advance(REST_AND_MORE);
    let guard = granted(&other, "key");
    assert_eq!(guard.attempt(), 2);
    assert!(guard.token() > late.token());
    let refused = late.complete(Reply::new(200, "late")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::LeaseLost);
    guard
        .complete(Reply::new(200, "the answer to key"))
        .unwrap();
    assert!(is_replayed(&one, "key"));
}

#[test]
fn a_caller_that_waits_is_woken_by_another_nodes_announcement() {
    let Some(server) = Server::start() else {
        return;
    };
    let one = engine(register(&server.url()));
    // This clock stands still: the engine never looks again by itself.
    let builder = Engine::builder().clock(ManualClock::new());
    let other = builder.open_on(register(&server.url())).unwrap();
    eventually("both listen", || {
        let subscribed = server.cli(&["PUBSUB", "NUMSUB", "onceward:changes"]);
        subscribed.contains('2').then_some(())
    });
    let guard = granted(&one, "key");
    let before = server.asked();
    let waiter = thread::spawn(move || {
        let hour = Duration::from_secs(3_600);
        other.begin_or_wait(&key("key"), &Fingerprint::of("request"), hour)
    });
    eventually("it has looked", || (server.asked() > before).then_some(()));
    guard.complete(Reply::new(201, "body")).unwrap();
    let Ok(Outcome::Replay(reply)) = waiter.join().unwrap() else {
        panic!("it was not replayed");
    };
    assert_eq!(reply.body(), "body");
    // It looks twice, beside the completion.
    assert_eq!(server.asked(), before + 3);
}

#[test]
fn a_new_key_a_replay_and_a_completion_take_one_round_trip_each() {
    let Some(server) = Server::start() else {
        return;
    };
    let engine = engine(register(&server.url()));
    completed(&engine, "first");
    let count = |what: &str, work: &mut dyn FnMut()| {
        let before = server.asked();
        work();
        let trips = server.asked() - before;
        println!("{what}: {trips} round trip");
        assert_eq!(trips, 1, "{what}");
    };
    let mut guard = None;
    count("a new key", &mut || guard = Some(granted(&engine, "key")));
    count("a renewal", &mut || {
        guard.as_mut().unwrap().renew().unwrap();
    });
    let reply = Reply::new(201, "the answer to key");
    let mut complete = Some(move || guard.unwrap().complete(reply).unwrap());
    count("a completion", &mut || complete.take().unwrap()());
    count("a replay", &mut || assert!(is_replayed(&engine, "key")));
    let mut guard = Some(granted(&engine, "other"));
    count("a release", &mut || {
        guard.take().unwrap().release().unwrap();
    });
}

#[test]
fn scripts_that_a_server_has_forgotten_are_sent_again() {
    let Some(server) = Server::start() else {
        return;
    };
    let engine = engine(register(&server.url()));
    let guard = granted(&engine, "key");
    assert_eq!(server.cli(&["SCRIPT", "FLUSH"]).trim(), "OK");
    guard
        .complete(Reply::new(201, "the answer to key"))
        .unwrap();
    assert!(is_replayed(&engine, "key"));
    assert!(engine.lookup(&key("key")).unwrap().is_some());
}

#[test]
fn settings_that_break_promises_are_warned_of() {
    let options = ["--appendonly", "no", "--maxmemory-policy", "allkeys-lru"];
    let Some(server) = Server::start_with(&options) else {
        return;
    };
    let redis = register(&server.url());
    let _engine = engine(redis.clone());
    let warnings = redis.warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("appendonly no"));
    assert!(warnings[1].contains("allkeys-lru"));
    server.cli(&["CONFIG", "SET", "appendonly", "yes"]);
    server.cli(&["CONFIG", "SET", "appendfsync", "everysec"]);
    let redis = register(&server.url());
    let _engine = engine(redis.clone());
    assert!(redis.warnings()[0].contains("appendfsync everysec"));
    let rule = ["ACL", "SETUSER", "default", "-config"];
    assert_eq!(server.cli(&rule).trim(), "OK");
    let redis = register(&server.url());
    completed(&engine(redis.clone()), "key");
    assert!(redis.warnings()[0].contains("doesn't tell its settings"));
}

#[test]
fn what_cannot_be_is_refused_when_it_is_built() {
    let refused = |urls: &str| Redis::builder(urls).build().unwrap_err().kind();
    for urls in [
        "",
        "http://host",
        "redis://host:port",
        "rediss://host",
        "host,",
    ] {
        assert_eq!(refused(urls), ErrorKind::InvalidConfig, "{urls}");
    }
    let builder = || Redis::builder("127.0.0.1:6379, redis://127.0.0.1:6380");
    assert!(builder().build().is_ok());
    let hour = Duration::from_secs(3_600);
    for builder in [
        builder().timeout(hour),
        builder().connections(0),
        builder().prefix(""),
        builder().wait_for_replicas(1, Duration::from_secs(2)),
    ] {
        assert_eq!(
            builder.build().unwrap_err().kind(),
            ErrorKind::InvalidConfig
        );
    }
    let secret = Redis::builder("redis://user:secret@127.0.0.1");
    assert!(!format!("{secret:?}{:?}", secret.clone().build()).contains("secret"));
}
