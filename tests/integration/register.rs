//! Several engines on one register, through the public API.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use onceward::register::{
    Cursor, Loaded, Page, RecordId, Refused, Register, Swapped, Value, Version,
};
use onceward::testkit::Local;
use onceward::{Builder, Engine, ErrorKind, ManualClock, OnAbandon, Outcome, Reply};

use crate::support::{LEASE, RETENTION, completed, granted, in_flight, key, replayed, request};

/// A server with a clock of its own.
struct Server {
    clock: ManualClock,
    register: Local,
}

impl Server {
    fn new() -> Self {
        let clock = ManualClock::new();
        Self {
            register: Local::new(clock.clone()),
            clock,
        }
    }

    fn builder(&self) -> Builder {
        Engine::builder().clock(self.clock.clone())
    }

    fn node(&self) -> Engine {
        let builder = self.builder().replay_cache_time(Duration::ZERO);
        builder.open_on(self.register.clone()).unwrap()
    }
}

/// A register that may stop to answer.
struct Silent {
    register: Local,
    is_silent: Arc<AtomicBool>,
}

impl Register for Silent {
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
        if self.is_silent.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
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
        Duration::from_millis(200)
    }
}

#[test]
fn what_one_node_has_begun_and_completed_the_other_knows() {
    let server = Server::new();
    let (one, other) = (server.node(), server.node());
    let guard = granted(&one, "key");
    in_flight(&other, "key");
    assert_eq!(
        other.forget(&key("key")).unwrap_err().kind(),
        ErrorKind::InFlight
    );
    guard.complete(Reply::new(201, "body")).unwrap();
    assert_eq!(replayed(&other, "key").body(), "body");
    let entry = other.lookup(&key("key")).unwrap().unwrap();
    assert_eq!(entry.attempt, 1);
    let fingerprint = onceward::Fingerprint::of("another request");
    let outcome = other.begin(&key("key"), &fingerprint).unwrap();
    assert!(matches!(outcome, Outcome::Conflict(_)));
    assert!(other.forget(&key("key")).unwrap());
    completed(&one, "key", "anew");
    assert_eq!(replayed(&other, "key").body(), "anew");
    server.clock.advance(RETENTION);
    assert_eq!(one.lookup(&key("key")).unwrap(), None);
    assert_eq!(other.sweep().unwrap().records, 1);
}

#[test]
fn a_lease_that_ends_passes_the_key_to_another_node_and_the_first_can_do_nothing() {
    let server = Server::new();
    let (one, other) = (server.node(), server.node());
    let mut late = granted(&one, "key");
    server.clock.advance(LEASE);
    let guard = granted(&other, "key");
    assert_eq!(guard.attempt(), 2);
    assert!(guard.token() > late.token());
    assert_eq!(late.renew().unwrap_err().kind(), ErrorKind::LeaseLost);
    let refused = late.complete(Reply::new(200, "late")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::LeaseLost);
    guard.complete(Reply::new(200, "second")).unwrap();
    assert_eq!(replayed(&one, "key").body(), "second");
}

#[test]
fn a_caller_on_one_node_waits_for_the_completion_on_another() {
    let server = Server::new();
    let (one, other) = (server.node(), server.node());
    let guard = granted(&one, "key");
    let waiter = thread::spawn(move || {
        let hour = Duration::from_secs(3_600);
        other.begin_or_wait(&key("key"), &request(), hour).unwrap()
    });
    guard.complete(Reply::new(201, "body")).unwrap();
    while !waiter.is_finished() {
        // It looks now and then, by its own clock.
        server.clock.advance(Duration::from_millis(10));
        thread::yield_now();
    }
    let Outcome::Replay(reply) = waiter.join().unwrap() else {
        panic!("it was not replayed");
    };
    assert_eq!(reply.body(), "body");
}

#[test]
fn held_attempts_of_all_nodes_are_listed_and_never_swept() {
    let server = Server::new();
    let node = || {
        let builder = server.builder().on_abandon(OnAbandon::Hold);
        builder.open_on(server.register.clone()).unwrap()
    };
    let (one, other) = (node(), node());
    drop(granted(&one, "key"));
    server.clock.advance(2 * RETENTION);
    assert_eq!(other.sweep().unwrap().records, 0);
    let held = other.held().unwrap();
    assert_eq!(held.len(), 1);
    assert!(in_flight(&other, "key").is_held());
    assert_eq!(other.export().count(), 1);
}

#[test]
fn all_nodes_have_the_same_pepper_or_none() {
    let server = Server::new();
    let open = |pepper: Option<&str>| {
        let builder = server.builder();
        let builder = match pepper {
            Some(pepper) => builder.pepper(pepper),
            None => builder,
        };
        let opened = builder.open_on(server.register.clone());
        opened.map(drop).map_err(|error| error.kind())
    };
    open(Some("a pepper of 24 bytes ...")).unwrap();
    open(Some("a pepper of 24 bytes ...")).unwrap();
    let refused = Err(ErrorKind::InvalidConfig);
    assert_eq!(open(Some("another pepper, as long .")), refused);
    assert_eq!(open(None), refused);
}

#[test]
fn what_a_register_cannot_uphold_is_refused() {
    let limited = Engine::builder().max_live_keys_per_scope(1);
    let refused = limited.open_on(Local::default()).map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidConfig);
}

#[test]
fn a_reply_that_this_node_has_seen_is_answered_from_its_cache_until_it_is_forgotten_here() {
    let server = Server::new();
    let minute = Duration::from_secs(60);
    let open = || {
        let builder = server.builder().replay_cache_time(minute);
        builder.open_on(server.register.clone())
    };
    let (one, other) = (open().unwrap(), open().unwrap());
    completed(&one, "key", "body");
    replayed(&other, "key");
    assert!(one.stats().replay_cache_bytes > 0);
    assert!(other.stats().replay_cache_bytes > 0);
    assert!(one.forget(&key("key")).unwrap());
    // The other one wasn't told: this register has no announcements.
    replayed(&other, "key");
    let guard = granted(&one, "key");
    server.clock.advance(minute);
    in_flight(&other, "key");
    guard.complete(Reply::new(200, "anew")).unwrap();
    assert_eq!(replayed(&other, "key").body(), "anew");
}

#[test]
fn a_register_that_says_nothing_fails_the_call_in_time() {
    let is_silent = Arc::new(AtomicBool::new(false));
    let register = Silent {
        register: Local::default(),
        is_silent: Arc::clone(&is_silent),
    };
    let node = Engine::builder().open_on(register).unwrap();
    is_silent.store(true, Ordering::SeqCst);
    let refused = node.begin(&key("key"), &request()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    is_silent.store(false, Ordering::SeqCst);
    completed(&node, "key", "body");
}
