//! Leases, expiry, and clocks that are set wrong.

use std::time::{Duration, SystemTime};

use onceward::{Clock, Engine, EntryState, Guard, Outcome, Reply};

use crate::support::{
    Bench, JUST_UNDER_LEASE, JUST_UNDER_RETENTION, LEASE, MS, RETENTION, completed, granted,
    in_flight, key, replayed, request,
};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// Abandons a guard in some way; gives the engine to go on with.
type Abandon = fn(&Bench, Engine, Guard) -> Engine;

fn by_drop(_: &Bench, engine: Engine, guard: Guard) -> Engine {
    drop(guard);
    engine
}

fn by_panic(_: &Bench, engine: Engine, guard: Guard) -> Engine {
    let handler = std::thread::spawn(move || {
        let _guard = guard;
        panic!("the handler fails");
    });
    assert!(handler.join().is_err());
    engine
}

fn by_forgetting(_: &Bench, engine: Engine, guard: Guard) -> Engine {
    std::mem::forget(guard);
    engine
}

fn by_reopening(bench: &Bench, engine: Engine, guard: Guard) -> Engine {
    engine.close().unwrap();
    drop(guard);
    bench.open()
}

fn by_forgetting_and_reopening(bench: &Bench, engine: Engine, guard: Guard) -> Engine {
    std::mem::forget(guard);
    drop(engine);
    bench.open()
}

#[test]
fn an_abandoned_key_is_free_at_its_leases_end_to_the_millisecond() {
    let ways: [Abandon; 5] = [
        by_drop,
        by_panic,
        by_forgetting,
        by_reopening,
        by_forgetting_and_reopening,
    ];
    for abandon in ways {
        let bench = Bench::new();
        let engine = bench.open();
        let guard = granted(&engine, "key");
        bench.clock.advance(LEASE / 2);
        let engine = abandon(&bench, engine, guard);
        bench.clock.advance(JUST_UNDER_LEASE - LEASE / 2);
        in_flight(&engine, "key");
        bench.clock.advance(MS);
        assert_eq!(granted(&engine, "key").attempt(), 2);
    }
}

#[test]
fn the_lease_counts_from_the_last_renewal() {
    let bench = Bench::new();
    let engine = bench.open();
    let mut guard = granted(&engine, "key");
    bench.clock.advance(JUST_UNDER_LEASE);
    assert_eq!(guard.lease_left(), MS);
    guard.renew().unwrap();
    assert_eq!(guard.lease_left(), LEASE);
    drop(guard);
    let engine = {
        engine.close().unwrap();
        bench.open()
    };
    bench.clock.advance(JUST_UNDER_LEASE);
    in_flight(&engine, "key");
    bench.clock.advance(MS);
    assert_eq!(granted(&engine, "key").attempt(), 2);
}

#[test]
fn expiry_is_exact_whether_swept_or_not() {
    for sweeps in [false, true] {
        let bench = Bench::new();
        let engine = bench.open();
        completed(&engine, "key", "body");
        bench.clock.advance(JUST_UNDER_RETENTION);
        if sweeps {
            engine.sweep().unwrap();
        }
        replayed(&engine, "key");
        bench.clock.advance(MS);
        if sweeps {
            engine.sweep().unwrap();
        }
        assert_eq!(engine.lookup(&key("key")).unwrap(), None);
        assert_eq!(granted(&engine, "key").attempt(), 1);
    }
}

#[test]
fn a_step_of_the_wall_clock_while_running_changes_no_lease() {
    let bench = Bench::new();
    let engine = bench.open();
    let wall = bench.clock.wall();
    drop(granted(&engine, "key"));
    completed(&engine, "done", "body");
    for stepped in [
        wall - HOUR,
        wall - DAY,
        wall + Duration::from_secs(180),
        SystemTime::UNIX_EPOCH,
        wall + 3_650 * DAY,
    ] {
        bench.clock.set_wall(stepped);
        in_flight(&engine, "key");
        replayed(&engine, "done");
    }
    bench.clock.advance(JUST_UNDER_LEASE);
    in_flight(&engine, "key");
    bench.clock.advance(MS);
    assert_eq!(granted(&engine, "key").attempt(), 2);
}

#[test]
fn across_a_reopen_a_clock_set_back_shortens_no_lease_and_prolongs_it_by_no_more_than_the_step() {
    for step in [HOUR, DAY] {
        let bench = Bench::new();
        let engine = bench.open();
        drop(granted(&engine, "key"));
        bench.clock.advance(LEASE / 2);
        engine.close().unwrap();
        bench.clock.set_wall(bench.clock.wall() - step);
        let engine = bench.open();
        // The newest time on record is the close's: the lease goes on from there.
        bench.clock.advance(JUST_UNDER_LEASE - LEASE / 2);
        in_flight(&engine, "key");
        bench.clock.advance(MS);
        assert_eq!(granted(&engine, "key").attempt(), 2);
    }
}

#[test]
fn across_a_reopen_a_clock_set_forward_is_believed() {
    let bench = Bench::new();
    let engine = bench.open();
    drop(granted(&engine, "key"));
    engine.close().unwrap();
    bench
        .clock
        .set_wall(bench.clock.wall() + Duration::from_secs(180));
    let engine = bench.open();
    assert_eq!(granted(&engine, "key").attempt(), 2);
    assert_eq!(engine.stats().clock_step, None);
}

#[test]
fn a_step_of_more_than_an_hour_is_reported_and_delays_the_sweep_by_an_interval() {
    let bench = Bench::new();
    let builder = bench.builder().segment_entries(2).sweep_interval(HOUR);
    let engine = builder.clone().open(bench.path()).unwrap();
    completed(&engine, "key", "body");
    completed(&engine, "other", "body");
    engine.close().unwrap();
    bench.clock.set_wall(bench.clock.wall() + 10 * DAY);
    let engine = builder.open(bench.path()).unwrap();
    assert_eq!(engine.stats().clock_step, Some(10 * DAY));
    assert_eq!(engine.sweep().unwrap().segments, 0);
    bench.clock.advance(HOUR);
    assert_eq!(engine.sweep().unwrap().segments, 2);
}

#[test]
fn a_wrong_clock_never_loses_the_newest_time() {
    let bench = Bench::new();
    let wall = bench.clock.wall();
    let engine = bench.open();
    completed(&engine, "key", "body");
    bench.clock.advance(RETENTION / 2);
    completed(&engine, "later", "body");
    engine.close().unwrap();
    bench.clock.set_wall(SystemTime::UNIX_EPOCH);
    let engine = bench.open();
    replayed(&engine, "key");
    bench.clock.advance(RETENTION / 2);
    assert_eq!(engine.lookup(&key("key")).unwrap(), None);
    replayed(&engine, "later");
    engine.close().unwrap();
    bench.clock.set_wall(wall + RETENTION / 2);
    replayed(&bench.open(), "later");
}

#[test]
fn a_clock_before_1970_does_no_harm() {
    let bench = Bench::new();
    bench.clock.set_wall(SystemTime::UNIX_EPOCH - DAY);
    let engine = bench.open();
    drop(granted(&engine, "key"));
    in_flight(&engine, "key");
    bench.clock.advance(LEASE);
    let Outcome::Proceed(guard) = engine.begin(&key("key"), &request()).unwrap() else {
        panic!("the lease is over");
    };
    guard.complete(Reply::new(200, "")).unwrap();
    replayed(&engine, "key");
}

#[test]
fn a_wall_clock_that_jumps_far_while_running_ends_nothing_and_wakes_nobody() {
    let bench = Bench::new();
    let builder = bench.builder().segment_entries(2);
    let engine = builder.open(bench.path()).unwrap();
    completed(&engine, "done", "body");
    let mut renewed = granted(&engine, "renewed");
    drop(granted(&engine, "key"));
    let waiter = {
        let engine = engine.clone();
        let patience = RETENTION;
        std::thread::spawn(move || engine.begin_or_wait(&key("key"), &request(), patience))
    };
    crate::support::eventually(|| engine.stats().waiters == 1);
    let wall = bench.clock.wall();
    let jumps = [SystemTime::UNIX_EPOCH, wall + 10 * YEAR, wall];
    for (number, jump) in jumps.into_iter().enumerate() {
        bench.clock.set_wall(jump);
        bench.clock.advance(MS);
        let entry = engine.lookup(&key("done")).unwrap().unwrap();
        let EntryState::Completed { expires_at, .. } = entry.state else {
            panic!("{entry:?}");
        };
        assert_eq!(expires_at, wall + RETENTION);
        renewed.renew().unwrap();
        let passed = MS * u32::try_from(number + 1).unwrap();
        assert_eq!(renewed.lease_until(), wall + passed + LEASE);
        assert_eq!(engine.sweep().unwrap().segments, 0);
        assert_eq!(
            (engine.stats().waiters, engine.stats().clock_step),
            (1, None)
        );
    }
    bench.clock.advance(JUST_UNDER_LEASE - 3 * MS);
    assert_eq!(engine.stats().waiters, 1);
    bench.clock.advance(MS);
    let Outcome::Proceed(guard) = waiter.join().unwrap().unwrap() else {
        panic!("the lease is over");
    };
    assert_eq!(
        (guard.attempt(), guard.lease_until()),
        (2, wall + 2 * LEASE)
    );
    bench.clock.advance(JUST_UNDER_RETENTION - LEASE);
    replayed(&engine, "done");
    bench.clock.advance(MS);
    assert_eq!(engine.lookup(&key("done")).unwrap(), None);
}

#[test]
fn a_clock_set_back_to_1970_across_a_restart_gives_nothing_away_and_ends_no_later_than_the_record()
{
    let bench = Bench::new();
    let engine = bench.open();
    completed(&engine, "done", "body");
    bench.clock.advance(HOUR);
    let before = granted(&engine, "key");
    let (token, lease_until) = (before.token(), before.lease_until());
    drop(before);
    engine.close().unwrap();
    bench.clock.set_wall(SystemTime::UNIX_EPOCH);
    let engine = bench.open();
    assert_eq!(engine.stats().clock_step, None);
    replayed(&engine, "done");
    assert_eq!(in_flight(&engine, "key").lease_left(), LEASE);
    bench.clock.advance(JUST_UNDER_LEASE);
    in_flight(&engine, "key");
    bench.clock.advance(MS);
    let after = granted(&engine, "key");
    assert!(after.token() > token && after.attempt() == 2);
    assert_eq!(after.lease_until(), lease_until + LEASE);
    // 55 years of a wrong clock prolong nothing: the retention goes on from the newest time on record.
    bench.clock.advance(RETENTION - HOUR - LEASE);
    assert_eq!(engine.lookup(&key("done")).unwrap(), None);
}

#[test]
fn ten_years_forward_across_a_restart_are_believed_and_cannot_be_taken_back() {
    let bench = Bench::new();
    let builder = bench.builder().segment_entries(2).sweep_interval(HOUR);
    let open = || builder.clone().open(bench.path()).unwrap();
    let engine = open();
    completed(&engine, "done", "body");
    drop(granted(&engine, "key"));
    engine.close().unwrap();
    let wall = bench.clock.wall();
    bench.clock.set_wall(wall + 10 * YEAR);
    let engine = open();
    assert_eq!(engine.stats().clock_step, Some(10 * YEAR));
    // Over by the clock, though not swept: it may be a mistake.
    assert_eq!(engine.lookup(&key("done")).unwrap(), None);
    assert_eq!(engine.sweep().unwrap().segments, 0);
    assert_eq!(granted(&engine, "key").attempt(), 1);
    completed(&engine, "later", "body");
    engine.close().unwrap();
    // The mistake is mended. What was granted and answered meanwhile stands, and time goes on from there.
    bench.clock.set_wall(wall);
    let engine = open();
    assert_eq!(engine.stats().clock_step, None);
    assert_eq!(in_flight(&engine, "key").lease_left(), LEASE);
    replayed(&engine, "later");
    assert_eq!(engine.lookup(&key("done")).unwrap(), None);
    bench.clock.advance(LEASE);
    let again = granted(&engine, "key");
    assert_eq!(again.attempt(), 2);
    assert_eq!(again.lease_until(), wall + 10 * YEAR + 2 * LEASE);
    bench.clock.advance(RETENTION - LEASE);
    assert_eq!(engine.lookup(&key("later")).unwrap(), None);
}

/// A clock that any start may find anywhere, with little time passing in between.
#[test]
fn whatever_the_wall_clock_says_at_each_start_time_goes_on_and_no_lease_is_shortened() {
    let bench = Bench::new();
    let mut wall = bench.clock.wall();
    let start = wall;
    let mut newest = SystemTime::UNIX_EPOCH;
    for (round, offset) in [0, -20_000, 1, -3, 3_650, -20_000, 0, 3_651, 40_i64]
        .into_iter()
        .enumerate()
    {
        let days = DAY * u32::try_from(offset.abs()).unwrap();
        let said = if offset < 0 {
            start - days
        } else {
            start + days
        };
        bench.clock.set_wall(said);
        let is_forward = said > wall;
        let engine = bench.open();
        if round > 0 {
            // The one of the round before had half of its lease left.
            let name = (round - 1).to_string();
            if is_forward {
                drop(granted(&engine, &name));
            } else {
                assert_eq!(in_flight(&engine, &name).lease_left(), LEASE / 2);
            }
        }
        let guard = granted(&engine, &round.to_string());
        assert!(guard.lease_until() >= newest + LEASE / 2, "{offset} days");
        newest = guard.lease_until();
        wall = newest - LEASE / 2;
        bench.clock.advance(LEASE / 2);
        engine.close().unwrap();
    }
}
