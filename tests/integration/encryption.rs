//! Replies that are encrypted on the disk.

use onceward::{Builder, EncryptionKeys, Engine, ErrorKind, Outcome, Reply};

use crate::support::{Bench, RETENTION, granted, in_flight, key, replayed, request, sealed};

const CANARY: &[u8] = b"canary of a body that nobody may read";

fn keys(number: u32) -> EncryptionKeys {
    EncryptionKeys::new(number, [number.to_le_bytes()[0]; 32])
}

fn builder(bench: &Bench, keys: EncryptionKeys) -> Builder {
    let builder = bench.builder().segment_entries(6).replay_cache_bytes(0);
    builder.encryption(keys)
}

fn complete(engine: &Engine, name: &str) {
    let reply = Reply::new(201, CANARY).with_header("x-canary", CANARY);
    granted(engine, name).complete(reply).unwrap();
}

fn assert_replayed(engine: &Engine, name: &str) {
    let reply = replayed(engine, name);
    assert_eq!((reply.status(), &reply.body()[..]), (201, CANARY));
    assert_eq!(reply.header("x-canary"), Some(CANARY));
}

fn files_hold(bench: &Bench, bytes: &[u8]) -> bool {
    let files = std::fs::read_dir(bench.path()).unwrap();
    files.into_iter().any(|file| {
        let content = std::fs::read(file.unwrap().path()).unwrap();
        content.windows(bytes.len()).any(|window| window == bytes)
    })
}

#[test]
fn replies_are_replayed_and_their_bytes_are_nowhere_in_the_folder() {
    let bench = Bench::new();
    let engine = builder(&bench, keys(1)).open(bench.path()).unwrap();
    for number in 0..20 {
        complete(&engine, &number.to_string());
    }
    drop(granted(&engine, "abandoned"));
    sealed(&engine);
    for round in 0..2 {
        let engine = match round {
            0 => engine.clone(),
            _ => builder(&bench, keys(1)).open(bench.path()).unwrap(),
        };
        for number in 0..20 {
            assert_replayed(&engine, &number.to_string());
        }
        in_flight(&engine, "abandoned");
        assert!(engine.verify(|_| ()).unwrap().is_sound());
        let exported = engine.export();
        assert_eq!(exported.flatten().count(), 21);
        engine.close().unwrap();
    }
    assert!(!files_hold(&bench, &CANARY[..12]));
    // The text of keys is there: the search finds what there is.
    assert!(files_hold(&bench, b"abandoned"));
}

#[test]
fn another_key_under_the_same_number_and_a_missing_one_are_refused_at_open() {
    let bench = Bench::new();
    let engine = builder(&bench, keys(1)).open(bench.path()).unwrap();
    complete(&engine, "key");
    engine.close().unwrap();
    let wrong = EncryptionKeys::new(1, [9; 32]);
    let wrong_to_read = keys(2).and_reads(1, [9; 32]);
    let refused = [
        builder(&bench, wrong),
        builder(&bench, wrong_to_read),
        builder(&bench, keys(2)),
        bench.builder(),
    ];
    for builder in refused {
        let error = builder.open(bench.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error:?}");
        assert!(error.to_string().contains("key number 1"), "{error}");
    }
    let engine = builder(&bench, keys(1)).open(bench.path()).unwrap();
    assert_replayed(&engine, "key");
}

#[test]
fn a_rotated_key_is_read_with_until_its_answers_have_expired() {
    let bench = Bench::new();
    // From before there were keys.
    let engine = bench.builder().open(bench.path()).unwrap();
    complete(&engine, "plain");
    engine.close().unwrap();
    let engine = builder(&bench, keys(1)).open(bench.path()).unwrap();
    assert_replayed(&engine, "plain");
    complete(&engine, "first");
    engine.close().unwrap();
    let both = || keys(2).and_reads(1, [1; 32]);
    let engine = builder(&bench, both()).open(bench.path()).unwrap();
    complete(&engine, "second");
    for name in ["plain", "first", "second"] {
        assert_replayed(&engine, name);
    }
    engine.close().unwrap();
    // Without the old one, its answers are errors, and never new attempts.
    let engine = builder(&bench, keys(2)).open(bench.path()).unwrap();
    assert_replayed(&engine, "second");
    let error = engine
        .begin(&key("first"), &request())
        .map(drop)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("key number 1"), "{error}");
    bench.clock.advance(RETENTION);
    assert!(matches!(
        engine.begin(&key("second"), &request()),
        Ok(Outcome::Proceed(_))
    ));
}

#[test]
fn answers_that_are_carried_forward_are_encrypted_anew_and_still_replayed() {
    let bench = Bench::new();
    let engine = builder(&bench, keys(1)).open(bench.path()).unwrap();
    let terms = onceward::Terms::new(crate::support::LEASE, 3 * RETENTION);
    let outcome = engine.begin_with(&key("kept"), &request(), terms).unwrap();
    let Outcome::Proceed(guard) = outcome else {
        panic!("not granted");
    };
    let reply = Reply::new(201, CANARY).with_header("x-canary", CANARY);
    guard.complete(reply).unwrap();
    for number in 0..8 {
        complete(&engine, &number.to_string());
    }
    sealed(&engine);
    engine.close().unwrap();
    let both = keys(2).and_reads(1, [1; 32]);
    let engine = builder(&bench, both).open(bench.path()).unwrap();
    bench.clock.advance(RETENTION * 2);
    engine.sweep().unwrap();
    assert_replayed(&engine, "kept");
    engine.close().unwrap();
    let engine = builder(&bench, keys(2)).open(bench.path()).unwrap();
    assert_replayed(&engine, "kept");
    assert!(!files_hold(&bench, &CANARY[..12]));
}
