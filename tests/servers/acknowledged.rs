//! What is found made after an unknown outcome is acknowledged only once the replicas have it.

use std::thread;
use std::time::Duration;

use onceward::{Engine, Error, Guard, Outcome, Reply};
use onceward_postgres::Postgres;
use onceward_redis::Redis;

use support::engine::{granted, key, replayed, request};
use support::start::eventually;
use support::start::postgres::PostgresServer;
use support::start::redis::Server;

/// That a replica may take, and one that is away doesn't hold up a test for long.
const WAIT: Duration = Duration::from_millis(150);

fn on_redis(url: &str) -> Engine {
    let builder = Redis::builder(url).timeout(Duration::from_secs(3));
    let builder = builder.wait_for_replicas(1, WAIT);
    let engine = Engine::builder().replay_cache_time(Duration::ZERO);
    engine.open_on(builder.build().unwrap()).unwrap()
}

fn completed(guard: Guard) -> Result<(), (Guard, Error)> {
    guard.complete(Reply::new(201, "body")).map_err(|refused| {
        let (guard, _, error) = refused.into_parts();
        (guard, error)
    })
}

#[test]
fn a_completion_that_no_replica_of_redis_has_is_not_acknowledged_however_often_it_is_repeated() {
    let Some(server) = Server::start() else {
        return;
    };
    let mut replica = server.replica();
    let engine = on_redis(&server.url());
    let mut guard = granted(&engine, "key");
    let mut renewed = granted(&engine, "renewed");
    replica.kill();
    let mut errors = Vec::new();
    for time in 1..=3 {
        let Err((same, error)) = completed(guard) else {
            panic!("it was acknowledged the {time}. time, and no replica has it");
        };
        guard = same;
        errors.push(error);
        errors.push(renewed.renew().unwrap_err());
        let begun = engine.begin(&key("new"), &request());
        assert!(!matches!(begun, Ok(Outcome::Proceed(_))), "{begun:?}");
    }
    for error in errors {
        assert!(error.is_outcome_unknown(), "{error}");
    }
}

#[test]
fn what_redis_acknowledges_after_its_replica_was_cut_off_is_there_when_that_one_takes_over() {
    let Some(mut server) = Server::start() else {
        return;
    };
    let replica = server.replica();
    let engine = on_redis(&server.url());
    let guard = granted(&engine, "key");
    replica.stop();
    let Err((guard, _)) = completed(guard) else {
        panic!("it was acknowledged, and the replica doesn't have it");
    };
    // It is found made, and the replica still doesn't have it.
    let guard = match completed(guard) {
        Ok(()) => panic!("it was acknowledged, and the replica doesn't have it"),
        Err((guard, _)) => guard,
    };
    replica.go_on();
    let mut guard = Some(guard);
    eventually("it is acknowledged", || match completed(guard.take()?) {
        Ok(()) => Some(()),
        Err((same, _)) => {
            guard = Some(same);
            None
        }
    });
    server.kill();
    replica.cli(&["REPLICAOF", "NO", "ONE"]);
    let other = Redis::builder(&replica.url()).build().unwrap();
    let other = Engine::builder().open_on(other).unwrap();
    assert_eq!(replayed(&other, "key").body(), "body");
}

/// A completion, a begin and a renewal wait for the standby; the primary starts again, so that they
/// are visible, and every commit goes on hanging.
#[test]
fn what_a_primary_that_starts_again_shows_is_not_acknowledged_while_its_standby_is_away() {
    let settings = ["synchronous_standby_names=standby"];
    let Some(mut primary) = PostgresServer::start_with(&settings) else {
        return;
    };
    let standby = primary.standby();
    eventually("the standby is synchronous", || {
        let state = primary.query("SELECT sync_state FROM pg_stat_replication");
        (state == "sync").then_some(())
    });
    let postgres = Postgres::builder(primary.url()).build().unwrap();
    let engine = Engine::builder().replay_cache_time(Duration::ZERO);
    let engine = engine.open_on(postgres).unwrap();
    let guard = granted(&engine, "completed");
    let mut renewed = granted(&engine, "renewed");
    standby.stop();
    let (completion, renewal, begin) = thread::scope(|scope| {
        let completion = scope.spawn(|| completed(guard));
        let renewal = scope.spawn(|| renewed.renew());
        let begin = scope.spawn(|| engine.begin(&key("begun"), &request()));
        eventually("they hang", || {
            let hang = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
            (primary.query(hang) != "0").then_some(())
        });
        thread::sleep(Duration::from_millis(200));
        primary.kill();
        primary.restart();
        let completion = completion.join().unwrap();
        (completion, renewal.join().unwrap(), begin.join().unwrap())
    });
    let acknowledged = [
        ("the completion", completion.is_ok()),
        ("the renewal", renewal.is_ok()),
        ("the begin", matches!(begin, Ok(Outcome::Proceed(_)))),
    ];
    let acknowledged: Vec<_> = acknowledged
        .iter()
        .filter(|it| it.1)
        .map(|it| it.0)
        .collect();
    assert!(
        acknowledged.is_empty(),
        "every commit hangs, but acknowledged were {acknowledged:?}"
    );
    let (guard, error) = completion.unwrap_err();
    assert!(error.is_outcome_unknown(), "{error}");
    standby.go_on();
    let mut guard = Some(guard);
    eventually("it is acknowledged", || match completed(guard.take()?) {
        Ok(()) => Some(()),
        Err((same, _)) => {
            guard = Some(same);
            None
        }
    });
    replayed(&engine, "completed");
}
