//! Several nodes on one register, and a register whose answers get lost.

mod acknowledged;
mod forgotten;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::asking::MOST_TRIES;
use super::{
    Caching, Cursor, Limit, Loaded, Page, RecordId, Refused, Register, RegisterStore, Swapped,
    Value, Version, connect,
};
use crate::clock::{Clock, ManualClock, Timestamp};
use crate::decision::{Command, Grant, Holder, Verdict};
use crate::error::{ErrorKind, Result};
use crate::fingerprint::Fingerprint;
use crate::key::Key;
use crate::observe::Meters;
use crate::outcome::OnAbandon;
use crate::reply::Reply;
use crate::secret::Digest;
use crate::store::{Answer, Observed, Observer, Request, Rules, Seen, Store};
use crate::sync::Mutex;
use crate::testkit::Local;

const LEASE: Duration = Duration::from_secs(120);
const JUST_UNDER_LEASE: Duration = Duration::from_millis(119_999);
const RETENTION: Duration = Duration::from_secs(86_400);
const JUST_UNDER_RETENTION: Duration = Duration::from_millis(86_399_999);

#[derive(Debug)]
struct Nobody;

impl Observer for Nobody {
    fn changed(&self, _digest: &Digest, _now: Observed) {}

    fn interrupted(&self) {}

    fn stopped(&self) {}
}

/// One of several nodes.
struct Node(Arc<dyn Store>);

impl Node {
    fn new(register: impl Register, clock: &ManualClock) -> Self {
        let rules = Rules {
            on_abandon: OnAbandon::Rerun,
            max_live_keys: u64::MAX,
            max_live_keys_per_scope: None,
            retention: RETENTION,
            keeps_keys: true,
        };
        let connected = connect(register, None, Arc::new(clock.clone()), LEASE).unwrap();
        let caching = Caching {
            bytes: 0,
            time: Duration::ZERO,
        };
        let limit = Limit {
            depth: 64,
            wait: Duration::from_secs(1),
        };
        let (bounds, meters) = ((caching, limit), Meters::new("test"));
        let store = RegisterStore::start(connected, rules, bounds, meters, Arc::new(Nobody));
        Self(Arc::new(store))
    }

    fn asked(&self, name: &str, command: Command) -> Result<Verdict> {
        let key = Key::new("tenant", name).unwrap();
        let request = Request {
            digest: self.0.secret().digest(&key),
            key,
            command,
            seen: Seen::default(),
        };
        let (answer, pending) = Answer::new(Arc::downgrade(&self.0), &request);
        self.0.submit(request, answer);
        futures::executor::block_on(pending).unwrap()
    }

    fn ask(&self, name: &str, command: Command) -> Verdict {
        self.asked(name, command).unwrap()
    }

    fn begin_command(&self) -> Command {
        Command::Begin {
            takes_over: None,
            fingerprint: self.0.secret().seal(&Fingerprint::of("request")),
            lease: LEASE,
            retention: RETENTION,
        }
    }

    fn begin(&self, name: &str) -> Verdict {
        self.ask(name, self.begin_command())
    }

    fn granted(&self, name: &str) -> Grant {
        match self.begin(name) {
            Verdict::Proceed(grant) => grant,
            other => panic!("not granted: {other:?}"),
        }
    }

    fn complete(&self, name: &str, token: u64) -> Verdict {
        let command = Command::Complete {
            token,
            reply: Reply::new(201, "body"),
            retention: RETENTION,
        };
        self.ask(name, command)
    }

    fn release(&self, name: &str, token: u64) -> Verdict {
        self.ask(name, Command::Release { token })
    }
}

/// A grant of a key that is being released.
fn granted_soon(node: &Node, name: &str) -> Grant {
    for _ in 0..10_000 {
        match node.begin(name) {
            Verdict::Proceed(grant) => return grant,
            Verdict::InFlight(_) => thread::sleep(Duration::from_millis(1)),
            other => panic!("{other:?}"),
        }
    }
    panic!("{name} isn't released");
}

fn now(clock: &ManualClock) -> Timestamp {
    Timestamp::of(clock.wall())
}

/// A register, and what becomes of its swaps.
#[derive(Clone)]
struct Scripted {
    register: Local,
    clock: ManualClock,
    script: Arc<Mutex<Vec<Fate>>>,
    asked: Arc<AtomicUsize>,
    /// The fate of all other swaps.
    always: Arc<Mutex<Option<Fate>>>,
    connections: Arc<AtomicUsize>,
    goes_on: Arc<tokio::sync::Notify>,
    timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is made, and nobody is told.
    AnswerLost,
    /// It never arrives.
    RequestLost,
    Refused,
    /// It is made after a while.
    Late,
    /// It is made once the test says so.
    Held,
}

impl Scripted {
    fn new(clock: &ManualClock) -> Self {
        Self {
            register: Local::new(clock.clone()),
            clock: clock.clone(),
            script: Arc::default(),
            asked: Arc::default(),
            always: Arc::default(),
            connections: Arc::default(),
            goes_on: Arc::default(),
            timeout: Duration::from_secs(1),
        }
    }

    /// The fates of the next swaps, the last first.
    fn play(&self, fates: &[Fate]) {
        *self.script.lock() = fates.to_vec();
    }

    /// How many round trips something takes.
    fn trips(&self, work: impl FnOnce()) -> usize {
        let before = self.asked.load(Ordering::SeqCst);
        work();
        self.asked.load(Ordering::SeqCst) - before
    }
}

impl Register for Scripted {
    async fn load(&self, id: RecordId) -> Result<Loaded, Refused> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.register.load(id).await
    }

    async fn swap(
        &self,
        id: RecordId,
        expected: Option<Version>,
        new: Value,
        ends_at_ms: u64,
    ) -> Result<Swapped, Refused> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let fate = self.script.lock().pop().or(*self.always.lock());
        let lost = "the connection broke";
        match fate {
            Some(Fate::Refused) => Err(Refused::unchanged(lost)),
            Some(Fate::RequestLost) => Err(Refused::unknown(lost)),
            Some(Fate::AnswerLost) => {
                self.register.swap(id, expected, new, ends_at_ms).await?;
                Err(Refused::unknown(lost))
            }
            Some(Fate::Held) => {
                self.goes_on.notified().await;
                self.register.swap(id, expected, new, ends_at_ms).await
            }
            Some(Fate::Late) => {
                self.clock.advance(Duration::from_millis(40));
                self.register.swap(id, expected, new, ends_at_ms).await
            }
            None => self.register.swap(id, expected, new, ends_at_ms).await,
        }
    }

    async fn sweep(&self) -> Result<u64, Refused> {
        self.register.sweep().await
    }

    async fn scan(&self, from: Option<Cursor>, most: usize) -> Result<Page, Refused> {
        self.register.scan(from, most).await
    }

    /// The pauses after what was lost are parts of it.
    fn timeout(&self) -> Duration {
        self.timeout
    }

    fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst) as u64
    }
}

#[test]
fn of_nodes_that_begin_a_key_at_once_one_is_granted_it() {
    const NODES: usize = 4;
    const KEYS: usize = 200;
    let clock = ManualClock::new();
    let register = Local::new(clock.clone());
    let nodes: Vec<Node> = (0..NODES)
        .map(|_| Node::new(register.clone(), &clock))
        .collect();
    let begin_all = |node: &Node| -> Vec<(usize, u64)> {
        let granted = (0..KEYS).filter_map(|key| match node.begin(&key.to_string()) {
            Verdict::Proceed(grant) => Some((key, grant.token)),
            Verdict::InFlight(_) => None,
            other => panic!("{other:?}"),
        });
        granted.collect()
    };
    let granted: Vec<(usize, u64)> = thread::scope(|scope| {
        let threads: Vec<_> = nodes
            .iter()
            .map(|node| scope.spawn(|| begin_all(node)))
            .collect();
        let granted = threads.into_iter().map(|thread| thread.join().unwrap());
        granted.flatten().collect()
    });
    let keys: HashSet<usize> = granted.iter().map(|(key, _)| *key).collect();
    assert_eq!((granted.len(), keys.len()), (KEYS, KEYS));
    // Whichever node has the guard's token.
    for (key, token) in granted {
        let name = key.to_string();
        assert_eq!(nodes[key % NODES].complete(&name, token), Verdict::Done);
        let replay = Verdict::Replay(Reply::new(201, "body"));
        assert!(nodes.iter().all(|node| node.begin(&name) == replay));
    }
}

#[test]
fn a_further_attempt_that_is_released_is_free_at_once_though_requests_arrive_late() {
    let clock = ManualClock::new();
    let register = Scripted::new(&clock);
    let node = Node::new(register.clone(), &clock);
    node.granted("key");
    clock.advance(LEASE);
    register.play(&[Fate::Late; 2]);
    let token = node.granted("key").token;
    assert_eq!(node.release("key", token), Verdict::Done);
    assert_eq!(node.granted("key").attempt, 3);
}

#[test]
fn nodes_whose_clocks_differ_by_minutes_agree_when_a_lease_ends() {
    const APART: Duration = Duration::from_secs(600);
    let server = ManualClock::new();
    let register = Local::new(server.clone());
    let ahead = ManualClock::at(server.wall() + APART);
    let behind = ManualClock::at(server.wall() - APART);
    let (first, second) = (
        Node::new(register.clone(), &ahead),
        Node::new(register, &behind),
    );
    for (one, other) in [(&first, &second), (&second, &first)] {
        let name = if std::ptr::eq(one, &raw const first) {
            "a"
        } else {
            "b"
        };
        let grant = one.granted(name);
        assert!(matches!(other.begin(name), Verdict::InFlight(_)));
        let pass = |time| [&server, &ahead, &behind].map(|clock: &ManualClock| clock.advance(time));
        pass(JUST_UNDER_LEASE);
        assert!(matches!(other.begin(name), Verdict::InFlight(_)));
        pass(Duration::from_millis(1));
        let taken_over = other.granted(name);
        assert_eq!(taken_over.attempt, 2);
        assert!(taken_over.token > grant.token);
        let lost = Verdict::LeaseLost(Holder::InFlight { attempt: 2 });
        assert_eq!(one.complete(name, grant.token), lost);
    }
}

/// A machine that sleeps has a monotonic clock that stands still.
#[test]
fn a_node_that_has_slept_gives_its_lease_its_whole_length_all_the_same() {
    let server = ManualClock::new();
    let register = Local::new(server.clone());
    let (sleepy, other) = (
        Node::new(register.clone(), &ManualClock::new()),
        Node::new(register, &server),
    );
    let just_under = |node: &Node, name: &str| {
        server.advance(JUST_UNDER_LEASE);
        assert!(matches!(node.begin(name), Verdict::InFlight(_)));
        server.advance(Duration::from_millis(1));
        assert_eq!(node.granted(name).attempt, 2);
    };
    server.advance(Duration::from_secs(3_600));
    let grant = sleepy.granted("begun");
    let begun_at = now(&server);
    assert_eq!(grant.lease_until, begun_at.plus(LEASE));
    just_under(&other, "begun");
    let grant = sleepy.granted("renewed");
    server.advance(JUST_UNDER_LEASE);
    let token = grant.token;
    let renewed = sleepy.ask(
        "renewed",
        Command::Renew {
            token,
            lease: LEASE,
        },
    );
    let lease_until = now(&server).plus(LEASE);
    assert_eq!(renewed, Verdict::Renewed { lease_until });
    just_under(&other, "renewed");
}

#[test]
fn a_node_that_has_slept_keeps_a_reply_for_its_whole_retention() {
    let server = ManualClock::new();
    let register = Local::new(server.clone());
    let sleepy = Node::new(register.clone(), &ManualClock::new());
    let other = Node::new(register, &server);
    let token = sleepy.granted("key").token;
    server.advance(RETENTION / 2);
    assert!(matches!(sleepy.complete("key", token), Verdict::Done));
    server.advance(JUST_UNDER_RETENTION);
    assert!(matches!(other.begin("key"), Verdict::Replay(_)));
    server.advance(Duration::from_millis(1));
    assert_eq!(other.granted("key").attempt, 1);
}

/// A register that removes a cell as soon as it has ended.
struct Expiring(Local);

impl Register for Expiring {
    async fn load(&self, id: RecordId) -> Result<Loaded, Refused> {
        self.0.sweep().await?;
        self.0.load(id).await
    }

    async fn swap(
        &self,
        id: RecordId,
        expected: Option<Version>,
        new: Value,
        ends_at_ms: u64,
    ) -> Result<Swapped, Refused> {
        self.0.sweep().await?;
        self.0.swap(id, expected, new, ends_at_ms).await
    }

    async fn sweep(&self) -> Result<u64, Refused> {
        self.0.sweep().await
    }

    async fn scan(&self, from: Option<Cursor>, most: usize) -> Result<Page, Refused> {
        self.0.scan(from, most).await
    }
}

#[test]
fn a_reply_whose_retention_was_over_before_it_was_written_is_kept_for_its_whole_retention() {
    let minute = Duration::from_secs(60);
    let server = ManualClock::new();
    let register = Local::new(server.clone());
    let sleepy = Node::new(Expiring(register.clone()), &ManualClock::new());
    let other = Node::new(Expiring(register), &server);
    let token = sleepy.granted("key").token;
    server.advance(minute);
    let completion = Command::Complete {
        token,
        reply: Reply::new(201, "body"),
        retention: Duration::from_secs(1),
    };
    assert!(matches!(sleepy.ask("key", completion), Verdict::Done));
    assert!(matches!(other.begin("key"), Verdict::Replay(_)));
    server.advance(minute);
    assert_eq!(other.granted("key").attempt, 1);
}

#[test]
fn a_node_that_has_slept_gives_no_lower_token_than_others_have_given() {
    let server = ManualClock::new();
    let register = Local::new(server.clone());
    let sleepy = Node::new(register.clone(), &ManualClock::new());
    let other = Node::new(register, &server);
    server.advance(RETENTION);
    let earlier = other.granted("key").token;
    other.complete("key", earlier);
    server.advance(RETENTION);
    assert_ne!(other.0.sweep().unwrap().records, 0);
    let grant = sleepy.granted("key");
    assert!(grant.token > earlier);
    assert_eq!(grant.attempt, 1);
    assert_eq!(grant.lease_until, now(&server).plus(LEASE));
}

#[test]
fn a_change_whose_answer_or_request_is_lost_is_made_once() {
    let clock = ManualClock::new();
    let register = Scripted::new(&clock);
    let (node, other) = (
        Node::new(register.clone(), &clock),
        Node::new(register.register.clone(), &clock),
    );
    for fates in [
        &[Fate::AnswerLost][..],
        &[Fate::RequestLost],
        &[Fate::AnswerLost, Fate::RequestLost],
        &[Fate::RequestLost, Fate::AnswerLost],
        // What refuses the second time doesn't undo the first.
        &[Fate::Refused, Fate::AnswerLost],
    ] {
        let name = format!("{fates:?}");
        register.play(fates);
        let grant = node.granted(&name);
        assert_eq!(grant.attempt, 1);
        assert!(matches!(other.begin(&name), Verdict::InFlight(_)));
        register.play(fates);
        assert_eq!(node.complete(&name, grant.token), Verdict::Done);
        assert!(matches!(other.begin(&name), Verdict::Replay(_)));
    }
}

#[test]
fn without_an_answer_nothing_is_granted_and_what_was_made_is_released() {
    let clock = ManualClock::new();
    let register = Scripted::new(&clock);
    let node = Node::new(register.clone(), &clock);
    let error = |name| node.asked(name, node.begin_command()).unwrap_err();
    register.play(&[Fate::Refused]);
    assert_eq!(error("refused").kind(), ErrorKind::Unavailable);
    assert_eq!(node.granted("refused").attempt, 1);
    register.play(&[Fate::RequestLost; MOST_TRIES]);
    assert_eq!(error("lost").kind(), ErrorKind::Unavailable);
    register.play(&[]);
    assert_eq!(node.granted("lost").attempt, 1);
    register.play(&[Fate::AnswerLost; MOST_TRIES]);
    // The first was made, and the others found it so.
    assert_eq!(error("made").kind(), ErrorKind::Unavailable);
    register.play(&[]);
    // Nobody has its guard: the key is free long before the lease ends.
    assert_eq!(granted_soon(&node, "made").attempt, 1);
}

#[test]
fn tokens_of_a_key_rise_across_nodes_releases_and_sweeps() {
    let server = ManualClock::new();
    let register = Local::new(server.clone());
    let nodes = [0, 1].map(|_| Node::new(register.clone(), &server));
    let mut last = 0;
    for round in 0..40 {
        let node = &nodes[round % 2];
        let grant = node.granted("key");
        assert!(grant.token > last, "{round}");
        last = grant.token;
        match round % 4 {
            0 => assert_eq!(node.release("key", grant.token), Verdict::Done),
            1 => {
                assert_eq!(node.complete("key", grant.token), Verdict::Done);
                assert_eq!(node.ask("key", Command::Forget), Verdict::Done);
            }
            2 => {
                assert_eq!(node.complete("key", grant.token), Verdict::Done);
                server.advance(RETENTION);
                node.0.sweep().unwrap();
            }
            _ => server.advance(LEASE + RETENTION),
        }
    }
}

/// The other node has counted less far in the same millisecond.
#[test]
fn a_token_that_was_freed_and_swept_at_once_is_not_handed_out_again() {
    let server = ManualClock::new();
    let register = Local::new(server.clone());
    let [one, other] = [0, 1].map(|_| Node::new(register.clone(), &server));
    for key in 0..10 {
        one.granted(&key.to_string());
    }
    let grant = one.granted("key");
    assert_eq!(one.release("key", grant.token), Verdict::Done);
    one.0.sweep().unwrap();
    assert!(other.granted("key").token > grant.token);
}

#[test]
fn a_guard_that_is_long_over_is_told_who_has_its_key_now() {
    let server = ManualClock::new();
    let register = Local::new(server.clone());
    let [one, other] = [0, 1].map(|_| Node::new(register.clone(), &server));
    let late = one.granted("key");
    server.advance(LEASE + RETENTION);
    assert_eq!(other.granted("key").attempt, 1);
    let lost = Verdict::LeaseLost(Holder::InFlight { attempt: 1 });
    assert_eq!(one.complete("key", late.token), lost);
}

#[test]
fn the_usual_commands_take_one_round_trip() {
    let clock = ManualClock::new();
    let register = Scripted::new(&clock);
    let node = Node::new(register.clone(), &clock);
    let mut grant = None;
    assert_eq!(register.trips(|| grant = Some(node.granted("key"))), 1);
    let token = grant.unwrap().token;
    assert_eq!(register.trips(|| drop(node.begin("key"))), 1, "in flight");
    let renew = Command::Renew {
        token,
        lease: LEASE,
    };
    assert_eq!(register.trips(|| drop(node.ask("key", renew))), 1, "renew");
    assert_eq!(
        register.trips(|| drop(node.complete("key", token))),
        1,
        "complete"
    );
    assert_eq!(register.trips(|| drop(node.begin("key"))), 1, "replay");
    let token = node.granted("other").token;
    assert_eq!(
        register.trips(|| drop(node.release("other", token))),
        1,
        "release"
    );
    node.granted("abandoned");
    clock.advance(LEASE);
    assert_eq!(
        register.trips(|| assert_eq!(node.granted("abandoned").attempt, 2)),
        2,
        "taken over"
    );
}

#[test]
fn everything_can_be_walked_through_though_it_takes_several_pages() {
    let clock = ManualClock::new();
    let node = Node::new(Local::new(clock.clone()), &clock);
    for key in 0..2_500 {
        let name = key.to_string();
        let grant = node.granted(&name);
        if key % 2 == 0 {
            node.complete(&name, grant.token);
        }
    }
    let exported: Vec<_> = node.0.export().flatten().collect();
    assert_eq!(exported.len(), 2_500);
    assert!(exported.iter().all(Result::is_ok));
    assert_eq!(node.0.in_flight().unwrap().len(), 1_250);
    let found = node.0.verify(&mut |_| ()).unwrap();
    assert_eq!((found.entries, found.is_sound()), (2_500, true));
    // Those that were abandoned are remembered for a retention after their lease.
    clock.advance(LEASE + RETENTION);
    assert_eq!(node.0.export().flatten().count(), 0);
    assert_eq!(node.0.sweep().unwrap().records, 2_500);
}

#[test]
fn attempts_that_were_abandoned_take_no_memory_for_good() {
    let clock = ManualClock::new();
    let node = Node::new(Local::new(clock.clone()), &clock);
    let late = node.granted("late");
    node.granted("abandoned");
    assert_eq!(node.0.figures().in_flight, 2);
    clock.advance(LEASE);
    node.0.sweep().unwrap();
    assert_eq!(node.0.figures().in_flight, 0);
    assert_eq!(node.complete("late", late.token), Verdict::Done);
}

#[test]
fn a_cell_in_another_ones_place_is_damage() {
    let clock = ManualClock::new();
    let register = Local::new(clock.clone());
    let node = Node::new(register.clone(), &clock);
    let grant = node.granted("key");
    assert_eq!(node.complete("key", grant.token), Verdict::Done);
    let id = |name| RecordId(node.0.secret().digest(&Key::new("tenant", name).unwrap()));
    let loaded = futures::executor::block_on(register.load(id("key")));
    let moved = register.swap(id("other"), None, loaded.unwrap().value.unwrap(), u64::MAX);
    assert!(matches!(
        futures::executor::block_on(moved),
        Ok(Swapped::Done { .. })
    ));
    let error = node.asked("other", node.begin_command()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let found = node.0.verify(&mut |_| ()).unwrap();
    assert_eq!(found.problems.len(), 1);
}

#[test]
fn after_the_close_nothing_is_decided() {
    let clock = ManualClock::new();
    let node = Node::new(Local::new(clock.clone()), &clock);
    let grant = node.granted("key");
    node.0.close().unwrap();
    let completion = Command::Complete {
        token: grant.token,
        reply: Reply::new(200, ""),
        retention: RETENTION,
    };
    for command in [node.begin_command(), completion] {
        let error = node.asked("key", command).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed);
    }
    assert_eq!(node.0.sweep().unwrap_err().kind(), ErrorKind::Closed);
    node.0.close().unwrap();
}
