//! Servers on loopback for the tests: the same handler behind axum and behind actix-web.
//!
//! Headers steer the handler: `x-status`, `x-gate` (wait until the test opens it), `x-panic`, `x-bytes` (how
//! large its answer is, streamed). It counts its runs, and echoes the request's body behind their number.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use onceward::Engine;
use onceward_http::Profile;
use onceward_http::{Attempt, Drain, Options, Scope};
use reqwest::header::HeaderMap;
use tokio::sync::Semaphore;

use super::engines::{self, Clock};

/// Which layer stands in front of the handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tower,
    Actix,
}

pub(super) const KINDS: [Kind; 2] = [Kind::Tower, Kind::Actix];

/// What the handler has done, and what it waits for.
pub(super) struct Works {
    executed: AtomicU64,
    pub(super) gate: Semaphore,
    pub(super) attempts: Mutex<Vec<Attempt>>,
}

impl Works {
    pub(super) fn executed(&self) -> u64 {
        self.executed.load(Ordering::SeqCst)
    }
}

pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) works: Arc<Works>,
    pub(super) engine: Engine,
    pub(super) clock: Clock,
    pub(super) drain: Drain,
    stop: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Server {
    pub(super) async fn start(kind: Kind, profile: Profile) -> Self {
        Self::with(kind, profile, Options::new()).await
    }

    pub(super) async fn with(kind: Kind, profile: Profile, options: Options) -> Self {
        let (engine, clock) = engines::fresh();
        Self::over(kind, engine, clock, profile, options).await
    }

    pub(super) async fn over(
        kind: Kind,
        engine: Engine,
        clock: Clock,
        profile: Profile,
        options: Options,
    ) -> Self {
        let works = Arc::new(Works {
            executed: AtomicU64::new(0),
            gate: Semaphore::new(0),
            attempts: Mutex::default(),
        });
        let (address, drain, stop) = match kind {
            Kind::Tower => tower::start(&engine, profile, options, &works).await,
            Kind::Actix => actix::start(&engine, profile, options, &works).await,
        };
        Self {
            address,
            works,
            engine,
            clock,
            drain,
            stop: Some(stop),
        }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(super) fn executed(&self) -> u64 {
        self.works.executed()
    }

    /// Lets one waiting handler go on.
    pub(super) fn open_gate(&self) {
        self.works.gate.add_permits(1);
    }

    /// Waits until so many handlers have begun.
    pub(super) async fn executed_reaches(&self, runs: u64) {
        while self.executed() < runs {
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nobody is left waiting at the gate.
        self.works.gate.add_permits(1_000);
        if let Some(stop) = self.stop.take() {
            stop();
        }
    }
}

/// Whose key it is: the value of `authorization`, or everybody without one.
fn scope(tenant: &str, authorization: Option<&[u8]>) -> Scope {
    match authorization {
        Some(value) => Scope::credential([tenant.as_bytes(), value].concat()),
        None => Scope::named(format!("{tenant}nobody")),
    }
}

/// What the handler answers.
struct Answer {
    status: u16,
    headers: Vec<(&'static str, Vec<u8>)>,
    chunks: Vec<Bytes>,
}

async fn answer(
    works: Arc<Works>,
    attempt: Option<Attempt>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let number = |name: &str| -> Option<usize> { headers.get(name)?.to_str().ok()?.parse().ok() };
    works.attempts.lock().unwrap().extend(attempt);
    let run = works.executed.fetch_add(1, Ordering::SeqCst) + 1;
    if headers.contains_key("x-gate") {
        works.gate.acquire().await.unwrap().forget();
    }
    assert!(!headers.contains_key("x-panic"), "the request asked for it");
    let chunks = match number("x-bytes") {
        Some(bytes) => chunks(run, bytes),
        None => vec![[format!("run {run}: ").as_bytes(), &body].concat().into()],
    };
    Answer {
        status: number("x-status").map_or(201, |status| u16::try_from(status).unwrap()),
        headers: vec![
            ("content-type", b"text/plain".to_vec()),
            ("location", format!("/payments/{run}").into_bytes()),
            ("set-cookie", format!("session={run}").into_bytes()),
            ("x-auth-token", b"secret".to_vec()),
            ("x-multi", b"one".to_vec()),
            ("x-multi", b"two".to_vec()),
            ("x-raw", b"caf\xe9".to_vec()),
            ("x-first-run", run.to_string().into_bytes()),
        ],
        chunks,
    }
}

/// A body of so many bytes that no other run's equals.
fn chunks(run: u64, bytes: usize) -> Vec<Bytes> {
    let pattern = format!("{run:016}");
    let whole: Vec<u8> = pattern.bytes().cycle().take(bytes).collect();
    whole.chunks(10_000).map(Bytes::copy_from_slice).collect()
}

mod tower {
    use std::convert::Infallible;

    use axum::Router;
    use axum::body::Body;
    use axum::extract::State;
    use axum::response::Response;
    use axum::routing::any;
    use onceward_http::tower::IdempotencyLayer;

    use super::*;

    type Started = (SocketAddr, Drain, Box<dyn FnOnce() + Send + Sync>);

    pub(super) async fn start(
        engine: &Engine,
        profile: Profile,
        options: Options,
        works: &Arc<Works>,
    ) -> Started {
        let tenant = engines::tenant();
        let layer = IdempotencyLayer::new(engine.clone(), profile, move |request| {
            scope(
                &tenant,
                request
                    .headers
                    .get("authorization")
                    .map(reqwest::header::HeaderValue::as_bytes),
            )
        });
        let layer = layer.with_options(options).unwrap();
        let drain = layer.drain();
        let app = Router::new()
            .route("/payments", any(handle))
            .route("/payments/{id}", any(handle))
            .layer(layer)
            .with_state(Arc::clone(works));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        (address, drain, Box::new(move || serving.abort()))
    }

    async fn handle(
        State(works): State<Arc<Works>>,
        attempt: Option<Attempt>,
        headers: HeaderMap,
        body: Bytes,
    ) -> Response {
        let answer = answer(works, attempt, headers, body).await;
        let mut response = Response::builder().status(answer.status);
        for (name, value) in answer.headers {
            response = response.header(name, value);
        }
        let chunks = answer.chunks.into_iter().map(Ok::<_, Infallible>);
        let body = Body::from_stream(futures::stream::iter(chunks));
        response.body(body).unwrap()
    }
}

mod actix {
    use actix_web::http::StatusCode;
    use actix_web::http::header::{HeaderName, HeaderValue};
    use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
    use onceward_http::actix::IdempotencyMiddleware;

    use super::*;

    type Started = (SocketAddr, Drain, Box<dyn FnOnce() + Send + Sync>);

    pub(super) async fn start(
        engine: &Engine,
        profile: Profile,
        options: Options,
        works: &Arc<Works>,
    ) -> Started {
        let tenant = engines::tenant();
        let layer = IdempotencyMiddleware::new(engine.clone(), profile, move |request| {
            scope(
                &tenant,
                request
                    .headers()
                    .get("authorization")
                    .map(actix_web::http::header::HeaderValue::as_bytes),
            )
        });
        let layer = layer.with_options(options).unwrap();
        let drain = layer.drain();
        let works = web::Data::from(Arc::clone(works));
        let (sender, started) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let server = HttpServer::new(move || {
                    App::new()
                        .wrap(layer.clone())
                        .app_data(works.clone())
                        .app_data(web::PayloadConfig::new(usize::MAX))
                        .default_service(web::to(handle))
                })
                .workers(2)
                .disable_signals()
                .bind("127.0.0.1:0")
                .unwrap();
                let address = server.addrs()[0];
                let server = server.run();
                sender.send((address, server.handle())).ok().unwrap();
                server.await.unwrap();
            });
        });
        let (address, handle) = started.await.unwrap();
        let stop = move || {
            drop(handle.stop(false));
            drop(thread);
        };
        (address, drain, Box::new(stop))
    }

    async fn handle(
        request: HttpRequest,
        works: web::Data<Works>,
        attempt: Option<Attempt>,
        body: web::Bytes,
    ) -> HttpResponse {
        let mut headers = HeaderMap::new();
        for (name, value) in request.headers() {
            let name: reqwest::header::HeaderName = name.as_str().parse().unwrap();
            let value = reqwest::header::HeaderValue::from_bytes(value.as_bytes()).unwrap();
            headers.append(name, value);
        }
        let answer = answer(works.into_inner(), attempt, headers, body).await;
        let mut response = HttpResponse::build(StatusCode::from_u16(answer.status).unwrap());
        for (name, value) in answer.headers {
            let name = HeaderName::from_static(name);
            response.append_header((name, HeaderValue::from_bytes(&value).unwrap()));
        }
        let chunks = answer.chunks.into_iter().map(Ok::<_, actix_web::Error>);
        response.streaming(futures::stream::iter(chunks))
    }
}
