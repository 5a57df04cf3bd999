//! A process with many callers, which notes what it is granted and what was acknowledged.

use std::time::Duration;
use std::{panic, process, thread};

use onceward::{Engine, ErrorKind, Guard, Outcome, Reply};
use rustix::time::{ClockId, clock_gettime};

use super::{CALLERS, GENERATION, KEYS, LEASE, PER_LEASE};
use crate::node::{Told, say};
use crate::shared::Shared;
use support::engine::{key, request};

/// Nanoseconds on a clock that all processes of a machine share.
pub(super) fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).unwrap()
}

pub(super) fn engine(store: &str) -> Engine {
    let builder = Engine::builder().lease(LEASE);
    let shared = Shared::within(store, Duration::from_secs(2));
    builder.open_on(shared).unwrap()
}

struct Caller<'a> {
    engine: &'a Engine,
    seed: u64,
}

impl Caller<'_> {
    fn below(&mut self, limit: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed >> 33) % limit
    }

    /// One of the keys that all want just now, or wanted until shortly after a lease ago.
    fn name(&mut self) -> String {
        let generation = now() / u64::try_from(GENERATION.as_nanos()).unwrap();
        let back = match self.below(4) {
            0 => self.below(PER_LEASE + 3),
            _ => 0,
        };
        format!("{}-{}", generation - back, self.below(KEYS))
    }

    fn pause(&mut self) {
        thread::sleep(Duration::from_millis(self.below(20)));
    }

    fn step(&mut self) {
        let name = self.name();
        let called = now();
        let begun = match self.below(4) {
            0 => {
                let wait = Duration::from_millis(self.below(500));
                self.engine.begin_or_wait(&key(&name), &request(), wait)
            }
            _ => self.engine.begin(&key(&name), &request()),
        };
        match begun {
            Ok(Outcome::Proceed(guard)) => {
                let (token, attempt) = (guard.token(), guard.attempt());
                say(&format!(
                    "granted {name} {token} {attempt} {called} {}",
                    now()
                ));
                self.work(&name, guard);
            }
            Ok(Outcome::Replay(reply)) => {
                let body = String::from_utf8(reply.body().to_vec()).unwrap();
                say(&format!("replayed {name} {body}"));
                self.pause();
            }
            Ok(Outcome::InFlight(_)) => self.pause(),
            Ok(other) => say(&format!("wrong {name}: {other:?}")),
            Err(error) => self.failed(&error),
        }
    }

    fn work(&mut self, name: &str, mut guard: Guard) {
        let lease_ms = u64::try_from(LEASE.as_millis()).unwrap();
        match self.below(20) {
            // Abandoned.
            0 => return,
            // Perhaps too late.
            1 => thread::sleep(Duration::from_millis(lease_ms - 50 + self.below(100))),
            2 => {
                thread::sleep(LEASE / 2);
                let called = now();
                match guard.renew() {
                    Ok(()) => say(&format!("renewed {name} {} {called}", guard.token())),
                    Err(error) => self.failed(&error),
                }
                thread::sleep(LEASE / 4 * 3);
            }
            _ => self.pause(),
        }
        let token = guard.token();
        match guard.complete(Reply::new(201, token.to_string())) {
            Ok(()) => say(&format!("completed {name} {token}")),
            Err(error) if error.kind() == ErrorKind::LeaseLost => {
                say(&format!("late {name} {token}"));
            }
            Err(refused) => self.failed(&refused.into_parts().2),
        }
    }

    fn failed(&mut self, error: &onceward::Error) {
        say(&format!("failed {:?}", error.kind()));
        // A caller's pause before it tries again.
        thread::sleep(Duration::from_millis(20 + self.below(80)));
    }
}

#[test]
#[ignore = "a process of the tests here"]
fn works_until_it_is_killed() {
    let Some(told) = Told::here() else {
        return;
    };
    // Whichever thread it is, the test sees that this process has died by itself.
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |panicked| {
        report(panicked);
        process::abort();
    }));
    let engine = engine(&told.store);
    thread::scope(|scope| {
        for number in 0..CALLERS {
            let mut caller = Caller {
                engine: &engine,
                seed: now() ^ (number << 40) ^ ((told.number as u64) << 50) | 1,
            };
            scope.spawn(move || {
                loop {
                    caller.step();
                }
            });
        }
    });
}
