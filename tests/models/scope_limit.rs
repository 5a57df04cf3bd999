//! The limit on the keys of one scope.
//!
//! 30 sequences in `cargo test`, 1,000 with `ONCEWARD_FULL=1`.

use std::path::{Path, PathBuf};
use std::{fs, io};

use onceward::{Builder, Engine, ErrorKind, Guard, Key, Outcome, Reply, Result};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use support::engine::{Bench, LEASE, RETENTION, is_full_run, request, sealed};

fn key_of(scope: &str, name: impl std::fmt::Display) -> Key {
    Key::new(scope, name.to_string()).unwrap()
}

fn begin(engine: &Engine, key: &Key) -> Result<Guard> {
    match engine.begin(key, &request())? {
        Outcome::Proceed(guard) => Ok(guard),
        other => panic!("it was not granted: {other:?}"),
    }
}

fn is_refused(engine: &Engine, key: &Key) -> bool {
    match engine.begin(key, &request()).map(drop) {
        Err(error) if error.kind() == ErrorKind::ScopeFull => true,
        other => panic!("it was not refused: {other:?}"),
    }
}

fn complete(engine: &Engine, key: &Key) {
    let guard = begin(engine, key).unwrap();
    guard.complete(Reply::new(200, "body")).unwrap();
}

fn one_scope_leaves_room_for_others(bench: &Bench, engine: &Engine) {
    let of_one = |name| key_of("one", name);
    complete(engine, &of_one("done"));
    let running = begin(engine, &of_one("running")).unwrap();
    drop(begin(engine, &of_one("abandoned")).unwrap());
    assert!(is_refused(engine, &of_one("new")));
    let error = engine.begin(&of_one("new"), &request()).unwrap_err();
    assert!(error.is_transient());
    assert_eq!(engine.stats().refused_scope_full, 2);
    assert_eq!(engine.stats().refused_full, 0);
    assert!(engine.health().is_ready());
    // All others still have room, those without a scope as well.
    for name in 0..3 {
        complete(engine, &key_of("other", name));
        complete(engine, &Key::unscoped(name.to_string()).unwrap());
    }
    assert!(is_refused(engine, &Key::unscoped("new").unwrap()));
    // What is known goes on.
    let replayed = engine.begin(&of_one("done"), &request()).unwrap();
    assert!(matches!(replayed, Outcome::Replay(_)));
    running.complete(Reply::new(200, "")).unwrap();
    bench.clock.advance(LEASE);
    let taken_over = begin(engine, &of_one("abandoned")).unwrap();
    assert_eq!(taken_over.attempt(), 2);
    assert!(is_refused(engine, &of_one("new")));
    taken_over.complete(Reply::new(200, "")).unwrap();
    engine.forget(&of_one("done")).unwrap();
    let first = begin(engine, &of_one("new")).unwrap();
    assert!(is_refused(engine, &of_one("newer")));
    first.release().unwrap();
    complete(engine, &of_one("newer"));
    assert!(is_refused(engine, &of_one("new")));
    bench.clock.advance(2 * RETENTION);
    engine.sweep().unwrap();
    for name in 3..6 {
        complete(engine, &key_of("one", name));
    }
    assert!(is_refused(engine, &of_one("new")));
}

#[test]
fn a_scope_at_its_limit_is_refused_new_keys_and_leaves_room_for_others() {
    let bench = Bench::new();
    let builder = bench
        .builder()
        .max_live_keys_per_scope(3)
        .segment_entries(4);
    one_scope_leaves_room_for_others(&bench, &builder.clone().open(bench.path()).unwrap());
    one_scope_leaves_room_for_others(&bench, &builder.open_in_memory().unwrap());
}

#[test]
fn many_callers_at_once_get_no_key_more_than_the_limit() {
    const CALLERS: usize = 16;
    const EACH: usize = 25;
    let bench = Bench::new();
    let builder = bench.builder().max_live_keys_per_scope(100);
    let engine = builder.open(bench.path()).unwrap();
    let granted = std::thread::scope(|scope| {
        let callers = (0..CALLERS).map(|caller| {
            let engine = &engine;
            scope.spawn(move || {
                let keys = (0..EACH).map(|name| key_of("one", format!("{caller} {name}")));
                keys.filter(|key| begin(engine, key).is_ok()).count()
            })
        });
        let callers: Vec<_> = callers.collect();
        callers
            .into_iter()
            .map(|caller| caller.join().unwrap())
            .sum::<usize>()
    });
    assert_eq!(granted, 100);
}

#[test]
fn a_limit_of_no_keys_is_refused() {
    let bench = Bench::new();
    let opened = bench
        .builder()
        .max_live_keys_per_scope(0)
        .open(bench.path());
    assert_eq!(
        opened.map(drop).unwrap_err().kind(),
        ErrorKind::InvalidConfig
    );
}

/// What was begun and sealed while nobody counted doesn't count, and never takes room from what does.
#[test]
fn a_limit_that_is_new_to_a_folder_counts_what_is_not_sealed_yet() {
    let bench = Bench::new();
    let engine = bench.builder().segment_entries(4);
    let engine = engine.open(bench.path()).unwrap();
    for name in 0..5 {
        complete(&engine, &key_of("one", name));
    }
    sealed(&engine);
    // A close would seal all of it.
    let bench = bench.crashed();
    let limited = || {
        let small = bench.builder().segment_entries(4);
        small.max_live_keys_per_scope(3)
    };
    for _ in 0..2 {
        // One of them is in the log.
        let engine = limited().open(bench.path()).unwrap();
        let guards = [5, 6].map(|name| begin(&engine, &key_of("one", name)).unwrap());
        assert!(is_refused(&engine, &key_of("one", "new")));
        for guard in guards {
            guard.release().unwrap();
        }
        engine.close().unwrap();
    }
}

/// An operator's tool may open the folder without it.
#[test]
fn a_limit_that_is_left_out_for_a_while_has_counted_all_the_same() {
    let bench = Bench::new();
    let small = || bench.builder().segment_entries(4);
    let limited = || small().max_live_keys_per_scope(3);
    let engine = limited().open(bench.path()).unwrap();
    complete(&engine, &key_of("one", 1));
    engine.close().unwrap();
    let engine = small().open(bench.path()).unwrap();
    for name in 2..6 {
        complete(&engine, &key_of("one", name));
    }
    engine.forget(&key_of("one", 1)).unwrap();
    sealed(&engine);
    engine.close().unwrap();
    let engine = limited().open(bench.path()).unwrap();
    assert!(is_refused(&engine, &key_of("one", "new")));
    engine.forget(&key_of("one", 2)).unwrap();
    assert!(is_refused(&engine, &key_of("one", "new")));
    engine.forget(&key_of("one", 3)).unwrap();
    complete(&engine, &key_of("one", "new"));
}

#[test]
fn counts_that_were_damaged_or_removed_are_begun_anew() {
    for damage in [
        |path: &Path| fs::remove_file(path).unwrap(),
        |path: &Path| fs::write(path, "nonsense").unwrap(),
        // It can be neither read nor replaced nor removed.
        |path: &Path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        },
    ] {
        let bench = Bench::new();
        let limited = bench.builder().max_live_keys_per_scope(2);
        limited.clone().open(bench.path()).unwrap().close().unwrap();
        let engine = limited.clone().open(bench.path()).unwrap();
        complete(&engine, &key_of("one", 1));
        // It isn't sealed yet.
        let bench = bench.crashed();
        damage(&bench.path().join("scopes"));
        let engine = limited.clone().open(bench.path()).unwrap();
        complete(&engine, &key_of("one", 2));
        assert!(is_refused(&engine, &key_of("one", 3)));
        drop(engine.close());
        let engine = bench.builder().open(bench.path()).unwrap();
        assert!(engine.lookup(&key_of("one", 2)).unwrap().is_some());
        engine.close().unwrap();
    }
}

/// A folder that is put back beside counts of a later state.
#[test]
fn counts_of_a_later_state_of_the_folder_are_not_believed() {
    let bench = Bench::new();
    let limited = bench.builder().max_live_keys_per_scope(2);
    let engine = limited.clone().open(bench.path()).unwrap();
    complete(&engine, &key_of("one", 1));
    engine.close().unwrap();
    let restored = bench.path().with_extension("restored");
    copy(&bench.path(), &restored);
    let engine = limited.clone().open(bench.path()).unwrap();
    complete(&engine, &key_of("one", 2));
    engine.close().unwrap();
    fs::copy(bench.path().join("scopes"), restored.join("scopes")).unwrap();
    let engine = limited.open(&restored).unwrap();
    complete(&engine, &key_of("one", 2));
}

/// Copies a folder that nobody writes to but for removing files.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        match fs::copy(file.path(), to.join(file.file_name())) {
            // The journal of what was just sealed goes last.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            copied => drop(copied.unwrap()),
        }
    }
}

const SCOPES: [&str; 3] = ["one", "two", "three"];
const MOST: usize = 6;

#[derive(Clone, Debug)]
enum Step {
    Begin(usize),
    /// Of one of the guards.
    Complete(usize),
    Release(usize),
    /// A key that is completed.
    Forget(usize),
    Seal,
    Reopen,
    /// Goes on in a copy of the folder, which is as a crash would leave it.
    Crash,
    Sweep,
    /// Everything is over, and swept.
    Pass,
    /// The counts are lost; what was begun before may count or not until it is over.
    Lose,
    /// A restart without the limit, in which something is begun.
    Unlimited(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..SCOPES.len()).prop_map(Step::Begin),
        8 => any::<usize>().prop_map(Step::Complete),
        3 => any::<usize>().prop_map(Step::Release),
        3 => any::<usize>().prop_map(Step::Forget),
        1 => Just(Step::Seal),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
        1 => Just(Step::Sweep),
        1 => Just(Step::Pass),
        1 => Just(Step::Lose),
        1 => (0..SCOPES.len()).prop_map(Step::Unlimited),
    ]
}

struct Run {
    bench: Bench,
    engine: Option<Engine>,
    path: PathBuf,
    guards: Vec<(usize, Guard)>,
    completed: Vec<(usize, Key)>,
    live: [usize; SCOPES.len()],
    begun: usize,
    /// Whether some of the live keys may not count.
    has_lost: bool,
}

impl Run {
    fn new() -> Self {
        let bench = Bench::in_memory();
        let path = bench.path();
        let mut run = Self {
            bench,
            engine: None,
            path,
            guards: Vec::new(),
            completed: Vec::new(),
            live: [0; SCOPES.len()],
            begun: 0,
            has_lost: false,
        };
        run.open();
        run
    }

    fn builder(&self) -> Builder {
        self.unlimited().max_live_keys_per_scope(MOST as u64)
    }

    fn unlimited(&self) -> Builder {
        self.bench.builder().segment_entries(6).merge_above(4)
    }

    fn open(&mut self) {
        self.engine = Some(self.builder().open(&self.path).unwrap());
        // Their engine is gone; their keys are in flight.
        self.guards.clear();
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    fn crash(&mut self) {
        let copied = self.path.with_extension(self.begun.to_string());
        if copied.exists() {
            return;
        }
        let engine = self.engine.take().unwrap();
        // Nothing is merged as long as somebody exports; nothing is rolled after this sweep, nor sealed after that.
        let export = engine.export();
        engine.sweep().unwrap();
        sealed(&engine);
        copy(&self.path, &copied);
        drop(export);
        drop(engine);
        self.path = copied;
        self.open();
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Begin(scope) => {
                let key = key_of(SCOPES[*scope], self.begun);
                self.begun += 1;
                let granted = begin(self.engine(), &key);
                match granted {
                    Ok(guard) => {
                        assert!(self.live[*scope] < MOST || self.has_lost);
                        self.guards.push((*scope, guard));
                        self.live[*scope] += 1;
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::ScopeFull);
                        assert!(self.live[*scope] >= MOST);
                    }
                }
            }
            Step::Complete(at) if !self.guards.is_empty() => {
                let (scope, guard) = self.guards.swap_remove(at % self.guards.len());
                self.completed.push((scope, guard.key().clone()));
                guard.complete(Reply::new(200, "body")).unwrap();
            }
            Step::Release(at) if !self.guards.is_empty() => {
                let (scope, guard) = self.guards.swap_remove(at % self.guards.len());
                guard.release().unwrap();
                self.live[scope] -= 1;
            }
            Step::Forget(at) if !self.completed.is_empty() => {
                let at = at % self.completed.len();
                let (scope, key) = self.completed.swap_remove(at);
                assert!(self.engine().forget(&key).unwrap());
                self.live[scope] -= 1;
            }
            Step::Complete(_) | Step::Release(_) | Step::Forget(_) => {}
            Step::Seal => sealed(self.engine()),
            Step::Reopen => {
                self.engine.take().unwrap().close().unwrap();
                self.open();
            }
            Step::Crash => self.crash(),
            Step::Sweep => {
                self.engine().sweep().unwrap();
            }
            Step::Pass => self.pass(),
            Step::Lose => {
                self.engine.take().unwrap().close().unwrap();
                fs::remove_file(self.path.join("scopes")).unwrap();
                self.has_lost = true;
                self.open();
            }
            Step::Unlimited(scope) => {
                self.engine.take().unwrap().close().unwrap();
                self.engine = Some(self.unlimited().open(&self.path).unwrap());
                self.guards.clear();
                if self.live[*scope] < MOST {
                    self.take(&Step::Begin(*scope));
                }
                self.take(&Step::Reopen);
            }
        }
    }

    /// Lets everything be over, and sweeps it.
    fn pass(&mut self) {
        self.guards.clear();
        self.completed.clear();
        // Rolled by the first, so that it is the second's.
        for _ in 0..2 {
            self.bench.clock.advance(2 * RETENTION);
            self.engine().sweep().unwrap();
        }
        assert_eq!(self.engine().stats().live_keys, 0);
        self.live = [0; SCOPES.len()];
        self.has_lost = false;
    }

    /// Each scope has exactly as much room as its live keys leave, and all of it once they are over and swept.
    fn check(&mut self) {
        for _ in 0..2 {
            for scope in 0..SCOPES.len() {
                while self.live[scope] < MOST {
                    self.take(&Step::Begin(scope));
                }
                self.take(&Step::Begin(scope));
            }
            self.pass();
        }
    }
}

#[test]
fn the_counts_outlive_restarts_crashes_seals_merges_and_sweeps() {
    let cases = if is_full_run() { 1_000 } else { 30 };
    let mut runner = TestRunner::new(Config {
        failure_persistence: None,
        ..Config::with_cases(cases)
    });
    let steps = prop::collection::vec(step(), 20..120);
    let result = runner.run(&steps, |steps| {
        let mut run = Run::new();
        for step in &steps {
            run.take(step);
        }
        run.check();
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    println!("{cases} sequences: each scope had exactly the room that its keys left");
}
