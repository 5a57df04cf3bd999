//! What a store must say of each key after a fault, by what its user was told before.

use std::collections::BTreeMap;
use std::time::SystemTime;

use onceward::{Engine, Entry, EntryState, Fingerprint, Key, Outcome};

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
    Attempt {
        attempt: u32,
        lease_until: SystemTime,
        /// From when on the attempt need not be remembered.
        kept_until: SystemTime,
    },
    Completed {
        attempt: u32,
        body: Vec<u8>,
        kept_until: SystemTime,
    },
}

/// The states that each key may be in.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    states: BTreeMap<usize, Vec<State>>,
    pub(crate) now: Option<SystemTime>,
}

impl State {
    /// Whether the store's answer is this state.
    fn is(&self, entry: Option<&Entry>, now: SystemTime) -> bool {
        match (self, entry) {
            (Self::Free, None) => true,
            (Self::Attempt { kept_until, .. } | Self::Completed { kept_until, .. }, None) => {
                now >= *kept_until
            }
            (
                Self::Attempt {
                    attempt,
                    lease_until,
                    kept_until,
                },
                Some(entry),
            ) => match entry.state {
                EntryState::InFlight {
                    lease_until: until, ..
                } => entry.attempt == *attempt && until == *lease_until && now < *kept_until,
                _ => false,
            },
            (
                Self::Completed {
                    attempt,
                    body,
                    kept_until,
                },
                Some(entry),
            ) => match &entry.state {
                EntryState::Completed {
                    reply, expires_at, ..
                } => {
                    entry.attempt == *attempt
                        && reply.body() == &body[..]
                        && expires_at == kept_until
                        && now < *kept_until
                }
                _ => false,
            },
            (Self::Free, Some(_)) => false,
        }
    }

    /// Whether a begin's outcome is what this state calls for.
    pub(crate) fn allows(&self, outcome: &Outcome, now: SystemTime) -> bool {
        match (self, outcome) {
            (Self::Free, Outcome::Proceed(guard)) => guard.attempt() == 1,
            (
                Self::Attempt {
                    attempt,
                    lease_until,
                    kept_until,
                },
                Outcome::Proceed(guard),
            ) => {
                let is_forgotten = now >= *kept_until && guard.attempt() == 1;
                now >= *lease_until && (guard.attempt() == attempt + 1 || is_forgotten)
            }
            (Self::Attempt { lease_until, .. }, Outcome::InFlight(_)) => now < *lease_until,
            (Self::Completed { kept_until, .. }, Outcome::Proceed(guard)) => {
                now >= *kept_until && guard.attempt() == 1
            }
            (
                Self::Completed {
                    body, kept_until, ..
                },
                Outcome::Replay(reply),
            ) => now < *kept_until && reply.body() == &body[..],
            _ => false,
        }
    }
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
            if !states.iter().any(|state| state.is(found.as_ref(), now)) {
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
        self.check_begins(engine, now)
    }

    fn check_begins(&self, engine: &Engine, now: SystemTime) -> Result<(), String> {
        for (number, states) in &self.states {
            let outcome = engine
                .begin(&key(*number), &Fingerprint::of("request"))
                .map_err(|error| format!("key {number}: {error}"))?;
            if !states.iter().any(|state| state.allows(&outcome, now)) {
                return Err(format!("key {number} gives {outcome:?}, not by {states:?}"));
            }
        }
        Ok(())
    }
}

pub(crate) fn key(number: usize) -> Key {
    Key::new("tenant", format!("key {number}")).unwrap()
}
