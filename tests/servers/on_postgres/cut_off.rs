//! A primary that is cut off: it still runs, and nobody hears of it again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use onceward::{Engine, Outcome, Reply};
use onceward_postgres::Postgres;

use super::{granted, key, replayed, request};
use support::start::eventually;
use support::start::network::Network;
use support::start::postgres::PostgresServer;

const CALLERS: usize = 8;
const TIMEOUT: Duration = Duration::from_secs(5);
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(3);

#[test]
fn after_a_failover_from_a_primary_that_is_cut_off_a_node_works_within_the_tcp_user_timeout() {
    let Some(network) = Network::make() else {
        return;
    };
    let settings = ["synchronous_standby_names=standby"];
    let Some(primary) = PostgresServer::start_in(network, &settings) else {
        return;
    };
    let standby = primary.standby();
    eventually("the standby is synchronous", || {
        let state = primary.query("SELECT sync_state FROM pg_stat_replication");
        (state == "sync").then_some(())
    });
    let url = PostgresServer::url_of(&[&primary, &standby]);
    let url = format!("{url}&tcp_user_timeout={}", TCP_USER_TIMEOUT.as_secs());
    let postgres = Postgres::builder(url).timeout(TIMEOUT).build().unwrap();
    let engine = Engine::builder().replay_cache_time(Duration::ZERO);
    let engine = engine.open_on(postgres).unwrap();
    granted(&engine, "before")
        .complete(Reply::new(201, "body"))
        .unwrap();
    let is_over = AtomicBool::new(false);
    let again = thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (engine, is_over) = (&engine, &is_over);
            scope.spawn(move || {
                for number in 0.. {
                    if is_over.load(Ordering::SeqCst) {
                        break;
                    }
                    let name = key(format!("{caller}-{number}"));
                    if let Ok(Outcome::Proceed(guard)) = engine.begin(&name, &request()) {
                        drop(guard.complete(Reply::new(201, "body")));
                    }
                }
            });
        }
        thread::sleep(Duration::from_millis(300));
        primary.cut_off();
        let start = Instant::now();
        standby.promote();
        let promoted = start.elapsed();
        let again = loop {
            if engine.begin(&key("again"), &request()).is_ok() {
                break start.elapsed();
            }
            if start.elapsed() > 5 * TIMEOUT {
                break Duration::MAX;
            }
        };
        println!("promoted {promoted:?} after the cut; the node works again after {again:?}");
        is_over.store(true, Ordering::SeqCst);
        again
    });
    assert!(again < TCP_USER_TIMEOUT, "{again:?}");
    replayed(&engine, "before");
}
