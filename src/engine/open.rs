//! Opening an engine: its settings are checked, its store is opened, and its threads are started.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::core::{Core, EngineLimits, Refused};
use super::offload::{Offload, in_new_thread, no_thread};
use super::sweeper::Sweeper;
use super::waiters::Waiters;
use super::{Builder, Engine};
use crate::clock::{Timeline, Timer, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{MAX_REPLY_BYTES, check_duration, check_number};
use crate::observe::Meters;
use crate::secret::Secret;
use crate::store::embedded::{self, Embedded};
use crate::store::memory::Memory;
#[cfg(any(test, feature = "register"))]
use crate::store::register::{Caching, Limit, Register, RegisterStore, connect};
use crate::store::{Observer, Rules, Store};
use crate::sync::Mutex;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Builder {
    /// Opens the engine of a folder, and makes the folder if there is none. Its parent has to exist.
    ///
    /// Waits for the disk: after a crash, as long as it takes to repair and index what wasn't sealed yet, which
    /// [`on_progress`](Builder::on_progress) tells of.
    ///
    /// # Errors
    ///
    /// The message begins with the path. [`ErrorKind::InvalidConfig`] if a setting is out of its range, or
    /// the pepper not the one that the folder was made with; [`ErrorKind::NotAStore`] if the path isn't a
    /// folder of an engine's, which is then left as it is, or its parent doesn't exist, or, on
    /// Unix, others than its owner may write to it; [`ErrorKind::Unavailable`] if the folder was
    /// moved while it was opened;
    /// [`ErrorKind::Locked`] if another engine, in this process or another, has it open;
    /// [`ErrorKind::UnsupportedFormat`] if a newer version of the crate wrote it; [`ErrorKind::Corrupt`] if
    /// something in it is damaged or missing; [`ErrorKind::Io`] if the system refuses.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Engine> {
        self.check()?;
        let path = path.as_ref();
        let meters = Meters::new(&self.name);
        let recovered = embedded::recover(path, &self.embedded_settings(&meters))
            .map_err(|error| error.about(path))?;
        let timeline = recovered.timeline().clone();
        self.start(timeline, meters, |_, timer, rules, observer| {
            let store = Embedded::start(recovered, timer, rules, observer)?;
            Ok(Arc::new(store))
        })
    }

    /// [`open`](Builder::open) as a future, which opens in a thread of its own. Dropped after its first
    /// poll, the engine is opened and then closed.
    ///
    /// # Errors
    ///
    /// As [`open`](Builder::open).
    pub async fn open_async(self, path: impl AsRef<Path>) -> Result<Engine> {
        let path: PathBuf = path.as_ref().to_owned();
        in_new_thread("onceward-open", move || self.open(path)).await
    }

    /// Opens an engine that keeps its records in memory, for tests: the same semantics, nothing durable.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`] if a setting is out of its range.
    pub fn open_in_memory(self) -> Result<Engine> {
        self.check()?;
        let material = match &self.pepper {
            Some(pepper) => pepper.as_bytes().to_vec(),
            None => Secret::random_material()
                .map_err(|error| {
                    Error::with_source(ErrorKind::Io, "the system gives no random bytes", error)
                })?
                .to_vec(),
        };
        let timeline = Timeline::new(Arc::clone(&self.clock), Timestamp(0));
        let meters = Meters::new(&self.name);
        self.start(timeline, meters, |timeline, _, rules, observer| {
            let secret = Secret::derive(&material);
            Ok(Arc::new(Memory::new(secret, timeline, rules, observer)))
        })
    }

    /// Opens an engine whose records a [`Register`] keeps, with other engines, on this machine or on others.
    ///
    /// Waits for the register's first answer. The pepper, or that there is none, has to be the same for all. Time is the
    /// server's; the clock of this engine only carries it on. Nobody counts the keys, so that
    /// [`max_live_keys`](Builder::max_live_keys) isn't upheld, and what concerns files has no meaning. Nodes should have the same
    /// settings: each goes by its own lease and retention, and what one node runs anew another may hold.
    /// [`Guard::token`](crate::Guard::token) rises for each key, and may be the same for two keys.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`] if a setting is out of its range or can't be upheld, or the pepper not the one that the
    /// register was first used with; [`ErrorKind::Unavailable`] if the register doesn't answer;
    /// [`ErrorKind::UnsupportedFormat`] if a newer version of the crate was the first to use it.
    #[cfg(any(test, feature = "register"))]
    pub fn open_on(self, register: impl Register) -> Result<Engine> {
        self.check()?;
        if self.max_live_keys_per_scope.is_some()
            || self.cipher.is_some()
            || self.outcomes.is_some()
        {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                "neither a limit on the keys of a scope nor encryption nor outcomes_in is there for a register",
            ));
        }
        let meters = Meters::new(&self.name);
        let (pepper, clock) = (self.pepper.clone(), Arc::clone(&self.clock));
        let connected = connect(register, pepper, clock, self.terms.lease)?;
        let timeline = connected.timeline().clone();
        let caching = Caching {
            bytes: self.replay_cache_bytes,
            time: self.replay_cache_time,
        };
        let limit = Limit {
            depth: self.queue_depth,
            wait: self.queue_wait,
        };
        let store_meters = meters.clone();
        self.start(timeline, meters, |_, _, rules, observer| {
            let bounds = (caching, limit);
            let store = RegisterStore::start(connected, rules, bounds, store_meters, observer);
            Ok(Arc::new(store))
        })
    }

    /// [`open_on`](Builder::open_on) as a future, which opens in a thread of its own. Dropped after its first poll, the
    /// engine is opened and then closed.
    ///
    /// # Errors
    ///
    /// As [`open_on`](Builder::open_on).
    #[cfg(any(test, feature = "register"))]
    pub async fn open_on_async(self, register: impl Register) -> Result<Engine> {
        in_new_thread("onceward-open", move || self.open_on(register)).await
    }

    fn start(
        self,
        timeline: Timeline,
        meters: Meters,
        store: impl FnOnce(Timeline, Timer, Rules, Arc<dyn Observer>) -> Result<Arc<dyn Store>>,
    ) -> Result<Engine> {
        let rules = Rules {
            on_abandon: self.store_on_abandon(),
            max_live_keys: self.max_live_keys,
            max_live_keys_per_scope: self.max_live_keys_per_scope,
            retention: self.terms.retention,
            keeps_keys: self.keeps_keys,
        };
        let (timer, timer_thread) = Timer::start(timeline.clone()).map_err(no_thread)?;
        let waiters = Waiters::new(timer.clone());
        let observer: Arc<dyn Observer> = Arc::clone(&waiters) as _;
        let store = store(timeline.clone(), timer.clone(), rules, observer)
            .inspect_err(|_| timer.stop())?;
        let give_up = |error| {
            // What was started goes again; the reason that is told is the first one.
            drop(store.close());
            timer.stop();
            no_thread(error)
        };
        let reconciler = self.reconciler(&store, &timeline).inspect_err(|_| {
            drop(store.close());
            timer.stop();
        })?;
        let (sweeper, sweeper_thread) = Sweeper::start(
            Arc::clone(&store),
            reconciler.clone(),
            meters.clone(),
            self.sweep_interval,
        )
        .map_err(give_up)?;
        let (offload, offload_thread) = Offload::start().map_err(give_up)?;
        Ok(Engine::new(Core {
            store,
            timeline,
            waiters,
            sweeper,
            offload,
            limits: EngineLimits {
                terms: self.terms,
                max_reply_bytes: self.max_reply_bytes,
                max_live_keys: self.max_live_keys,
                queue_depth: self.queue_depth,
            },
            on_abandon: self.on_abandon,
            reconciler,
            refused: Refused {
                full: AtomicU64::new(0),
                scope_full: AtomicU64::new(0),
                oversize: AtomicU64::new(0),
            },
            meters,
            timer,
            threads: Mutex::new(vec![timer_thread, sweeper_thread, offload_thread]),
        }))
    }

    fn embedded_settings(&self, meters: &Meters) -> embedded::Settings {
        embedded::Settings {
            clock: Arc::clone(&self.clock),
            on_abandon: self.store_on_abandon(),
            sweep_interval: self.sweep_interval,
            queue_depth: self.queue_depth,
            queue_wait: self.queue_wait,
            lock_wait: self.lock_wait,
            cache_bytes: self.cache_bytes,
            replay_cache_bytes: self.replay_cache_bytes,
            segment_entries: self.segment_entries,
            segment_bytes: self.segment_bytes,
            max_disk_bytes: self.max_disk_bytes,
            counts_scopes: self.max_live_keys_per_scope.is_some(),
            merge_above: self.merge_above,
            pepper: self.pepper.clone(),
            cipher: self.cipher.clone(),
            is_restored: self.is_restored,
            accepts_damage: self.accepts_damage.clone(),
            progress: self.progress.clone(),
            meters: meters.clone(),
        }
    }

    fn check(&self) -> Result<()> {
        const TIB: u64 = 1 << 40;
        self.terms.check()?;
        check_duration("sweep_interval", self.sweep_interval, DAY)?;
        check_duration("queue_wait", self.queue_wait, 60 * MINUTE)?;
        if self.lock_wait > Duration::ZERO {
            check_duration("lock_wait", self.lock_wait, 60 * MINUTE)?;
        }
        check_number("max_live_keys", self.max_live_keys, 1, u64::MAX)?;
        let per_scope = self.max_live_keys_per_scope.unwrap_or(1);
        check_number("max_live_keys_per_scope", per_scope, 1, u64::MAX)?;
        for (name, value, least, most) in [
            (
                "max_reply_bytes",
                self.max_reply_bytes,
                1,
                MAX_REPLY_BYTES as u64,
            ),
            ("queue_depth", self.queue_depth, 1, 1 << 20),
            ("merge_above", self.merge_above, 4, 100_000),
            ("cache_bytes", self.cache_bytes, 1 << 20, TIB),
            ("replay_cache_bytes", self.replay_cache_bytes, 0, TIB),
        ] {
            check_number(name, value as u64, least, most)?;
        }
        #[cfg(any(test, feature = "register"))]
        if self.replay_cache_time > Duration::ZERO {
            check_duration("replay_cache_time", self.replay_cache_time, DAY)?;
        }
        check_number("segment_entries", self.segment_entries, 2, 100_000_000)?;
        check_number("segment_bytes", self.segment_bytes, 1 << 10, 64 << 30)?;
        if let Some(bytes) = self.max_disk_bytes {
            check_number("max_disk_bytes", bytes, 64 << 20, u64::MAX)?;
        }
        if let Some(pepper) = &self.pepper {
            check_number(
                "the pepper's length",
                pepper.as_bytes().len() as u64,
                16,
                1 << 16,
            )?;
        }
        Ok(())
    }
}
