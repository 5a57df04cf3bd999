//! A user's life while calls of the disk fail: what was acknowledged is kept, nothing is granted twice, and once the
//! disk is well the engine goes on by itself. The life ends with a power cut.
//!
//! The user, and what the store must say, are the fault tests'.
#![no_main]
#![allow(dead_code, unused_imports)] // The fault tests' modules have more than is used here.

use libfuzzer_sys::fuzz_target;
use onceward::Engine;
use onceward::faults::{Failures, Random};

#[path = "../../tests/faults/expected.rs"]
mod expected;
#[path = "../../tests/faults/io_faults.rs"]
mod io_faults;
#[path = "../../tests/faults/power_cuts.rs"]
mod power_cuts;
#[path = "../../tests/faults/user.rs"]
mod user;

use io_faults::{Failing, wait_until_well};
use power_cuts::Life;
use user::{User, builder};

const STEPS: usize = 120;
const RESTARTS: usize = 2;

fn failures(random: &mut Random) -> Failures {
    let after = random.below(64);
    match random.below(8) {
        0 => Failures::None,
        1..=3 => Failures::Calls { after, count: 1 },
        4 => Failures::Calls {
            after,
            count: 2 + random.below(8),
        },
        5 => Failures::Calls {
            after,
            count: usize::MAX,
        },
        6 => Failures::Syncs,
        _ => Failures::NoRoom { after },
    }
}

/// Lets the disk be well, and waits until the engine is.
fn mend(bench: &Failing, user: &mut User<'_>) {
    bench.recorder.fail(Failures::None);
    wait_until_well(user.engine, "after the failures");
    user.no_longer_tolerant();
}

/// Lives on for so many steps and restarts, with failures as they are chosen; leaves a life whose disk is well.
fn live(bench: &Failing, mut user: User<'_>, steps: usize, restarts: usize) -> Life {
    for step in 0..steps {
        if !user.random.has_given() {
            break;
        }
        match user.random.below(24) {
            0 | 1 => {
                let which = failures(&mut user.random);
                user = user.tolerant();
                bench.recorder.fail(which);
            }
            2 => mend(bench, &mut user),
            3 if restarts > 0 => {
                drop(Engine::clone(user.engine).close());
                bench.recorder.fail(Failures::None);
                let again = builder(&bench.clock).open(&bench.path);
                let again = again.expect("the disk is well");
                let mut user = user.restarted(&again);
                user.no_longer_tolerant();
                return live(bench, user, steps - step - 1, restarts - 1);
            }
            _ => user.step(),
        }
    }
    mend(bench, &mut user);
    for _ in 0..3 {
        user.step();
    }
    let log = bench.recorder.log();
    if let Err(problem) = user.known().check(user.engine) {
        panic!("{problem}");
    }
    let closed = Engine::clone(user.engine).close();
    closed.expect("a clean close");
    Life {
        name: "the life".to_owned(),
        log,
        events: std::mem::take(&mut user.events),
        has_failed: true,
    }
}

/// Where a panic is caught and becomes an error, it is no finding.
fn let_panics_be_caught() {
    let abort = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let place = info.location().map_or("", |place| place.file());
        if !place.contains("redb-") {
            abort(info);
        }
    }));
}

fuzz_target!(init: let_panics_be_caught(), |choices: &[u8]| {
    let mut random = Random::given(choices);
    let (seed, cuts) = (random.next(), random.below(3));
    let bench = Failing::open(failures(&mut random));
    let user = bench.user_by(random);
    let life = live(&bench, user, STEPS, RESTARTS);
    let Failing { _folder, path, recorder, engine, .. } = bench;
    drop(engine);
    drop(recorder);
    io_faults::cut(&life, &path, seed, cuts);
});
