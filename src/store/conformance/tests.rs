//! The suite, on each store.

use std::sync::Arc;
use std::time::Duration;

use super::bench::{LEASE, Nobody, RETENTION, rules};
use super::{Bench, Margins};
use crate::clock::{ManualClock, Timeline, Timer, Timestamp};
use crate::decision::{Command, Limit, Verdict};
use crate::observe::Meters;
use crate::outcome::OnAbandon;
use crate::progress::OnProgress;
use crate::secret::Secret;
use crate::store::embedded::{self, Embedded};
use crate::store::memory::Memory;
use crate::testkit::Local;

const SCOPE: &str = "tenant";

/// What a store needs that has files.
struct Kept {
    timer: Timer,
    _folder: tempfile::TempDir,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.timer.stop();
    }
}

fn register(on_abandon: OnAbandon) -> Bench {
    let clock = ManualClock::new();
    let node = Arc::new(clock.clone());
    let register = Local::new(clock.clone());
    let advance = move |by| clock.advance(by);
    Bench::on_register(register, node, on_abandon, SCOPE, advance, Margins::EXACT)
}

fn memory(on_abandon: OnAbandon, max_live_keys: u64) -> Bench {
    let clock = ManualClock::new();
    let store = Memory::new(
        Secret::derive(b"secret"),
        Timeline::new(Arc::new(clock.clone()), Timestamp(0)),
        rules(on_abandon, max_live_keys),
        Arc::new(Nobody),
    );
    let advance = move |by| clock.advance(by);
    Bench::new(Arc::new(store), SCOPE, advance, Margins::EXACT, ())
}

fn disk(on_abandon: OnAbandon, max_live_keys: u64) -> Bench {
    embedded(on_abandon, max_live_keys, 1_000, 1 << 20).0
}

fn tiny_segments(on_abandon: OnAbandon, max_live_keys: u64) -> Bench {
    embedded(on_abandon, max_live_keys, 2, 0).0
}

pub(in crate::store) fn embedded(
    on_abandon: OnAbandon,
    max_live_keys: u64,
    segment_entries: u64,
    replay_cache_bytes: usize,
) -> (Bench, Arc<Embedded>) {
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
        accepts_damage: None,
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
    let kept = Kept {
        timer,
        _folder: folder,
    };
    let advance = move |by| clock.advance(by);
    let shared = Arc::clone(&store) as _;
    let bench = Bench::new(shared, SCOPE, advance, Margins::EXACT, kept);
    (bench, store)
}

macro_rules! tests {
    (($store:ident $make:expr) $($room:ident: $($name:ident)*;)*) => {
        mod $store {
            use super::*;

            $($(
                #[test]
                fn $name() {
                    super::super::$room::$name(&$make);
                }
            )*)*
        }
    };
}

super::with_scenarios!(tests in_memory |on_abandon| memory(on_abandon, u64::MAX));
super::with_scenarios!(tests on_disk |on_abandon| disk(on_abandon, u64::MAX));
super::with_scenarios!(tests on_disk_in_tiny_segments |on_abandon| {
    tiny_segments(on_abandon, u64::MAX)
});
super::with_scenarios!(tests on_a_register register);

#[test]
fn every_store_that_counts_its_keys_refuses_new_ones_at_the_limit() {
    for make in [memory, disk, tiny_segments] {
        a_new_key_at_the_limit_is_refused_and_a_known_one_is_not(&make(OnAbandon::Rerun, 1));
    }
}

fn a_new_key_at_the_limit_is_refused_and_a_known_one_is_not(bench: &Bench) {
    let grant = bench.granted("request");
    let begin = || bench.ask_key("new", bench.begin_command("request"));
    assert_eq!(begin(), Verdict::Full(Limit::LiveKeys));
    assert!(bench.is_in_flight("request", false));
    bench.pass(LEASE);
    assert_eq!(bench.granted("request").attempt, 2);
    assert_eq!(begin(), Verdict::Full(Limit::LiveKeys));
    assert!(matches!(
        bench.complete(grant.token, "a"),
        Verdict::LeaseLost(_)
    ));
    bench.pass(LEASE);
    let third = bench.granted("request");
    bench.complete(third.token, "a");
    assert!(bench.is_replayed("request", "a"));
    assert!(matches!(bench.begin("other"), Verdict::Conflict(_)));
    assert_eq!(begin(), Verdict::Full(Limit::LiveKeys));
    // Its own expired record is no reason to refuse a key.
    bench.pass(RETENTION);
    let fourth = bench.granted("request");
    bench.complete(fourth.token, "b");
    assert_eq!(bench.ask(Command::Forget), Verdict::Done);
    assert!(matches!(begin(), Verdict::Proceed(_)));
}
