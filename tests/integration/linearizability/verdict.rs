//! What is said of a whole history.

use std::collections::BTreeMap;

use super::checker::{Event, check};
use super::reference::{Begun, Forgot, Op};

/// So many different things can happen.
pub(super) const KINDS: usize = 12;

/// How many keys have a history that no order explains, and how often each thing happened.
pub(super) fn on(events: &[(usize, Event)], keys: usize) -> (usize, BTreeMap<&'static str, usize>) {
    let mut violations = 0;
    for number in 0..keys {
        let of_key = events.iter().filter(|(key, _)| *key == number);
        let of_key: Vec<_> = of_key.map(|(_, event)| event.clone()).collect();
        if let Err(violation) = check(&of_key) {
            println!("key {number}: {violation}");
            violations += 1;
        }
    }
    (violations, kinds(events))
}

/// How often each thing happened, so that it shows what the histories are made of.
fn kinds(events: &[(usize, Event)]) -> BTreeMap<&'static str, usize> {
    let mut kinds = BTreeMap::new();
    for (_, event) in events {
        let kind = match &event.op {
            Op::Begin {
                found: Begun::Proceed { attempt: 1, .. },
                ..
            } => "granted",
            Op::Begin {
                found: Begun::Proceed { .. },
                ..
            } => "taken over",
            Op::Begin {
                found: Begun::Replay { .. },
                ..
            } => "replayed",
            Op::Begin {
                found: Begun::Conflict,
                ..
            } => "conflicting",
            Op::Begin {
                found: Begun::InFlight { .. },
                ..
            } => "in flight",
            Op::Complete { is_done: true, .. } => "completed",
            Op::Release { is_done: true, .. } => "released",
            Op::Renew { until: Some(_), .. } => "renewed",
            Op::Complete { .. } | Op::Release { .. } | Op::Renew { .. } => "refused",
            Op::Forget(Forgot::Something) => "forgotten",
            Op::Forget(_) => "not forgotten",
            Op::Lookup(_) => "looked up",
        };
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}
