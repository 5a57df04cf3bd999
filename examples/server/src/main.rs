//! A payment server to try onceward on: `POST /payments`, `PATCH /payments/{id}`, `GET /payments`.
//!
//! ```sh
//! cargo run --release -p server -- \
//!     --listen 127.0.0.1:8080 --db /tmp/payments --profile deck
//! ```
//!
//! Headers steer the handler: `x-demo-delay-ms` makes it slow, `x-demo-status` makes it fail after it has run,
//! `x-demo-panic` makes it panic, `x-demo-body-bytes` makes its answer large. The tenant is the value of
//! `authorization`. Every run of a handler and every payment is on the disk, in the file beside the database
//! that ends in `.effects`, before the answer leaves: after a crash, compare.
//! With `--store postgres://app@localhost/app`, or `--store redis://one:6379,redis://other:6379` for some nodes of a cluster, several
//! servers share their records. What is beside `--db` stays each one's own.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path as UrlPath, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch};
use axum::{Extension, Json, Router};
use onceward_http::tower::IdempotencyLayer;
use onceward_http::{Attempt, Engine, Profile, Scope};
use serde_json::{Map, Value, json};

type Error = Box<dyn std::error::Error + Send + Sync>;
type Object = Map<String, Value>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let settings = Settings::from_arguments(std::env::args().skip(1))?;
    let engine = settings.engine().await?;
    let idempotency = IdempotencyLayer::new(engine.clone(), settings.profile, tenant);
    let drain = idempotency.drain();
    let app = Router::new()
        .route("/payments", get(list).post(create))
        .route("/payments/{id}", patch(change))
        .layer(idempotency)
        .layer(from_fn(identify))
        .with_state(Arc::new(Effects::open(&settings.db)?));
    let listener = tokio::net::TcpListener::bind(&settings.listen).await?;
    let stop = told_to_stop()?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app)
        .with_graceful_shutdown(stop)
        .await?;
    // The connections are done; now the handlers whose clients have gone, and then the records.
    drain.wait().await;
    engine.close_async().await?;
    Ok(())
}

/// Whose key it is. Requests without `authorization` are one tenant here; a real service refuses them.
fn tenant(request: &axum::http::request::Parts) -> Scope {
    if request.headers.contains_key(AUTHORIZATION) {
        Scope::header(&request.headers, &AUTHORIZATION)
    } else {
        Scope::named("nobody")
    }
}

/// Gives each request an id of its own, which its answer carries unless it has one.
async fn identify(mut request: Request, next: Next) -> Response {
    const REQUEST_ID: &str = "x-request-id";
    let number = random_number();
    let id = HeaderValue::try_from(format!("req_{number:016x}")).expect("hex digits");
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let mut response = next.run(request).await;
    response.headers_mut().entry(REQUEST_ID).or_insert(id);
    response
}

/// Good enough to tell requests apart.
fn random_number() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::time::Instant::now())
}

async fn create(
    State(effects): State<Arc<Effects>>,
    attempt: Option<Extension<Attempt>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    run(effects, attempt, headers, move |effects, run| {
        let Ok(object) = serde_json::from_slice::<Object>(&body) else {
            return Ok(refused(
                StatusCode::BAD_REQUEST,
                "the body is not a JSON object",
            ));
        };
        let id = format!("pay_{run}");
        let mut payment = Object::from_iter([("id".to_owned(), json!(id))]);
        payment.extend(object.into_iter().filter(|(name, _)| name != "id"));
        effects.put(&payment)?;
        let location = [("location", format!("/payments/{id}"))];
        Ok((StatusCode::CREATED, location, Json(payment)).into_response())
    })
    .await
}

async fn change(
    State(effects): State<Arc<Effects>>,
    UrlPath(id): UrlPath<String>,
    attempt: Option<Extension<Attempt>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    run(effects, attempt, headers, move |effects, _run| {
        let Ok(changes) = serde_json::from_slice::<Object>(&body) else {
            return Ok(refused(
                StatusCode::BAD_REQUEST,
                "the body is not a JSON object",
            ));
        };
        let Some(mut payment) = effects.payment(&id) else {
            return Ok(refused(StatusCode::NOT_FOUND, "there is no such payment"));
        };
        payment.extend(changes.into_iter().filter(|(name, _)| name != "id"));
        effects.put(&payment)?;
        Ok((StatusCode::OK, Json(payment)).into_response())
    })
    .await
}

async fn list(State(effects): State<Arc<Effects>>) -> Json<Value> {
    let done = effects.done.lock().expect("no holder panics");
    Json(json!({ "executed": done.executed, "payments": done.payments }))
}

/// One run of a handler, as the request's headers steer it.
async fn run(
    effects: Arc<Effects>,
    attempt: Option<Extension<Attempt>>,
    headers: HeaderMap,
    work: impl FnOnce(&Effects, u64) -> std::io::Result<Response> + Send + 'static,
) -> Response {
    let number = |name| headers.get(name)?.to_str().ok()?.parse::<u64>().ok();
    let attempt = attempt.map_or(1, |Extension(attempt)| attempt.number());
    let run = match on_disk(&effects, move |effects| effects.count_run(attempt)).await {
        Ok(run) => run,
        Err(error) => return refused(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    };
    if let Some(delay_ms) = number("x-demo-delay-ms") {
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
    }
    assert!(
        !headers.contains_key("x-demo-panic"),
        "the request asked for a panic"
    );
    let status = number("x-demo-status").and_then(|status| u16::try_from(status).ok());
    if let Some(Ok(status)) = status.map(StatusCode::from_u16) {
        return refused(status, "the request asked for this status");
    }
    let mut response = match on_disk(&effects, move |effects| work(effects, run)).await {
        Ok(response) => response,
        Err(error) => refused(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    };
    let id = HeaderValue::try_from(format!("req_{:016x}", random_number())).expect("hex digits");
    response.headers_mut().insert("x-request-id", id);
    match number("x-demo-body-bytes") {
        Some(bytes) => padded(response, usize::try_from(bytes).unwrap_or(usize::MAX)).await,
        None => response,
    }
}

/// Runs what waits for the disk where it holds up nobody.
async fn on_disk<T: Send + 'static>(
    effects: &Arc<Effects>,
    work: impl FnOnce(&Effects) -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    let effects = Arc::clone(effects);
    let result = tokio::task::spawn_blocking(move || work(&effects)).await;
    result.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

fn refused(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "error": message }))).into_response()
}

/// The response with blanks after its body, streamed, so that it has this many bytes.
async fn padded(response: Response, bytes: usize) -> Response {
    const CHUNK_BYTES: usize = 16 * 1024;
    let (mut head, body) = response.into_parts();
    let start = axum::body::to_bytes(body, usize::MAX)
        .await
        .unwrap_or_default();
    let missing = bytes.saturating_sub(start.len());
    let chunks = missing.div_ceil(CHUNK_BYTES);
    let padding = (0..chunks).map(move |chunk| {
        let length = CHUNK_BYTES.min(missing - chunk * CHUNK_BYTES);
        Ok::<_, Infallible>(Bytes::from(vec![b' '; length]))
    });
    let all = std::iter::once(Ok(start)).chain(padding);
    head.headers.remove("content-length");
    Response::from_parts(head, Body::from_stream(futures::stream::iter(all)))
}

/// What the handlers have done, in memory and in a file that survives a SIGKILL.
struct Effects {
    done: Mutex<Done>,
}

struct Done {
    log: File,
    executed: u64,
    payments: Vec<Object>,
    /// Where in the list each payment stands.
    positions: HashMap<String, usize>,
}

impl Effects {
    /// Reads `PATH.effects`, or makes it. A last line that a crash cut off doesn't count.
    fn open(db: &Path) -> std::io::Result<Self> {
        let mut name = db.as_os_str().to_owned();
        name.push(".effects");
        let path = PathBuf::from(name);
        let mut log = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)?;
        let mut text = Vec::new();
        log.read_to_end(&mut text)?;
        log.write_all(b"\n")?;
        let mut done = Done {
            log,
            executed: 0,
            payments: Vec::new(),
            positions: HashMap::new(),
        };
        for line in text.split(|byte| *byte == b'\n') {
            if let Ok(mut entry) = serde_json::from_slice::<Object>(line) {
                match entry.remove("payment") {
                    Some(Value::Object(payment)) => done.remember(&payment),
                    _ => done.executed += 1,
                }
            }
        }
        Ok(Self {
            done: Mutex::new(done),
        })
    }

    /// Counts a handler's run, and gives its number.
    fn count_run(&self, attempt: u32) -> std::io::Result<u64> {
        let mut done = self.done.lock().expect("no holder panics");
        let run = done.executed + 1;
        done.write(&json!({ "run": run, "attempt": attempt }))?;
        done.executed = run;
        Ok(run)
    }

    fn put(&self, payment: &Object) -> std::io::Result<()> {
        let mut done = self.done.lock().expect("no holder panics");
        done.write(&json!({ "payment": payment }))?;
        done.remember(payment);
        Ok(())
    }

    fn payment(&self, id: &str) -> Option<Object> {
        let done = self.done.lock().expect("no holder panics");
        Some(done.payments[*done.positions.get(id)?].clone())
    }
}

impl Done {
    /// Appends a line; it is on the disk once this returns.
    fn write(&mut self, entry: &Value) -> std::io::Result<()> {
        self.log.write_all(format!("{entry}\n").as_bytes())?;
        self.log.sync_data()
    }

    fn remember(&mut self, payment: &Object) {
        let id = payment["id"].as_str().unwrap_or_default().to_owned();
        if let Some(position) = self.positions.get(&id) {
            self.payments[*position].clone_from(payment);
        } else {
            self.positions.insert(id, self.payments.len());
            self.payments.push(payment.clone());
        }
    }
}

/// What the command line says.
struct Settings {
    listen: String,
    db: PathBuf,
    store: Option<String>,
    profile: Profile,
    lease: Duration,
    retention: Duration,
}

impl Settings {
    fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Result<Self, Error> {
        const USAGE: &str = "server --listen ADDRESS --db PATH --profile deck|deel|stripe|ietf \
                             [--store postgres://…|redis://…,…] [--lease 120s] [--retention 24h]";
        let (mut listen, mut db, mut store, mut profile) = (None, None, None, None);
        let (mut lease, mut retention) = ("120s".to_owned(), "24h".to_owned());
        while let Some(name) = arguments.next() {
            let value = arguments
                .next()
                .ok_or_else(|| format!("{name} has no value; {USAGE}"))?;
            match name.as_str() {
                "--listen" => listen = Some(value),
                "--db" => db = Some(PathBuf::from(value)),
                "--store" => store = Some(value),
                "--profile" => profile = Some(named_profile(&value)?),
                "--lease" => lease = value,
                "--retention" => retention = value,
                _ => return Err(format!("{name} is unknown; {USAGE}").into()),
            }
        }
        Ok(Self {
            listen: listen.ok_or(USAGE)?,
            db: db.ok_or(USAGE)?,
            store,
            profile: profile.ok_or(USAGE)?,
            lease: duration(&lease)?,
            retention: duration(&retention)?,
        })
    }

    /// An engine on a store that several servers share, or of a folder.
    async fn engine(&self) -> Result<Engine, Error> {
        let builder = Engine::builder().lease(self.lease);
        let builder = builder.retention(self.retention);
        let Some(url) = &self.store else {
            return Ok(builder.open_async(&self.db).await?);
        };
        match url.split(':').next().unwrap_or_default() {
            #[cfg(feature = "postgres")]
            "postgres" | "postgresql" => {
                let postgres = onceward_postgres::Postgres::builder(url).build()?;
                let engine = builder.open_on_async(postgres.clone()).await?;
                warn(postgres.warnings());
                Ok(engine)
            }
            #[cfg(feature = "redis")]
            "redis" => {
                let redis = onceward_redis::Redis::builder(url).build()?;
                let engine = builder.open_on_async(redis.clone()).await?;
                warn(&redis.warnings());
                Ok(engine)
            }
            _ => {
                let stores = "postgres://… or redis://…,redis://…";
                let build = "--features postgres,redis";
                Err(format!("--store takes {stores}, where built with {build}").into())
            }
        }
    }
}

/// What the store's settings leave of the promises.
#[cfg(any(feature = "postgres", feature = "redis"))]
fn warn(warnings: &[String]) {
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
}

fn named_profile(name: &str) -> Result<Profile, Error> {
    Ok(match name {
        "deck" => Profile::deck(),
        "deel" => Profile::deel(),
        "stripe" => Profile::stripe(),
        "ietf" => Profile::ietf(),
        _ => return Err(format!("{name} is no profile; take deck, deel, stripe or ietf").into()),
    })
}

/// Reads `500ms`, `120s`, `2m` or `24h`.
fn duration(text: &str) -> Result<Duration, Error> {
    let digits = text.trim_end_matches(|char: char| char.is_ascii_alphabetic());
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("{text} is no duration, such as 120s"))?;
    let unit_ms = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(format!("{text} has no unit: ms, s, m or h").into()),
    };
    Ok(Duration::from_millis(number.saturating_mul(unit_ms)))
}

/// Ends with the first SIGTERM or SIGINT after the call.
fn told_to_stop() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
