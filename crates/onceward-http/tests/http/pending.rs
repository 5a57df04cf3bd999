//! A store that can't take an answer at once: the client has it all the same, and it is kept or
//! released in the background.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use onceward::register::{
    Cursor, Loaded, Page, RecordId, Refused, Register, Swapped, Value, Version,
};
use onceward::testkit::Local;
use onceward::{Clock, Engine, EntryState, Key, ManualClock, Outcome, Reply};
use onceward_http::Profile;
use onceward_http::tower::IdempotencyLayer;
use onceward_http::{Attempt, Disposition, Drain, Fate, Options, Scope};
use reqwest::Client;
use tokio::sync::oneshot;
use tower::{Layer, ServiceExt, service_fn};

use super::servers::{KINDS, Server};
use support::engine::{LEASE, RETENTION, key, request};

/// A register that refuses changes while it is told to.
#[derive(Clone)]
struct Refusing {
    register: Local,
    refuses: Arc<AtomicBool>,
}

impl Refusing {
    fn new(register: Local) -> Self {
        Self {
            register,
            refuses: Arc::default(),
        }
    }

    fn refuse(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::SeqCst);
    }
}

impl Register for Refusing {
    async fn load(&self, id: RecordId) -> Result<Loaded, Refused> {
        self.register.load(id).await
    }

    async fn swap(
        &self,
        id: RecordId,
        expected: Option<Version>,
        new: Value,
        ends_at_ms: u64,
    ) -> Result<Swapped, Refused> {
        if self.refuses.load(Ordering::SeqCst) {
            return Err(Refused::unchanged("it is full"));
        }
        self.register.swap(id, expected, new, ends_at_ms).await
    }

    async fn sweep(&self) -> Result<u64, Refused> {
        self.register.sweep().await
    }

    async fn scan(&self, from: Option<Cursor>, most: usize) -> Result<Page, Refused> {
        self.register.scan(from, most).await
    }

    fn timeout(&self) -> Duration {
        Duration::from_millis(500)
    }
}

/// A layer in the process, whose handler answers when it is told how.
struct Payments {
    clock: ManualClock,
    register: Refusing,
    engine: Engine,
    drain: Drain,
    layer: IdempotencyLayer,
}

impl Payments {
    fn new(profile: Profile, options: Options) -> Self {
        let clock = ManualClock::new();
        let register = Refusing::new(Local::new(clock.clone()));
        let builder = Engine::builder().clock(clock.clone());
        let engine = builder.open_on(register.clone()).unwrap();
        let layer = IdempotencyLayer::new(engine.clone(), profile, |_| Scope::named("tenant"));
        let layer = layer.with_options(options).unwrap();
        Self {
            clock,
            register,
            engine,
            drain: layer.drain(),
            layer,
        }
    }

    /// The answer to a request, given while the register refuses.
    async fn answered(&self, status: u16, body: &'static str) -> Disposition {
        let register = self.register.clone();
        let handler = service_fn(move |_: Request<_>| {
            register.refuse(true);
            let body = Full::new(Bytes::from_static(body.as_bytes()));
            std::future::ready(Response::builder().status(status).body(body))
        });
        let request = Request::post("/payments").header("idempotency-key", "key");
        let request = request.body(Full::new(Bytes::from_static(b"{}"))).unwrap();
        let response = self.layer.layer(handler).oneshot(request).await.unwrap();
        assert_eq!(response.status(), status);
        response.extensions().get().cloned().unwrap()
    }

    /// What is kept under the key.
    async fn reply(&self) -> Option<Reply> {
        let key = Key::new("tenant", "key").unwrap();
        let entry = self.engine.lookup_async(&key).await.unwrap();
        match entry.map(|entry| entry.state) {
            Some(EntryState::Completed { reply, .. }) => Some(reply),
            _ => None,
        }
    }

    /// Lets the pauses between tries pass until nothing is pending.
    async fn drained(&self) {
        while self.drain.running() > 0 {
            self.clock.advance(Duration::from_millis(200));
            tokio::task::yield_now().await;
        }
    }
}

fn is_pending(disposition: &Disposition) -> bool {
    matches!(
        disposition,
        Disposition::Executed {
            answer: Fate::Pending,
            ..
        }
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_has_its_answer_though_the_store_refuses_it_and_a_retry_gets_it_later() {
    for kind in KINDS {
        let register = Refusing::new(Local::default());
        let engine = Engine::builder().open_on(register.clone()).unwrap();
        let (clock, profile) = (ManualClock::new(), Profile::deck());
        let server = Server::over(kind, engine, clock, profile, Options::new()).await;
        let client = Client::new();
        let post = || {
            let request = client.post(server.url("/payments"));
            let request = request.header("idempotency-key", "key");
            request.header("x-gate", "1").body("{}").send()
        };
        let first = tokio::spawn(post());
        server.executed_reaches(1).await;
        register.refuse(true);
        server.open_gate();
        let first = first.await.unwrap().unwrap();
        assert_eq!(first.status(), 201);
        assert_eq!(server.drain.running(), 1, "{kind:?}: its slot is taken");
        // The key is in flight, which is known though nothing can be changed.
        assert_eq!(post().await.unwrap().status(), 503);
        register.refuse(false);
        server.drain.wait().await;
        let again = post().await.unwrap();
        assert_eq!(again.headers()["idempotent-replayed"], "true");
        assert_eq!(again.text().await.unwrap(), first.text().await.unwrap());
        assert_eq!(server.executed(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pending_is_kept_with_its_lease_renewed_meanwhile() {
    let payments = Payments::new(Profile::deck(), Options::new());
    assert!(is_pending(&payments.answered(201, "paid").await));
    let second = Engine::builder().clock(payments.clock.clone());
    let second = second.open_on(payments.register.register.clone()).unwrap();
    payments.register.refuse(false);
    payments.drained().await;
    assert_eq!(payments.reply().await.unwrap().body(), "paid");
    let lookup = second.lookup(&Key::new("tenant", "key").unwrap());
    assert_eq!(lookup.unwrap().unwrap().attempt, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_pending_frees_the_key() {
    let payments = Payments::new(Profile::deel(), Options::new());
    // Deel's profile keeps successes only.
    assert!(is_pending(&payments.answered(500, "failed").await));
    payments.register.refuse(false);
    payments.drained().await;
    let key = Key::new("tenant", "key").unwrap();
    assert!(payments.engine.lookup(&key).unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_reply_beyond_the_bytes_that_may_be_pending_a_note_is_kept() {
    let options = Options::new().max_pending_bytes(3);
    let payments = Payments::new(Profile::deck(), options);
    assert!(is_pending(&payments.answered(201, "paid").await));
    payments.register.refuse(false);
    payments.drained().await;
    let note = payments.reply().await.unwrap();
    assert_eq!((note.status(), note.is_retained()), (201, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pending_ends_once_another_attempt_has_the_key() {
    let options = Options::new().renew_for(Duration::ZERO);
    let payments = Payments::new(Profile::deck(), options);
    assert!(is_pending(&payments.answered(201, "paid").await));
    // Refused is this node alone.
    let other = Engine::builder().clock(payments.clock.clone());
    let other = other.open_on(payments.register.register.clone()).unwrap();
    payments.clock.advance(LEASE + RETENTION);
    let text = Key::new("tenant", "key").unwrap();
    let Outcome::Proceed(guard) = other.begin(&text, &request()).unwrap() else {
        panic!("the earlier attempt is still remembered");
    };
    guard.complete(Reply::new(201, "another")).unwrap();
    payments.register.refuse(false);
    payments.drained().await;
    assert_eq!(payments.reply().await.unwrap().body(), "another");
}

/// Beside a handler that isn't renewed.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_sees_that_its_lease_is_over() {
    let options = Options::new().renew_for(Duration::ZERO);
    let payments = Payments::new(Profile::deck(), options);
    let (tell, told) = oneshot::channel();
    let tell = Arc::new(std::sync::Mutex::new(Some(tell)));
    let handler = service_fn(move |request: Request<_>| {
        let attempt: Option<&Attempt> = request.extensions().get();
        let attempt = attempt.cloned().unwrap();
        let tell = tell.lock().unwrap().take().unwrap();
        async move {
            assert_eq!(attempt.lease_left(), LEASE);
            tell.send(()).unwrap();
            attempt.lease_lost().await;
            assert_eq!(attempt.lease_left(), Duration::ZERO);
            let body = Full::new(Bytes::from_static(b"stopped"));
            Response::builder().status(503).body(body)
        }
    });
    let request = Request::post("/payments").header("idempotency-key", "key");
    let request = request.body(Full::new(Bytes::new())).unwrap();
    let answer = tokio::spawn(payments.layer.layer(handler).oneshot(request));
    told.await.unwrap();
    payments.clock.advance(LEASE - Duration::from_millis(1));
    assert!(!answer.is_finished());
    payments.clock.advance(Duration::from_millis(1));
    assert_eq!(answer.await.unwrap().unwrap().status(), 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_a_guard_sees_that_another_attempt_has_taken_its_key() {
    let payments = Payments::new(Profile::deck(), Options::new());
    let Outcome::Proceed(mut late) = payments.engine.begin(&key("late"), &request()).unwrap()
    else {
        panic!("not granted");
    };
    let lost = tokio::spawn(late.lease_lost());
    payments.clock.advance(LEASE - Duration::from_millis(1));
    late.renew_async().await.unwrap();
    assert_eq!(late.lease_left(), LEASE);
    tokio::task::yield_now().await;
    assert!(!lost.is_finished(), "it was renewed in time");
    payments.clock.advance(LEASE);
    lost.await.unwrap();
    let second = payments.engine.begin(&key("late"), &request()).unwrap();
    assert!(matches!(second, Outcome::Proceed(_)));
    assert!(late.renew_async().await.is_err());
    late.lease_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_whose_renewals_are_refused_for_a_while_keeps_its_key_though_its_lease_was_over()
{
    let payments = Payments::new(Profile::deck(), Options::new().renew_for(100 * LEASE));
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let (register, may_end) = (payments.register.clone(), Arc::clone(&gate));
    let handler = service_fn(move |_: Request<_>| {
        tell.send(()).unwrap();
        register.refuse(true);
        let may_end = Arc::clone(&may_end);
        async move {
            may_end.acquire().await.unwrap().forget();
            Response::builder()
                .status(201)
                .body(Full::new(Bytes::from_static(b"paid")))
        }
    });
    let request = || {
        let request = Request::post("/payments").header("idempotency-key", "key");
        request.body(Full::new(Bytes::new())).unwrap()
    };
    let service = payments.layer.layer(handler);
    let answer = tokio::spawn(service.clone().oneshot(request()));
    told.recv().await.unwrap();
    payments.clock.advance(2 * LEASE);
    payments.register.refuse(false);
    // Nobody else has asked for the key meanwhile.
    let text = Key::new("tenant", "key").unwrap();
    loop {
        payments.clock.advance(LEASE / 40);
        tokio::task::yield_now().await;
        let entry = payments.engine.lookup_async(&text).await.unwrap().unwrap();
        let EntryState::InFlight { lease_until, .. } = entry.state else {
            panic!("{entry:?}");
        };
        if lease_until > payments.clock.wall() {
            break;
        }
    }
    let retry = service.oneshot(request()).await.unwrap();
    assert_eq!(retry.status(), 409);
    gate.add_permits(1);
    assert_eq!(answer.await.unwrap().unwrap().status(), 201);
    assert!(told.try_recv().is_err(), "it ran twice");
}
