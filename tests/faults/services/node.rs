//! A node: an engine behind the layer, handlers that take their time, and a clock that may stand
//! still.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use onceward::faults::Random;
use onceward::{Builder, Clock, Engine};
use onceward_http::Profile;
use onceward_http::tower::IdempotencyLayer;
use onceward_http::{Attempt, Disposition, Drain, Options, Scope};
use parking_lot::Mutex;
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};

use super::plan::{LEASE_MS, Plan};
use super::server::{Server, Way};

/// The number of the node that is on a folder.
pub(super) const ON_FOLDER: usize = usize::MAX;

type Service = BoxCloneSyncService<Request<Full<Bytes>>, Response<Bytes>, Gone>;

/// The handler failed with an error of its own, so that its key is abandoned.
#[derive(Debug)]
pub(super) struct Gone;

/// A handler's run.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) key: String,
    pub(super) token: u64,
    pub(super) node: usize,
    pub(super) from_ms: u64,
    pub(super) end: Option<(u64, End)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Answered,
    Failed,
}

/// What all nodes of a life note.
#[derive(Default)]
pub(super) struct Runs(Mutex<Vec<Run>>);

impl Runs {
    pub(super) fn all(&self) -> Vec<Run> {
        self.0.lock().clone()
    }

    fn begin(&self, run: Run) -> usize {
        let mut runs = self.0.lock();
        runs.push(run);
        runs.len() - 1
    }

    fn end(&self, number: usize, at_ms: u64, end: End) {
        self.0.lock()[number].end = Some((at_ms, end));
    }
}

/// The system's clock, but for when the plan has the node stand still.
struct NodeClock(Way);

impl Clock for NodeClock {
    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + self.monotonic()
    }

    fn monotonic(&self) -> Duration {
        let Way { server, node } = &self.0;
        let passed = server.began().elapsed();
        let at_ms = u64::try_from(passed.as_millis()).unwrap();
        passed.saturating_sub(Duration::from_millis(
            server.plan.stood_still_ms(*node, at_ms),
        ))
    }
}

impl fmt::Debug for NodeClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeClock")
    }
}

pub(super) struct Node {
    pub(super) engine: Engine,
    pub(super) drain: Drain,
    way: Way,
    service: Service,
}

/// What a client got.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
    pub(super) disposition: Option<Disposition>,
}

impl Node {
    /// One on the register.
    pub(super) fn on(server: &Arc<Server>, number: usize, runs: &Arc<Runs>) -> Self {
        let way = Way {
            server: Arc::clone(server),
            node: number,
        };
        let engine = builder(&server.plan).clock(NodeClock(way.clone()));
        let engine = open_patiently(engine, &way);
        Self::new(engine, way, runs)
    }

    /// One on a folder.
    pub(super) fn of_folder(server: &Arc<Server>, engine: Engine, runs: &Arc<Runs>) -> Self {
        let way = Way {
            server: Arc::clone(server),
            node: ON_FOLDER,
        };
        Self::new(engine, way, runs)
    }

    fn new(engine: Engine, way: Way, runs: &Arc<Runs>) -> Self {
        let renew_for = Duration::from_millis(way.server.plan.renew_for_ms);
        let scope = |_: &http::request::Parts| Scope::named("tenant");
        let layer = IdempotencyLayer::new(engine.clone(), Profile::deck(), scope)
            .with_options(Options::new().renew_for(renew_for))
            .unwrap();
        let drain = layer.drain();
        let (runs, handler_way) = (Arc::clone(runs), way.clone());
        let handler = service_fn(move |request: Request<_>| {
            let attempt: Option<&Attempt> = request.extensions().get();
            let attempt = attempt.cloned().unwrap();
            handle(handler_way.clone(), Arc::clone(&runs), attempt)
        });
        let service = layer.layer(handler).map_future(|answer| async move {
            let response: Response<onceward_http::LayerBody<Full<Bytes>>> = answer.await?;
            let (head, body) = response.into_parts();
            let bytes = match body.collect().await {
                Ok(body) => body.to_bytes(),
                Err(_) => return Err(Gone),
            };
            Ok(Response::from_parts(head, bytes))
        });
        Self {
            engine,
            drain,
            way,
            service: BoxCloneSyncService::new(service),
        }
    }

    /// Makes a request, as soon as the node is awake. `None` if the handler has failed.
    pub(super) async fn post(&self, key: &str) -> Option<Answer> {
        self.way.awake().await;
        let request = Request::post("/payments")
            .header("idempotency-key", key)
            .body(Full::default())
            .unwrap();
        let response = self.service.clone().oneshot(request).await.ok()?;
        Some(Answer {
            status: response.status().as_u16(),
            disposition: response.extensions().get().cloned(),
            body: String::from_utf8_lossy(response.body()).into_owned(),
        })
    }
}

pub(super) fn builder(plan: &Plan) -> Builder {
    let builder = Engine::builder().lease(Duration::from_millis(LEASE_MS));
    if plan.caches {
        builder
    } else {
        builder.replay_cache_time(Duration::ZERO)
    }
}

/// The node may be cut off as it starts: a real one is started again then.
fn open_patiently(builder: Builder, way: &Way) -> Engine {
    for _ in 0..200 {
        match builder.clone().open_on(way.clone()) {
            Ok(engine) => return engine,
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    panic!("the node can't be opened");
}

/// Takes a time around the lease, and answers or fails.
async fn handle(
    way: Way,
    runs: Arc<Runs>,
    attempt: Attempt,
) -> Result<Response<Full<Bytes>>, Gone> {
    let server = &way.server;
    let mut random = Random::new(server.plan.seed ^ attempt.token());
    let from_ms = server.at_ms();
    let key = attempt.key().key().to_owned();
    let number = runs.begin(Run {
        key: key.clone(),
        token: attempt.token(),
        node: way.node,
        from_ms,
        end: None,
    });
    let longest = [LEASE_MS / 4, LEASE_MS * 5 / 2][random.below(2)];
    let takes_ms = random.below(usize::try_from(longest).unwrap()) as u64;
    server.sleep_until(from_ms + takes_ms).await;
    way.awake().await;
    let end = match random.below(12) {
        0 => End::Failed,
        _ => End::Answered,
    };
    runs.end(number, server.at_ms(), end);
    match end {
        End::Failed => Err(Gone),
        End::Answered => {
            let body = format!("run {number} of {key}");
            Ok(Response::builder().status(201).body(body.into()).unwrap())
        }
    }
}

impl From<Infallible> for Gone {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}
