//! A layer whose server fails for a while: clients have their answers, and no handler runs twice.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Request, Response};
use onceward::Engine;
use onceward_http::Profile;
use onceward_http::tower::IdempotencyLayer;
use onceward_http::{Disposition, Fate, LayerBody, Options, Scope};
use tokio::runtime::Runtime;
use tokio::sync::{Barrier, Semaphore};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_postgres::NoTls;
use tower::{Layer, ServiceExt};

use crate::shared::Shared;
use support::start::postgres::PostgresServer;
use support::start::redis::Server;

const KEYS: usize = 20;
/// A register's, which is over long before the server is back.
const TIMEOUT: Duration = Duration::from_millis(500);
const BETWEEN_RETRIES: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);

/// How often handlers have run, by key, and when they may end.
struct Handlers {
    runs: Mutex<BTreeMap<String, u32>>,
    running: Barrier,
    may_end: Semaphore,
    takes: Duration,
}

impl Handlers {
    fn new(keys: usize, takes: Duration) -> Arc<Self> {
        Arc::new(Self {
            runs: Mutex::default(),
            running: Barrier::new(keys + 1),
            may_end: Semaphore::new(0),
            takes,
        })
    }

    async fn run(&self, key: String) -> Response<Body> {
        let is_first = {
            let mut runs = self.runs.lock().unwrap();
            let runs = runs.entry(key).or_default();
            *runs += 1;
            *runs == 1
        };
        if is_first {
            self.running.wait().await;
            self.may_end.acquire().await.unwrap().forget();
            sleep(self.takes).await;
        }
        Response::builder()
            .status(201)
            .body(Body::from("paid"))
            .unwrap()
    }

    fn has_run(&self, key: &str) -> bool {
        self.runs.lock().unwrap().contains_key(key)
    }

    fn twice(&self) -> Vec<String> {
        let runs = self.runs.lock().unwrap();
        let twice = runs.iter().filter(|(_, runs)| **runs > 1);
        twice
            .map(|(key, runs)| format!("{key}: {runs} runs"))
            .collect()
    }
}

/// What became of a key.
struct Seen {
    first: Option<Disposition>,
    is_kept: bool,
}

/// Sends a request, and again and again, as soon as it runs and until it is replayed.
async fn pays(layer: IdempotencyLayer, handlers: Arc<Handlers>, key: String) -> Seen {
    let (name, itself) = (key.clone(), Arc::clone(&handlers));
    let service = layer.layer(tower::service_fn(move |_: Request<LayerBody<Body>>| {
        let (handlers, name) = (Arc::clone(&itself), name.clone());
        async move { Ok::<_, Infallible>(handlers.run(name).await) }
    }));
    let send = || {
        let request = Request::post("/payments").header("idempotency-key", &key);
        service
            .clone()
            .oneshot(request.body(Body::from("{}")).unwrap())
    };
    let first = tokio::spawn(send());
    let start = Instant::now();
    let mut is_kept = false;
    while !is_kept && start.elapsed() < LONGEST {
        sleep(BETWEEN_RETRIES).await;
        if !handlers.has_run(&key) {
            continue;
        }
        let again = send().await.unwrap();
        is_kept = matches!(again.extensions().get(), Some(Disposition::Replayed));
    }
    let first = first.await.unwrap().unwrap();
    assert_eq!(first.status(), 201);
    let first = first.extensions().get().cloned();
    Seen { first, is_kept }
}

/// Lets all handlers end while the server fails, and holds what has become of them against what is
/// promised.
fn lives_through(
    url: &str,
    keys: usize,
    (lease, takes): (Duration, Duration),
    fails: impl AsyncFnOnce(),
) -> usize {
    let engine = Engine::builder().lease(lease);
    let engine = engine.open_on(Shared::within(url, TIMEOUT)).unwrap();
    let layer = IdempotencyLayer::new(engine, Profile::deck(), |_| Scope::named("tenant"));
    let layer = layer.with_options(Options::new()).unwrap();
    let handlers = Handlers::new(keys, takes);
    Runtime::new().unwrap().block_on(async {
        let mut clients = JoinSet::new();
        for number in 0..keys {
            clients.spawn(pays(
                layer.clone(),
                Arc::clone(&handlers),
                format!("key {number}"),
            ));
        }
        handlers.running.wait().await;
        handlers.may_end.add_permits(keys);
        fails().await;
        let seen = clients.join_all().await;
        let twice = handlers.twice();
        assert!(
            twice.is_empty(),
            "{} of {keys} ran twice: {twice:?}",
            twice.len()
        );
        assert!(seen.iter().all(|seen| seen.is_kept));
        let is_pending = |seen: &&Seen| {
            matches!(
                seen.first,
                Some(Disposition::Executed {
                    answer: Fate::Pending,
                    ..
                })
            )
        };
        seen.iter().filter(is_pending).count()
    })
}

#[test]
fn no_handler_runs_twice_though_redis_is_full_for_a_second_under_its_completions() {
    let Some(server) = Server::start() else {
        return;
    };
    let times = (Duration::from_secs(2), Duration::from_millis(100));
    let pending = lives_through(&server.url(), KEYS, times, async || {
        server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
        sleep(Duration::from_secs(1)).await;
        server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    });
    assert!(pending > 0);
}

#[test]
fn no_handler_runs_twice_though_redis_hangs_for_longer_than_a_completion_waits() {
    let Some(server) = Server::start() else {
        return;
    };
    let times = (Duration::from_secs(4), Duration::from_millis(100));
    let pending = lives_through(&server.url(), KEYS, times, async || {
        server.stop();
        sleep(Duration::from_secs(2)).await;
        server.go_on();
    });
    assert!(pending > 0);
}

#[test]
fn no_handler_runs_twice_though_other_programs_have_all_connections_of_postgresql_for_a_while() {
    let Some(server) = PostgresServer::start_with(&["max_connections=12"]) else {
        return;
    };
    // The others need a while to have all connections.
    let times = (Duration::from_secs(4), Duration::from_millis(700));
    let pending = lives_through(&server.url(), KEYS, times, async || {
        let mut others = Vec::new();
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(2) {
            // Whatever gets free is taken.
            while let Ok((client, connection)) = tokio_postgres::connect(&server.url(), NoTls).await
            {
                tokio::spawn(connection);
                others.push(client);
            }
            if let Some(other) = others.first() {
                let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'onceward'";
                drop(other.batch_execute(end).await);
            }
            sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(pending > 0);
}

#[test]
fn a_handler_that_outlives_its_lease_runs_once_though_postgresql_is_away_when_it_is_renewed() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    let times = (Duration::from_secs(2), Duration::from_secs(5));
    lives_through(&server.url(), 1, times, async || {
        sleep(Duration::from_millis(300)).await;
        server.stop();
        sleep(Duration::from_millis(1_300)).await;
        server.go_on();
    });
}
