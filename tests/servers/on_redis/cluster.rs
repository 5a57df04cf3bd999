//! Clusters whose slots move and whose primaries die.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use onceward::{Engine, Outcome, Reply};

use super::{begin, completed, engine, granted, hasty, is_replayed, register};
use crate::start::redis::Cluster;

/// What callers on several engines saw.
#[derive(Default)]
struct Seen {
    is_over: AtomicBool,
    names: AtomicUsize,
    failed: AtomicUsize,
    /// By key, how often it was granted and whether its completion was acknowledged.
    keys: Mutex<HashMap<String, (usize, bool)>>,
}

impl Seen {
    fn note(&self, name: &str, note: impl FnOnce(&mut (usize, bool))) {
        note(
            self.keys
                .lock()
                .unwrap()
                .entry(name.to_owned())
                .or_default(),
        );
    }

    /// Begins new keys on both engines at once until it is over.
    fn load(&self, engines: [&Engine; 2]) {
        while !self.is_over.load(Ordering::SeqCst) {
            let number = self.names.fetch_add(1, Ordering::SeqCst);
            let name = format!("key{number}");
            for engine in engines {
                match begin(engine, &name) {
                    Ok(Outcome::Proceed(guard)) => {
                        self.note(&name, |seen| seen.0 += 1);
                        let reply = Reply::new(201, format!("the answer to {name}"));
                        match guard.complete(reply) {
                            Ok(()) => self.note(&name, |seen| seen.1 = true),
                            Err(_) => drop(self.failed.fetch_add(1, Ordering::SeqCst)),
                        }
                    }
                    Ok(_) => {}
                    Err(_) => drop(self.failed.fetch_add(1, Ordering::SeqCst)),
                }
            }
        }
    }

    /// How many were granted twice, and how many acknowledged completions are gone.
    fn broken(&self, engine: &Engine) -> (usize, usize) {
        let keys = self.keys.lock().unwrap();
        let twice = keys.values().filter(|(grants, _)| *grants > 1).count();
        let acknowledged = keys.iter().filter(|(_, (_, is_completed))| *is_completed);
        let lost = acknowledged.filter(|(name, _)| !is_replayed(engine, name));
        (twice, lost.count())
    }
}

fn under_load(engines: [&Engine; 2], work: impl FnOnce(&Seen)) -> Seen {
    let seen = Seen::default();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| seen.load(engines));
        }
        work(&seen);
        seen.is_over.store(true, Ordering::SeqCst);
    });
    seen
}

#[test]
fn slots_that_move_under_load_lose_nothing_and_grant_nothing_twice() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let (one, other) = (
        engine(register(&cluster.urls())),
        engine(register(&cluster.urls())),
    );
    let seen = under_load([&one, &other], |_| cluster.reshard(0, 1, 300));
    let (keys, failed) = (seen.keys.lock().unwrap().len(), seen.failed.into_inner());
    println!("{keys} keys while 300 slots moved, {failed} calls failed");
    let seen = Seen {
        keys: seen.keys,
        ..Seen::default()
    };
    assert_eq!(seen.broken(&other), (0, 0));
    assert_eq!(failed, 0);
    let exported = one.export().filter(Result::is_ok).count();
    assert!(exported >= keys);
}

#[test]
fn an_engine_lives_through_the_failover_of_a_primary() {
    let Some(mut cluster) = Cluster::start() else {
        return;
    };
    let (one, other) = (
        engine(hasty(&cluster.urls())),
        engine(hasty(&cluster.urls())),
    );
    let mut seen = Seen::default();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| seen.load([&one, &other]));
        }
        while seen.names.load(Ordering::SeqCst) < 500 {
            thread::yield_now();
        }
        let killed = Instant::now();
        cluster.servers[0].kill();
        recovers_everywhere(&one);
        println!("all slots again after {:?}", killed.elapsed());
        seen.is_over.store(true, Ordering::SeqCst);
    });
    let failed = *seen.failed.get_mut();
    let (twice, lost) = seen.broken(&other);
    let keys = seen.keys.lock().unwrap().len();
    println!("{keys} keys, {failed} calls failed, {lost} completions lost, {twice} granted twice");
    drop(granted(&other, "after"));
    completed(&one, "after all");
}

/// Waits until new keys are granted in a row, over all slots.
fn recovers_everywhere(engine: &Engine) {
    let (start, mut in_a_row) = (Instant::now(), 0);
    while in_a_row < 100 {
        let name = format!("again{in_a_row}at{:?}", start.elapsed());
        in_a_row = match begin(engine, &name) {
            Ok(_) => in_a_row + 1,
            Err(_) => 0,
        };
        assert!(start.elapsed() < Duration::from_secs(60));
    }
}
