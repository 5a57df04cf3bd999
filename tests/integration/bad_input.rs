//! Bad input gets a clear error and changes nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use onceward::{Engine, ErrorKind, Fingerprint, Outcome, Reply, Terms};
use redb::{Database, TableDefinition};

use crate::support::{
    Bench, completed, folder, folder_of_child, granted, in_child, key, replayed, request, sealed,
};

fn refused(result: onceward::Result<Engine>) -> onceward::Error {
    match result {
        Ok(_) => panic!("the engine was opened"),
        Err(error) => error,
    }
}

/// Every file below a folder with its bytes.
fn contents(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn settings_out_of_range_are_refused_before_anything_is_made() {
    let folder = folder();
    let path = folder.path().join("engine");
    let day = Duration::from_secs(86_400);
    let builder = Engine::builder;
    for (builder, word) in [
        (builder().lease(Duration::ZERO), "lease"),
        (builder().lease(Duration::from_nanos(999_999)), "lease"),
        (builder().lease(day + Duration::from_millis(1)), "lease"),
        (builder().lease(Duration::MAX), "lease"),
        (builder().retention(Duration::ZERO), "retention"),
        (builder().retention(367 * day), "retention"),
        (builder().sweep_interval(Duration::ZERO), "sweep_interval"),
        (builder().queue_wait(Duration::ZERO), "queue_wait"),
        (builder().lock_wait(day), "lock_wait"),
        (builder().queue_depth(0), "queue_depth"),
        (builder().queue_depth(usize::MAX), "queue_depth"),
        (builder().max_reply_bytes(0), "max_reply_bytes"),
        (builder().max_reply_bytes(usize::MAX), "max_reply_bytes"),
        (builder().max_live_keys(0), "max_live_keys"),
        (builder().cache_bytes(0), "cache_bytes"),
        (
            builder().replay_cache_bytes(usize::MAX),
            "replay_cache_bytes",
        ),
        (builder().segment_entries(1), "segment_entries"),
        (builder().merge_above(3), "merge_above"),
        (builder().segment_bytes(0), "segment_bytes"),
        (builder().pepper("short"), "pepper"),
    ] {
        let error = refused(builder.clone().open(&path));
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{word}");
        assert!(error.to_string().contains(word), "{error}");
        let error = refused(builder.open_in_memory());
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{word}");
        assert!(!path.exists());
    }
}

#[test]
fn terms_out_of_range_are_refused_and_grant_nothing() {
    let bench = Bench::new();
    let engine = bench.open();
    let second = Duration::from_secs(1);
    for terms in [
        Terms::new(Duration::ZERO, second),
        Terms::new(second, Duration::ZERO),
        Terms::new(Duration::MAX, second),
        Terms::new(second, Duration::MAX),
    ] {
        let error = engine.begin_with(&key("key"), &request(), terms);
        assert_eq!(
            error.map(drop).unwrap_err().kind(),
            ErrorKind::InvalidConfig
        );
    }
    assert_eq!(engine.lookup(&key("key")).unwrap(), None);
}

#[test]
fn an_oversize_reply_gives_the_guard_back() {
    let bench = Bench::new();
    let engine = bench
        .builder()
        .max_reply_bytes(100)
        .open(bench.path())
        .unwrap();
    let big = Reply::new(200, vec![0; 95]).with_header("name", "value");
    let error = granted(&engine, "key").complete(big.clone()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReplyTooLarge);
    assert!(error.error().to_string().contains("104 bytes"), "{error:?}");
    let (guard, reply, _) = error.into_parts();
    assert_eq!(reply, big);
    assert_eq!(engine.stats().refused_oversize, 1);
    guard.complete(Reply::not_retained(201)).unwrap();
    let reply = replayed(&engine, "key");
    assert_eq!((reply.status(), reply.is_retained()), (201, false));

    let many = (0..1_025).fold(Reply::new(200, ""), |reply, _| reply.with_header("", ""));
    let error = granted(&engine, "many").complete(many).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReplyTooLarge);
}

#[test]
fn a_plain_file_is_refused_and_left_as_it_is() {
    let folder = folder();
    let path = folder.path().join("file");
    fs::write(&path, "mine").unwrap();
    let error = refused(Engine::open(&path));
    assert_eq!(error.kind(), ErrorKind::NotAStore);
    assert_eq!(fs::read(&path).unwrap(), b"mine");
}

#[test]
fn a_missing_parent_is_refused_and_not_made() {
    let folder = folder();
    let parent = folder.path().join("missing");
    let error = refused(Engine::open(parent.join("engine")));
    assert_eq!(error.kind(), ErrorKind::NotAStore);
    assert!(error.to_string().contains("missing/engine"), "{error}");
    assert!(error.to_string().contains("parent"), "{error}");
    assert!(!parent.exists());
}

#[test]
fn a_folder_of_somebody_elses_is_refused_and_left_as_it_is() {
    let folder = folder();
    fs::write(folder.path().join("letter.txt"), "dear").unwrap();
    let error = refused(Engine::open(folder.path()));
    assert_eq!(error.kind(), ErrorKind::NotAStore);
    assert_eq!(contents(folder.path()).len(), 1);
    // Other databases have lock files, too.
    fs::write(folder.path().join("LOCK"), "").unwrap();
    let error = refused(Engine::open(folder.path()));
    assert_eq!(error.kind(), ErrorKind::NotAStore);
    assert_eq!(contents(folder.path()).len(), 2);
}

#[cfg(target_os = "linux")]
#[test]
fn a_place_that_cannot_be_written_is_refused() {
    // Root may write anywhere but here.
    let error = refused(Engine::open("/proc/self/onceward-test"));
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn a_second_open_in_this_process_is_refused() {
    let bench = Bench::new();
    let engine = bench.open();
    completed(&engine, "key", "body");
    assert_eq!(
        refused(Engine::open(bench.path())).kind(),
        ErrorKind::Locked
    );
    assert_eq!(replayed(&engine, "key").body(), "body");
    engine.close().unwrap();
    replayed(&bench.open(), "key");
}

#[test]
fn a_second_open_in_another_process_is_refused() {
    let bench = Bench::new();
    let engine = bench.open();
    let output = in_child("bad_input::opens_the_folder_it_is_told", &bench.path());
    assert!(output.contains("kind: Locked"), "{output}");
    drop(engine);
    bench.open();
}

#[test]
#[ignore = "the other process of a test above"]
fn opens_the_folder_it_is_told() {
    if let Some(path) = folder_of_child() {
        println!("kind: {:?}", refused(Engine::open(path)).kind());
    }
}

#[test]
fn open_waits_for_the_lock_as_long_as_it_is_told_to() {
    let bench = Bench::new();
    let engine = bench.open();
    let builder = bench.builder().lock_wait(Duration::from_secs(60));
    let path = bench.path();
    let waiting = std::thread::spawn(move || builder.open(path).map(drop));
    engine.close().unwrap();
    waiting.join().unwrap().unwrap();
}

#[test]
fn calls_after_close_are_closed() {
    let bench = Bench::new();
    let engine = bench.open();
    let mut guard = granted(&engine, "key");
    engine.clone().close().unwrap();
    let kinds = [
        engine.begin(&key("key"), &request()).map(drop).unwrap_err(),
        engine.begin(&key("new"), &request()).map(drop).unwrap_err(),
        engine.lookup(&key("key")).unwrap_err(),
        engine.forget(&key("key")).unwrap_err(),
        engine.held().unwrap_err(),
        engine.sweep().unwrap_err(),
        guard.renew().unwrap_err(),
        guard.complete(Reply::new(200, "")).unwrap_err().into(),
    ];
    for error in kinds {
        assert_eq!(error.kind(), ErrorKind::Closed);
    }
    assert!(!engine.health().is_ready());
    engine.close().unwrap();
}

#[test]
fn a_pepper_must_be_the_one_the_folder_was_made_with() {
    let bench = Bench::new();
    let open = |pepper: Option<&'static str>| {
        let builder = bench.builder();
        match pepper {
            Some(pepper) => builder.pepper(pepper).open(bench.path()),
            None => builder.open(bench.path()),
        }
    };
    let engine = open(Some("sixteen bytes or more")).unwrap();
    completed(&engine, "key", "body");
    engine.close().unwrap();
    assert!(!bench.path().join("secret").exists());
    for wrong in [None, Some("another pepper of some length")] {
        assert_eq!(refused(open(wrong)).kind(), ErrorKind::InvalidConfig);
    }
    replayed(&open(Some("sixteen bytes or more")).unwrap(), "key");

    let plain = Bench::new();
    plain.open().close().unwrap();
    let error = refused(
        plain
            .builder()
            .pepper("sixteen bytes or more")
            .open(plain.path()),
    );
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
}

/// A store of six sealed segments, closed, in which every key `0..21` was completed.
fn closed_store() -> Bench {
    let bench = Bench::new();
    let builder = bench.builder().segment_entries(8);
    let engine = builder.open(bench.path()).unwrap();
    for number in 0..21 {
        completed(&engine, &number.to_string(), "body");
        sealed(&engine);
    }
    engine.close().unwrap();
    bench
}

/// The file of a sealed segment.
fn segment(bench: &Bench, id: u32) -> PathBuf {
    bench.path().join(format!("sealed-{id:010}.redb"))
}

/// A store as a crash leaves it: two sealed segments, and a log with the keys `8` and `9`.
fn crashed_store() -> (Bench, PathBuf) {
    let running = Bench::new();
    let builder = running.builder().segment_entries(8);
    let engine = builder.open(running.path()).unwrap();
    for number in 0..10 {
        completed(&engine, &number.to_string(), "body");
        sealed(&engine);
    }
    let bench = running.crashed();
    let log = bench.path().join("segment-0000000003.log");
    (bench, log)
}

#[test]
fn a_missing_segment_is_noticed() {
    for id in [1, 3, 6] {
        let bench = closed_store();
        fs::remove_file(segment(&bench, id)).unwrap();
        assert_eq!(
            refused(bench.builder().open(bench.path())).kind(),
            ErrorKind::Corrupt
        );
    }
}

#[test]
fn a_missing_manifest_or_secret_is_noticed() {
    for name in ["manifest.redb", "secret"] {
        let bench = closed_store();
        fs::remove_file(bench.path().join(name)).unwrap();
        let error = refused(bench.builder().open(bench.path()));
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{name}");
        assert!(error.to_string().contains(name.split('.').next().unwrap()));
    }
}

#[test]
fn a_file_that_is_no_redb_file_is_corrupt_and_left_as_it_is() {
    for name in ["manifest.redb", "sealed-0000000002.redb"] {
        for garbage in [Vec::new(), b"no redb file".to_vec(), vec![0xaa; 100_000]] {
            let bench = closed_store();
            let path = bench.path().join(name);
            fs::write(&path, &garbage).unwrap();
            let error = refused(bench.builder().open(bench.path()));
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{name}: {error}");
            assert_eq!(fs::read(&path).unwrap(), garbage, "{name}");
        }
    }
}

#[test]
fn a_redb_file_of_something_else_is_corrupt() {
    const OTHER: TableDefinition<'_, u64, u64> = TableDefinition::new("something else");
    for name in ["manifest.redb", "sealed-0000000002.redb"] {
        let bench = closed_store();
        let path = bench.path().join(name);
        fs::remove_file(&path).unwrap();
        let database = Database::create(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(OTHER).unwrap().insert(1, 2).unwrap();
        transaction.commit().unwrap();
        drop(database);
        let error = refused(bench.builder().open(bench.path()));
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{name}: {error}");
    }
}

#[test]
fn another_stores_segment_is_corrupt() {
    let (bench, other) = (closed_store(), closed_store());
    fs::copy(segment(&other, 2), segment(&bench, 2)).unwrap();
    let error = refused(bench.builder().open(bench.path()));
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let bench = closed_store();
    fs::copy(segment(&bench, 3), segment(&bench, 2)).unwrap();
    let error = refused(bench.builder().open(bench.path()));
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn a_truncated_segment_is_an_error_and_never_an_absent_key() {
    for id in [2, 6] {
        let length = fs::metadata(segment(&closed_store(), id)).unwrap().len();
        for keep in [1, 320, 4_096, 9_000, length / 2, length - 4_096, length - 1] {
            let bench = closed_store();
            let file = fs::OpenOptions::new().write(true).open(segment(&bench, id));
            file.unwrap().set_len(keep).unwrap();
            match bench.builder().open(bench.path()) {
                Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{keep}: {error}"),
                // What was cut off held nothing.
                Ok(engine) => {
                    for number in 0..21 {
                        replayed(&engine, &number.to_string());
                    }
                }
            }
        }
    }
}

#[test]
fn a_log_that_is_missing_or_none_is_corrupt_and_left_as_it_is() {
    let (bench, log) = crashed_store();
    fs::remove_file(&log).unwrap();
    let error = refused(bench.builder().open(bench.path()));
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    for garbage in [Vec::new(), b"no log".to_vec(), vec![0xaa; 100_000]] {
        let (bench, log) = crashed_store();
        fs::write(&log, &garbage).unwrap();
        let error = refused(bench.builder().open(bench.path()));
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert_eq!(fs::read(&log).unwrap(), garbage);
    }
}

#[test]
fn another_stores_log_is_corrupt() {
    let ((bench, log), (_other, others)) = (crashed_store(), crashed_store());
    fs::copy(others, log).unwrap();
    let error = refused(bench.builder().open(bench.path()));
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[test]
fn a_log_that_was_cut_short_is_corrupt() {
    let (_bench, log) = crashed_store();
    let length = fs::metadata(log).unwrap().len();
    for keep in [0, 1, 4_096, 8_192, 12_000, length / 2, length - 1] {
        let (bench, log) = crashed_store();
        let file = fs::OpenOptions::new().write(true).open(log);
        file.unwrap().set_len(keep).unwrap();
        let error = refused(bench.builder().open(bench.path()));
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{keep}: {error}");
    }
}

#[test]
fn damage_in_the_middle_of_a_log_is_corrupt_and_says_where() {
    replayed(&crashed_store().0.open(), "9");
    let (bench, log) = crashed_store();
    let mut bytes = fs::read(&log).unwrap();
    bytes[2 * 4_096 + 70] ^= 1;
    fs::write(&log, &bytes).unwrap();
    let error = refused(bench.builder().open(bench.path()));
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let text = error.to_string();
    assert!(text.contains("segment-0000000003.log"), "{text}");
    assert!(text.contains("from 8192 to 12288"), "{text}");
    assert_eq!(fs::read(&log).unwrap(), bytes);
}

/// Rewrites one row of the manifest.
fn rewrite_manifest(bench: &Bench, row: &str, change: impl FnOnce(&mut Vec<u8>)) {
    const MANIFEST: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("onceward manifest");
    let database = Database::open(bench.path().join("manifest.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(MANIFEST).unwrap();
        let mut bytes = redb::ReadableTable::get(&table, row)
            .unwrap()
            .unwrap()
            .value()
            .to_vec();
        change(&mut bytes);
        table.insert(row, &bytes[..]).unwrap();
    }
    transaction.commit().unwrap();
}

#[test]
fn another_format_is_unsupported_and_left_as_it_is() {
    let bench = closed_store();
    let names =
        |files: &[(PathBuf, Vec<u8>)]| files.iter().map(|file| file.0.clone()).collect::<Vec<_>>();
    for (format, advice) in [(5, "newer"), (3, "new folder"), (1, "new folder")] {
        rewrite_manifest(&bench, "format", |bytes| bytes[0] = format);
        let before = contents(&bench.path());
        let error = refused(bench.builder().open(bench.path()));
        assert_eq!(error.kind(), ErrorKind::UnsupportedFormat);
        assert!(error.to_string().contains(advice), "{error}");
        assert_eq!(names(&contents(&bench.path())), names(&before));
    }
    rewrite_manifest(&bench, "format", |bytes| bytes[0] = 4);
    replayed(&bench.open(), "7");
}

#[test]
fn a_manifest_with_a_flipped_bit_is_corrupt() {
    let bench = closed_store();
    rewrite_manifest(&bench, "state", |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
    });
    assert_eq!(
        refused(bench.builder().open(bench.path())).kind(),
        ErrorKind::Corrupt
    );
}

#[test]
fn files_are_their_owners_alone() {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let bench = closed_store();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&bench.path()), 0o700);
        for (path, _) in contents(&bench.path()) {
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        }
    }
}

#[test]
fn leftovers_of_a_crashed_beginning_are_begun_anew() {
    let bench = Bench::new();
    fs::create_dir(bench.path()).unwrap();
    for name in ["LOCK", "secret", "secret.new", "manifest.redb.new"] {
        fs::write(bench.path().join(name), "half").unwrap();
    }
    let engine = bench.open();
    completed(&engine, "key", "body");
    engine.close().unwrap();
    let engine = bench.open();
    replayed(&engine, "key");
    let outcome = engine
        .begin(&key("key"), &Fingerprint::of("other"))
        .unwrap();
    assert!(matches!(outcome, Outcome::Conflict(_)));
}

#[test]
fn a_flipped_bit_in_a_segment_is_an_error_or_the_right_answer() {
    let pristine = closed_store();
    let before = contents(&pristine.path());
    let files: Vec<_> = [1, 3, 6].map(|id| segment(&pristine, id)).to_vec();
    let mut caught = 0;
    for round in 0..120_usize {
        let path = &files[round % files.len()];
        let sound = fs::read(path).unwrap();
        let mut damaged = sound.clone();
        // Spread over what is in use: the file is mostly empty.
        let used = sound.iter().rposition(|byte| *byte != 0).unwrap();
        let at = (round * 7_919 + round * round * 104_729) % used;
        damaged[at] ^= 1 << (round % 8);
        fs::write(path, &damaged).unwrap();
        match pristine
            .builder()
            .replay_cache_bytes(0)
            .open(pristine.path())
        {
            Err(error) => {
                assert_ne!(error.kind(), ErrorKind::NotAStore, "{error}");
                caught += 1;
            }
            Ok(engine) => {
                for number in 0..21 {
                    match engine.begin(&key(number.to_string()), &request()) {
                        Ok(Outcome::Replay(reply)) => assert_eq!(reply.body(), "body"),
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt),
                        Ok(other) => panic!("bit {at} of {}: {other:?}", path.display()),
                    }
                }
                drop(engine.close());
            }
        }
        restore(&pristine.path(), &before);
    }
    assert!(caught > 0);
}

/// Takes back what an open of a damaged store has done to its folder.
fn restore(path: &std::path::Path, before: &[(PathBuf, Vec<u8>)]) {
    for (file, now) in contents(path) {
        match before.iter().find(|(name, _)| *name == file) {
            Some((_, bytes)) if *bytes == now => {}
            Some((_, bytes)) => fs::write(&file, bytes).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
    }
    for (file, bytes) in before {
        if !file.exists() {
            fs::write(file, bytes).unwrap();
        }
    }
}

#[test]
fn leftovers_of_a_crashed_roll_are_removed() {
    for half in [&b""[..], b"half a segment"] {
        let bench = closed_store();
        let orphan = bench.path().join("segment-0000000007.log.new");
        fs::write(&orphan, half).unwrap();
        replayed(&bench.open(), "7");
        assert!(!orphan.exists());
    }
    // Made, and not listed yet.
    let bench = closed_store();
    let manifest = fs::read(bench.path().join("manifest.redb")).unwrap();
    let engine = bench.open();
    let crashed = bench.crashed();
    fs::write(crashed.path().join("manifest.redb"), manifest).unwrap();
    replayed(&crashed.open(), "7");
    drop(engine);
}

#[test]
fn a_manifest_older_than_its_segments_is_noticed_and_costs_no_segment() {
    let bench = Bench::new();
    let builder = bench.builder().segment_entries(8);
    let engine = builder.clone().open(bench.path()).unwrap();
    completed(&engine, "first", "body");
    engine.close().unwrap();
    let manifest = bench.path().join("manifest.redb");
    let older = fs::read(&manifest).unwrap();
    for rolls in 1..3 {
        let engine = builder.clone().open(bench.path()).unwrap();
        for number in 0..4 {
            completed(&engine, &format!("{rolls} {number}"), "body");
        }
        sealed(&engine);
        engine.close().unwrap();
        let newer = fs::read(&manifest).unwrap();
        fs::write(&manifest, &older).unwrap();
        let files = contents(&bench.path()).len();
        assert_eq!(
            refused(builder.clone().open(bench.path())).kind(),
            ErrorKind::Corrupt
        );
        assert_eq!(contents(&bench.path()).len(), files);
        fs::write(&manifest, newer).unwrap();
    }
    replayed(&builder.open(bench.path()).unwrap(), "2 3");
}

#[test]
fn an_older_copy_of_a_log_is_noticed_after_a_close() {
    let bench = Bench::new();
    let engine = bench.open();
    let log = bench.path().join("segment-0000000001.log");
    // So that it can't be sealed when the engine is closed.
    fs::create_dir(bench.path().join("sealed-0000000001.redb.new")).unwrap();
    completed(&engine, "first", "body");
    let older = fs::read(&log).unwrap();
    completed(&engine, "second", "body");
    engine.close().unwrap();
    fs::remove_dir(bench.path().join("sealed-0000000001.redb.new")).unwrap();
    let newer = fs::read(&log).unwrap();
    fs::write(&log, older).unwrap();
    let error = refused(bench.builder().open(bench.path()));
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    fs::write(&log, newer).unwrap();
    let engine = bench.open();
    replayed(&engine, "first");
    replayed(&engine, "second");
}
