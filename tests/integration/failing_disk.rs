//! A write that the system refuses: everybody gets an error, and nothing is granted.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use onceward::{Engine, ErrorKind, Outcome, Reply};

use crate::support::{
    Bench, completed, folder_of_child, granted, in_flight, key, replayed, request, sealed,
};

/// How large files may get in the child, in blocks of 512 bytes or of 1 KiB, as the shell has it.
const FILE_BLOCKS: u32 = 6_000;

/// Runs an ignored test under a limit on the size of files, which makes writes fail as a full disk does.
pub(crate) fn in_limited_child(test: &str, path: &Path) -> String {
    let command = format!(
        "trap '' XFSZ; ulimit -f {FILE_BLOCKS}; exec \"$0\" {test} --exact --ignored --nocapture"
    );
    let output = Command::new("sh")
        .args(["-c", &command])
        .arg(std::env::current_exe().unwrap())
        .env("ONCEWARD_TEST_FOLDER", path)
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{shown}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    shown
}

#[cfg(unix)]
#[test]
fn a_refused_write_fails_closed_and_loses_nothing_that_was_acknowledged() {
    let bench = Bench::new();
    let tiny = Engine::builder().segment_entries(4);
    let engine = tiny.open(bench.path()).unwrap();
    for number in 0..3 {
        completed(&engine, &format!("sealed {number}"), "body");
    }
    sealed(&engine);
    engine.close().unwrap();
    let output = in_limited_child("failing_disk::works_until_the_disk_is_full", &bench.path());
    let acknowledged: usize = output
        .lines()
        .find_map(|line| line.strip_prefix("acknowledged "))
        .unwrap_or_else(|| panic!("{output}"))
        .parse()
        .unwrap();
    assert!(acknowledged > 10);
    let failed = bench.path().join("segment-0000000002.redb");
    let kept = std::fs::read(&failed).unwrap();
    // As if an earlier open had been killed while it wrote the content anew.
    std::fs::copy(&failed, bench.path().join("segment-0000000003.redb")).unwrap();
    let engine = Engine::open(bench.path()).unwrap();
    // What was read back from the failed file was written to a new one before it was trusted.
    assert!(!failed.exists());
    completed(&engine, "new", "");
    engine.close().unwrap();
    // As if that open had been killed just before the old file went.
    std::fs::write(&failed, kept).unwrap();
    let engine = Engine::open(bench.path()).unwrap();
    assert!(!failed.exists());
    for number in 0..3 {
        replayed(&engine, &format!("sealed {number}"));
    }
    for number in 0..acknowledged {
        assert_eq!(replayed(&engine, &number.to_string()).body().len(), 8_192);
    }
    in_flight(&engine, "held");
}

#[test]
#[ignore = "the child process of the test above"]
fn works_until_the_disk_is_full() {
    let Some(path) = folder_of_child() else {
        return;
    };
    let engine = Engine::open(path).unwrap();
    let held = granted(&engine, "held");
    let waiter = {
        let engine = engine.clone();
        let patience = Duration::from_secs(3_600);
        std::thread::spawn(move || {
            engine
                .begin_or_wait(&key("held"), &request(), patience)
                .map(drop)
        })
    };
    while engine.stats().waiters == 0 {
        std::thread::yield_now();
    }
    let mut acknowledged = 0;
    let first_error = loop {
        let outcome = engine.begin(&key(acknowledged.to_string()), &request());
        let result = outcome.and_then(|outcome| match outcome {
            Outcome::Proceed(guard) => Ok(guard.complete(Reply::new(200, vec![7; 8_192]))?),
            other => panic!("a fresh key was not granted: {other:?}"),
        });
        match result {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(first_error.kind(), ErrorKind::Io, "{first_error:?}");
    // The one who waits is told, long before the lease ends.
    assert_eq!(
        waiter.join().unwrap().unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    for name in ["0", "held", "new"] {
        let error = engine.begin(&key(name), &request()).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{name}");
    }
    assert_eq!(
        engine.lookup(&key("0")).unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    assert_eq!(engine.sweep().unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(
        engine.health().reason().unwrap().kind(),
        ErrorKind::Unavailable
    );
    let (_guard, reply, error) = held
        .complete(Reply::new(200, "kept?"))
        .unwrap_err()
        .into_parts();
    assert_eq!(
        (error.kind(), reply.body().as_ref()),
        (ErrorKind::Unavailable, &b"kept?"[..])
    );
    drop(engine.close());
    println!("acknowledged {acknowledged}");
}
