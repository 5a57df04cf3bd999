//! One of the threads: what it does by chance, and the notes it takes.

use std::sync::RwLock;
use std::time::{Duration, SystemTime};

use onceward::{Engine, Entry, EntryState, ErrorKind, Fingerprint, Guard, Key, Outcome, Reply};

use super::checker::Event;
use super::reference::{Begun, Forgot, Op, Record, Time};
use super::{KEYS, THREADS};

/// Around the ends of leases and retentions, and between them. After 13 ms a segment is old enough to roll.
const MOVES: [Time; 12] = [1, 13, 13, 13, 26, 40, 60, 99, 100, 101, 300, 301];

/// What chance decides.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % limit
    }

    /// By how much to move the clock.
    pub(super) fn step(&mut self) -> Time {
        MOVES[self.below(MOVES.len())]
    }
}

/// How times are noted: in such units, since such a moment.
#[derive(Clone, Copy)]
pub(super) struct Scale {
    pub(super) zero_ms: u64,
    pub(super) unit_ms: u64,
}

impl Scale {
    pub(super) const MS: Self = Self {
        zero_ms: 0,
        unit_ms: 1,
    };

    fn at(self, time: SystemTime) -> Time {
        self.nearest(ms(time).saturating_sub(self.zero_ms))
    }

    fn long(self, span: Duration) -> Time {
        self.nearest(u64::try_from(span.as_millis()).unwrap())
    }

    fn nearest(self, ms: u64) -> Time {
        (ms + self.unit_ms / 2) / self.unit_ms
    }
}

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

fn record_of(entry: Option<Entry>, scale: Scale) -> Record {
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
            started_at: scale.at(started_at),
            lease_until: scale.at(lease_until),
        },
        EntryState::Completed {
            completed_at,
            expires_at,
            reply,
            ..
        } => Record::Completed {
            token,
            attempt,
            completed_at: scale.at(completed_at),
            expires_at: scale.at(expires_at),
            body: number_of(&reply),
        },
        other => panic!("{other:?}"),
    }
}

/// A thread's memory from round to round.
pub(super) struct Worker {
    number: usize,
    random: Random,
    answers: u64,
    pub(super) guards: Vec<(usize, Guard)>,
    /// With their keys.
    pub(super) events: Vec<(usize, Event)>,
    /// Its last one.
    moment: u64,
}

/// What the threads of a round share.
pub(super) struct Round<'a> {
    pub(super) engine: &'a Engine,
    /// In which the keys are.
    pub(super) scope: &'a str,
    pub(super) scale: Scale,
    /// In the order of all calls and returns of all threads.
    pub(super) moment: &'a (dyn Fn() -> u64 + Sync),
    pub(super) is_clock_moving: bool,
    /// Held while the clock is moved.
    pub(super) moving: &'a RwLock<()>,
}

impl Round<'_> {
    fn key(&self, number: usize) -> Key {
        Key::new(self.scope, format!("key {number}")).unwrap()
    }
}

impl Worker {
    pub(super) fn new(number: usize) -> Self {
        Self {
            number,
            random: Random(0x9e37_79b9_7f4a_7c15 ^ (number as u64 + 1)),
            answers: 0,
            guards: Vec::new(),
            events: Vec::new(),
            moment: 0,
        }
    }

    fn below(&mut self, limit: usize) -> usize {
        self.random.below(limit)
    }

    /// Later than its last one.
    fn moment(&mut self, round: &Round<'_>) -> u64 {
        let last = self.moment;
        while self.moment == last {
            self.moment = (round.moment)();
        }
        self.moment
    }

    /// Notes an operation with the moments of its call and its return.
    fn note(&mut self, round: &Round<'_>, key: usize, act: impl FnOnce() -> Op) {
        let called = self.moment(round);
        let op = act();
        let returned = self.moment(round);
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
                let entry = round.engine.lookup(&round.key(key)).unwrap();
                Op::Lookup(record_of(entry, round.scale))
            }),
            (None, _) => self.note(round, key, || {
                Op::Forget(match round.engine.forget(&round.key(key)) {
                    Ok(true) => Forgot::Something,
                    Ok(false) => Forgot::Nothing,
                    Err(error) if error.kind() == ErrorKind::InFlight => Forgot::Refused,
                    Err(error) => panic!("{error}"),
                })
            }),
        }
    }

    fn begin(&mut self, round: &Round<'_>, key: usize) {
        let request = u8::from(self.below(8) == 0);
        let fingerprint = Fingerprint::of([request]);
        let mut granted = None;
        // One that takes half of a lease is renewed, or given back: that isn't one step any more.
        let _unmoved = round.moving.read().unwrap();
        self.note(round, key, || {
            let found = match round.engine.begin(&round.key(key), &fingerprint).unwrap() {
                Outcome::Proceed(guard) => {
                    let guard = granted.insert(guard);
                    let until = round.scale.at(guard.lease_until());
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
                    let left = round.scale.long(in_flight.lease_left());
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
                Ok(()) => Some(round.scale.at(guard.lease_until())),
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
