//! Several engines on one register, through the public API.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

use onceward::register::{
    Cursor, Loaded, Page, RecordId, Refused, Register, Swapped, Value, Version,
};
use onceward::testkit::Local;
use onceward::transaction::{OutcomeRow, Transaction, Written};
use onceward::{Builder, Engine, ErrorKind, ManualClock, OnAbandon, Outcome, Reply};
use tokio::sync::{Barrier, Notify};

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
#[derive(Clone)]
struct Muted {
    register: Local,
    is_silent: Arc<AtomicBool>,
    /// Whether what changes a cell that is there is answered even then.
    answers_changes: bool,
    timeout: Duration,
    goes_on: Arc<Notify>,
    /// How many calls wait for that.
    waiting: Arc<AtomicUsize>,
    /// Its loads are answered even then, but only so many at once.
    loads: Option<Arc<Barrier>>,
    /// Its pages have each cell twice.
    is_stuttering: bool,
}

impl Muted {
    fn new(timeout: Duration) -> Self {
        Self {
            register: Local::default(),
            is_silent: Arc::default(),
            answers_changes: false,
            timeout,
            goes_on: Arc::default(),
            waiting: Arc::default(),
            loads: None,
            is_stuttering: false,
        }
    }

    fn is_mute(&self) -> bool {
        self.is_silent.load(Ordering::SeqCst)
    }

    fn mute(&self) {
        self.is_silent.store(true, Ordering::SeqCst);
    }

    fn go_on(&self) {
        self.is_silent.store(false, Ordering::SeqCst);
        self.goes_on.notify_waiters();
    }
}

impl Register for Muted {
    async fn load(&self, id: RecordId) -> Result<Loaded, Refused> {
        if let Some(loads) = self.loads.as_ref().filter(|_| self.is_mute()) {
            loads.wait().await;
        }
        self.register.load(id).await
    }

    async fn swap(
        &self,
        id: RecordId,
        expected: Option<Version>,
        new: Value,
        ends_at_ms: u64,
    ) -> Result<Swapped, Refused> {
        let is_answered = self.answers_changes && expected.is_some();
        if !is_answered && self.is_mute() {
            let goes_on = self.goes_on.notified();
            self.waiting.fetch_add(1, Ordering::SeqCst);
            goes_on.await;
        }
        self.register.swap(id, expected, new, ends_at_ms).await
    }

    async fn sweep(&self) -> Result<u64, Refused> {
        self.register.sweep().await
    }

    async fn scan(&self, from: Option<Cursor>, most: usize) -> Result<Page, Refused> {
        let mut page = self.register.scan(from, most).await?;
        if self.is_stuttering {
            page.values.extend(page.values.clone());
        }
        Ok(page)
    }

    fn timeout(&self) -> Duration {
        self.timeout
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
    let other = Arc::new(other);
    let engine = Arc::clone(&other);
    let waiter = thread::spawn(move || {
        let hour = Duration::from_secs(3_600);
        engine.begin_or_wait(&key("key"), &request(), hour).unwrap()
    });
    while other.stats().waiters == 0 {
        thread::yield_now();
    }
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
fn a_held_attempt_that_is_on_several_pages_is_listed_once() {
    let server = Server::new();
    let builder = server.builder().on_abandon(OnAbandon::Hold);
    let mut register = Muted::new(Duration::from_secs(60));
    register.register = server.register.clone();
    register.is_stuttering = true;
    let node = builder.open_on(register).unwrap();
    drop(granted(&node, "key"));
    completed(&node, "completed", "body");
    server.clock.advance(LEASE);
    assert_eq!(node.held().unwrap().len(), 1);
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
    let register = Muted::new(Duration::from_millis(200));
    let node = Engine::builder().open_on(register.clone()).unwrap();
    register.mute();
    let refused = node.begin(&key("key"), &request()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    register.go_on();
    completed(&node, "key", "body");
}

#[test]
fn an_engine_is_not_ready_from_a_call_that_failed_until_its_server_writes_again() {
    let register = Muted::new(Duration::from_millis(50));
    let node = Engine::builder().open_on(register.clone()).unwrap();
    completed(&node, "before", "body");
    assert!(node.health().is_ready());
    register.mute();
    drop(node.begin(&key("key"), &request()).unwrap_err());
    let health = node.health();
    assert_eq!(health.reason().unwrap().kind(), ErrorKind::Unavailable);
    // Nobody asks for anything.
    register.go_on();
    while !node.health().is_ready() {
        thread::yield_now();
    }
}

#[test]
fn begins_over_the_depth_of_the_queue_are_refused_and_guards_are_not_held_up() {
    let mut register = Muted::new(Duration::from_secs(60));
    register.answers_changes = true;
    let builder = Engine::builder().queue_depth(2);
    let builder = builder.queue_wait(Duration::from_millis(1));
    let node = builder.open_on(register.clone()).unwrap();
    let guard = granted(&node, "guarded");
    register.mute();
    thread::scope(|scope| {
        let begins = ["first", "second"].map(|name| scope.spawn(|| granted(&node, name)));
        while register.waiting.load(Ordering::SeqCst) < 2 {
            thread::yield_now();
        }
        assert_eq!(node.stats().queued, 2);
        let refused = node.begin(&key("third"), &request()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Overloaded);
        assert_eq!(node.stats().refused_overloaded, 1);
        guard.complete(Reply::new(201, "body")).unwrap();
        register.go_on();
        for begin in begins {
            drop(begin.join().unwrap());
        }
    });
    assert_eq!(replayed(&node, "guarded").body(), "body");
}

#[test]
fn lookups_of_async_callers_do_not_wait_one_for_another() {
    let mut register = Muted::new(Duration::from_secs(60));
    register.loads = Some(Arc::new(Barrier::new(3)));
    let node = Engine::builder().open_on(register.clone()).unwrap();
    let keys = ["first", "second", "third"].map(|name| {
        completed(&node, name, "body");
        key(name)
    });
    register.mute();
    let lookups = keys.iter().map(|key| node.lookup_async(key));
    let found = futures::executor::block_on(futures::future::join_all(lookups));
    assert!(found.into_iter().all(|found| found.unwrap().is_some()));
}

struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("a waker of the caller's");
    }
}

#[test]
fn a_waker_that_panics_holds_up_nobody() {
    let register = Muted::new(Duration::from_secs(60));
    let node = Engine::builder().open_on(register.clone()).unwrap();
    let (name, request) = (key("key"), request());
    register.mute();
    let waker = Waker::from(Arc::new(Panics));
    let mut begin = Box::pin(node.begin_async(&name, &request));
    let polled = begin.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending());
    while register.waiting.load(Ordering::SeqCst) == 0 {
        thread::yield_now();
    }
    register.go_on();
    completed(&node, "other", "body");
    assert_eq!(replayed(&node, "other").body(), "body");
}

/// A transaction that finds the row otherwise than it was known.
struct Outdated;

impl Transaction<Local> for Outdated {
    async fn write(&self, _: &Local, _: &OutcomeRow) -> Result<Written, Refused> {
        Ok(Written::Superseded)
    }
}

#[test]
fn a_transaction_that_meets_another_change_of_the_same_attempt_leaves_the_guard_its_key() {
    let server = Server::new();
    let node = server.node();
    let guard = granted(&node, "key");
    let refused = guard.complete_in(&Outdated, Reply::new(201, "body"));
    let (guard, reply, error) = refused.unwrap_err().into_parts();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    guard.complete(reply).unwrap();
    let lost = granted(&node, "lost");
    server.clock.advance(LEASE);
    drop(granted(&node, "lost"));
    let refused = lost.complete_in(&Outdated, Reply::new(201, "body"));
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::LeaseLost);
}

/// A node that has slept, say, or a server that was followed by one whose clock is ahead.
#[test]
fn a_guard_has_no_more_of_its_lease_left_than_it_has_on_the_server_whatever_that_ones_clock_does() {
    let (server, own) = (ManualClock::new(), ManualClock::new());
    let register = Local::new(server.clone());
    let node = Engine::builder().clock(own.clone());
    let node = node.open_on(register.clone()).unwrap();
    let step = Duration::from_secs(600);
    server.advance(step);
    let mut guard = granted(&node, "ahead");
    assert_eq!(guard.lease_left(), LEASE);
    server.advance(step);
    guard.renew().unwrap();
    assert_eq!(guard.lease_left(), LEASE);
    for clock in [&server, &own] {
        clock.advance(LEASE);
    }
    assert_eq!(guard.lease_left(), Duration::ZERO);
    assert_eq!(granted(&node, "ahead").attempt(), 2);
    // The server is behind what the node carries on: the lease is whole all the same, and not
    // longer.
    own.advance(step);
    let guard = granted(&node, "behind");
    assert_eq!(guard.lease_left(), LEASE);
    own.advance(LEASE / 2);
    assert_eq!(guard.lease_left(), LEASE / 2);
}

#[test]
fn held_attempts_are_told_by_the_servers_time() {
    let (server, own) = (ManualClock::new(), ManualClock::new());
    let register = Local::new(server.clone());
    let node = Engine::builder().clock(own).on_abandon(OnAbandon::Hold);
    let node = node.open_on(register).unwrap();
    drop(granted(&node, "held"));
    assert!(node.held().unwrap().is_empty());
    // The node's own clock stands still.
    server.advance(LEASE);
    let held = node.held().unwrap();
    assert_eq!(held.len(), 1);
}

#[test]
fn a_renewal_that_nobody_waits_for_any_more_does_not_take_a_released_key_again() {
    let register = Muted::new(Duration::from_secs(30));
    let node = Engine::builder().open_on(register.clone()).unwrap();
    let terms = node.terms().with_lease(Duration::from_millis(20));
    // On a slow machine half of such a lease may be over before anybody has it.
    while node.begin_with(&key("key"), &request(), terms).is_err() {}
    let mut second = loop {
        if let Outcome::Proceed(guard) = node.begin(&key("key"), &request()).unwrap() {
            break guard;
        }
    };
    register.mute();
    {
        let mut renewal = std::pin::pin!(second.renew_async());
        let mut context = Context::from_waker(Waker::noop());
        assert!(renewal.as_mut().poll(&mut context).is_pending());
    }
    while register.waiting.load(Ordering::SeqCst) == 0 {
        thread::yield_now();
    }
    let released = thread::spawn(move || second.release());
    register.go_on();
    released.join().unwrap().unwrap();
    assert_eq!(granted(&node, "key").attempt(), 3);
}
