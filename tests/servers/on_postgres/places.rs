//! Connections whose statements hang: nobody is let go who still works.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use onceward::{Engine, ErrorKind, Outcome, Reply};
use onceward_postgres::Postgres;

use super::{granted, key, replayed, request};
use support::start::eventually;
use support::start::postgres::PostgresServer;

const CONNECTIONS: usize = 8;
const CALLERS: usize = 16;
const TIMEOUT: Duration = Duration::from_millis(500);
const AWAY: Duration = Duration::from_secs(6);
/// The engine's, listener and all.
const BACKENDS: &str = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'onceward'";

/// A server, and a standby that each commit waits for.
fn with_standby() -> Option<(PostgresServer, PostgresServer)> {
    let settings = ["synchronous_standby_names=standby"];
    let primary = PostgresServer::start_with(&settings)?;
    let standby = primary.standby();
    eventually("the standby is synchronous", || {
        let state = primary.query("SELECT sync_state FROM pg_stat_replication");
        (state == "sync").then_some(())
    });
    Some((primary, standby))
}

fn node(server: &PostgresServer) -> Engine {
    let postgres = Postgres::builder(server.url()).connections(CONNECTIONS);
    let postgres = postgres.timeout(TIMEOUT).build().unwrap();
    let builder = Engine::builder().replay_cache_time(Duration::ZERO);
    builder.open_on(postgres).unwrap()
}

/// Begins new keys from many threads; gives how many begins were given up.
fn begins_in_vain(engine: &Engine, is_over: &AtomicBool, prefix: &str) -> usize {
    let given_up = AtomicUsize::new(0);
    thread::scope(|scope| {
        for caller in 0..CALLERS {
            let given_up = &given_up;
            scope.spawn(move || {
                for number in 0.. {
                    if is_over.load(Ordering::SeqCst) {
                        break;
                    }
                    let name = format!("{prefix}{caller}-{number}");
                    let refused = engine.begin(&key(name), &request()).unwrap_err();
                    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
                    given_up.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    given_up.into_inner()
}

#[test]
fn calls_that_are_given_up_while_a_standby_is_away_leave_no_backends_behind() {
    let Some((primary, standby)) = with_standby() else {
        return;
    };
    let engine = node(&primary);
    granted(&engine, "before")
        .complete(Reply::new(201, "body"))
        .unwrap();
    standby.stop();
    let is_over = AtomicBool::new(false);
    let mut most = 0;
    let given_up = thread::scope(|scope| {
        let callers = scope.spawn(|| begins_in_vain(&engine, &is_over, "away"));
        let start = Instant::now();
        while start.elapsed() < AWAY {
            most = most.max(primary.query(BACKENDS).parse().unwrap());
            thread::sleep(Duration::from_millis(50));
        }
        is_over.store(true, Ordering::SeqCst);
        callers.join().unwrap()
    });
    println!("{given_up} begins were given up; there were {most} backends at most");
    assert!(given_up >= CALLERS);
    assert!(most <= CONNECTIONS + 1, "{most} backends");
    standby.go_on();
    eventually("it works again", || {
        let again = engine.begin(&key("again"), &request());
        again.is_ok().then_some(())
    });
    replayed(&engine, "before");
}

#[test]
fn while_a_standby_is_away_replays_go_on_and_a_begin_that_was_never_sent_is_known_not_to_be_made() {
    let Some((primary, standby)) = with_standby() else {
        return;
    };
    let engine = node(&primary);
    granted(&engine, "before")
        .complete(Reply::new(201, "body"))
        .unwrap();
    standby.stop();
    let is_over = AtomicBool::new(false);
    let new = thread::scope(|scope| {
        let callers = scope.spawn(|| begins_in_vain(&engine, &is_over, "away"));
        let mut keys = (0..).map(|number| format!("new{number}"));
        // As soon as everything hangs that makes changes.
        let (new, took) = eventually("a begin isn't sent", || {
            let (name, start) = (keys.next()?, Instant::now());
            let refused = engine.begin(&key(&name), &request()).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Unavailable);
            (!refused.is_outcome_unknown()).then(|| (name, start.elapsed()))
        });
        let found = engine.begin(&key("before"), &request());
        is_over.store(true, Ordering::SeqCst);
        callers.join().unwrap();
        assert!(matches!(found, Ok(Outcome::Replay(_))), "{found:?}");
        assert!(took < 2 * TIMEOUT, "{took:?}");
        new
    });
    standby.go_on();
    eventually("it works again", || {
        let outcome = engine.begin(&key(&new), &request()).ok()?;
        matches!(outcome, Outcome::Proceed(guard) if guard.attempt() == 1).then_some(())
    });
}
