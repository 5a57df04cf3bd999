//! The settings of an engine, checked once when it is opened.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;

use super::Engine;
use super::core::{Core, EngineLimits, Refused};
use super::offload::{Offload, in_new_thread, no_thread};
use super::sweeper::Sweeper;
use super::waiters::Waiters;
use crate::clock::{Clock, SystemClock, Timeline, Timer, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{MAX_REPLY_BYTES, Terms, check_duration, check_number};
use crate::observe::Meters;
use crate::outcome::OnAbandon;
use crate::progress::{OnProgress, Progress};
use crate::secret::{Pepper, Secret};
use crate::store::embedded::{self, Embedded};
use crate::store::memory::Memory;
use crate::store::{Observer, Rules, Store};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The settings of an [`Engine`]; made by [`Engine::builder`].
///
/// Nothing is checked or done before [`open`](Builder::open) or
/// [`open_in_memory`](Builder::open_in_memory).
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is opened"]
pub struct Builder {
    terms: Terms,
    clock: Arc<dyn Clock>,
    on_abandon: OnAbandon,
    sweep_interval: Duration,
    max_reply_bytes: usize,
    max_live_keys: u64,
    queue_depth: usize,
    queue_wait: Duration,
    lock_wait: Duration,
    cache_bytes: usize,
    replay_cache_bytes: usize,
    segment_entries: u64,
    segment_bytes: u64,
    merge_above: usize,
    pepper: Option<Pepper>,
    keeps_keys: bool,
    is_restored: bool,
    progress: OnProgress,
    name: String,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            terms: Terms::default(),
            clock: Arc::new(SystemClock::new()),
            on_abandon: OnAbandon::default(),
            sweep_interval: MINUTE,
            max_reply_bytes: 1 << 20,
            max_live_keys: 10_000_000,
            queue_depth: 4_096,
            queue_wait: Duration::from_secs(1),
            lock_wait: Duration::ZERO,
            cache_bytes: 64 << 20,
            replay_cache_bytes: 64 << 20,
            segment_entries: 400_000,
            segment_bytes: 192 << 20,
            merge_above: 64,
            pepper: None,
            keeps_keys: true,
            is_restored: false,
            progress: OnProgress::default(),
            name: "default".to_owned(),
        }
    }
}

impl Builder {
    /// How long a granted key is held without a renewal: 1 ms to 24 h; 2 minutes by default.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.terms.lease = lease;
        self
    }

    /// How long an answer is replayed, counted from its completion: 1 ms to 366 days; 24 hours by
    /// default. An abandoned attempt is remembered, and counted, for as long from its start, or until
    /// its lease ends if that is later.
    pub fn retention(mut self, retention: Duration) -> Self {
        self.terms.retention = retention;
        self
    }

    /// Where time comes from; [`SystemClock`] by default.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// What becomes of abandoned attempts; [`OnAbandon::Rerun`] by default.
    pub fn on_abandon(mut self, on_abandon: OnAbandon) -> Self {
        self.on_abandon = on_abandon;
        self
    }

    /// How often the background sweeper looks for what is over: 1 ms to 24 h; 1 minute by default.
    pub fn sweep_interval(mut self, interval: Duration) -> Self {
        self.sweep_interval = interval;
        self
    }

    /// The largest reply that is kept, in bytes of header names, header values and body together: 1 to
    /// 64 MiB; 1 MiB by default.
    pub fn max_reply_bytes(mut self, bytes: usize) -> Self {
        self.max_reply_bytes = bytes;
        self
    }

    /// How many keys may have a record before new ones are refused: at least 1; 10 million by default.
    ///
    /// No live record is ever evicted to make room. The count is never too low: a record that is over
    /// counts until it is swept, which happens once its segment is unlinked, or until its key is begun
    /// anew.
    pub fn max_live_keys(mut self, keys: u64) -> Self {
        self.max_live_keys = keys;
        self
    }

    /// How many begins may be queued for the writer before further ones have to wait for room: 1 to
    /// 1,048,576; 4,096 by default. Completions and releases are never held up by it.
    pub fn queue_depth(mut self, begins: usize) -> Self {
        self.queue_depth = begins;
        self
    }

    /// How long a begin waits for room in a full queue before it fails with
    /// [`ErrorKind::Overloaded`]: 1 ms to 1 h; 1 second by default.
    pub fn queue_wait(mut self, wait: Duration) -> Self {
        self.queue_wait = wait;
        self
    }

    /// How long [`open`](Builder::open) waits for another process to let go of the folder, for rolling
    /// deploys: up to 1 h; not at all by default.
    pub fn lock_wait(mut self, wait: Duration) -> Self {
        self.lock_wait = wait;
        self
    }

    /// The budget of all page caches together: 1 MiB to 1 TiB; 64 MiB by default.
    ///
    /// Half of it goes to the sealed segments, according to their sizes; they are opened anew when their shares change
    /// much. An eighth goes to each journal. No segment gets less than 32 KiB, so that the smallest budgets are exceeded with many
    /// segments.
    pub fn cache_bytes(mut self, bytes: usize) -> Self {
        self.cache_bytes = bytes;
        self
    }

    /// The budget of the cache of recent replies, which serves hot retries from memory: up to 1 TiB;
    /// 64 MiB by default; 0 turns it off.
    pub fn replay_cache_bytes(mut self, bytes: usize) -> Self {
        self.replay_cache_bytes = bytes;
        self
    }

    /// After how many journal entries the active segment rolls: 2 to 100 million; 400,000 by default.
    /// A request writes two, its grant and its completion.
    ///
    /// Together with [`segment_bytes`](Builder::segment_bytes) this bounds what an open after a crash
    /// has to repair and to read, and the memory of the index. A segment also rolls after a twenty-fourth of the
    /// retention. While sealing is behind, it goes on to at most twice its size.
    pub fn segment_entries(mut self, entries: u64) -> Self {
        self.segment_entries = entries;
        self
    }

    /// After how many bytes of entries the active segment rolls: 1 KiB to 64 GiB; 192 MiB by default.
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = bytes;
        self
    }

    /// Above how many sealed segments adjacent ones are merged in the background, four into one: 4 to 100,000; 64 by
    /// default.
    ///
    /// A begin on a new key looks into the memory once per sealed segment, about 0.1 µs each. A merge reads and writes
    /// its segments' entries once more and takes as much disk space until it is done. Segments are only merged if none has to wait for the end of
    /// the last by more than an eighth of the time it has left.
    pub fn merge_above(mut self, sealed_segments: usize) -> Self {
        self.merge_above = sealed_segments;
        self
    }

    /// Keys the digests on the disk with a secret that the caller keeps, of 16 bytes or more, instead of
    /// one kept in the folder. A folder has to be opened with the pepper that it was made with.
    pub fn pepper(mut self, pepper: impl Into<Vec<u8>>) -> Self {
        self.pepper = Some(Pepper::new(pepper.into()));
        self
    }

    /// Whether the text of scopes and keys is kept on the disk, where operators can read it; on by
    /// default. Off, only keyed digests are written, and [`Entry::key`](crate::Entry::key) is `None`: an
    /// operator who wants to [`resolve`](Engine::resolve) an attempt has to know its key from elsewhere.
    pub fn keep_key_text(mut self, keep: bool) -> Self {
        self.keeps_keys = keep;
        self
    }

    /// Says that the folder was restored from a backup: fencing tokens continue in a new epoch, above
    /// every token that may have been handed out since the backup was made.
    ///
    /// Say it at the first open after any restore, and not at later ones. A folder that was copied to
    /// another place is also noticed by itself on Unix.
    pub fn restored_from_backup(mut self, is_restored: bool) -> Self {
        self.is_restored = is_restored;
        self
    }

    /// What the engine is called in the label `engine` of its metrics (feature `metrics`); `default` by
    /// default. Give each engine of a process a name of its own.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Is told how far [`open`](Builder::open) has got: when it repairs and indexes what a crash has left, and when it
    /// opens sealed segments. It is called by the thread that opens and by one that helps it, maybe at once.
    pub fn on_progress(mut self, tell: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.progress = OnProgress(Arc::new(tell));
        self
    }

    /// Opens the engine of a folder, and makes the folder if there is none. Its parent has to exist.
    ///
    /// Waits for the disk: after a crash, as long as it takes to repair and index what wasn't sealed yet, which
    /// [`on_progress`](Builder::on_progress) tells of.
    ///
    /// # Errors
    ///
    /// The message begins with the path. [`ErrorKind::InvalidConfig`] if a setting is out of its range, or
    /// the pepper not the one that the folder was made with; [`ErrorKind::NotAStore`] if the path isn't a
    /// folder of an engine's, which is then left as it is, or its parent doesn't exist;
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

    fn start(
        self,
        timeline: Timeline,
        meters: Meters,
        store: impl FnOnce(Timeline, Timer, Rules, Arc<dyn Observer>) -> Result<Arc<dyn Store>>,
    ) -> Result<Engine> {
        let rules = Rules {
            on_abandon: self.on_abandon,
            max_live_keys: self.max_live_keys,
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
        let (sweeper, sweeper_thread) =
            Sweeper::start(Arc::clone(&store), meters.clone(), self.sweep_interval)
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
            refused: Refused {
                full: AtomicU64::new(0),
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
            on_abandon: self.on_abandon,
            sweep_interval: self.sweep_interval,
            queue_depth: self.queue_depth,
            queue_wait: self.queue_wait,
            lock_wait: self.lock_wait,
            cache_bytes: self.cache_bytes,
            replay_cache_bytes: self.replay_cache_bytes,
            segment_entries: self.segment_entries,
            segment_bytes: self.segment_bytes,
            merge_above: self.merge_above,
            pepper: self.pepper.clone(),
            is_restored: self.is_restored,
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
        check_number("segment_entries", self.segment_entries, 2, 100_000_000)?;
        check_number("segment_bytes", self.segment_bytes, 1 << 10, 64 << 30)?;
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
