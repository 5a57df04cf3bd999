//! Sequences of operations on the embedded engine and on the reference model: the same outcomes, and the same records
//! after a restart.
#![no_main]

use std::time::Duration;

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use onceward::{Reply, Resolution, Terms};

#[path = "../../tests/models/model/pair.rs"]
mod pair;

use pair::{KEYS, Pair, Setup, Step};

/// Moments at which something begins or ends, and moments just before.
const TIMES_MS: [u64; 10] = [
    1, 1_000, 60_000, 119_999, 120_000, 150_000, 1_800_000, 3_599_999, 3_600_000, 90_000_000,
];
const STEPS: usize = 100;

fn terms(input: &mut Unstructured<'_>) -> Result<Option<Terms>> {
    if input.ratio(3, 4)? {
        return Ok(None);
    }
    let lease = *input.choose(&[60, 7_200])?;
    let retention = *input.choose(&[600, 7_200, 86_400])?;
    Ok(Some(Terms::new(
        Duration::from_secs(lease),
        Duration::from_secs(retention),
    )))
}

fn step(input: &mut Unstructured<'_>) -> Result<Step> {
    let what = input.int_in_range(0..=19)?;
    let key = input.choose_index(KEYS)?;
    let guard = key;
    Ok(match what {
        0..=5 => Step::Begin {
            key,
            request: u8::from(input.ratio(1, 8)?),
            terms: terms(input)?,
        },
        6..=9 => Step::Complete {
            guard,
            body: input.arbitrary()?,
        },
        10 => Step::Renew { guard },
        11 => Step::Release { guard },
        12 => Step::Drop { guard },
        13 => Step::Forget { key },
        14 => Step::Resolve {
            key,
            resolution: match input.arbitrary::<Option<u8>>()? {
                None => Resolution::Release,
                Some(body) => Resolution::Complete(Reply::new(200, vec![body])),
            },
        },
        15 => Step::Check,
        16..=17 => Step::Pass(Duration::from_millis(*input.choose(&TIMES_MS)?)),
        18 => Step::Sweep,
        _ => Step::Reopen,
    })
}

fuzz_target!(|input: &[u8]| {
    let mut input = Unstructured::new(input);
    let Ok((holds, caches, entries)) = input.arbitrary::<(bool, bool, u8)>() else {
        return;
    };
    let setup = Setup {
        holds,
        segment_entries: 2 + u64::from(entries % 5),
        caches,
    };
    let mut pair = Pair::new(setup, tempfile::tempdir().expect("a folder"));
    for _ in 0..STEPS {
        match step(&mut input) {
            Ok(step) if !input.is_empty() => pair.take(step),
            _ => break,
        }
    }
    pair.finish();
});
