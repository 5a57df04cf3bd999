//! Refusals that pass: a change of a key that is held lives through them, if they pass within its
//! timeout.

use std::thread;
use std::time::Duration;

use onceward::Reply;

use super::{engine, granted, is_replayed, register};
use support::start::redis::Server;

const A_WHILE: Duration = Duration::from_secs(1);
const KEYS: usize = 20;

#[test]
fn completions_live_through_a_second_in_which_the_server_is_full() {
    let Some(server) = Server::start() else {
        return;
    };
    let engine = engine(register(&server.url()));
    let names: Vec<_> = (0..KEYS).map(|number| number.to_string()).collect();
    let guards: Vec<_> = names.iter().map(|name| granted(&engine, name)).collect();
    let mut renewed = granted(&engine, "renewed");
    let released = granted(&engine, "released");
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    thread::scope(|scope| {
        let mut ends: Vec<_> = Vec::new();
        for (guard, name) in guards.into_iter().zip(&names) {
            let reply = Reply::new(201, format!("the answer to {name}"));
            ends.push(scope.spawn(move || guard.complete(reply).map_err(|it| it.to_string())));
        }
        let renewed = &mut renewed;
        ends.push(scope.spawn(move || renewed.renew().map_err(|it| it.to_string())));
        ends.push(scope.spawn(move || released.release().map_err(|it| it.to_string())));
        thread::sleep(A_WHILE);
        server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
        let ends: Vec<_> = ends.into_iter().map(|end| end.join().unwrap()).collect();
        let failed: Vec<_> = ends.iter().filter(|end| end.is_err()).collect();
        assert!(
            failed.is_empty(),
            "{} failed: {:?}",
            failed.len(),
            failed[0]
        );
    });
    for name in &names {
        assert!(is_replayed(&engine, name), "{name}");
    }
}
