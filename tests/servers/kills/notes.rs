//! What all processes have said, held against what is promised.

use std::collections::HashMap;
use std::fmt;

use onceward::{Engine, Outcome};

use super::LEASE;
use support::engine::{key, request};

/// Servers tell milliseconds.
const ROUNDING: u64 = 2_000_000;

#[derive(Clone, Copy)]
struct Grant {
    token: u64,
    attempt: u32,
    /// The grant, or the last renewal.
    called: u64,
    returned: u64,
}

#[derive(Default)]
struct OfKey {
    grants: Vec<Grant>,
    renewals: usize,
    /// Tokens of completions that were acknowledged.
    completed: Vec<u64>,
    /// Bodies of replays: the tokens of their completions.
    replayed: Vec<u64>,
}

#[derive(Default)]
pub(super) struct Notes {
    keys: HashMap<String, OfKey>,
    failed: HashMap<String, u64>,
    late: u64,
    wrong: Vec<String>,
}

/// What was found. All but the counts of what was done has to be 0.
#[derive(Default)]
pub(super) struct Found {
    pub(super) keys: usize,
    pub(super) grants: usize,
    pub(super) renewals: usize,
    pub(super) taken_over: usize,
    pub(super) completed: usize,
    pub(super) replayed: usize,
    pub(super) late: u64,
    /// Grants within a lease of the same key that nobody gave back.
    pub(super) doubles: usize,
    /// Keys with two completions that were acknowledged, or with two answers.
    pub(super) torn: usize,
    /// Completions that were acknowledged and aren't there.
    pub(super) lost: usize,
}

impl Notes {
    pub(super) fn take(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().unwrap();
        match words[0] {
            "granted" => self.of(words[1]).grants.push(Grant {
                token: number(2),
                attempt: number(3).try_into().unwrap(),
                called: number(4),
                returned: number(5),
            }),
            "renewed" => self.of(words[1]).renew(number(2), number(3)),
            "completed" => self.of(words[1]).completed.push(number(2)),
            "replayed" => self.of(words[1]).replayed.push(number(2)),
            "late" => self.late += 1,
            "failed" => *self.failed.entry(words[1].to_owned()).or_default() += 1,
            "wrong" => self.wrong.push(line.to_owned()),
            // The test harness's own.
            _ => {}
        }
    }

    fn of(&mut self, name: &str) -> &mut OfKey {
        self.keys.entry(name.to_owned()).or_default()
    }

    pub(super) fn completions(&self) -> usize {
        self.keys.values().map(|key| key.completed.len()).sum()
    }

    /// Asks an engine that wasn't there for the answer of each key that was completed.
    pub(super) fn held_against(&mut self, engine: &Engine) -> Found {
        assert_eq!(self.wrong, Vec::<String>::new());
        let mut found = Found {
            keys: self.keys.len(),
            late: self.late,
            ..Found::default()
        };
        for (name, of_key) in &mut self.keys {
            found.grants += of_key.grants.len();
            found.renewals += of_key.renewals;
            found.completed += of_key.completed.len();
            found.replayed += of_key.replayed.len();
            found.doubles += of_key.doubles();
            found.taken_over += of_key.grants.iter().filter(|it| it.attempt > 1).count();
            let mut answers = of_key.replayed.clone();
            answers.extend_from_slice(&of_key.completed);
            answers.sort_unstable();
            answers.dedup();
            found.torn += usize::from(answers.len() > 1);
            if !of_key.completed.is_empty() {
                let is_there = match engine.begin(&key(name), &request()) {
                    Ok(Outcome::Replay(reply)) => answers
                        .iter()
                        .any(|token| token.to_string().as_bytes() == &reply.body()[..]),
                    Ok(_) => false,
                    Err(error) => panic!("{name}: {error}"),
                };
                found.lost += usize::from(!is_there);
            }
        }
        found
    }
}

impl OfKey {
    /// Its process has said before that it was granted.
    fn renew(&mut self, token: u64, called: u64) {
        let renewed = self.grants.iter_mut().find(|grant| grant.token == token);
        renewed.unwrap().called = called;
        self.renewals += 1;
    }

    /// Grants that came before the lease of an earlier one had ended.
    fn doubles(&mut self) -> usize {
        let lease = u64::try_from(LEASE.as_nanos()).unwrap();
        self.grants.sort_unstable_by_key(|grant| grant.token);
        let pairs = self.grants.windows(2);
        let within = pairs.filter(|pair| pair[1].returned + ROUNDING < pair[0].called + lease);
        let tokens = self.grants.windows(2);
        let again = tokens.filter(|pair| pair[0].token == pair[1].token);
        within.count() + again.count()
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} keys, {} grants ({} of a later attempt), {} renewals, {} completions, {} replays, {} too late; granted twice {}, two \
             answers {}, lost {}",
            self.keys,
            self.grants,
            self.taken_over,
            self.renewals,
            self.completed,
            self.replayed,
            self.late,
            self.doubles,
            self.torn,
            self.lost,
        )
    }
}

impl fmt::Display for Notes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "calls that failed: {:?}", self.failed)
    }
}
