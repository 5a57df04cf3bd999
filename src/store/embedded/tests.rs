//! What can't be brought about from outside: somebody who looked before segments were merged, and acts after it.

use std::sync::Arc;
use std::time::Duration;

use super::Embedded;
use super::merger::MergesHeld;
use super::set::{Segment, SegmentSet};
use crate::clock::Timestamp;
use crate::decision::{Command, Verdict};
use crate::fingerprint::Fingerprint;
use crate::key::Key;
use crate::outcome::OnAbandon;
use crate::reply::Reply;
use crate::secret::Digest;
use crate::store::conformance::{Bench, tests::embedded};
use crate::store::{Seen, Store};

const LEASE: Duration = Duration::from_secs(120);
const RETENTION: Duration = Duration::from_secs(86_400);

/// A store whose segments hold two requests each and are merged when there are more than four.
fn tiny() -> (Bench, Arc<Embedded>) {
    embedded(OnAbandon::Rerun, 1_000, 4, 0)
}

fn complete(bench: &Bench, key: &str) {
    let begin = bench.begin_command("request");
    let Verdict::Proceed(grant) = bench.ask_key(key, begin) else {
        panic!("{key} isn't free");
    };
    let complete = Command::Complete {
        token: grant.token,
        reply: Reply::new(200, "body"),
        retention: RETENTION,
    };
    bench.ask_key(key, complete);
}

fn digest(store: &Embedded, key: &str) -> Digest {
    store.secret().digest(&Key::new("tenant", key).unwrap())
}

fn eventually(store: &Embedded, is_true: impl Fn(&Embedded) -> bool) {
    let since = std::time::Instant::now();
    while !is_true(store) {
        assert!(since.elapsed().as_secs() < 60, "it never came true");
        std::thread::yield_now();
    }
}

/// A store with four sealed segments, which is one too few to merge them.
fn sealed() -> (Bench, Arc<Embedded>) {
    let (bench, store) = tiny();
    for number in 0..9 {
        complete(&bench, &number.to_string());
        eventually(&store, |store| {
            store.shared.view.segments().journals.len() == 1
        });
    }
    assert_eq!(store.shared.view.segments().sealed.len(), 4);
    (bench, store)
}

/// A store with a merged segment as its oldest, and the segments as they were before, oldest first.
fn merged() -> (Bench, Arc<Embedded>, Arc<SegmentSet>) {
    let (bench, store) = sealed();
    let before = store.shared.view.segments();
    for number in 9..11 {
        complete(&bench, &number.to_string());
    }
    eventually(&store, |store| {
        store.shared.view.segments().sealed.len() == 2
    });
    (bench, store, before)
}

#[test]
fn a_segment_that_was_merged_meanwhile_is_not_unlinked() {
    let (bench, store, before) = merged();
    let now = store.shared.timeline.now();
    for sealed in &before.sealed {
        let segment = Segment::Sealed(Arc::clone(sealed));
        assert_eq!(store.shared.unlink(&segment, now).unwrap(), None);
    }
    assert_eq!(store.live_keys(), 11);
    assert_eq!(store.figures().segments, 3);
    drop(bench);
}

#[test]
fn an_entry_that_another_one_in_its_merged_segment_superseded_is_not_the_newest() {
    let (bench, store) = tiny();
    let digest = digest(&store, "key");
    let newest = |store: &Embedded| {
        let current = store.shared.view.look(&digest, Seen::default()).unwrap();
        current.live_entry.unwrap()
    };
    complete(&bench, "key");
    let older = newest(&store);
    bench.ask_key("key", Command::Forget);
    complete(&bench, "key");
    let newer = newest(&store);
    for number in 0..10 {
        complete(&bench, &number.to_string());
        eventually(&store, |store| {
            store.shared.view.segments().journals.len() == 1
        });
    }
    eventually(&store, |store| {
        let set = store.shared.view.segments();
        let first = set.sealed[0].tally.header;
        first.id > first.first_id
    });
    assert!(store.shared.view.is_newest(&digest, newer).unwrap());
    assert!(!store.shared.view.is_newest(&digest, older).unwrap());
}

#[test]
fn a_merged_segment_knows_when_the_first_of_its_members_was_due() {
    let (_bench, store, before) = merged();
    let dues = before.sealed.iter().map(|sealed| {
        let rolled_at = Timestamp(sealed.rolled.rolled_at_ms);
        sealed.ends().last().min(rolled_at.plus(RETENTION))
    });
    let merged = &store.shared.view.segments().sealed[0];
    assert_eq!(merged.rolled.first_due(), dues.min());
    assert_eq!(merged.keys(), 8);
}

#[test]
fn a_segment_waits_for_the_last_leases_in_it_and_nothing_is_written_again() {
    let (bench, store) = tiny();
    // Abandoned, and the last of its segment.
    for key in ["a", "b", "c", "d", "e"] {
        bench.ask_key(key, bench.begin_command("request"));
    }
    eventually(&store, |store| store.figures().segments == 2);
    let written = store.figures().entries_written;
    bench.pass(RETENTION);
    assert_eq!(store.sweep().unwrap().segments, 0);
    bench.pass_nearly(LEASE);
    assert_eq!(store.sweep().unwrap().segments, 0);
    bench.pass_the_rest();
    // The second one, too, which the first sweep has let roll.
    assert_eq!(store.sweep().unwrap().segments, 2);
    assert_eq!(store.figures().entries_written, written);
}

#[test]
fn what_is_leased_for_longer_than_its_segment_waits_is_carried_forward() {
    let (bench, store) = tiny();
    let long = Command::Begin {
        takes_over: None,
        fingerprint: store.secret().seal(&Fingerprint::of("request")),
        lease: RETENTION / 2,
        retention: RETENTION,
    };
    bench.ask_key("long", long);
    for key in ["b", "c", "d", "e"] {
        bench.ask_key(key, bench.begin_command("request"));
    }
    eventually(&store, |store| store.figures().segments == 2);
    bench.pass(RETENTION);
    assert_eq!(store.sweep().unwrap().segments, 1);
    // It is remembered with its attempt, long after its lease.
    bench.pass_nearly(RETENTION / 2);
    let verdict = bench.ask_key("long", bench.begin_command("other"));
    assert!(matches!(verdict, Verdict::Conflict(_)), "{verdict:?}");
    bench.pass_the_rest();
    let verdict = bench.ask_key("long", bench.begin_command("other"));
    assert!(
        matches!(verdict, Verdict::Proceed(grant) if grant.attempt == 1),
        "{verdict:?}"
    );
}

#[test]
fn a_merge_that_ends_while_somebody_walks_through_the_segments_is_not_listed() {
    let (_bench, store) = sealed();
    let members = store.shared.view.segments().sealed.clone();
    let held = MergesHeld::new(&*store.shared);
    assert!(!store.shared.merge(&members).unwrap());
    assert_eq!(store.shared.view.segments().sealed.len(), 4);
    drop(held);
    assert!(store.shared.merge(&members).unwrap());
    assert_eq!(store.shared.view.segments().sealed.len(), 1);
    assert_eq!(store.live_keys(), 9);
}
