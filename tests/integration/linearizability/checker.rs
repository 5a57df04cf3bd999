//! Whether a history of one key has an order that explains it.
//!
//! After Wing and Gong, with Lowe's just-in-time linearization: the history is walked from call to return, and a
//! set is kept of all pairs of a state and the open operations that have taken effect in it. An operation has to
//! have taken effect when it returns. One that changes nothing takes effect in the first state that it is right
//! about, since that hinders no other.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::reference::{Op, State, Time};

/// An operation with its call and its return, in the order of all calls and returns of a history.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Event {
    pub(super) called: u64,
    pub(super) returned: u64,
    /// Who did it; nobody does two things at a time.
    pub(super) thread: usize,
    pub(super) op: Op,
    /// What the clock showed meanwhile: one time, unless it was moved.
    pub(super) times: Vec<Time>,
}

impl Event {
    fn states_after(&self, state: &State) -> impl Iterator<Item = State> {
        let times = self.times.iter();
        times.filter_map(|now| state.after(&self.op, *now))
    }
}

/// One way in which things can have gone so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Way {
    state: State,
    /// The threads whose open operation has taken effect.
    done: u64,
}

/// The operations under way, by thread.
type Open<'a> = Vec<Option<&'a Event>>;

impl Way {
    fn has_done(&self, thread: usize) -> bool {
        self.done & (1 << thread) != 0
    }

    /// Lets everything take effect that is right in this state and changes nothing.
    fn settled(mut self, open: &Open<'_>) -> Self {
        for (thread, event) in open.iter().enumerate() {
            if let Some(event) = event
                && !self.has_done(thread)
                && event.op.changes_nothing()
                && event.states_after(&self.state).next().is_some()
            {
                self.done |= 1 << thread;
            }
        }
        self
    }

    /// The ways that lead on by one operation that may change the state.
    fn next<'a>(&'a self, open: &'a Open<'a>) -> impl Iterator<Item = Self> + 'a {
        let waiting = open.iter().enumerate();
        let waiting = waiting.filter(|(thread, _)| !self.has_done(*thread));
        waiting.flat_map(move |(thread, event)| {
            let states = event
                .iter()
                .flat_map(|event| event.states_after(&self.state));
            let done = self.done | (1 << thread);
            states.map(move |state| Self { state, done }.settled(open))
        })
    }
}

/// Every way on which the thread's operation has taken effect.
fn ways_after(ways: HashSet<Way>, open: &Open<'_>, thread: usize) -> HashSet<Way> {
    let mut seen = ways.clone();
    let mut waiting: Vec<Way> = ways.into_iter().collect();
    let mut found = HashSet::new();
    while let Some(way) = waiting.pop() {
        if way.has_done(thread) {
            found.insert(Way {
                done: way.done & !(1 << thread),
                ..way
            });
            continue;
        }
        let next = way.next(open).filter(|next| seen.insert(*next));
        waiting.extend(next);
        assert!(seen.len() < 1_000_000, "too many ways to tell");
    }
    found
}

/// `Err` says which operation no order explains, and in which states the key may have been.
pub(super) fn check(events: &[Event]) -> Result<(), String> {
    let threads = events
        .iter()
        .map(|event| event.thread + 1)
        .max()
        .unwrap_or(0);
    assert!(threads <= 64, "one bit per thread");
    let mut moments: Vec<(u64, bool, &Event)> = Vec::with_capacity(events.len() * 2);
    for event in events {
        moments.extend([(event.called, false, event), (event.returned, true, event)]);
    }
    // What was called when something else returned may have been earlier.
    moments.sort_unstable_by_key(|(moment, is_return, _)| (*moment, *is_return));
    let mut open: Open<'_> = vec![None; threads];
    let mut ways = HashSet::from([Way {
        state: State::new(),
        done: 0,
    }]);
    for (_, is_return, event) in moments {
        if is_return {
            let before = ways.clone();
            ways = ways_after(ways, &open, event.thread);
            open[event.thread] = None;
            if ways.is_empty() {
                let others: Vec<_> = open.iter().flatten().collect();
                return Err(format!("{event:?} from {before:?} beside {others:?}"));
            }
        } else {
            open[event.thread] = Some(event);
            ways = ways.into_iter().map(|way| way.settled(&open)).collect();
        }
    }
    Ok(())
}
