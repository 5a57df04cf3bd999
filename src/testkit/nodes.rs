//! Several engines on one register.

use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use super::{Shifted, random};
use crate::engine::{Engine, Guard, Outcome};
use crate::error::ErrorKind;
use crate::fingerprint::Fingerprint;
use crate::key::Key;
use crate::outcome::{InFlight, OnAbandon, Resolution};
use crate::reply::Reply;
use crate::store::register::Register;

/// The builder's, and somewhat more: between two moves the server's clock runs.
const PAST_LEASE: Duration = Duration::from_secs(150);
const PAST_RETENTION: Duration = Duration::from_secs(86_430);

type Run<R> = fn(&Nodes<'_, R>);

/// Nodes of one register, and how their time is moved.
pub(super) struct Nodes<'a, R> {
    make: &'a (dyn Fn() -> R + Sync),
    time: Shifted<()>,
    scope: String,
}

macro_rules! scenarios {
    ($($name:ident)*) => {
        pub(super) fn scenarios<R: Register>() -> Vec<(&'static str, Run<R>)> {
            vec![$((stringify!($name), |nodes| $name(nodes)),)*]
        }
    };
}

scenarios! {
    of_nodes_that_begin_a_key_at_once_one_is_granted_it
    what_one_node_has_completed_the_others_replay
    what_one_node_frees_another_begins_with_a_higher_token
    a_lease_that_ends_passes_the_key_to_another_node
    a_caller_on_one_node_waits_for_the_completion_on_another
    what_has_expired_is_begun_anew_on_any_node
    held_attempts_are_seen_by_all_nodes_and_never_swept
}

impl<'a, R: Register> Nodes<'a, R> {
    pub(super) fn new(make: &'a (dyn Fn() -> R + Sync)) -> Self {
        Self {
            make,
            time: Shifted::new(()),
            scope: random::scope(),
        }
    }

    fn node(&self, on_abandon: OnAbandon) -> Engine {
        let register = self.time.beside((self.make)());
        let builder = Engine::builder()
            .clock(self.time.clock())
            .on_abandon(on_abandon)
            .replay_cache_time(Duration::ZERO);
        builder.open_on(register).unwrap()
    }

    fn two(&self) -> (Engine, Engine) {
        (self.node(OnAbandon::Rerun), self.node(OnAbandon::Rerun))
    }

    fn key(&self, name: &str) -> Key {
        Key::new(&self.scope, name).unwrap()
    }

    fn begin(&self, node: &Engine, name: &str) -> Outcome {
        node.begin(&self.key(name), &request()).unwrap()
    }

    fn granted(&self, node: &Engine, name: &str) -> Guard {
        match self.begin(node, name) {
            Outcome::Proceed(guard) => guard,
            other => panic!("a key that is free wasn't granted: {other:?}"),
        }
    }

    fn in_flight(&self, node: &Engine, name: &str) -> InFlight {
        match self.begin(node, name) {
            Outcome::InFlight(in_flight) => in_flight,
            other => panic!("a key that another node has isn't in flight: {other:?}"),
        }
    }

    fn is_replayed(&self, node: &Engine, name: &str, body: &str) {
        match self.begin(node, name) {
            Outcome::Replay(reply) => assert_eq!(reply.body(), body, "another reply is replayed"),
            other => panic!("a key that was completed isn't replayed: {other:?}"),
        }
    }
}

fn request() -> Fingerprint {
    Fingerprint::of("request")
}

fn reply(body: &'static str) -> Reply {
    Reply::new(201, body)
}

fn of_nodes_that_begin_a_key_at_once_one_is_granted_it<R: Register>(nodes: &Nodes<'_, R>) {
    const NODES: usize = 4;
    const KEYS: usize = 40;
    let grants: Mutex<Vec<(usize, Guard)>> = Mutex::default();
    let begin_all = || {
        // Opened at once, too: the first one makes the secret that all hash keys with.
        let node = nodes.node(OnAbandon::Rerun);
        for key in 0..KEYS {
            match nodes.begin(&node, &key.to_string()) {
                Outcome::Proceed(guard) => grants.lock().unwrap().push((key, guard)),
                Outcome::InFlight(_) => (),
                other => panic!("a key that is begun is neither free nor in flight: {other:?}"),
            }
        }
        node
    };
    let engines: Vec<Engine> = thread::scope(|scope| {
        let threads: Vec<_> = (0..NODES).map(|_| scope.spawn(begin_all)).collect();
        threads.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let mut grants = grants.into_inner().unwrap();
    grants.sort_by_key(|(key, _)| *key);
    let granted: Vec<usize> = grants.iter().map(|(key, _)| *key).collect();
    assert!(
        granted.iter().copied().eq(0..KEYS),
        "not each of the keys 0 to {KEYS} was granted once: {granted:?}"
    );
    for (key, guard) in grants {
        guard.complete(reply("body")).unwrap();
        let node = &engines[key % NODES];
        nodes.is_replayed(node, &key.to_string(), "body");
    }
}

fn what_one_node_has_completed_the_others_replay<R: Register>(nodes: &Nodes<'_, R>) {
    let (one, other) = nodes.two();
    let guard = nodes.granted(&one, "key");
    nodes.in_flight(&other, "key");
    let running = other.forget(&nodes.key("key")).unwrap_err();
    assert_eq!(running.kind(), ErrorKind::InFlight);
    guard.complete(reply("body")).unwrap();
    nodes.is_replayed(&other, "key", "body");
    nodes.is_replayed(&one, "key", "body");
    let entry = other.lookup(&nodes.key("key")).unwrap();
    assert_eq!(entry.map(|entry| entry.attempt), Some(1));
    let another = Fingerprint::of("another request");
    let outcome = other.begin(&nodes.key("key"), &another).unwrap();
    assert!(
        matches!(outcome, Outcome::Conflict(_)),
        "another request with the key isn't a conflict: {outcome:?}"
    );
}

fn what_one_node_frees_another_begins_with_a_higher_token<R: Register>(nodes: &Nodes<'_, R>) {
    let (one, other) = nodes.two();
    let mut last = 0;
    for round in 0..10 {
        let (freeing, next) = if round % 2 == 0 {
            (&one, &other)
        } else {
            (&other, &one)
        };
        let guard = nodes.granted(freeing, "key");
        assert!(guard.token() > last, "a token doesn't rise");
        last = guard.token();
        if round % 3 == 0 {
            guard.complete(reply("body")).unwrap();
            assert!(next.forget(&nodes.key("key")).unwrap());
        } else {
            guard.release().unwrap();
        }
        next.sweep().unwrap();
        assert_eq!(next.lookup(&nodes.key("key")).unwrap(), None);
    }
}

fn a_lease_that_ends_passes_the_key_to_another_node<R: Register>(nodes: &Nodes<'_, R>) {
    let (one, other) = nodes.two();
    let mut late = nodes.granted(&one, "key");
    nodes.in_flight(&other, "key");
    nodes.time.advance(PAST_LEASE);
    let guard = nodes.granted(&other, "key");
    assert_eq!(guard.attempt(), 2);
    assert!(guard.token() > late.token(), "a token doesn't rise");
    assert_eq!(late.renew().unwrap_err().kind(), ErrorKind::LeaseLost);
    let refused = late.complete(reply("late")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::LeaseLost);
    guard.complete(reply("second")).unwrap();
    nodes.is_replayed(&one, "key", "second");
}

fn a_caller_on_one_node_waits_for_the_completion_on_another<R: Register>(nodes: &Nodes<'_, R>) {
    const LONG: Duration = Duration::from_secs(60);
    let (one, other) = nodes.two();
    let guard = nodes.granted(&one, "key");
    nodes.in_flight(&other, "key");
    let outcome = thread::scope(|scope| {
        let waits = || other.begin_or_wait(&nodes.key("key"), &request(), LONG);
        let waiter = scope.spawn(waits);
        while other.stats().waiters == 0 && !waiter.is_finished() {
            thread::yield_now();
        }
        guard.complete(reply("body")).unwrap();
        waiter.join().unwrap().unwrap()
    });
    match outcome {
        Outcome::Replay(reply) => assert_eq!(reply.body(), "body"),
        other => panic!("who waited for a key that was completed got {other:?}"),
    }
}

fn what_has_expired_is_begun_anew_on_any_node<R: Register>(nodes: &Nodes<'_, R>) {
    let (one, other) = nodes.two();
    nodes.granted(&one, "key").complete(reply("old")).unwrap();
    nodes.time.advance(PAST_RETENTION);
    assert_eq!(other.lookup(&nodes.key("key")).unwrap(), None);
    other.sweep().unwrap();
    let guard = nodes.granted(&other, "key");
    assert_eq!(guard.attempt(), 1);
    nodes.in_flight(&one, "key");
    guard.complete(reply("new")).unwrap();
    nodes.is_replayed(&one, "key", "new");
}

fn held_attempts_are_seen_by_all_nodes_and_never_swept<R: Register>(nodes: &Nodes<'_, R>) {
    let (one, other) = (nodes.node(OnAbandon::Hold), nodes.node(OnAbandon::Hold));
    drop(nodes.granted(&one, "key"));
    nodes.time.advance(2 * PAST_RETENTION);
    other.sweep().unwrap();
    let key = nodes.key("key");
    let held = other.held().unwrap();
    let held = held
        .iter()
        .filter(|entry| entry.key.as_ref() == Some(&key))
        .count();
    assert_eq!(held, 1, "an attempt that is held isn't listed once");
    assert!(nodes.in_flight(&other, "key").is_held());
    other.resolve(&key, Resolution::Release).unwrap();
    nodes.granted(&one, "key").release().unwrap();
}
