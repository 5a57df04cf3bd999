//! Servers whose transactions fail where others would wait.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use onceward::{Outcome, Reply};

use super::{key, node, request};
use support::start::postgres::PostgresServer;

#[test]
fn a_server_with_serializable_transactions_is_asked_again_and_grants_each_key_once() {
    const CALLERS: usize = 16;
    const KEYS: usize = 40;
    let settings = ["default_transaction_isolation=serializable"];
    let Some(server) = PostgresServer::start_with(&settings) else {
        return;
    };
    let nodes = [node(&server.url()), node(&server.url())];
    let grants: Vec<_> = (0..KEYS).map(|_| AtomicU32::new(0)).collect();
    thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (node, grants) = (&nodes[caller % 2], &grants);
            scope.spawn(move || {
                for (number, grants) in grants.iter().enumerate() {
                    let (key, hour) = (key(number.to_string()), Duration::from_secs(3_600));
                    match node.begin_or_wait(&key, &request(), hour).unwrap() {
                        Outcome::Proceed(guard) => {
                            grants.fetch_add(1, Ordering::SeqCst);
                            guard.complete(Reply::new(201, "body")).unwrap();
                        }
                        Outcome::Replay(_) => {}
                        other => panic!("{other:?}"),
                    }
                }
            });
        }
    });
    for grants in &grants {
        assert_eq!(grants.load(Ordering::SeqCst), 1);
    }
}
