//! Many at once: duplicates, clients that hang up, tenants, limits, renewals.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use onceward::{Engine, EntryState};
use onceward_http::Options;
use onceward_http::Profile;
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};
use reqwest::{Client, Response};

use super::engines::{AFTER, BEFORE, SHARE};
use super::raw::Connection;
use super::servers::{KINDS, Server};
use support::engine::LEASE;

async fn post(client: &Client, server: &Server, key: &str) -> Response {
    let request = client.post(server.url("/payments"));
    request
        .header("idempotency-key", key)
        .body("{}")
        .send()
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_duplicates_on_64_connections_run_once_and_get_one_answer() {
    const CONNECTIONS: usize = 64;
    for kind in KINDS {
        for profile in [
            Profile::deck(),
            Profile::deel(),
            Profile::stripe(),
            Profile::ietf(),
        ] {
            let server = Arc::new(Server::start(kind, profile).await);
            let callers = (0..CONNECTIONS).map(|_| {
                let server = Arc::clone(&server);
                tokio::spawn(async move {
                    let mut connection = Connection::open(server.address).await;
                    let mut answers = Vec::new();
                    for _ in 0..=(1_000 / CONNECTIONS) {
                        let response = connection.post(b"\"k\"").await.unwrap();
                        answers.push((response.status, response.body));
                    }
                    answers
                })
            });
            let callers: Vec<_> = callers.collect();
            let mut counts: HashMap<u16, usize> = HashMap::new();
            for caller in callers {
                for (status, body) in caller.await.unwrap() {
                    *counts.entry(status).or_default() += 1;
                    match status {
                        201 => assert_eq!(body, b"run 1: {}"),
                        409 | 429 => {
                            let text = String::from_utf8(body).unwrap();
                            assert!(text.contains("is still being processed"), "{text}");
                        }
                        other => panic!("{other}"),
                    }
                }
            }
            assert_eq!(server.executed(), 1);
            assert!(counts[&201] >= CONNECTIONS, "{counts:?}");
            assert!(counts.values().sum::<usize>() >= 1_000);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_cancels_nothing_and_its_retry_gets_the_answer() {
    const ROUNDS: u64 = 100;
    let mut random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    for kind in KINDS {
        let server = Server::start(kind, Profile::deck()).await;
        let client = Client::new();
        for round in 1..=ROUNDS {
            let key = round.to_string();
            let head = format!(
                "POST /payments HTTP/1.1\r\nhost: localhost\r\nx-gate: 1\r\nidempotency-key: {key}\r\ncontent-length: 2\r\n\r\n{{}}"
            );
            let mut connection = Connection::open(server.address).await;
            connection.send(head.as_bytes()).await.unwrap();
            // Gone at a random moment between the send and the answer: the gate is opened before, at
            // about the same time, or after.
            server.executed_reaches(round).await;
            let (before, steps) = (random.next_u32().is_multiple_of(2), random.next_u32() % 50);
            if before {
                server.open_gate();
            }
            for _ in 0..steps {
                tokio::task::yield_now().await;
            }
            drop(connection);
            if !before {
                for _ in 0..steps {
                    tokio::task::yield_now().await;
                }
                server.open_gate();
            }
            server.drain.wait().await;
            let request = client.post(server.url("/payments")).header("x-gate", "1");
            let again = request
                .header("idempotency-key", &key)
                .body("{}")
                .send()
                .await
                .unwrap();
            assert_eq!(again.headers()["idempotent-replayed"], "true");
            assert_eq!(again.text().await.unwrap(), format!("run {round}: {{}}"));
            assert_eq!(server.executed(), round);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_before_its_handler_runs_pays_once_all_the_same() {
    const ROUNDS: u64 = 100;
    let mut random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    for kind in KINDS {
        let server = Server::start(kind, Profile::deck()).await;
        for round in 1..=ROUNDS {
            let key = round.to_string();
            let mut connection = Connection::open(server.address).await;
            let head = "POST /payments HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n";
            let request = format!("{head}idempotency-key: {key}\r\n\r\n{{}}");
            // All of it, or a part; the connection goes at once, or a little later.
            let bytes = request.len() - (random.next_u32() % 4) as usize;
            connection.send(&request.as_bytes()[..bytes]).await.unwrap();
            for _ in 0..random.next_u32() % 50 {
                tokio::task::yield_now().await;
            }
            drop(connection);
            let client = Client::new();
            let body = loop {
                let again = post(&client, &server, &key).await;
                match again.status().as_u16() {
                    201 => break again.text().await.unwrap(),
                    other => assert_eq!(other, 409),
                }
            };
            assert_eq!(body, format!("run {round}: {{}}"));
            server.drain.wait().await;
            assert_eq!(server.executed(), round);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tenants_with_one_key_never_get_each_others_answer() {
    const PAIRS: u64 = 10_000 / SHARE;
    const CALLERS: u64 = 16;
    for kind in KINDS {
        let server = Arc::new(Server::start(kind, Profile::deck()).await);
        let callers = (0..CALLERS).map(|caller| {
            let server = Arc::clone(&server);
            tokio::spawn(tenants(server, caller, PAIRS / CALLERS))
        });
        let callers: Vec<_> = callers.collect();
        for caller in callers {
            caller.await.unwrap();
        }
        // Each tenant's first request ran, and no other.
        assert_eq!(server.executed(), 2 * PAIRS);
    }
}

/// Pairs of tenants that resemble each other, with one of few keys; each asks, and asks again in turn.
async fn tenants(server: Arc<Server>, caller: u64, pairs: u64) {
    let seed = [u8::try_from(caller).unwrap(); 32];
    let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let client = Client::new();
    for pair in 0..pairs {
        let key = format!("{}", random.next_u32() % 50);
        let tenants = [
            format!("t{caller}-{pair}."),
            format!("t{caller}-{pair}.{key}"),
        ];
        // Where the body is the same, only the scope tells the two apart.
        let body = if random.next_u32().is_multiple_of(2) {
            "{}"
        } else {
            &key
        };
        let mut answers = Vec::new();
        for tenant in tenants.iter().chain(&tenants) {
            let request = client.post(server.url("/payments")).body(body.to_owned());
            let request = request.header("authorization", tenant);
            let response = request
                .header("idempotency-key", &key)
                .send()
                .await
                .unwrap();
            assert_eq!(response.status(), 201);
            answers.push(response.text().await.unwrap());
        }
        assert_ne!(answers[0], answers[1]);
        assert_eq!(answers[0], answers[2]);
        assert_eq!(answers[1], answers[3]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_dont_say_whose_key_it_is_are_refused() {
    use onceward_http::Scope;
    use onceward_http::tower::IdempotencyLayer;
    use tower::ServiceExt;

    let engine = Engine::builder().open_in_memory().unwrap();
    let layer = IdempotencyLayer::new(engine, Profile::deck(), |request| {
        Scope::header(&request.headers, &axum::http::header::AUTHORIZATION)
    });
    let app = axum::Router::new()
        .route("/", axum::routing::post(async || "done"))
        .layer(layer);
    for (authorization, status) in [(None, 401), (Some("tenant"), 200)] {
        let request = axum::http::Request::post("/").header("idempotency-key", "k");
        let request = match authorization {
            Some(tenant) => request.header("authorization", tenant),
            None => request,
        };
        let request = request.body(axum::body::Body::empty()).unwrap();
        assert_eq!(app.clone().oneshot(request).await.unwrap().status(), status);
    }
}

/// A POST under the key `k` that waits at the gate.
async fn gated(server: &Server) -> Response {
    let request = Client::new().post(server.url("/payments"));
    let request = request.header("idempotency-key", "k").header("x-gate", "1");
    request.body("{}").send().await.unwrap()
}

fn lease_until(server: &Server) -> SystemTime {
    let key = server.works.attempts.lock().unwrap()[0].key().clone();
    match server.engine.lookup(&key).unwrap().unwrap().state {
        EntryState::InFlight { lease_until, .. } => lease_until,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_renewed_while_its_handler_runs() {
    for kind in KINDS {
        let server = Arc::new(Server::start(kind, Profile::deck()).await);
        let first = tokio::spawn({
            let server = Arc::clone(&server);
            async move { gated(&server).await }
        });
        server.executed_reaches(1).await;
        let before = lease_until(&server);
        server.clock.advance(LEASE / 2);
        while lease_until(&server) == before {
            tokio::task::yield_now().await;
        }
        let longer = lease_until(&server).duration_since(before).unwrap();
        assert!(
            (LEASE / 2 - AFTER..LEASE / 2 + BEFORE).contains(&longer),
            "{longer:?}"
        );
        server.open_gate();
        assert_eq!(first.await.unwrap().text().await.unwrap(), "run 1: {}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_of_an_attempt_that_was_taken_over_gets_what_each_retry_gets() {
    for kind in KINDS {
        let options = Options::new().renew_for(Duration::ZERO);
        let server = Arc::new(Server::with(kind, Profile::deck(), options).await);
        let post = || {
            let server = Arc::clone(&server);
            tokio::spawn(async move { gated(&server).await })
        };
        let first = post();
        server.executed_reaches(1).await;
        server.clock.advance(LEASE - BEFORE);
        assert_eq!(post().await.unwrap().status(), 409);
        server.clock.advance(BEFORE + AFTER);
        let second = post();
        server.executed_reaches(2).await;
        // The gate is fair: the first attempt ends first, while the second is running.
        server.open_gate();
        let first = first.await.unwrap();
        assert_eq!(first.status(), 409);
        assert!(first.headers().contains_key("retry-after"));
        server.open_gate();
        assert_eq!(second.await.unwrap().text().await.unwrap(), "run 2: {}");
        let again = post().await.unwrap();
        assert_eq!(again.text().await.unwrap(), "run 2: {}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_was_taken_over_by_one_that_failed_still_gives_its_own_answer() {
    for kind in KINDS {
        let options = Options::new().renew_for(Duration::ZERO);
        let server = Arc::new(Server::with(kind, Profile::deel(), options).await);
        let first = tokio::spawn({
            let server = Arc::clone(&server);
            async move { gated(&server).await }
        });
        server.executed_reaches(1).await;
        server.clock.advance(LEASE + AFTER);
        let request = Client::new().post(server.url("/payments")).body("{}");
        let failed = request
            .header("idempotency-key", "k")
            .header("x-status", 503);
        assert_eq!(failed.send().await.unwrap().status(), 503);
        // Nobody holds the key: it would be untrue to say that nothing was carried out.
        server.open_gate();
        assert_eq!(first.await.unwrap().text().await.unwrap(), "run 1: {}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_handlers_run_than_may_and_replays_dont_wait_for_them() {
    for kind in KINDS {
        let options = Options::new()
            .max_running(1)
            .max_running_wait(Duration::from_secs(5));
        let server = Arc::new(Server::with(kind, Profile::deck(), options).await);
        let client = Client::new();
        post(&client, &server, "done").await;
        let gated = |key: &'static str| {
            let request = client.post(server.url("/payments")).header("x-gate", "1");
            tokio::spawn(request.header("idempotency-key", key).body("{}").send())
        };
        let running = gated("running");
        server.executed_reaches(2).await;
        assert_eq!(server.drain.running(), 1);
        assert_eq!(post(&client, &server, "done").await.status(), 201);
        let waiting = gated("waiting");
        // By itself the engine's clock stands still, or would take its time.
        while !waiting.is_finished() {
            server.clock.advance(Duration::from_millis(100));
            assert_eq!(post(&client, &server, "done").await.status(), 201);
        }
        let refused = waiting.await.unwrap().unwrap();
        assert_eq!(refused.status(), 503);
        assert_eq!(refused.headers()["retry-after"], "1");
        server.open_gate();
        assert_eq!(running.await.unwrap().unwrap().status(), 201);
        server.drain.wait().await;
        server.open_gate();
        assert_eq!(gated("waiting").await.unwrap().unwrap().status(), 201);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lease_and_retention_can_differ_per_route() {
    let minute = Duration::from_secs(60);
    let options = Options::new()
        .retention(2 * minute)
        .terms_for(move |head, terms| match head.uri.path() {
            "/payments/short" => terms.with_retention(minute).with_lease(minute / 2),
            _ => terms,
        });
    for kind in KINDS {
        let server = Server::with(kind, Profile::deck(), options.clone()).await;
        let client = Client::new();
        let post = |path: &'static str, key: &'static str| {
            client
                .post(server.url(path))
                .header("idempotency-key", key)
                .send()
        };
        for _ in 0..2 {
            post("/payments/short", "short").await.unwrap();
            post("/payments/long", "long").await.unwrap();
        }
        assert_eq!(server.executed(), 2);
        server.clock.advance(minute + AFTER);
        post("/payments/short", "short").await.unwrap();
        post("/payments/long", "long").await.unwrap();
        assert_eq!(server.executed(), 3);
        server.clock.advance(minute);
        post("/payments/long", "long").await.unwrap();
        assert_eq!(server.executed(), 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chosen_headers_are_part_of_the_request_and_a_fingerprint_can_be_ones_own() {
    use onceward::Fingerprint;

    let with_header = Options::new().fingerprint_header("x-currency".parse().unwrap());
    let of_the_body = Options::new().fingerprint_with(|_, body| Ok(Fingerprint::of(body)));
    for kind in KINDS {
        let cases = [
            (with_header.clone(), 409, 409),
            (of_the_body.clone(), 201, 201),
        ];
        for (options, other_currency, no_currency) in cases {
            let server = Server::with(kind, Profile::deck(), options).await;
            let client = Client::new();
            for (currency, status) in [
                (Some("EUR"), 201),
                (Some("EUR"), 201),
                (Some("USD"), other_currency),
                (None, no_currency),
            ] {
                let request = client
                    .post(server.url("/payments"))
                    .header("idempotency-key", "k");
                let request = match currency {
                    Some(currency) => request.header("x-currency", currency),
                    None => request,
                };
                assert_eq!(request.send().await.unwrap().status(), status);
            }
            assert_eq!(server.executed(), 1);
        }
    }
}

#[test]
fn options_out_of_range_are_refused_where_they_are_given() {
    use onceward_http::Scope;
    use onceward_http::actix::IdempotencyMiddleware;
    use onceward_http::tower::IdempotencyLayer;

    let engine = Engine::builder().open_in_memory().unwrap();
    let layer = IdempotencyLayer::new(engine.clone(), Profile::deck(), |_| Scope::everybody());
    let actix = IdempotencyMiddleware::new(engine, Profile::deck(), |_| Scope::everybody());
    for options in [
        Options::new().lease(Duration::ZERO),
        Options::new().retention(Duration::MAX),
        Options::new().max_running(0),
        Options::new().fingerprint_header("x".repeat(58).parse().unwrap()),
    ] {
        let tower_error = layer.clone().with_options(options.clone()).unwrap_err();
        let actix_error = actix.clone().with_options(options).unwrap_err();
        assert_eq!(tower_error.kind(), onceward::ErrorKind::InvalidConfig);
        assert_eq!(actix_error.to_string(), tower_error.to_string());
    }
}
