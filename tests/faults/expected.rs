//! What a store must say of each key after a fault, by what its user was told before.

use std::collections::BTreeMap;
use std::time::SystemTime;

use onceward::{Engine, Entry, EntryState, Fingerprint, Key, Outcome};

/// What a user did or was told.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A call began that puts the key in this state, if it succeeds.
    Began(usize, State),
    /// The call that began last has returned, and this is the key's state; or one of these, if an earlier one failed.
    Settled(usize, Vec<State>),
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
    /// Whether the key is free by now.
    pub(crate) fn is_over(&self, now: SystemTime) -> bool {
        match self {
            Self::Free => true,
            Self::Attempt { kept_until, .. } | Self::Completed { kept_until, .. } => {
                now >= *kept_until
            }
        }
    }

    /// The number that an attempt gets which is granted now.
    pub(crate) fn next_attempt(&self, now: SystemTime) -> u32 {
        match self {
            Self::Attempt { attempt, .. } if !self.is_over(now) => attempt + 1,
            _ => 1,
        }
    }

    /// Whether the store's answer is this state.
    fn is(&self, entry: Option<&Entry>, now: SystemTime) -> bool {
        match (self, entry) {
            (state, None) => state.is_over(now),
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
        events.iter().for_each(|event| expected.take_in(event));
        expected
    }

    pub(crate) fn take_in(&mut self, event: &Event) {
        match event {
            Event::Began(key, state) => {
                let states = self.states.entry(*key).or_insert(vec![State::Free]);
                if !states.contains(state) {
                    states.push(state.clone());
                }
            }
            Event::Settled(key, states) => {
                self.states.insert(*key, states.clone());
            }
            Event::Now(now) => self.now = Some(*now),
        }
    }

    /// The states that a key may be in.
    pub(crate) fn states(&self, number: usize) -> Vec<State> {
        let states = self.states.get(&number);
        states.cloned().unwrap_or_else(|| vec![State::Free])
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
        if engine.do_counts_agree() == Some(false) {
            return Err("the scopes' live keys are others than all live keys".to_owned());
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
