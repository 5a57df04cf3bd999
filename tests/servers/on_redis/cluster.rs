//! Clusters whose slots move and whose primaries die.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use onceward::{Engine, Outcome, Reply};

use super::{begin, completed, engine, hasty, is_replayed, register};
use support::start::redis::Cluster;

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

/// What callers see while that happens.
fn under_load(engines: [&Engine; 2], what: impl FnOnce()) -> Seen {
    const BEFORE: usize = 300;
    let seen = Seen::default();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| seen.load(engines));
        }
        while seen.names.load(Ordering::SeqCst) < BEFORE {
            thread::yield_now();
        }
        what();
        seen.is_over.store(true, Ordering::SeqCst);
    });
    seen
}

#[test]
fn slots_that_move_under_load_lose_nothing_and_grant_nothing_twice() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let node = || engine(register(&cluster.urls()));
    let (one, other) = (node(), node());
    let seen = under_load([&one, &other], || cluster.reshard(0, 1, 300));
    let keys = seen.keys.lock().unwrap().len();
    println!("{keys} keys while 300 slots moved");
    assert_eq!(seen.failed.load(Ordering::SeqCst), 0);
    assert_eq!(seen.broken(&other), (0, 0));
    assert!(one.export().flatten().count() >= keys);
}

#[test]
fn an_engine_lives_through_a_primary_that_dies() {
    let Some(mut cluster) = Cluster::start() else {
        return;
    };
    lives_through(&mut cluster, |cluster| cluster.servers[0].kill());
}

#[test]
fn an_engine_lives_through_a_primary_that_hangs_and_comes_back_as_a_replica() {
    let Some(mut cluster) = Cluster::start() else {
        return;
    };
    lives_through(&mut cluster, |cluster| cluster.servers[0].stop());
    cluster.servers[0].go_on();
    cluster.wait_until_well();
    let engine = engine(register(&cluster.urls()));
    completed(&engine, "with the old primary as a replica");
}

/// What an asynchronous failover loses is counted, and no failure of the test.
fn lives_through(cluster: &mut Cluster, outage: impl FnOnce(&mut Cluster)) {
    let node = |cluster: &Cluster| engine(hasty(&cluster.urls()));
    let (one, other) = (node(cluster), node(cluster));
    let mut took = Duration::ZERO;
    let seen = under_load([&one, &other], || {
        let start = Instant::now();
        outage(cluster);
        recovers_everywhere(&one);
        took = start.elapsed();
    });
    let failed = seen.failed.load(Ordering::SeqCst);
    let (twice, lost) = seen.broken(&other);
    let keys = seen.keys.lock().unwrap().len();
    println!(
        "all slots again after {took:?}; {keys} keys, {failed} calls failed, {lost} completions lost, {twice} granted twice"
    );
    assert!(failed > 0, "nobody noticed that a primary was gone");
    completed(&other, "after");
    assert!(is_replayed(&one, "after"));
}

/// Waits until many new keys in a row are granted: some of them are in each server's slots.
fn recovers_everywhere(engine: &Engine) {
    const IN_A_ROW: usize = 100;
    let (start, mut tried, mut in_a_row) = (Instant::now(), 0, 0);
    while in_a_row < IN_A_ROW {
        tried += 1;
        let is_granted = begin(engine, &format!("again{tried}")).is_ok();
        in_a_row = if is_granted { in_a_row + 1 } else { 0 };
        assert!(start.elapsed() < Duration::from_secs(60));
    }
}
