//! A user who does one thing after the other, and notes what was done and answered.

use std::time::{Duration, Instant};

use onceward::faults::{Random, Recorder};
use onceward::{
    Builder, Clock, Engine, ErrorKind, Fingerprint, Guard, ManualClock, Outcome, Reply, Terms,
};

use crate::expected::{Event, Expected, State, key};

pub(crate) const LEASE: Duration = Duration::from_secs(120);
pub(crate) const RETENTION: Duration = Duration::from_secs(3_600);
pub(crate) const KEYS: usize = 24;

/// Segments of a few requests, so that rolling, sealing, merging and sweeping happen all the time.
pub(crate) fn builder(clock: &ManualClock) -> Builder {
    Engine::builder()
        .clock(clock.clone())
        .lease(LEASE)
        .retention(RETENTION)
        .segment_entries(6)
        .merge_above(4)
        .cache_bytes(1 << 20)
        .replay_cache_bytes(0)
        // Never reached, but counted and kept.
        .max_live_keys_per_scope(1 << 20)
        .sweep_interval(Duration::from_secs(600))
}

pub(crate) struct User<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) clock: &'a ManualClock,
    recorder: &'a Recorder,
    pub(crate) random: Random,
    pub(crate) events: Vec<Event>,
    known: Expected,
    /// With their keys and retentions.
    guards: Vec<(usize, Duration, Guard)>,
    last_token: u64,
    /// That of each key's newest guard: an older one of the same attempt has lost the key.
    newest_tokens: [u64; KEYS],
    /// Whether the disk may fail, and calls with it.
    is_tolerant: bool,
    /// How many calls did.
    pub(crate) errors: usize,
    pub(crate) longest_call: Duration,
}

impl<'a> User<'a> {
    pub(crate) fn new(
        engine: &'a Engine,
        clock: &'a ManualClock,
        recorder: &'a Recorder,
        random: Random,
    ) -> Self {
        let mut user = Self {
            engine,
            clock,
            recorder,
            random,
            events: Vec::new(),
            known: Expected::default(),
            guards: Vec::new(),
            last_token: 0,
            newest_tokens: [0; KEYS],
            is_tolerant: false,
            errors: 0,
            longest_call: Duration::ZERO,
        };
        user.tell(Event::Now(clock.wall()));
        user
    }

    /// The same user, whose disk may fail.
    pub(crate) fn tolerant(mut self) -> Self {
        self.is_tolerant = true;
        self
    }

    /// The same user after a restart: the guards are gone with the process.
    pub(crate) fn restarted(self, engine: &'a Engine) -> Self {
        Self {
            engine,
            guards: Vec::new(),
            ..self
        }
    }

    /// From now on no call may fail.
    pub(crate) fn no_longer_tolerant(&mut self) {
        self.is_tolerant = false;
    }

    /// What is to be expected of the store now.
    pub(crate) fn known(&self) -> &Expected {
        &self.known
    }

    fn tell(&mut self, event: Event) {
        self.recorder.mark(self.events.len());
        self.known.take_in(&event);
        self.events.push(event);
    }

    pub(crate) fn step(&mut self) {
        let begun = Instant::now();
        match self.random.below(20) {
            0..=7 => self.begin(),
            8..=12 => self.complete(),
            13 => self.renew(),
            14..=15 => self.release(),
            16 => self.forget(),
            17 => {
                let result = self.engine.sweep();
                self.check(result.map(drop));
            }
            18 => self.pass(Duration::from_secs(1)),
            _ => {
                let seconds = [30, 400, 1_500][self.random.below(3)];
                self.pass(Duration::from_secs(seconds));
            }
        }
        self.longest_call = self.longest_call.max(begun.elapsed());
    }

    /// Whether a call went through. If it didn't, it was the disk's fault.
    fn check(&mut self, result: onceward::Result<()>) -> bool {
        let Err(error) = result else {
            return true;
        };
        let is_the_disks = matches!(error.kind(), ErrorKind::Io | ErrorKind::Unavailable);
        assert!(self.is_tolerant && is_the_disks, "{error:?}");
        self.errors += 1;
        false
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        // Known before it passes: what the engine writes meanwhile may be of the later moment.
        self.tell(Event::Now(self.clock.wall() + time));
        self.clock.advance(time);
    }

    fn begin(&mut self) {
        let number = self.random.below(KEYS);
        let now = self.clock.wall();
        let before = self.known.states(number);
        // Some are kept for longer than their segment, and have to be carried forward.
        let kept_for = [RETENTION, RETENTION, 3 * RETENTION][self.random.below(3)];
        let granted = |attempt| State::Attempt {
            attempt,
            lease_until: now + LEASE,
            kept_until: now + LEASE + kept_for,
        };
        for state in &before {
            self.tell(Event::Began(number, granted(state.next_attempt(now))));
        }
        let terms = Terms::new(LEASE, kept_for);
        let fingerprint = Fingerprint::of("request");
        let outcome = match self.engine.begin_with(&key(number), &fingerprint, terms) {
            Ok(outcome) => outcome,
            Err(error) => {
                self.check(Err(error));
                return;
            }
        };
        assert!(
            before.iter().any(|state| state.allows(&outcome, now)),
            "{outcome:?}, but the key is {before:?}"
        );
        let Outcome::Proceed(guard) = outcome else {
            // Until the store goes on in a new segment, a call that failed may still take effect by a power cut.
            if !self.engine.health().is_ready() {
                return;
            }
            let left = before
                .into_iter()
                .filter(|state| state.allows(&outcome, now));
            return self.tell(Event::Settled(number, left.collect()));
        };
        assert!(guard.token() > self.last_token, "tokens rise");
        self.last_token = guard.token();
        self.newest_tokens[number] = guard.token();
        self.tell(Event::Settled(number, vec![granted(guard.attempt())]));
        self.guards.push((number, kept_for, guard));
    }

    /// A guard, the retention it was granted with, and whether it surely still has its key.
    fn take_guard(&mut self) -> Option<(usize, Duration, Guard, bool)> {
        let count = self.guards.len();
        if count == 0 {
            return None;
        }
        let (number, kept_for, guard) = self.guards.swap_remove(self.random.below(count));
        let now = self.clock.wall();
        let is_current = match &self.known.states(number)[..] {
            [
                State::Attempt {
                    attempt,
                    lease_until,
                    ..
                },
            ] => {
                guard.token() == self.newest_tokens[number]
                    && *attempt == guard.attempt()
                    && now < *lease_until
            }
            _ => false,
        };
        Some((number, kept_for, guard, is_current))
    }

    fn complete(&mut self) {
        let Some((number, kept_for, guard, is_current)) = self.take_guard() else {
            return;
        };
        let size = self.random.below(2_000);
        let body = self.random.bytes(size);
        let completed = State::Completed {
            attempt: guard.attempt(),
            body: body.clone(),
            kept_until: self.clock.wall() + kept_for,
        };
        let before = self.known.states(number);
        self.tell(Event::Began(number, completed.clone()));
        let Err(refused) = guard.complete(Reply::new(200, body)) else {
            return self.tell(Event::Settled(number, vec![completed]));
        };
        let (guard, _, error) = refused.into_parts();
        if error.kind() == ErrorKind::LeaseLost {
            assert!(!is_current, "the holder was refused");
            return self.tell(Event::Settled(number, before));
        }
        self.check(Err(error));
        // It is tried again later, with another answer: none was acknowledged.
        self.guards.push((number, kept_for, guard));
    }

    /// Which attempt the only state is of a key whose guard surely has it.
    fn attempt(&self, number: usize) -> u32 {
        match &self.known.states(number)[..] {
            [State::Attempt { attempt, .. }] => *attempt,
            other => unreachable!("the key is {other:?}"),
        }
    }

    fn renew(&mut self) {
        let Some((number, kept_for, mut guard, true)) = self.take_guard() else {
            return;
        };
        let attempt = self.attempt(number);
        let lease_until = self.clock.wall() + LEASE;
        let renewed = State::Attempt {
            attempt,
            lease_until,
            kept_until: lease_until + kept_for,
        };
        self.tell(Event::Began(number, renewed.clone()));
        let result = guard.renew();
        if self.check(result) {
            self.tell(Event::Settled(number, vec![renewed]));
        }
        self.guards.push((number, kept_for, guard));
    }

    fn release(&mut self) {
        let Some((number, kept_for, guard, true)) = self.take_guard() else {
            return;
        };
        let attempt = self.attempt(number);
        let lease_until = self.clock.wall();
        // The first attempt leaves nothing behind; a later one is remembered, so that the next goes on counting.
        let released = if attempt == 1 {
            State::Free
        } else {
            State::Attempt {
                attempt,
                lease_until,
                kept_until: lease_until + kept_for,
            }
        };
        self.tell(Event::Began(number, released.clone()));
        let result = guard.release().map_err(|refused| refused.into_parts().1);
        if self.check(result) {
            self.tell(Event::Settled(number, vec![released]));
        }
    }

    fn forget(&mut self) {
        let number = self.random.below(KEYS);
        let before = self.known.states(number);
        self.tell(Event::Began(number, State::Free));
        match self.engine.forget(&key(number)) {
            Ok(true) => self.tell(Event::Settled(number, vec![State::Free])),
            Ok(false) => {
                let now = self.clock.wall();
                let free = before.into_iter().filter(|state| state.is_over(now));
                self.tell(Event::Settled(number, free.collect()));
            }
            Err(error) if error.kind() == ErrorKind::InFlight => {
                let running = |state: &State| matches!(state, State::Attempt { .. });
                let running = before.into_iter().filter(running);
                self.tell(Event::Settled(number, running.collect()));
            }
            Err(error) => {
                self.check(Err(error));
            }
        }
    }
}
