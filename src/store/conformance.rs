//! One suite for every store: each row of the decision table, through the store's own doors.

use std::sync::Arc;
use std::time::Duration;

use super::embedded::{self, Embedded};
use super::memory::Memory;
use super::register::{Caching, Local, RegisterStore, connect};
use super::{Answer, Glance, Observed, Observer, Reads, Request, Rules, Store};
use crate::clock::{ManualClock, Timeline, Timer, Timestamp};
use crate::decision::{Command, Grant, Holder, Limit, Verdict};
use crate::fingerprint::Fingerprint;
use crate::key::Key;
use crate::observe::Meters;
use crate::outcome::{OnAbandon, Resolution};
use crate::progress::OnProgress;
use crate::record::Record;
use crate::reply::Reply;
use crate::secret::Secret;

const LEASE: Duration = Duration::from_secs(120);
const RETENTION: Duration = Duration::from_secs(86_400);
const MS: Duration = Duration::from_millis(1);
const JUST_UNDER_LEASE: Duration = Duration::from_millis(119_999);
const JUST_UNDER_RETENTION: Duration = Duration::from_millis(86_399_999);

/// A store on a clock that the test moves.
pub(super) struct Bench {
    pub(super) store: Arc<dyn Store>,
    /// The same, if it is one.
    pub(super) embedded: Option<Arc<Embedded>>,
    clock: ManualClock,
    timer: Timer,
    _folder: Option<tempfile::TempDir>,
}

#[derive(Debug)]
struct Nobody;

impl Observer for Nobody {
    fn changed(&self, _digest: &crate::secret::Digest, _now: Observed) {}

    fn interrupted(&self) {}

    fn stopped(&self) {}
}

fn rules(on_abandon: OnAbandon, max_live_keys: u64) -> Rules {
    Rules {
        on_abandon,
        max_live_keys,
        max_live_keys_per_scope: None,
        retention: RETENTION,
        keeps_keys: true,
    }
}

/// One node on a register.
fn register(on_abandon: OnAbandon) -> Bench {
    let clock = ManualClock::new();
    let server = Timeline::new(Arc::new(clock.clone()), Timestamp(0));
    let connected = connect(Local::new(server), None, Arc::new(clock.clone())).unwrap();
    let (timer, _) = Timer::start(connected.timeline().clone()).unwrap();
    let rules = rules(on_abandon, u64::MAX);
    let caching = Caching {
        bytes: 1 << 20,
        time: RETENTION,
    };
    let meters = Meters::new("test");
    let store = RegisterStore::start(connected, rules, caching, meters, Arc::new(Nobody));
    Bench::of(Arc::new(store), clock, timer)
}

fn memory(on_abandon: OnAbandon, max_live_keys: u64) -> Bench {
    let clock = ManualClock::new();
    let timeline = Timeline::new(Arc::new(clock.clone()), Timestamp(0));
    let (timer, _) = Timer::start(timeline.clone()).unwrap();
    let store = Memory::new(
        Secret::derive(b"secret"),
        timeline,
        rules(on_abandon, max_live_keys),
        Arc::new(Nobody),
    );
    Bench::of(Arc::new(store), clock, timer)
}

pub(super) fn embedded(
    on_abandon: OnAbandon,
    max_live_keys: u64,
    segment_entries: u64,
    replay_cache_bytes: usize,
) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::new();
    let settings = embedded::Settings {
        clock: Arc::new(clock.clone()),
        on_abandon,
        sweep_interval: Duration::from_secs(60),
        queue_depth: 16,
        queue_wait: Duration::from_secs(1),
        lock_wait: Duration::ZERO,
        cache_bytes: 1 << 20,
        replay_cache_bytes,
        segment_entries,
        segment_bytes: 1 << 20,
        max_disk_bytes: None,
        counts_scopes: false,
        cipher: None,
        merge_above: 4,
        pepper: None,
        is_restored: false,
        progress: OnProgress::default(),
        meters: Meters::new("test"),
    };
    let recovered = embedded::recover(&folder.path().join("store"), &settings).unwrap();
    let (timer, _) = Timer::start(recovered.timeline().clone()).unwrap();
    let started = Embedded::start(
        recovered,
        timer.clone(),
        rules(on_abandon, max_live_keys),
        Arc::new(Nobody),
    );
    let store = Arc::new(started.unwrap());
    Bench {
        store: Arc::clone(&store) as _,
        embedded: Some(store),
        clock,
        timer,
        _folder: Some(folder),
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.store.close().unwrap();
        self.timer.stop();
    }
}

impl Bench {
    /// Of a store without files.
    fn of(store: Arc<dyn Store>, clock: ManualClock, timer: Timer) -> Self {
        Self {
            store,
            embedded: None,
            clock,
            timer,
            _folder: None,
        }
    }

    pub(super) fn ask_key(&self, key: &str, command: Command) -> Verdict {
        let key = Key::new("tenant", key).unwrap();
        let digest = self.store.secret().digest(&key);
        let seen = match self.store.glance(&digest, &command, Reads::Here).unwrap() {
            Glance::Decided(verdict) => return verdict,
            Glance::Write(seen) => seen,
            Glance::Read => unreachable!("a read may happen here"),
        };
        let request = Request {
            key,
            digest,
            command,
            seen,
        };
        let (answer, pending) = Answer::new(Arc::downgrade(&self.store), &request);
        self.store.submit(request, answer);
        futures::executor::block_on(pending).unwrap().unwrap()
    }

    fn ask(&self, command: Command) -> Verdict {
        self.ask_key("key", command)
    }

    pub(super) fn begin_command(&self, request: &str) -> Command {
        Command::Begin {
            takes_over: None,
            fingerprint: self.store.secret().seal(&Fingerprint::of(request)),
            lease: LEASE,
            retention: RETENTION,
        }
    }

    fn begin(&self, request: &str) -> Verdict {
        self.ask(self.begin_command(request))
    }

    fn granted(&self, request: &str) -> Grant {
        match self.begin(request) {
            Verdict::Proceed(grant) => grant,
            other => panic!("not granted: {other:?}"),
        }
    }

    fn complete(&self, token: u64, body: &'static str) -> Verdict {
        self.ask(Command::Complete {
            token,
            reply: Reply::new(201, body),
            retention: RETENTION,
        })
    }

    fn renew(&self, token: u64) -> Verdict {
        self.ask(Command::Renew {
            token,
            lease: LEASE,
        })
    }

    fn release(&self, token: u64) -> Verdict {
        self.ask(Command::Release { token })
    }

    fn record(&self) -> Option<Record> {
        let digest = self
            .store
            .secret()
            .digest(&Key::new("tenant", "key").unwrap());
        let stored = self.store.load(&digest).unwrap();
        stored.map(|stored| stored.record)
    }

    fn is_in_flight(&self, request: &str, held: bool) -> bool {
        match self.begin(request) {
            Verdict::InFlight(in_flight) => in_flight.is_held() == held,
            _ => false,
        }
    }

    fn is_replayed(&self, request: &str, body: &'static str) -> bool {
        self.begin(request) == Verdict::Replay(Reply::new(201, body))
    }

    fn past_lease(&self) {
        self.clock.advance(LEASE);
    }
}

type Make = fn(OnAbandon) -> Bench;

fn an_absent_key_is_granted_as_attempt_1(make: Make) {
    let bench = make(OnAbandon::Rerun);
    let grant = bench.granted("request");
    assert_eq!(grant.attempt, 1);
    let Some(Record::InFlight(record)) = bench.record() else {
        panic!("no record");
    };
    assert_eq!(record.token, grant.token);
    assert_eq!(record.lease_until, record.started_at.plus(LEASE));
}

fn a_key_past_its_retention_is_granted_as_attempt_1(make: Make) {
    let bench = make(OnAbandon::Rerun);
    let first = bench.granted("request");
    bench.complete(first.token, "a");
    bench.clock.advance(JUST_UNDER_RETENTION);
    assert!(bench.is_replayed("request", "a"));
    bench.clock.advance(MS);
    let second = bench.granted("other");
    assert_eq!(second.attempt, 1);
    assert!(second.token > first.token);
}

fn another_fingerprint_conflicts_whatever_the_state(make: Make) {
    let bench = make(OnAbandon::Rerun);
    let grant = bench.granted("request");
    assert!(matches!(bench.begin("other"), Verdict::Conflict(_)));
    bench.past_lease();
    assert!(matches!(bench.begin("other"), Verdict::Conflict(_)));
    bench.complete(grant.token, "a");
    assert!(matches!(bench.begin("other"), Verdict::Conflict(_)));
}

fn a_running_attempt_is_in_flight_to_the_last_millisecond(make: Make) {
    let bench = make(OnAbandon::Rerun);
    bench.granted("request");
    assert!(bench.is_in_flight("request", false));
    bench.clock.advance(JUST_UNDER_LEASE);
    assert!(bench.is_in_flight("request", false));
    bench.clock.advance(MS);
    assert_eq!(bench.granted("request").attempt, 2);
}

fn a_lapsed_attempt_is_taken_over_with_a_higher_token(make: Make) {
    let bench = make(OnAbandon::Rerun);
    let mut last = bench.granted("request");
    for attempt in 2..6 {
        bench.past_lease();
        let grant = bench.granted("request");
        assert_eq!(grant.attempt, attempt);
        assert!(grant.token > last.token);
        last = grant;
    }
}

fn under_hold_a_lapsed_attempt_stays_in_flight_and_is_marked(make: Make) {
    let bench = make(OnAbandon::Hold);
    bench.granted("request");
    assert!(bench.is_in_flight("request", false));
    bench.past_lease();
    assert!(bench.is_in_flight("request", true));
    bench.clock.advance(10 * RETENTION);
    assert!(bench.is_in_flight("request", true));
    assert!(matches!(bench.begin("other"), Verdict::Conflict(_)));
}

fn a_completed_key_replays_until_it_expires(make: Make) {
    let bench = make(OnAbandon::Rerun);
    let grant = bench.granted("request");
    assert_eq!(bench.complete(grant.token, "a"), Verdict::Done);
    assert!(bench.is_replayed("request", "a"));
    bench.clock.advance(JUST_UNDER_RETENTION);
    assert!(bench.is_replayed("request", "a"));
    bench.clock.advance(MS);
    assert_eq!(bench.record(), None);
}

fn a_lapsed_attempt_that_nobody_took_over_can_complete(make: Make) {
    let bench = make(OnAbandon::Rerun);
    let grant = bench.granted("request");
    bench.past_lease();
    assert_eq!(bench.complete(grant.token, "a"), Verdict::Done);
    assert!(bench.is_replayed("request", "a"));
}

fn a_repeated_completion_is_done_and_another_reply_is_lost(make: Make) {
    let bench = make(OnAbandon::Rerun);
    let grant = bench.granted("request");
    bench.complete(grant.token, "a");
    assert_eq!(bench.complete(grant.token, "a"), Verdict::Done);
    let lost = Verdict::LeaseLost(Holder::Completed { attempt: 1 });
    assert_eq!(bench.complete(grant.token, "b"), lost);
    assert_eq!(bench.renew(grant.token), lost);
    assert_eq!(bench.release(grant.token), lost);
    assert!(bench.is_replayed("request", "a"));
}

fn a_renewal_starts_the_lease_over_lapsed_or_not(make: Make) {
    let bench = make(OnAbandon::Rerun);
    let grant = bench.granted("request");
    bench.clock.advance(JUST_UNDER_LEASE);
    assert!(matches!(bench.renew(grant.token), Verdict::Renewed { .. }));
    bench.clock.advance(JUST_UNDER_LEASE);
    assert!(bench.is_in_flight("request", false));
    bench.clock.advance(MS);
    assert!(matches!(bench.renew(grant.token), Verdict::Renewed { .. }));
    assert!(bench.is_in_flight("request", false));
}

fn a_first_attempt_that_is_released_frees_the_key(make: Make) {
    let bench = make(OnAbandon::Rerun);
    let first = bench.granted("request");
    assert_eq!(bench.release(first.token), Verdict::Done);
    assert_eq!(bench.record(), None);
    let second = bench.granted("other");
    assert_eq!(second.attempt, 1);
    assert!(second.token > first.token);
}

fn a_later_attempt_that_is_released_keeps_the_count(make: Make) {
    let bench = make(OnAbandon::Rerun);
    bench.granted("request");
    bench.past_lease();
    let second = bench.granted("request");
    assert_eq!(bench.release(second.token), Verdict::Done);
    assert!(matches!(bench.begin("other"), Verdict::Conflict(_)));
    assert_eq!(bench.granted("request").attempt, 3);
}

fn a_guard_that_was_taken_over_can_do_nothing(make: Make) {
    let bench = make(OnAbandon::Rerun);
    let first = bench.granted("request");
    bench.past_lease();
    let second = bench.granted("request");
    let before = bench.record();
    let lost = Verdict::LeaseLost(Holder::InFlight { attempt: 2 });
    assert_eq!(bench.complete(first.token, "a"), lost);
    assert_eq!(bench.renew(first.token), lost);
    assert_eq!(bench.release(first.token), lost);
    assert_eq!(bench.record(), before);
    bench.complete(second.token, "b");
    let lost = Verdict::LeaseLost(Holder::Completed { attempt: 2 });
    assert_eq!(bench.complete(first.token, "b"), lost);
    assert!(bench.is_replayed("request", "b"));
}

fn a_guard_whose_record_is_gone_can_do_nothing(make: Make) {
    let bench = make(OnAbandon::Rerun);
    let grant = bench.granted("request");
    bench.release(grant.token);
    let lost = Verdict::LeaseLost(Holder::Nobody);
    assert_eq!(bench.complete(grant.token, "a"), lost);
    assert_eq!(bench.renew(grant.token), lost);
    assert_eq!(bench.release(grant.token), lost);
    assert_eq!(bench.record(), None);
}

fn forget_frees_what_is_completed_or_lapsed_and_refuses_what_runs(make: Make) {
    for on_abandon in [OnAbandon::Rerun, OnAbandon::Hold] {
        let bench = make(on_abandon);
        assert_eq!(bench.ask(Command::Forget), Verdict::Nothing);
        let grant = bench.granted("request");
        assert_eq!(bench.ask(Command::Forget), Verdict::Running);
        bench.complete(grant.token, "a");
        assert_eq!(bench.ask(Command::Forget), Verdict::Done);
        assert_eq!(bench.record(), None);
        let grant = bench.granted("other");
        bench.past_lease();
        assert_eq!(bench.ask(Command::Forget), Verdict::Done);
        let lost = Verdict::LeaseLost(Holder::Nobody);
        assert_eq!(bench.complete(grant.token, "a"), lost);
    }
}

fn resolve_settles_what_is_lapsed_and_nothing_else(make: Make) {
    for on_abandon in [OnAbandon::Rerun, OnAbandon::Hold] {
        let bench = make(on_abandon);
        let reply = Resolution::Complete(Reply::new(201, "resolved"));
        let resolve = |resolution: &Resolution| bench.ask(Command::Resolve(resolution.clone()));
        assert_eq!(resolve(&reply), Verdict::Nothing);
        let grant = bench.granted("request");
        assert_eq!(resolve(&reply), Verdict::Running);
        bench.past_lease();
        assert_eq!(resolve(&reply), Verdict::Done);
        assert!(bench.is_replayed("request", "resolved"));
        assert_eq!(resolve(&Resolution::Release), Verdict::Nothing);
        let lost = Verdict::LeaseLost(Holder::Completed { attempt: 1 });
        assert_eq!(bench.complete(grant.token, "late"), lost);
        bench.ask(Command::Forget);
        bench.granted("request");
        bench.past_lease();
        assert_eq!(resolve(&Resolution::Release), Verdict::Done);
        assert_eq!(bench.granted("other").attempt, 1);
    }
}

fn an_attempt_abandoned_for_a_retention_is_absent(make: Make) {
    let bench = make(OnAbandon::Rerun);
    let grant = bench.granted("request");
    bench.clock.advance(JUST_UNDER_RETENTION);
    assert!(matches!(bench.begin("other"), Verdict::Conflict(_)));
    bench.clock.advance(MS);
    assert_eq!(bench.record(), None);
    let lost = Verdict::LeaseLost(Holder::Nobody);
    assert_eq!(bench.complete(grant.token, "a"), lost);
    assert_eq!(bench.granted("other").attempt, 1);
}

fn an_attempt_that_is_renewed_past_the_retention_lives(make: Make) {
    let bench = make(OnAbandon::Rerun);
    let grant = bench.granted("request");
    bench.clock.advance(JUST_UNDER_RETENTION);
    bench.renew(grant.token);
    bench.clock.advance(JUST_UNDER_LEASE);
    assert!(bench.is_in_flight("request", false));
    bench.store.sweep().unwrap();
    assert!(bench.is_in_flight("request", false));
    bench.clock.advance(MS);
    assert_eq!(bench.record(), None);
}

fn tokens_rise_and_are_never_used_again(make: Make) {
    let bench = make(OnAbandon::Rerun);
    let mut last = 0;
    for round in 0..50 {
        let key = format!("key {}", round % 7);
        if let Verdict::Proceed(grant) = bench.ask_key(&key, bench.begin_command("request")) {
            assert!(grant.token > last);
            last = grant.token;
            if round % 3 == 0 {
                bench.ask_key(&key, Command::Release { token: last });
            }
        }
        bench.past_lease();
    }
}

fn a_lapsed_attempt_that_nobody_took_over_can_be_released(make: Make) {
    let bench = make(OnAbandon::Rerun);
    let first = bench.granted("request");
    bench.past_lease();
    assert_eq!(bench.release(first.token), Verdict::Done);
    assert_eq!(bench.record(), None);
    bench.granted("request");
    bench.past_lease();
    let second = bench.granted("request");
    bench.past_lease();
    assert_eq!(bench.release(second.token), Verdict::Done);
    assert_eq!(bench.granted("request").attempt, 3);
}

fn nothing_can_be_done_with_an_answer_that_has_expired(make: Make) {
    let bench = make(OnAbandon::Rerun);
    let grant = bench.granted("request");
    bench.complete(grant.token, "a");
    bench.clock.advance(RETENTION);
    let lost = Verdict::LeaseLost(Holder::Nobody);
    assert_eq!(bench.complete(grant.token, "a"), lost);
    assert_eq!(bench.renew(grant.token), lost);
    assert_eq!(bench.release(grant.token), lost);
    assert_eq!(bench.ask(Command::Forget), Verdict::Nothing);
    let resolve = Command::Resolve(Resolution::Release);
    assert_eq!(bench.ask(resolve), Verdict::Nothing);
}

fn a_sweep_removes_what_is_over_and_nothing_else(make: Make) {
    let bench = make(OnAbandon::Rerun);
    for key in 0..20 {
        let key = key.to_string();
        let Verdict::Proceed(grant) = bench.ask_key(&key, bench.begin_command("request")) else {
            panic!("not granted");
        };
        let complete = Command::Complete {
            token: grant.token,
            reply: Reply::new(200, "old"),
            retention: RETENTION,
        };
        bench.ask_key(&key, complete);
    }
    bench.clock.advance(RETENTION / 2);
    let young = bench.granted("request");
    bench.complete(young.token, "young");
    bench.clock.advance(RETENTION / 2);
    bench.store.sweep().unwrap();
    assert!(bench.is_replayed("request", "young"));
    bench.clock.advance(RETENTION);
    bench.store.sweep().unwrap();
    assert_eq!(bench.record(), None);
    assert!(bench.store.in_flight().is_empty());
}

fn a_new_key_at_the_limit_is_refused_and_a_known_one_is_not(bench: &Bench) {
    let grant = bench.granted("request");
    let begin = || bench.ask_key("new", bench.begin_command("request"));
    assert_eq!(begin(), Verdict::Full(Limit::LiveKeys));
    assert!(bench.is_in_flight("request", false));
    bench.past_lease();
    assert_eq!(bench.granted("request").attempt, 2);
    assert_eq!(begin(), Verdict::Full(Limit::LiveKeys));
    assert!(matches!(
        bench.complete(grant.token, "a"),
        Verdict::LeaseLost(_)
    ));
    bench.past_lease();
    let third = bench.granted("request");
    bench.complete(third.token, "a");
    assert!(bench.is_replayed("request", "a"));
    assert!(matches!(bench.begin("other"), Verdict::Conflict(_)));
    assert_eq!(begin(), Verdict::Full(Limit::LiveKeys));
    // Its own expired record is no reason to refuse a key.
    bench.clock.advance(RETENTION);
    let fourth = bench.granted("request");
    bench.complete(fourth.token, "b");
    assert_eq!(bench.ask(Command::Forget), Verdict::Done);
    assert!(matches!(begin(), Verdict::Proceed(_)));
}

macro_rules! conformance {
    ($store:ident, $make:expr) => {
        mod $store {
            use super::*;

            conformance!(@tests $make;
                an_absent_key_is_granted_as_attempt_1
                a_key_past_its_retention_is_granted_as_attempt_1
                another_fingerprint_conflicts_whatever_the_state
                a_running_attempt_is_in_flight_to_the_last_millisecond
                a_lapsed_attempt_is_taken_over_with_a_higher_token
                under_hold_a_lapsed_attempt_stays_in_flight_and_is_marked
                a_completed_key_replays_until_it_expires
                a_lapsed_attempt_that_nobody_took_over_can_complete
                a_repeated_completion_is_done_and_another_reply_is_lost
                a_renewal_starts_the_lease_over_lapsed_or_not
                a_first_attempt_that_is_released_frees_the_key
                a_later_attempt_that_is_released_keeps_the_count
                a_guard_that_was_taken_over_can_do_nothing
                a_guard_whose_record_is_gone_can_do_nothing
                forget_frees_what_is_completed_or_lapsed_and_refuses_what_runs
                resolve_settles_what_is_lapsed_and_nothing_else
                an_attempt_abandoned_for_a_retention_is_absent
                an_attempt_that_is_renewed_past_the_retention_lives
                tokens_rise_and_are_never_used_again
                a_sweep_removes_what_is_over_and_nothing_else
                a_lapsed_attempt_that_nobody_took_over_can_be_released
                nothing_can_be_done_with_an_answer_that_has_expired
            );
        }
    };
    (@tests $make:expr; $($test:ident)*) => {
        $(
            #[test]
            fn $test() {
                super::$test($make);
            }
        )*
    };
}

conformance!(in_memory, |on_abandon| memory(on_abandon, u64::MAX));
conformance!(on_disk, |on_abandon| embedded(
    on_abandon,
    u64::MAX,
    1_000,
    1 << 20
));
conformance!(on_disk_in_tiny_segments, |on_abandon| embedded(
    on_abandon,
    u64::MAX,
    2,
    0
));
conformance!(on_a_register, register);

#[test]
fn every_store_that_counts_its_keys_refuses_new_ones_at_the_limit() {
    for bench in [
        memory(OnAbandon::Rerun, 1),
        embedded(OnAbandon::Rerun, 1, 1_000, 1 << 20),
        embedded(OnAbandon::Rerun, 1, 2, 0),
    ] {
        a_new_key_at_the_limit_is_refused_and_a_known_one_is_not(&bench);
    }
}
