//! Random sequences on the embedded engine and on the reference model, side by side.
//!
//! 500 sequences in `cargo test`, 10,000 with `ONCEWARD_FULL=1`. Seeds that once failed are kept
//! in `model.seeds` beside this file and replayed first.

mod pair;

use std::time::Duration;

use onceward::{Reply, Resolution, Terms};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};

use self::pair::{KEYS, Pair, Setup, Step};
use support::engine::{folder_in_memory, is_full_run};

fn step() -> impl Strategy<Value = Step> {
    let terms = prop_oneof![
        4 => Just(None),
        1 => (0_usize..2, 0_usize..3).prop_map(|(lease, retention)| {
            let lease = [60, 7_200][lease];
            let retention = [600, 7_200, 86_400][retention];
            Some(Terms::new(Duration::from_secs(lease), Duration::from_secs(retention)))
        }),
    ];
    let times = prop_oneof![
        Just(1_u64),
        Just(1_000),
        Just(60_000),
        Just(119_999),
        Just(120_000),
        Just(150_000),
        Just(1_800_000),
        Just(3_599_999),
        Just(3_600_000),
        Just(90_000_000),
    ];
    let resolution = prop_oneof![
        Just(Resolution::Release),
        any::<u8>().prop_map(|body| Resolution::Complete(Reply::new(200, vec![body]))),
    ];
    prop_oneof![
        8 => (0..KEYS, prop_oneof![5 => Just(0), 1 => Just(1)], terms)
            .prop_map(|(key, request, terms)| Step::Begin { key, request, terms }),
        5 => (any::<usize>(), any::<u8>()).prop_map(|(guard, body)| Step::Complete { guard, body }),
        2 => any::<usize>().prop_map(|guard| Step::Renew { guard }),
        2 => any::<usize>().prop_map(|guard| Step::Release { guard }),
        1 => any::<usize>().prop_map(|guard| Step::Drop { guard }),
        1 => (0..KEYS).prop_map(|key| Step::Forget { key }),
        1 => (0..KEYS, resolution).prop_map(|(key, resolution)| Step::Resolve { key, resolution }),
        2 => Just(Step::Check),
        4 => times.prop_map(|ms| Step::Pass(Duration::from_millis(ms))),
        1 => Just(Step::Sweep),
        1 => Just(Step::Reopen),
    ]
}

fn setup() -> impl Strategy<Value = Setup> {
    (any::<bool>(), 2_u64..7, any::<bool>()).prop_map(|(holds, segment_entries, caches)| Setup {
        holds,
        segment_entries,
        caches,
    })
}

#[test]
fn random_sequences_go_as_in_the_reference_model() {
    let cases = if is_full_run() { 10_000 } else { 500 };
    let config = Config {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("model.seeds"))),
        ..Config::default()
    };
    let sequences = (setup(), prop::collection::vec(step(), 1..60));
    TestRunner::new(config)
        .run(&sequences, |(setup, steps)| {
            let mut pair = Pair::new(setup, folder_in_memory());
            for step in steps {
                pair.take(step);
            }
            pair.finish();
            Ok(())
        })
        .unwrap();
    println!("{cases} sequences, 0 divergences");
}
