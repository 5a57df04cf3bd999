//! One of the threads: what it does by chance, and the notes it takes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use onceward::{Engine, Entry, EntryState, ErrorKind, Fingerprint, Guard, Key, Outcome, Reply};

use super::checker::Event;
use super::reference::{Begun, Forgot, Op, Record, Time};
use super::{KEYS, THREADS};
use crate::support::{Bench, key};

/// Around the ends of leases and retentions, and between them. After 13 ms a segment is old enough to roll.
const MOVES: [Time; 12] = [1, 13, 13, 13, 26, 40, 60, 99, 100, 101, 300, 301];

pub(super) fn ms(time: SystemTime) -> Time {
    let since_1970 = time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    u64::try_from(since_1970.as_millis()).unwrap()
}

/// The answer with this number; its bytes and their length follow from it.
fn reply(number: u64) -> Reply {
    let mut body = number.to_le_bytes().to_vec();
    body.resize(
        8 + usize::try_from(number % 300).unwrap(),
        number.to_le_bytes()[0],
    );
    Reply::new(200, body)
}

/// An answer's number; 0, which is nobody's, for one that was never given.
fn number_of(found: &Reply) -> u64 {
    let number = found
        .body()
        .first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes));
    if *found == reply(number) { number } else { 0 }
}

fn record_of(entry: Option<Entry>) -> Record {
    let Some(entry) = entry else {
        return Record::Absent;
    };
    let (token, attempt) = (entry.token, entry.attempt);
    match entry.state {
        EntryState::InFlight {
            started_at,
            lease_until,
            ..
        } => Record::InFlight {
            token,
            attempt,
            started_at: ms(started_at),
            lease_until: ms(lease_until),
        },
        EntryState::Completed {
            completed_at,
            expires_at,
            reply,
            ..
        } => Record::Completed {
            token,
            attempt,
            completed_at: ms(completed_at),
            expires_at: ms(expires_at),
            body: number_of(&reply),
        },
        other => panic!("{other:?}"),
    }
}

/// A thread's memory from round to round.
pub(super) struct Worker {
    number: usize,
    seed: u64,
    answers: u64,
    pub(super) guards: Vec<(usize, Guard)>,
    /// With their keys.
    pub(super) events: Vec<(usize, Event)>,
    pub(super) moves: Vec<Move>,
}

/// A move of the clock, between two moments.
#[derive(Clone, Copy)]
pub(super) struct Move {
    pub(super) called: u64,
    pub(super) returned: u64,
    pub(super) by: Time,
}

/// What the threads of a round share.
pub(super) struct Round<'a> {
    pub(super) bench: &'a Bench,
    pub(super) engine: &'a Engine,
    pub(super) moments: &'a AtomicU64,
    pub(super) is_clock_moving: bool,
}

impl Worker {
    pub(super) fn new(number: usize) -> Self {
        Self {
            number,
            seed: 0x9e37_79b9_7f4a_7c15 ^ (number as u64 + 1),
            answers: 0,
            guards: Vec::new(),
            events: Vec::new(),
            moves: Vec::new(),
        }
    }

    fn below(&mut self, limit: usize) -> usize {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        usize::try_from(self.seed >> 33).unwrap() % limit
    }

    /// Notes an operation with the moments of its call and its return.
    fn note(&mut self, round: &Round<'_>, key: usize, act: impl FnOnce() -> Op) {
        let called = round.moments.fetch_add(1, Ordering::SeqCst);
        let op = act();
        let returned = round.moments.fetch_add(1, Ordering::SeqCst);
        let event = Event {
            called,
            returned,
            thread: self.number,
            op,
            times: Vec::new(),
        };
        self.events.push((key, event));
    }

    pub(super) fn step(&mut self, round: &Round<'_>) {
        if round.is_clock_moving && self.number == 0 && self.below(4) == 0 {
            return self.pass(round);
        }
        let mine = (!self.guards.is_empty() && self.below(2) == 0)
            .then(|| self.below(self.guards.len()))
            .map(|at| self.guards.swap_remove(at));
        // Each key half as often as the one before: all meet at the first, and the last ones are sealed meanwhile.
        let key = self.below(1 << KEYS).trailing_zeros() as usize;
        let key = key.min(KEYS - 1);
        match (mine, self.below(20)) {
            (Some((key, guard)), 0..10) => self.complete(round, key, guard),
            (Some((key, guard)), 10..14) => self.renew(round, key, guard),
            (Some((key, guard)), 14..17) => self.release(round, key, guard),
            (Some(abandoned), _) => drop(abandoned),
            (None, 0..13) => self.begin(round, key),
            (None, 13..16) => self.note(round, key, || {
                Op::Lookup(record_of(round.engine.lookup(&numbered(key)).unwrap()))
            }),
            (None, _) => self.note(round, key, || {
                Op::Forget(match round.engine.forget(&numbered(key)) {
                    Ok(true) => Forgot::Something,
                    Ok(false) => Forgot::Nothing,
                    Err(error) if error.kind() == ErrorKind::InFlight => Forgot::Refused,
                    Err(error) => panic!("{error}"),
                })
            }),
        }
    }

    pub(super) fn pass(&mut self, round: &Round<'_>) {
        let by = MOVES[self.below(MOVES.len())];
        let called = round.moments.fetch_add(1, Ordering::SeqCst);
        round.bench.clock.advance(Duration::from_millis(by));
        let returned = round.moments.fetch_add(1, Ordering::SeqCst);
        self.moves.push(Move {
            called,
            returned,
            by,
        });
    }

    fn begin(&mut self, round: &Round<'_>, key: usize) {
        let request = u8::from(self.below(8) == 0);
        let fingerprint = Fingerprint::of([request]);
        let mut granted = None;
        self.note(round, key, || {
            let found = match round.engine.begin(&numbered(key), &fingerprint).unwrap() {
                Outcome::Proceed(guard) => {
                    let guard = granted.insert(guard);
                    let until = ms(guard.lease_until());
                    Begun::Proceed {
                        token: guard.token(),
                        attempt: guard.attempt(),
                        until,
                    }
                }
                Outcome::Replay(reply) => Begun::Replay {
                    body: number_of(&reply),
                },
                Outcome::Conflict(_) => Begun::Conflict,
                Outcome::InFlight(in_flight) => {
                    let left = u64::try_from(in_flight.lease_left().as_millis()).unwrap();
                    let left = (!round.is_clock_moving).then_some(left);
                    Begun::InFlight {
                        attempt: in_flight.attempt(),
                        left,
                    }
                }
            };
            Op::Begin { request, found }
        });
        self.guards.extend(granted.map(|guard| (key, guard)));
    }

    fn complete(&mut self, round: &Round<'_>, key: usize, guard: Guard) {
        self.answers += 1;
        let body = self.answers * THREADS as u64 + self.number as u64;
        let token = guard.token();
        let mut refused = None;
        self.note(round, key, || {
            if let Err(error) = guard.complete(reply(body)) {
                assert_eq!(error.kind(), ErrorKind::LeaseLost, "{error}");
                refused = Some(error.into_parts().0);
            }
            Op::Complete {
                token,
                body,
                is_done: refused.is_none(),
            }
        });
        self.tries_again(key, refused);
    }

    fn release(&mut self, round: &Round<'_>, key: usize, guard: Guard) {
        let token = guard.token();
        let mut refused = None;
        self.note(round, key, || {
            if let Err(error) = guard.release() {
                assert_eq!(error.kind(), ErrorKind::LeaseLost, "{error}");
                refused = Some(error.into_parts().0);
            }
            Op::Release {
                token,
                is_done: refused.is_none(),
            }
        });
        self.tries_again(key, refused);
    }

    fn renew(&mut self, round: &Round<'_>, key: usize, mut guard: Guard) {
        let token = guard.token();
        self.note(round, key, || {
            let until = match guard.renew() {
                Ok(()) => Some(ms(guard.lease_until())),
                Err(error) if error.kind() == ErrorKind::LeaseLost => None,
                Err(error) => panic!("{error}"),
            };
            Op::Renew { token, until }
        });
        self.guards.push((key, guard));
    }

    /// Every other guard that lost its lease is tried again, and must lose again.
    fn tries_again(&mut self, key: usize, refused: Option<Guard>) {
        if self.below(2) == 0 {
            self.guards.extend(refused.map(|guard| (key, guard)));
        }
    }
}

fn numbered(number: usize) -> Key {
    key(format!("key {number}"))
}
