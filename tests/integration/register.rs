//! Several engines on one register, through the public API.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use onceward::register::{
    Cursor, Loaded, Page, RecordId, Refused, Register, Swapped, Value, Version,
};
use onceward::{Clock, Engine, ErrorKind, ManualClock, OnAbandon, Outcome, Reply};

use crate::support::{LEASE, RETENTION, completed, granted, in_flight, key, replayed, request};

/// A server of one map, with a clock of its own.
#[derive(Clone)]
struct Server {
    clock: ManualClock,
    cells: Arc<Mutex<BTreeMap<RecordId, (Value, u64)>>>,
    is_silent: Arc<AtomicBool>,
}

impl Server {
    fn new() -> Self {
        Self {
            clock: ManualClock::new(),
            cells: Arc::default(),
            is_silent: Arc::default(),
        }
    }

    fn now_ms(&self) -> u64 {
        let since_1970 = self.clock.wall().duration_since(SystemTime::UNIX_EPOCH);
        u64::try_from(since_1970.unwrap().as_millis()).unwrap()
    }

    fn node(&self) -> Engine {
        let builder = Engine::builder().clock(self.clock.clone());
        let builder = builder.replay_cache_time(Duration::ZERO);
        builder.open_on(self.clone()).unwrap()
    }
}

impl Register for Server {
    async fn load(&self, id: RecordId) -> Result<Loaded, Refused> {
        let cells = self.cells.lock().unwrap();
        Ok(Loaded {
            value: cells.get(&id).map(|(value, _)| value.clone()),
            now_ms: self.now_ms(),
        })
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
        let mut cells = self.cells.lock().unwrap();
        let now_ms = self.now_ms();
        let value = cells.get(&id).map(|(value, _)| value.clone());
        if value.as_ref().map(|value| value.version) != expected {
            return Ok(Swapped::Mismatch(Loaded { value, now_ms }));
        }
        cells.insert(id, (new, ends_at_ms));
        Ok(Swapped::Done { now_ms })
    }

    async fn sweep(&self) -> Result<u64, Refused> {
        let now_ms = self.now_ms();
        let mut cells = self.cells.lock().unwrap();
        let before = cells.len();
        cells.retain(|_, (_, ends_at_ms)| *ends_at_ms > now_ms);
        Ok((before - cells.len()) as u64)
    }

    async fn scan(&self, from: Option<Cursor>, most: usize) -> Result<Page, Refused> {
        let cells = self.cells.lock().unwrap();
        let after = from.and_then(|cursor| cursor.after());
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let values = cells.range((from, Bound::Unbounded)).take(most);
        let values = values.map(|(id, (value, _))| (*id, value.clone()));
        Ok(Page::in_order(values.collect(), most, self.now_ms()))
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
        let builder = Engine::builder().clock(server.clock.clone());
        let builder = builder.on_abandon(OnAbandon::Hold);
        builder.open_on(server.clone()).unwrap()
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
        let builder = Engine::builder().clock(server.clock.clone());
        let builder = match pepper {
            Some(pepper) => builder.pepper(pepper),
            None => builder,
        };
        let opened = builder.open_on(server.clone());
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
    let refused = limited.open_on(Server::new()).map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidConfig);
}

#[test]
fn a_reply_that_this_node_has_seen_is_answered_from_its_cache_until_it_is_forgotten_here() {
    let server = Server::new();
    let minute = Duration::from_secs(60);
    let open = || {
        let builder = Engine::builder().clock(server.clock.clone());
        builder.replay_cache_time(minute).open_on(server.clone())
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
    let server = Server::new();
    let node = server.node();
    server.is_silent.store(true, Ordering::SeqCst);
    let refused = node.begin(&key("key"), &request()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    server.is_silent.store(false, Ordering::SeqCst);
    completed(&node, "key", "body");
}
