//! The settings of an engine.

use std::sync::Arc;
use std::time::Duration;

#[cfg(any(test, feature = "register"))]
use super::outcomes::{Of, Unopened};
use crate::clock::{Clock, SystemClock};
use crate::damage::{Damage, OnDamage};
use crate::encryption::Cipher;
#[cfg(feature = "encryption")]
use crate::encryption::EncryptionKeys;
use crate::limits::Terms;
use crate::outcome::OnAbandon;
use crate::progress::{OnProgress, Progress};
use crate::secret::Pepper;
#[cfg(any(test, feature = "register"))]
use crate::store::transaction::Database;

/// The settings of an [`Engine`](crate::Engine); made by [`Engine::builder`](crate::Engine::builder).
///
/// Nothing is checked or done before [`open`](Builder::open) or
/// [`open_in_memory`](Builder::open_in_memory).
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is opened"]
pub struct Builder {
    pub(super) terms: Terms,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) on_abandon: OnAbandon,
    pub(super) sweep_interval: Duration,
    pub(super) max_reply_bytes: usize,
    pub(super) max_live_keys: u64,
    pub(super) max_live_keys_per_scope: Option<u64>,
    pub(super) queue_depth: usize,
    pub(super) queue_wait: Duration,
    pub(super) lock_wait: Duration,
    pub(super) cache_bytes: usize,
    pub(super) replay_cache_bytes: usize,
    #[cfg(any(test, feature = "register"))]
    pub(super) replay_cache_time: Duration,
    pub(super) segment_entries: u64,
    pub(super) segment_bytes: u64,
    pub(super) merge_above: usize,
    pub(super) max_disk_bytes: Option<u64>,
    pub(super) cipher: Option<Cipher>,
    pub(super) pepper: Option<Pepper>,
    pub(super) keeps_keys: bool,
    pub(super) is_restored: bool,
    pub(super) accepts_damage: Option<OnDamage>,
    pub(super) progress: OnProgress,
    pub(super) name: String,
    #[cfg(any(test, feature = "register"))]
    pub(super) outcomes: Option<Arc<dyn Unopened>>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            terms: Terms::default(),
            clock: Arc::new(SystemClock::new()),
            on_abandon: OnAbandon::default(),
            sweep_interval: Duration::from_secs(60),
            max_reply_bytes: 1 << 20,
            max_live_keys: 10_000_000,
            max_live_keys_per_scope: None,
            queue_depth: 4_096,
            queue_wait: Duration::from_secs(1),
            lock_wait: Duration::ZERO,
            cache_bytes: 64 << 20,
            replay_cache_bytes: 64 << 20,
            #[cfg(any(test, feature = "register"))]
            replay_cache_time: Duration::from_secs(60),
            segment_entries: 400_000,
            segment_bytes: 192 << 20,
            merge_above: 64,
            pepper: None,
            keeps_keys: true,
            is_restored: false,
            accepts_damage: None,
            max_disk_bytes: None,
            cipher: None,
            progress: OnProgress::default(),
            name: "default".to_owned(),
            #[cfg(any(test, feature = "register"))]
            outcomes: None,
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
    /// default. An abandoned attempt is remembered, and counted, for as long after its lease: until
    /// then a retry is the attempt after it, and another request conflicts.
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

    /// How many keys of one scope may have a record before its new ones are refused with
    /// [`ErrorKind::ScopeFull`](crate::ErrorKind::ScopeFull), so that no tenant takes the room of all: at least 1; no limit by default.
    ///
    /// [`max_live_keys`](Builder::max_live_keys) holds as well. A record that is over counts until it is swept, or until its key is begun anew; keys without a
    /// scope count as those of one more. The counts outlive a restart, also one without the limit, and a crash. Where the limit is new to a
    /// folder, keys that were begun before count only if they aren't sealed yet, so that it holds in full once those are unlinked, about one retention later.
    ///
    /// The counts take about 50 bytes of memory for each scope in each segment, and 16 in the file `scopes`, which is written anew with each
    /// sealed segment and isn't part of [`max_disk_bytes`](Builder::max_disk_bytes): fit for tenants, less so for a scope of its own for each of millions of users.
    /// To stop counting, remove that file while no engine has the folder open.
    pub fn max_live_keys_per_scope(mut self, keys: u64) -> Self {
        self.max_live_keys_per_scope = Some(keys);
        self
    }

    /// How many begins may be queued for the writer, or wait for a [register](Builder::open_on)'s answer, before further ones have to
    /// wait for room: 1 to 1,048,576; 4,096 by default. Completions and releases are never held up by it.
    pub fn queue_depth(mut self, begins: usize) -> Self {
        self.queue_depth = begins;
        self
    }

    /// How long a begin waits for room in a full queue before it fails with
    /// [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded): 1 ms to 1 h; 1 second by default.
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
    /// Three quarters of it go to the sealed segments, according to their sizes; they are opened anew when their shares change
    /// much. No segment gets less than 32 KiB, so that the smallest budgets are exceeded with many
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

    /// Looks for outcomes in a database of the caller's, where [`Guard::complete_in`](crate::Guard::complete_in) has them written in the
    /// caller's transactions: at open, with each sweep, and before an abandoned key is granted again; see
    /// [`transaction`](crate::transaction).
    ///
    /// Use the same database, or none, for as long as the folder lives: without it, what was committed and not confirmed is run
    /// again. Opening fails while the database doesn't answer. The outcomes' bytes aren't
    /// [encrypted](Builder::encryption) by the engine. Not for a register, which has its rows in a database already.
    ///
    /// ```no_run
    /// # #[cfg(feature = "redb")] {
    /// use std::sync::Arc;
    ///
    /// use onceward::Engine;
    ///
    /// let ledger = Arc::new(redb::Database::create("ledger.redb")?);
    /// let builder = Engine::builder().outcomes_in(Arc::clone(&ledger));
    /// let engine = builder.open("idempotency")?;
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(any(test, feature = "register"))]
    pub fn outcomes_in<D: Database>(mut self, database: Arc<D>) -> Self {
        self.outcomes = Some(Arc::new(Of(database)));
        self
    }

    /// For how long a node on a [register](crate::register) answers retries from its cache of replies: up to 24 h; 1 minute
    /// by default; 0 turns the cache off there.
    ///
    /// A completed record never changes, but it can be forgotten. Once [`Engine::forget`](crate::Engine::forget) has
    /// returned, its own node answers with the old reply no more; another node may until it has heard of it, which it does
    /// within milliseconds where the register has announcements and none got lost, and after this time at the latest.
    #[cfg(any(test, feature = "register"))]
    pub fn replay_cache_time(mut self, time: Duration) -> Self {
        self.replay_cache_time = time;
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

    /// How much of the disk the segments may take: at least 64 MiB; no limit by default.
    ///
    /// New keys are refused with [`ErrorKind::Full`](crate::ErrorKind::Full) once seven eighths of it are taken; known keys still work. No live record is
    /// ever evicted to make room. The last eighth is kept for the completions of what was granted, which are never refused: choose
    /// it larger than all replies of the attempts that may be in flight at once. What isn't sealed yet counts twice, because sealing writes it anew before the
    /// journal goes. Segments roll after a sixteenth of the limit, if that is less than [`segment_bytes`](Builder::segment_bytes); merging
    /// rests when there is no room for it.
    pub fn max_disk_bytes(mut self, bytes: u64) -> Self {
        self.max_disk_bytes = Some(bytes);
        self
    }

    /// Above how many sealed segments adjacent ones are merged in the background, four into one: 4 to 100,000; 64 by
    /// default.
    ///
    /// A begin on a new key looks into the memory once per sealed segment, about 0.1 µs each. A merge reads and writes
    /// its segments' entries once more, and takes as much disk space again until it is done. What is over is unlinked later by at
    /// most an eighth of a retention. The number can stay above this if merging it down would break that, or make
    /// segments larger than 16 full ones.
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

    /// Encrypts replies on the disk, with keys that the caller keeps: status, headers, body and trailers, with XChaCha20-Poly1305
    /// and a random nonce each, bound to their record. Whoever reads the folder still sees when and how often, sizes, digests of the keys, and
    /// their text unless that is [turned off](Builder::keep_key_text). Fingerprints are keyed hashes anyway.
    ///
    /// A folder that was opened with keys is refused without the one that was last written with, and with another key under a number
    /// that is known. A reply whose key wasn't given can't be read: its begin gets
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig). Answers from before the first opening with keys stay as they are until they expire.
    #[cfg(feature = "encryption")]
    pub fn encryption(mut self, keys: EncryptionKeys) -> Self {
        self.cipher = Some(keys);
        self
    }

    /// Whether the text of scopes and keys is kept on the disk, where operators can read it; on by
    /// default. Off, only keyed digests are written, and [`Entry::key`](crate::Entry::key) is `None`: an
    /// operator who wants to [`resolve`](crate::Engine::resolve) an attempt has to know its key from elsewhere.
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

    /// Opens a folder whose log is damaged: takes everything before and after the damage, and tells
    /// of each place where something is missing. For the night when there is no backup that is
    /// young enough. Without it such a folder is refused
    /// ([`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt)), and a folder without damage is opened
    /// as ever: say it at the one open that was refused, not at all of them.
    ///
    /// What stood there is gone for good. A key of which everything is missing is free: the next
    /// begin is granted, and does again what was done, under
    /// [`OnAbandon::Hold`](crate::OnAbandon::Hold), too. A key whose completion is missing may be
    /// in flight until its lease ends; but if its begin was in an older segment that was sealed or
    /// swept since, that has gone before, and the key is free at once. Its fencing token is lower
    /// than the numbers that are missing then. A key that was forgotten or released there may be as
    /// it was before, and live keys are counted about right until their segments are swept. So set
    /// aside a copy of the folder first, and compare the [numbers](Damage::numbers) with what was
    /// done downstream around that time.
    ///
    /// What the system refuses to read is an error ([`ErrorKind::Io`](crate::ErrorKind::Io)) and no
    /// damage: copy the file, with zeros in the place of what can't be read, and accept that.
    ///
    /// Fencing tokens continue in a new epoch, above every token that was handed out. What was
    /// accepted is noted in the folder: later opens take it as it is. Damaged replies in sealed
    /// segments don't hinder an open, and are errors for whoever asks for their keys; a manifest or
    /// a secret that is damaged, or a file that is missing as a whole, can only come from a backup.
    pub fn accept_damage(mut self, tell: impl Fn(&Damage) + Send + Sync + 'static) -> Self {
        self.accepts_damage = Some(OnDamage(Arc::new(tell)));
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
}
