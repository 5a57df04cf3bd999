//! The model within its bounds, and with each defect that it has to catch.
//!
//! About 3 million states in `cargo test`, many more with `ONCEWARD_FULL=1`, which wants
//! `--release`.

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use super::{Action, Defect, Protocol};

const SMALL: Protocol = Protocol {
    callers: 2,
    keys: 1,
    requests: 2,
    tokens: 2,
    horizon: 5,
    crashes: 1,
    callers_survive: false,
    defect: None,
};

const THREE_CALLERS: Protocol = Protocol {
    callers: 3,
    requests: 1,
    horizon: 3,
    ..SMALL
};

const TWO_KEYS: Protocol = Protocol {
    keys: 2,
    requests: 1,
    horizon: 2,
    ..SMALL
};

const LONG: Protocol = Protocol {
    tokens: 3,
    crashes: 2,
    ..SMALL
};

const LONG_WITH_THREE_CALLERS: Protocol = Protocol {
    callers: 3,
    tokens: 3,
    horizon: 4,
    ..SMALL
};

const LONG_WITH_TWO_KEYS: Protocol = Protocol {
    horizon: 4,
    ..TWO_KEYS
};

fn is_full_run() -> bool {
    std::env::var_os("ONCEWARD_FULL").is_some_and(|value| value != "0")
}

#[test]
fn the_promises_hold_in_every_state() {
    let bounds = if is_full_run() {
        [LONG, LONG_WITH_THREE_CALLERS, LONG_WITH_TWO_KEYS]
    } else {
        [SMALL, THREE_CALLERS, TWO_KEYS]
    };
    let mut states = 0;
    for bounds in bounds {
        for callers_survive in [false, true] {
            let start = Instant::now();
            let model = Protocol {
                callers_survive,
                ..bounds
            };
            let checker = model.checker().threads(2).spawn_bfs().join();
            // Each promise has held everywhere, and each event that ought to happen has happened.
            checker.assert_properties();
            let found = checker.unique_state_count();
            println!("{found} states in {:.1?}: {model:?}", start.elapsed());
            states += found;
        }
    }
    println!("{states} states, 0 of them against a promise");
}

/// The steps by which a defect breaks a promise.
fn steps_that_break(promise: &'static str, defect: Defect) -> Vec<Action> {
    let model = Protocol {
        defect: Some(defect),
        ..SMALL
    };
    let search = model.checker();
    let search = search.finish_when(HasDiscoveries::AllOf([promise].into()));
    let checker = search.spawn_bfs().join();
    let path = checker.discovery(promise);
    path.unwrap_or_else(|| panic!("{defect:?} was not noticed"))
        .into_actions()
}

#[test]
fn an_answer_before_its_ground_is_durable_is_caught() {
    for (defect, promise) in [
        (Defect::AnswersFirst, "1: no double grant"),
        (Defect::AnswersFirst, "2: no lost answer"),
        (Defect::PublishesFirst, "2: no lost answer"),
        (Defect::SweepsWithoutTime, "1: no double grant"),
    ] {
        let steps = steps_that_break(promise, defect);
        println!("{defect:?} breaks '{promise}' in {} steps", steps.len());
    }
}
