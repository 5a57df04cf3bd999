//! Writes that the system refuses.

use onceward::{Engine, ErrorKind, Outcome, Reply};

use crate::support::{
    Bench, folder_of_child, granted, in_flight, in_limited_child, key, replayed, request, sealed,
};

#[cfg(unix)]
#[test]
fn after_a_refused_write_the_engine_goes_on_in_a_new_segment_and_loses_nothing() {
    let bench = Bench::new();
    let output = in_limited_child(
        "failing_disk::works_on_while_writes_are_refused",
        &bench.path(),
    );
    let acknowledged: usize = output
        .lines()
        .find_map(|line| line.strip_prefix("acknowledged "))
        .unwrap_or_else(|| panic!("{output}"))
        .parse()
        .unwrap();
    assert!(acknowledged > 10);
    for _ in 0..2 {
        let engine = Engine::open(bench.path()).unwrap();
        for number in 0..acknowledged {
            assert_eq!(replayed(&engine, &number.to_string()).body().len(), 8_192);
        }
        in_flight(&engine, "held");
        let found = engine.verify(|_| ()).unwrap();
        assert!(found.is_sound(), "{found:?}");
        // The second time, what was cut off is sealed.
        sealed(&engine);
        engine.close().unwrap();
    }
}

#[test]
#[ignore = "the child process of the test above"]
fn works_on_while_writes_are_refused() {
    let Some(path) = folder_of_child() else {
        return;
    };
    let engine = Engine::open(path).unwrap();
    let held = granted(&engine, "held");
    let mut acknowledged = 0;
    let mut refused = 0;
    let mut note = |error: &onceward::Error| {
        let kinds = [ErrorKind::Io, ErrorKind::Unavailable];
        assert!(kinds.contains(&error.kind()), "{error:?}");
        refused += 1;
    };
    while engine.stats().resumptions < 3 {
        let guard = match engine.begin(&key(acknowledged.to_string()), &request()) {
            Ok(Outcome::Proceed(guard)) => guard,
            Ok(other) => panic!("a fresh key was not granted: {other:?}"),
            Err(error) => {
                note(&error);
                continue;
            }
        };
        // What was refused took no effect, and the guard is as good as before.
        assert_eq!(guard.attempt(), 1);
        let mut result = guard.complete(Reply::new(200, vec![7; 8_192]));
        while let Err(error) = result {
            note(error.error());
            let (guard, reply, _) = error.into_parts();
            result = guard.complete(reply);
        }
        acknowledged += 1;
    }
    assert!(refused >= 3);
    drop(held);
    engine.close().unwrap();
    println!("acknowledged {acknowledged}");
}
