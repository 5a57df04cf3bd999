//! What the tower layer costs, over axum and in process: no socket, one thread.
//!
//! ```sh
//! cargo bench -p onceward-http --features tower
//! ```
//!
//! The engine is in memory, so that what is measured is the layer and not the disk.

#![allow(clippy::unwrap_used, missing_docs)]
// Counts and times here are small.
#![allow(clippy::cast_precision_loss)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::routing::post;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use onceward::{Engine, Fingerprint, Key, Outcome, Reply};
use onceward_http::Profile;
use onceward_http::Scope;
use onceward_http::tower::IdempotencyLayer;
use tower::Service;

const BODY: &str = r#"{"amount":100,"currency":"EUR","recipient":"acct_42"}"#;
const REPLY_BYTES: usize = 512;

fn app() -> Router {
    let handler = async || {
        (
            StatusCode::CREATED,
            [("location", "/payments/1")],
            vec![b'x'; REPLY_BYTES],
        )
    };
    Router::new().route("/payments", post(handler))
}

fn layered(engine: &Engine) -> Router {
    let layer = IdempotencyLayer::new(engine.clone(), Profile::deck(), |request| {
        let tenant = request.headers.get("authorization");
        tenant.map_or_else(Scope::unknown, |tenant| {
            Scope::named(tenant.to_str().unwrap_or_default())
        })
    });
    app().layer(layer)
}

fn request(key: Option<&str>) -> Request<Body> {
    let request = Request::post("/payments")
        .header("content-type", "application/json")
        .header("authorization", "acct_42")
        .header("x-request-id", "req_0123456789abcdef");
    let request = match key {
        Some(key) => request.header("idempotency-key", key),
        None => request,
    };
    request.body(Body::from(BODY)).unwrap()
}

/// The time that `count` requests take, without the time to make them.
async fn time(app: &mut Router, count: u64, key: impl Fn() -> Option<String>) -> Duration {
    let mut total = Duration::ZERO;
    for _ in 0..count {
        let request = request(key().as_deref());
        let start = Instant::now();
        let response = app.call(request).await.unwrap();
        total += start.elapsed();
        assert_eq!(response.status(), StatusCode::CREATED);
    }
    total
}

fn fresh() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!(
        "550e8400-e29b-41d4-a716-{:012}",
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

fn layer(criterion: &mut Criterion) {
    let runtime = runtime();
    let engine = Engine::builder()
        .max_live_keys(u64::from(u32::MAX))
        .open_in_memory()
        .unwrap();
    let mut group = criterion.benchmark_group("axum in process");
    group.throughput(Throughput::Elements(1));
    let (mut bare, mut app) = (app(), layered(&engine));

    group.bench_function("no layer, no key", |bencher| {
        bencher.iter_custom(|count| runtime.block_on(time(&mut bare, count, || None)));
    });
    group.bench_function("layer, no key", |bencher| {
        bencher.iter_custom(|count| runtime.block_on(time(&mut app, count, || None)));
    });
    runtime.block_on(time(&mut app, 1, || Some("hot".to_owned())));
    group.bench_function("layer, hot replay", |bencher| {
        bencher.iter_custom(|count| {
            runtime.block_on(time(&mut app, count, || Some("hot".to_owned())))
        });
    });
    group.finish();
}

/// The time of a begin and a completion, without a layer.
async fn time_engine(engine: &Engine, count: u64) -> Duration {
    let reply = Reply::new(201, vec![b'x'; REPLY_BYTES]);
    let mut total = Duration::ZERO;
    for _ in 0..count {
        let key = Key::new("acct_42", fresh()).unwrap();
        let fingerprint = Fingerprint::of(BODY);
        let start = Instant::now();
        match engine.begin_async(&key, &fingerprint).await.unwrap() {
            Outcome::Proceed(guard) => guard.complete_async(reply.clone()).await.unwrap(),
            other => panic!("{other:?}"),
        }
        total += start.elapsed();
    }
    total
}

/// Prints what a first request pays for the layer itself: all of it, less the handler's and the engine's part.
///
/// Each round has an engine of its own, since what grows without end costs more with each request.
fn share_of_a_first_request(_criterion: &mut Criterion) {
    const ROUNDS: usize = 15;
    const REQUESTS: u64 = 5_000;
    let runtime = runtime();
    let mut rounds: Vec<[f64; 4]> = (0..ROUNDS)
        .map(|_| {
            let engine = Engine::builder().open_in_memory().unwrap();
            let (mut bare, mut app) = (app(), layered(&engine));
            let micros = |total: Duration| total.as_secs_f64() * 1e6 / REQUESTS as f64;
            let handler = micros(runtime.block_on(time(&mut bare, REQUESTS, || None)));
            let alone = micros(runtime.block_on(time_engine(&engine, REQUESTS)));
            let all = micros(runtime.block_on(time(&mut app, REQUESTS, || Some(fresh()))));
            [all - handler - alone, all, handler, alone]
        })
        .collect();
    rounds.sort_by(|one, other| one[0].total_cmp(&other[0]));
    let [layer, all, handler, engine] = rounds[ROUNDS / 2];
    println!(
        "a first request, median of {ROUNDS} rounds: {all:.2} us in all; handler and routing {handler:.2} us, \
         engine in memory {engine:.2} us, the layer itself {layer:.2} us"
    );
}

criterion_group!(benches, layer, share_of_a_first_request);
criterion_main!(benches);
