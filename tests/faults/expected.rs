//! What a store must say of each key after a fault, by what its user was told before.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use onceward::{Engine, EntryState, Key};

/// What a user did or was told.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A call began that puts the key in this state, if it succeeds.
    Began(usize, State),
    /// The call that began last has returned, and this is the key's state.
    Returned(usize, State),
    /// Time was let pass.
    Now(SystemTime),
}

/// What a key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Free,
    /// Granted for the so-manieth time, until then.
    Granted(u32, SystemTime),
    /// Completed with this body; kept until then.
    Completed(Vec<u8>, SystemTime),
}

/// The states that each key may be in.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    states: HashMap<usize, Vec<State>>,
    pub(crate) now: Option<SystemTime>,
}

impl Expected {
    /// What is expected after these events.
    pub(crate) fn after(events: &[Event]) -> Self {
        let mut expected = Self::default();
        for event in events {
            match event {
                Event::Began(key, state) => {
                    let states = expected.states.entry(*key).or_insert(vec![State::Free]);
                    states.push(state.clone());
                }
                Event::Returned(key, state) => {
                    expected.states.insert(*key, vec![state.clone()]);
                }
                Event::Now(now) => expected.now = Some(*now),
            }
        }
        expected
    }

    /// What is wrong with the store's answers, if anything is.
    pub(crate) fn check(&self, engine: &Engine) -> Result<(), String> {
        let now = self.now.unwrap_or(SystemTime::UNIX_EPOCH);
        let mut live = 0;
        for (number, states) in &self.states {
            let found = engine
                .lookup(&key(*number))
                .map_err(|error| format!("key {number}: {error}"))?;
            live += u64::from(found.is_some());
            let found = found.map(|entry| (entry.attempt, entry.state));
            let is_expected = states.iter().any(|state| match (state, &found) {
                (State::Free, None) => true,
                // Released: the next attempt goes on counting.
                (State::Free, Some((_, EntryState::InFlight { lease_until, .. }))) => {
                    *lease_until <= now
                }
                (State::Granted(attempt, until), Some((found, EntryState::InFlight { .. }))) => {
                    attempt == found && now < *until + Duration::from_secs(3_600)
                }
                // Its lease is over: whether the attempt is still remembered doesn't matter.
                (State::Granted(_, until), None) => now >= *until,
                (State::Completed(body, until), Some((_, EntryState::Completed { reply, .. }))) => {
                    reply.body() == &body[..] && now < *until
                }
                (State::Completed(_, until), None) => now >= *until,
                _ => false,
            });
            if !is_expected {
                return Err(format!("key {number} is {found:?}, not one of {states:?}"));
            }
        }
        let counted = engine.stats().live_keys;
        // What is over counts until it is swept.
        if counted < live {
            return Err(format!("{counted} keys are counted, {live} are live"));
        }
        let found = engine.verify(|_| ()).map_err(|error| error.to_string())?;
        if !found.is_sound() {
            return Err(format!("not sound: {:?}", found.problems));
        }
        Ok(())
    }
}

pub(crate) fn key(number: usize) -> Key {
    Key::new("tenant", format!("key {number}")).unwrap()
}
