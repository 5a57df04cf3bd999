//! A register whose server's clock is moved by hand, though it can't be.

use std::time::{Duration, SystemTime};

use crate::clock::{Clock, ManualClock, SystemClock};
use crate::store::register::{
    Cursor, Loaded, Page, RecordId, Refused, Register, Swapped, Value, Version,
};

/// A register around another one, whose server's time can be moved on by hand: what takes a day there is tested at once.
///
/// Between two moves time runs as it does on the server. What has been added is added to each time that the server tells,
/// and taken from each end that it is given. So a new cell ends on the server when it should. One that was written before
/// a move ends there later, by what was moved since: nothing reads it any more, but until then no
/// [`sweep`](Register::sweep) counts it.
///
/// An engine needs a clock that is moved along:
///
/// ```
/// use std::time::Duration;
/// use onceward::testkit::{Local, Shifted};
/// use onceward::{Engine, Fingerprint, Key, Outcome, Reply};
///
/// let register = Shifted::new(Local::default()); // or your own
/// let engine = Engine::builder().clock(register.clock()).open_on(register.clone())?;
/// let (key, fingerprint) = (Key::new("tenant", "key")?, Fingerprint::of("request"));
/// if let Outcome::Proceed(guard) = engine.begin(&key, &fingerprint)? {
///     guard.complete(Reply::new(201, "booked"))?;
/// }
/// register.advance(Duration::from_secs(86_400)); // the retention is over
/// assert!(matches!(engine.begin(&key, &fingerprint)?, Outcome::Proceed(_)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Shifted<R> {
    register: R,
    clock: ShiftedClock,
}

/// The clock of an engine on a [`Shifted`] register: it runs as the system's does, and is moved along.
#[derive(Clone, Debug)]
pub struct ShiftedClock {
    system: SystemClock,
    /// Has been moved by as much as was added.
    moved: ManualClock,
}

impl<R> Shifted<R> {
    /// Around this one, with nothing added yet. Clones are moved together.
    pub fn new(register: R) -> Self {
        Self {
            register,
            clock: ShiftedClock {
                system: SystemClock::new(),
                moved: ManualClock::new(),
            },
        }
    }

    /// Around another way to the same server; it is moved together with this one.
    pub fn beside<S>(&self, register: S) -> Shifted<S> {
        Shifted {
            register,
            clock: self.clock.clone(),
        }
    }

    /// Moves the server's time on, and that of the clocks. Less than a millisecond counts together with later moves.
    pub fn advance(&self, by: Duration) {
        self.clock.moved.advance(by);
    }

    /// A clock for engines on this register.
    pub fn clock(&self) -> ShiftedClock {
        self.clock.clone()
    }

    /// What the server's time is, if the server says this.
    fn shifted(&self, now_ms: u64) -> u64 {
        now_ms.saturating_add(self.clock.moved_ms())
    }

    fn loaded(&self, loaded: Loaded) -> Loaded {
        Loaded {
            now_ms: self.shifted(loaded.now_ms),
            ..loaded
        }
    }
}

impl ShiftedClock {
    fn moved_ms(&self) -> u64 {
        u64::try_from(self.moved.monotonic().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Clock for ShiftedClock {
    fn wall(&self) -> SystemTime {
        let wall = self.system.wall();
        wall.checked_add(self.moved.monotonic()).unwrap_or(wall)
    }

    fn monotonic(&self) -> Duration {
        let moved = self.moved.monotonic();
        self.system.monotonic().saturating_add(moved)
    }

    fn on_step(&self, wake: Box<dyn Fn() + Send + Sync>) {
        self.moved.on_step(wake);
    }
}

impl<R: Register> Register for Shifted<R> {
    async fn load(&self, id: RecordId) -> Result<Loaded, Refused> {
        let loaded = self.register.load(id).await?;
        Ok(self.loaded(loaded))
    }

    async fn swap(
        &self,
        id: RecordId,
        expected: Option<Version>,
        new: Value,
        ends_at_ms: u64,
    ) -> Result<Swapped, Refused> {
        let ends_at_ms = match ends_at_ms {
            u64::MAX => u64::MAX,
            ends => ends.saturating_sub(self.clock.moved_ms()),
        };
        let swapped = self.register.swap(id, expected, new, ends_at_ms).await?;
        Ok(match swapped {
            Swapped::Done { now_ms } => Swapped::Done {
                now_ms: self.shifted(now_ms),
            },
            Swapped::Mismatch(found) => Swapped::Mismatch(self.loaded(found)),
        })
    }

    async fn sweep(&self) -> Result<u64, Refused> {
        self.register.sweep().await
    }

    async fn scan(&self, from: Option<Cursor>, most: usize) -> Result<Page, Refused> {
        let page = self.register.scan(from, most).await?;
        Ok(Page {
            now_ms: self.shifted(page.now_ms),
            ..page
        })
    }

    async fn announce(&self, changed: Vec<RecordId>) {
        self.register.announce(changed).await;
    }

    async fn listen(&self, changed: impl Fn(RecordId) + Send + Sync + 'static) {
        self.register.listen(changed).await;
    }

    fn connections(&self) -> u64 {
        self.register.connections()
    }

    fn timeout(&self) -> Duration {
        self.register.timeout()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Local;
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn id(number: u8) -> RecordId {
        RecordId::from_bytes([number; 32])
    }

    fn value(version: u64) -> Value {
        Value {
            version: Version::from_bits(version),
            bytes: "bytes".into(),
        }
    }

    #[test]
    fn every_answer_bears_the_moved_time_and_ends_are_kept_in_the_servers() {
        let server = ManualClock::new();
        let real = Local::new(server.clone());
        let shifted = Shifted::new(real.clone());
        shifted.advance(HOUR);
        futures::executor::block_on(async {
            let real_ms = real.load(id(1)).await.unwrap().now_ms;
            let now_ms = real_ms + 3_600_000;
            assert_eq!(shifted.load(id(1)).await.unwrap().now_ms, now_ms);
            for (number, ends_at_ms) in [(1, now_ms), (2, now_ms + 1), (3, u64::MAX), (4, 5)] {
                let swapped = shifted.swap(id(number), None, value(1), ends_at_ms).await;
                assert!(matches!(swapped, Ok(Swapped::Done { now_ms: at }) if at == now_ms));
            }
            let found = shifted.swap(id(1), None, value(2), now_ms).await.unwrap();
            assert!(matches!(found, Swapped::Mismatch(found) if found.now_ms == now_ms));
            assert_eq!(shifted.scan(None, 10).await.unwrap().now_ms, now_ms);
            // Those that have ended by now, and after a move only on the server.
            assert_eq!(shifted.sweep().await.unwrap(), 2);
            shifted.advance(HOUR);
            assert_eq!(shifted.sweep().await.unwrap(), 0);
            server.advance(HOUR);
            assert_eq!(shifted.sweep().await.unwrap(), 1);
            assert!(shifted.load(id(3)).await.unwrap().value.is_some());
        });
    }

    #[test]
    fn all_ways_to_a_server_and_their_clocks_are_moved_together() {
        let server = Local::new(ManualClock::new());
        let one = Shifted::new(server.clone());
        let other = one.beside(server);
        let clock = other.clock();
        let (wall, monotonic) = (clock.wall(), clock.monotonic());
        one.advance(HOUR);
        assert!(clock.wall() >= wall + HOUR);
        assert!(clock.monotonic() >= monotonic + HOUR);
        let now_ms = |shifted: &Shifted<Local>| {
            let loaded = futures::executor::block_on(shifted.load(id(1)));
            loaded.unwrap().now_ms
        };
        assert_eq!(now_ms(&one), now_ms(&other));
    }
}
