//! A folder that is removed, moved, replaced or open to others while an engine has it, or before.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use onceward::{Builder, Engine, Error, ErrorKind, Outcome, Reply};

use crate::support::{
    Bench, RETENTION, completed, eventually, folder_of_child, granted, in_child, key, replayed,
    request, sealed,
};

const CALLERS: usize = 4;
/// What each caller gets done at most once its folder is gone, if nothing stops it.
const MOST_AFTERWARDS: usize = 250;

/// Segments of four requests each, which are merged soon: the engine makes, renames and removes
/// files all the time.
fn busy() -> Builder {
    Engine::builder().segment_entries(8).merge_above(4)
}

/// Begins a key and completes it, with its name as the reply.
fn complete(engine: &Engine, name: &str) -> Result<(), Error> {
    match engine.begin(&key(name), &request())? {
        Outcome::Proceed(guard) => Ok(guard.complete(Reply::new(201, name.to_owned()))?),
        other => panic!("a fresh key was not granted: {other:?}"),
    }
}

/// What came of callers whose folder was taken away under them.
#[derive(Default)]
struct Load {
    is_gone: AtomicBool,
    /// Acknowledged in all.
    acknowledged: AtomicUsize,
    /// Acknowledged though it was begun once the folder was gone.
    afterwards: AtomicUsize,
    names: std::sync::Mutex<Vec<String>>,
    last_errors: std::sync::Mutex<Vec<Error>>,
}

/// Says so when it is dropped.
struct Gone<'a>(&'a AtomicBool);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Load {
    /// Callers work on an engine until they get an error; `take_away` is run once they have got
    /// going.
    fn run(engine: &Engine, take_away: impl FnOnce()) -> Self {
        let load = Self::default();
        std::thread::scope(|scope| {
            for caller in 0..CALLERS {
                let load = &load;
                scope.spawn(move || load.work(engine, caller));
            }
            // However this ends, the callers do.
            let _gone = Gone(&load.is_gone);
            eventually(|| load.acknowledged.load(Ordering::SeqCst) > 200);
            take_away();
        });
        load
    }

    fn work(&self, engine: &Engine, caller: usize) {
        let mut afterwards = 0;
        for number in 0.. {
            let is_gone = self.is_gone.load(Ordering::SeqCst);
            let name = format!("{caller}-{number}");
            match complete(engine, &name) {
                Ok(()) => {
                    self.acknowledged.fetch_add(1, Ordering::SeqCst);
                    self.names.lock().unwrap().push(name);
                    afterwards += usize::from(is_gone);
                }
                Err(error) => {
                    self.last_errors.lock().unwrap().push(error);
                    break;
                }
            }
            if afterwards == MOST_AFTERWARDS {
                break;
            }
        }
        self.afterwards.fetch_add(afterwards, Ordering::SeqCst);
    }

    /// Nothing was acknowledged any more, and everybody was told for good.
    fn check_that_it_ended(&self, engine: &Engine) {
        assert_eq!(
            self.afterwards.load(Ordering::SeqCst),
            0,
            "acknowledged after the folder was gone"
        );
        let errors = self.last_errors.lock().unwrap();
        assert_eq!(errors.len(), CALLERS);
        for error in errors.iter() {
            assert_eq!(error.kind(), ErrorKind::Failed, "{error}");
            assert!(!error.is_transient(), "{error}");
        }
        check_that_it_failed(engine);
    }
}

/// Health says why, and nothing is answered any more.
fn check_that_it_failed(engine: &Engine) {
    let health = engine.health();
    assert!(
        !health.is_ready(),
        "the folder is gone, and health is ready"
    );
    let reason = health.reason().unwrap();
    assert_eq!(reason.kind(), ErrorKind::Failed);
    assert!(reason.to_string().contains("folder"), "{reason}");
    let looked = engine.lookup(&key("anything")).unwrap_err();
    assert_eq!(looked.kind(), ErrorKind::Failed);
    let begun = engine.begin(&key("anything"), &request()).unwrap_err();
    assert_eq!(begun.kind(), ErrorKind::Failed);
    assert!(!begun.is_outcome_unknown(), "{begun}");
}

/// Removes a folder in which files are made meanwhile.
fn remove(path: &Path) {
    while let Err(error) = fs::remove_dir_all(path) {
        if error.kind() == std::io::ErrorKind::NotFound {
            return;
        }
    }
}

/// Everything that was acknowledged is there, and nothing is damaged.
fn check_whole(builder: Builder, path: &Path, names: &[String]) {
    let engine = builder.open(path).unwrap();
    for name in names {
        assert_eq!(replayed(&engine, name).body(), name.as_bytes());
    }
    let found = engine.verify(|_| ()).unwrap();
    assert!(found.is_sound(), "{found:?}");
    engine.close().unwrap();
}

#[test]
fn nothing_is_acknowledged_once_the_folder_is_removed() {
    let bench = Bench::new();
    let engine = busy().open(bench.path()).unwrap();
    let load = Load::run(&engine, || remove(&bench.path()));
    load.check_that_it_ended(&engine);
    assert!(engine.close().is_ok());
    assert!(!bench.path().exists(), "the folder was made again");
}

#[test]
fn an_engine_whose_folder_was_moved_writes_nothing_where_another_one_has_taken_its_place() {
    let bench = Bench::new();
    let moved = bench.path().with_extension("moved");
    let first = busy().open(bench.path()).unwrap();
    let names = std::sync::Mutex::new(Vec::new());
    let load = Load::run(&first, || {
        fs::rename(bench.path(), &moved).unwrap();
        let second = busy().open(bench.path()).unwrap();
        // While the first one's callers go on.
        for number in 0..200 {
            let name = format!("second-{number}");
            complete(&second, &name).unwrap();
            names.lock().unwrap().push(name);
        }
        sealed(&second);
        second.close().unwrap();
    });
    first.close().unwrap();
    check_whole(busy(), &bench.path(), &names.lock().unwrap());
    check_whole(busy(), &moved, &load.names.lock().unwrap());
    let errors = load.last_errors.lock().unwrap();
    assert_eq!(errors.len(), CALLERS, "some callers never learnt of it");
    for error in errors.iter() {
        assert_eq!(error.kind(), ErrorKind::Failed, "{error}");
    }
}

#[test]
fn an_engine_that_does_nothing_notices_that_its_folder_is_gone_and_tells_who_waits() {
    let bench = Bench::new();
    let engine = bench.open();
    let guard = granted(&engine, "held");
    let waits = engine.clone();
    // Not joined if the test fails: then nobody would wake it.
    let waiter =
        std::thread::spawn(move || waits.begin_or_wait(&key("held"), &request(), RETENTION));
    eventually(|| engine.stats().waiters == 1);
    remove(&bench.path());
    check_that_it_failed(&engine);
    let told = waiter.join().unwrap().unwrap_err();
    assert_eq!(told.kind(), ErrorKind::Failed, "{told}");
    let (guard, reply, error) = guard
        .complete(Reply::new(201, "late"))
        .unwrap_err()
        .into_parts();
    assert_eq!(error.kind(), ErrorKind::Failed);
    assert!(!error.is_outcome_unknown(), "{error}");
    drop((guard, reply));
}

#[test]
fn the_sweep_of_a_folder_that_is_gone_ends_the_engine() {
    let bench = Bench::new();
    let engine = bench.open();
    completed(&engine, "known", "body");
    remove(&bench.path());
    assert_eq!(engine.sweep().unwrap_err().kind(), ErrorKind::Failed);
    let known = engine.begin(&key("known"), &request()).unwrap_err();
    assert_eq!(known.kind(), ErrorKind::Failed, "{known}");
}

#[test]
fn the_guard_comes_back_with_an_unknown_outcome_when_the_folder_was_moved() {
    let bench = Bench::new();
    let moved = bench.path().with_extension("moved");
    let engine = bench.open();
    let guard = granted(&engine, "key");
    fs::rename(bench.path(), &moved).unwrap();
    let failed = guard.complete(Reply::new(201, "body")).unwrap_err();
    assert_eq!(failed.error().kind(), ErrorKind::Failed);
    assert!(failed.error().is_outcome_unknown());
    let text = failed.error().to_string();
    assert!(text.contains(bench.path().to_str().unwrap()), "{text}");
    // Putting it back doesn't heal an engine that has said that it failed.
    fs::rename(&moved, bench.path()).unwrap();
    check_that_it_failed(&engine);
    engine.close().unwrap();
    // It was in flight as far as anybody was told, and is that or completed.
    let engine = bench.open();
    let outcome = engine.begin(&key("key"), &request()).unwrap();
    assert!(matches!(outcome, Outcome::InFlight(_)), "{outcome:?}");
}

#[test]
fn a_close_of_a_folder_that_was_moved_says_so_and_leaves_it_whole() {
    let bench = Bench::new();
    let moved = bench.path().with_extension("moved");
    let engine = bench.open();
    completed(&engine, "key", "key");
    fs::rename(bench.path(), &moved).unwrap();
    let error = engine.close().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Failed, "{error}");
    check_whole(bench.builder(), &moved, &["key".to_owned()]);
    assert!(!bench.path().exists());
}

#[test]
fn an_engine_whose_lock_file_was_replaced_grants_nothing_beside_another_one() {
    let bench = Bench::new();
    let first = bench.open();
    completed(&first, "key", "key");
    fs::remove_file(bench.path().join("LOCK")).unwrap();
    fs::write(bench.path().join("LOCK"), "").unwrap();
    // The first one has its files open still.
    let second = bench.builder().open(bench.path()).unwrap_err();
    assert_eq!(second.kind(), ErrorKind::Locked, "{second}");
    let refused = complete(&first, "other").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Failed, "{refused}");
    check_that_it_failed(&first);
    first.close().unwrap();
    check_whole(bench.builder(), &bench.path(), &["key".to_owned()]);
}

/// Lets a link lead elsewhere, without a moment in which it isn't there.
fn relink(link: &Path, to: &Path) {
    let new = link.with_extension("new");
    symlink(to, &new).unwrap();
    fs::rename(&new, link).unwrap();
}

#[test]
fn a_path_that_cannot_be_looked_at_interrupts_the_engine_until_it_can() {
    let bench = Bench::new();
    let real = bench.path().with_extension("real");
    fs::create_dir(&real).unwrap();
    let link = bench.path().with_extension("link");
    symlink(&real, &link).unwrap();
    let engine = bench.builder().open(link.join("engine")).unwrap();
    completed(&engine, "known", "body");
    let guard = granted(&engine, "key");
    // A link to itself is followed by nobody: whether the folder is where it was can't be told.
    relink(&link, &link);
    let failed = guard.complete(Reply::new(201, "key")).unwrap_err();
    assert!(failed.error().is_outcome_unknown(), "{failed}");
    assert!(failed.error().is_transient(), "{failed}");
    assert!(!engine.health().is_ready());
    // What was acknowledged before is still told.
    assert_eq!(replayed(&engine, "known").body(), "body");
    let begun = engine.begin(&key("other"), &request()).unwrap_err();
    assert_eq!(begun.kind(), ErrorKind::Unavailable, "{begun}");
    relink(&link, &real);
    eventually(|| engine.health().is_ready());
    let (guard, reply, _) = failed.into_parts();
    guard.complete(reply).unwrap();
    assert_eq!(engine.stats().resumptions, 1);
    engine.close().unwrap();
    check_whole(bench.builder(), &real.join("engine"), &["key".to_owned()]);
}

#[test]
fn a_relative_path_stays_where_it_was_when_the_process_changes_its_folder() {
    let bench = Bench::new();
    fs::create_dir(bench.path()).unwrap();
    let output = in_child(
        "moved_folder::opens_a_relative_path_and_goes",
        &bench.path(),
    );
    assert!(output.contains("it went on"), "{output}");
    let names: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    check_whole(busy(), &bench.path().join("relative"), &names);
    assert!(!bench.path().join("elsewhere/relative").exists());
}

#[test]
#[ignore = "the child process of the test above"]
fn opens_a_relative_path_and_goes() {
    let Some(path) = folder_of_child() else {
        return;
    };
    std::env::set_current_dir(&path).unwrap();
    let engine = busy().open("relative").unwrap();
    fs::create_dir("elsewhere").unwrap();
    std::env::set_current_dir("elsewhere").unwrap();
    for number in 0..50 {
        complete(&engine, &number.to_string()).unwrap();
    }
    sealed(&engine);
    assert!(engine.health().is_ready());
    engine.close().unwrap();
    println!("it went on");
}

#[test]
fn a_folder_that_others_may_write_to_is_refused_and_left_as_it_is() {
    let bench = Bench::new();
    for mode in [0o777, 0o770, 0o1777, 0o720, 0o702] {
        fs::create_dir(bench.path()).unwrap();
        fs::set_permissions(bench.path(), fs::Permissions::from_mode(mode)).unwrap();
        let error = bench.builder().open(bench.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotAStore, "{mode:o}: {error}");
        assert!(error.to_string().contains("chmod go-w"), "{error}");
        assert_eq!(fs::read_dir(bench.path()).unwrap().count(), 0);
        fs::remove_dir(bench.path()).unwrap();
    }
    completed(&bench.open(), "key", "body");
    fs::set_permissions(bench.path(), fs::Permissions::from_mode(0o770)).unwrap();
    bench.builder().open(bench.path()).unwrap_err();
    // That others may read is the owner's decision.
    fs::set_permissions(bench.path(), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(replayed(&bench.open(), "key").body(), "body");
}

#[test]
fn a_lock_that_is_a_link_or_no_file_is_refused() {
    let bench = Bench::new();
    let lock = bench.path().join("LOCK");
    let elsewhere = bench.path().with_extension("elsewhere");
    fs::create_dir(bench.path()).unwrap();
    let refused = |what: &str| {
        let error = bench.builder().open(bench.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotAStore, "{what}: {error}");
        assert!(error.to_string().contains("LOCK"), "{error}");
        let files = fs::read_dir(bench.path()).unwrap();
        assert_eq!(files.count(), 1, "{what}");
    };
    symlink(&elsewhere, &lock).unwrap();
    refused("a link to nothing");
    assert!(!elsewhere.exists(), "a file was made through the link");
    fs::write(&elsewhere, "somebody's").unwrap();
    refused("a link to a file");
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "somebody's");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    refused("a folder");
    fs::remove_dir(&lock).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&lock).status();
    assert!(made.unwrap().success());
    refused("a pipe");
    fs::remove_file(&lock).unwrap();
    bench.open().close().unwrap();
}

/// Puts something in the way of a file that the engine is about to make.
fn in_the_way(bench: &Bench, name: &str) -> PathBuf {
    let path = bench.path().join(name);
    fs::create_dir(&path).unwrap();
    path
}

/// The only warning, if there is one. The engine is ready all the same.
fn warning(engine: &Engine) -> Option<String> {
    let health = engine.health();
    assert!(health.is_ready(), "{:?}", health.reason());
    let warnings = health.warnings();
    assert!(warnings.len() <= 1, "{warnings:?}");
    warnings.first().map(ToString::to_string)
}

#[test]
fn a_segment_that_cannot_be_rolled_shows_in_health_until_it_can() {
    let bench = Bench::new();
    let engine = bench.builder().segment_entries(4);
    let engine = engine.open(bench.path()).unwrap();
    let obstacle = in_the_way(&bench, "segment-0000000002.log");
    for number in 0..4 {
        completed(&engine, &number.to_string(), "body");
    }
    eventually(|| warning(&engine).is_some());
    let text = warning(&engine).unwrap();
    assert!(text.contains("rolled"), "{text}");
    assert_eq!(engine.stats().segments, 1);
    fs::remove_dir(obstacle).unwrap();
    bench.clock.advance(Duration::from_secs(1));
    completed(&engine, "last", "body");
    eventually(|| warning(&engine).is_none());
    eventually(|| engine.stats().segments == 2);
}

#[test]
fn a_segment_that_cannot_be_sealed_shows_in_health_until_it_can() {
    let bench = Bench::new();
    let engine = bench.builder().segment_entries(4);
    let engine = engine.open(bench.path()).unwrap();
    let obstacle = in_the_way(&bench, "sealed-0000000001.redb.new");
    for number in 0..4 {
        completed(&engine, &number.to_string(), "body");
    }
    eventually(|| warning(&engine).is_some());
    let text = warning(&engine).unwrap();
    assert!(text.contains("sealed"), "{text}");
    fs::remove_dir(obstacle).unwrap();
    sealed(&engine);
    eventually(|| warning(&engine).is_none());
}

#[test]
fn a_merge_that_fails_shows_in_health_until_one_succeeds() {
    let bench = Bench::new();
    let engine = bench.builder().segment_entries(4).merge_above(4);
    let engine = engine.open(bench.path()).unwrap();
    let obstacle = in_the_way(&bench, "sealed-0000000001-0000000004.redb.new");
    for number in 0..12 {
        completed(&engine, &number.to_string(), "body");
        sealed(&engine);
    }
    eventually(|| warning(&engine).is_some());
    let text = warning(&engine).unwrap();
    assert!(text.contains("merged"), "{text}");
    // Others are sealed meanwhile, which says nothing of the merge.
    for number in 12..16 {
        completed(&engine, &number.to_string(), "body");
        sealed(&engine);
    }
    assert!(warning(&engine).is_some());
    fs::remove_dir(obstacle).unwrap();
    bench.clock.advance(RETENTION / 24);
    for number in 16..20 {
        completed(&engine, &number.to_string(), "body");
    }
    eventually(|| warning(&engine).is_none());
    eventually(|| engine.stats().sealed_segments <= 7);
}

#[test]
fn a_sweep_that_fails_shows_in_health_until_one_succeeds() {
    let bench = Bench::new();
    let engine = bench.builder().segment_entries(4);
    let engine = engine.open(bench.path()).unwrap();
    for number in 0..4 {
        completed(&engine, &number.to_string(), "body");
    }
    let log = bench.path().join("segment-0000000001.log");
    eventually(|| !log.exists());
    bench.clock.advance(2 * RETENTION);
    let obstacle = in_the_way(&bench, "segment-0000000001.log");
    engine.sweep().unwrap_err();
    let text = warning(&engine).unwrap();
    assert!(text.contains("sweep"), "{text}");
    fs::remove_dir(obstacle).unwrap();
    engine.sweep().unwrap();
    assert_eq!(warning(&engine), None);
}

#[test]
fn an_engine_that_has_nothing_to_complain_of_has_no_warnings() {
    let bench = Bench::new();
    let engine = bench.open();
    completed(&engine, "key", "body");
    assert_eq!(warning(&engine), None);
}
