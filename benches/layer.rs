//! What the tower layer costs, over axum and in process: no socket, one thread.
//!
//! ```sh
//! cargo bench --features tower --bench layer
//! ```
//!
//! The engine is in memory, so that what is measured is the layer and not the disk.

#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::routing::post;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use onceward::http::Profile;
use onceward::middleware::Scope;
use onceward::middleware::tower::IdempotencyLayer;
use onceward::{Engine, Fingerprint, Key, Outcome, Reply};
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

fn layer(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
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
    group.bench_function("layer, first request", |bencher| {
        bencher.iter_custom(|count| runtime.block_on(time(&mut app, count, || Some(fresh()))));
    });
    group.bench_function("engine alone, begin and complete", |bencher| {
        bencher.iter_custom(|count| {
            let work =
                (0..count).map(|_| (Key::new("acct_42", fresh()).unwrap(), Fingerprint::of(BODY)));
            let work: Vec<_> = work.collect();
            let reply = Reply::new(201, vec![b'x'; REPLY_BYTES]);
            let start = Instant::now();
            runtime.block_on(async {
                for (key, fingerprint) in work {
                    match engine.begin_async(&key, &fingerprint).await.unwrap() {
                        Outcome::Proceed(guard) => {
                            guard.complete_async(reply.clone()).await.unwrap();
                        }
                        other => panic!("{other:?}"),
                    }
                }
            });
            start.elapsed()
        });
    });
    group.finish();
}

criterion_group!(benches, layer);
criterion_main!(benches);
