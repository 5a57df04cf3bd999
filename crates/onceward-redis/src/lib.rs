//! A [register](onceward::register) on Redis: one server, or a Redis Cluster.
//!
//! ```no_run
//! use onceward_redis::Redis;
//! use onceward::{Engine, Fingerprint, Key, Outcome, Reply};
//!
//! let redis = Redis::builder("redis://10.0.0.1:6379").build()?;
//! let engine = Engine::builder().open_on(redis.clone())?;
//! for warning in redis.warnings() {
//!     eprintln!("{warning}");
//! }
//! let (key, fingerprint) = (Key::new("acct_42", "order-17")?, Fingerprint::of("request"));
//! if let Outcome::Proceed(guard) = engine.begin(&key, &fingerprint)? {
//!     guard.complete(Reply::new(201, "booked"))?;
//! }
//! # Ok::<(), onceward::Error>(())
//! ```
//!
//! A builder only checks its settings. The connections are made when an engine is opened, in a runtime of the engine's own: the
//! program needs none. They are made anew whenever they break.
//!
//! # What is kept
//!
//! Each idempotency key is one Redis key, the prefix and 32 bytes, so that a cluster may have it on any of its servers. Its value is
//! 8 bytes of version and the record. One Lua script compares the version and replaces the value, and one reads it; both
//! also read the server's clock. A new key is set by plain commands (`TIME` and `SET … NX GET`, in one flight) where the server is Redis 7 or newer and
//! no replicas are waited for, and by the script elsewhere. A key expires by itself when its record is over. A new key, a replay and a completion
//! take one round trip each.
//!
//! # What the servers need
//!
//! - Redis 6.2 or newer, or what speaks as it does. An older one is refused at the first contact.
//! - `appendonly yes` and `appendfsync always`. With `everysec`, what was acknowledged in the last second or two before a power cut is lost,
//!   and what was granted then can be granted again. Without an append-only file a restart loses far more.
//! - `maxmemory-policy noeviction`, and memory for all replies within their retention. Any other policy may evict a key that is held,
//!   whose attempt is then granted a second time, or an answer, whose retry then runs again. With `noeviction` a
//!   full server refuses changes, and the engine fails closed.
//! - Clocks: time is that of the server that has the key. In a cluster, and across a failover, the primaries' clocks have to agree to
//!   within much less than a lease, by NTP say: a key whose server's clock is 3 seconds ahead of the one before has its lease cut short by
//!   3 seconds.
//! - Users with the permissions for `EVAL`, `EVALSHA`, `GET`, `SET`, `TIME`, `SCAN`, `INFO`, `PUBLISH`, `SUBSCRIBE`, `PING`, in a cluster `CLUSTER SLOTS`
//!   and `CLUSTER INFO` and `ASKING`, and for `WAIT` if it is used. `CONFIG GET` is for the warnings alone.
//!
//! At the first contact the settings of every primary are read, and [`Redis::warnings`] tells what falls short; with the feature
//! `tracing` each is an event, too.
//!
//! # What a failover can lose
//!
//! Redis replicates asynchronously: a primary acknowledges a change before its replicas have it. If it dies then, and a replica takes
//! over, the change is gone although it was durable on the primary's disk. Two promises may be broken so:
//!
//! - A completion that was acknowledged is lost. A retry finds the key held, or free, and the handler runs again.
//! - A grant is lost. The key is granted again while the first guard still runs: two guards at once. The first one's completion is then
//!   refused, but its handler has run.
//!
//! A primary that was cut off from the majority goes on for up to `cluster-node-timeout`; what it acknowledges in that time is lost
//! as well when it rejoins.
//!
//! [`wait_for_replicas`](RedisBuilder::wait_for_replicas) makes a change count only once so many replicas have it in memory. A failover to one of those keeps
//! it. It doesn't make Redis consistent: a replica that hasn't the change may be elected nevertheless (the one that has most of the log is preferred, no
//! more), a change of unknown outcome is visible to other nodes at once, and replicas that restart at the same time may not have it on disk. `min-replicas-to-write`
//! with `min-replicas-max-lag` on the servers refuses changes while too few replicas are connected, which bounds how long a
//! primary that was cut off goes on; it doesn't wait for any of them. One server without replicas and with `appendfsync always`, or a register with
//! consensus or synchronous replication, has neither problem.
//!
//! # Errors
//!
//! What a server refuses for a while (it loads, a failover is under way, a slot is being moved, too
//! few replicas are there) is asked again within the [timeout](RedisBuilder::timeout), after pauses
//! that differ by chance. So is a change of a key that is held while the server's memory is full: a
//! completion lives through a second of that. A new key is then refused at once, as is whatever
//! else a server refuses (no permission, say). When a connection breaks, or an answer doesn't come,
//! a swap may have been made: it is asked for again, and can't be made twice.
//!
//! # Walking through all keys
//!
//! An export and a verification use `SCAN`, on each primary in turn, which may give a key twice. When slots have moved
//! meanwhile, the walk begins anew, and keys come twice. A key whose slot is under way from one server to another during the whole of a
//! walk can be missed: don't walk while a cluster is resharded.
//!
//! # Announcements
//!
//! Whoever waits for a key on one node is woken when it is completed on another, through publish and subscribe on the
//! channel `{prefix}changes`. They may get lost; who waits also looks by itself.

mod asking;
mod builder;
mod check;
mod failure;
mod news;
mod node;
mod nodes;
mod scan;
mod script;
mod slots;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::OnceCell;

use onceward::register::{
    Cursor, Loaded, Page, RecordId, Refused, Register, Swapped, Value, Version,
};
use parking_lot::Mutex;

use builder::Config;
pub use builder::RedisBuilder;
use nodes::Nodes;
use script::Call;

/// A register on Redis; to [open](onceward::Builder::open_on) an engine on.
///
/// A clone has the same settings and warnings, and connections of its own.
pub struct Redis {
    config: Arc<Config>,
    nodes: Nodes,
    contact: OnceCell<()>,
    /// The servers don't know the plain commands for an insert.
    needs_scripts: AtomicBool,
    warnings: Arc<Mutex<Vec<String>>>,
    /// Tells this node's announcements from others'.
    origin: [u8; 8],
}

impl Redis {
    /// Sets up a register on the servers at these URLs: one, or several with commas between them, which have to be nodes of one Redis
    /// Cluster. Some of its nodes are enough; they tell of the others. A URL is like `redis://user:password@host:6379/0`, or
    /// `host:port`. Whether a single server is a cluster's is found out from it.
    ///
    /// The nodes of a cluster are connected to with the first URL's user and password. There is no TLS.
    pub fn builder(urls: &str) -> RedisBuilder {
        RedisBuilder::new(urls)
    }

    /// What the servers' settings leave of the promises, in a sentence each; empty before an engine was opened, and if there is
    /// nothing to warn of.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.lock().clone()
    }

    fn of(config: Arc<Config>) -> Self {
        Self::with(config, Arc::default())
    }

    fn with(config: Arc<Config>, warnings: Arc<Mutex<Vec<String>>>) -> Self {
        let mut origin = [0; 8];
        // Without random bytes an engine can't be opened anyway.
        let _ = getrandom::fill(&mut origin);
        Self {
            nodes: Nodes::new(Arc::clone(&config)),
            config,
            contact: OnceCell::new(),
            needs_scripts: AtomicBool::new(false),
            warnings,
            origin,
        }
    }

    fn key(&self, id: RecordId) -> Vec<u8> {
        let mut key = self.config.prefix.clone();
        key.extend_from_slice(id.as_bytes());
        key
    }
}

impl Clone for Redis {
    fn clone(&self) -> Self {
        Self::with(Arc::clone(&self.config), Arc::clone(&self.warnings))
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers = self.config.seeds.iter();
        let servers: Vec<_> = servers.map(|seed| seed.addr().to_string()).collect();
        f.debug_struct("Redis")
            .field("servers", &servers)
            .finish_non_exhaustive()
    }
}

impl Register for Redis {
    async fn load(&self, id: RecordId) -> Result<Loaded, Refused> {
        let answer = self.call(id, &Call::load(self.key(id))).await?;
        script::loaded(answer).ok_or_else(|| Refused::unchanged(NO_ANSWER))
    }

    async fn swap(
        &self,
        id: RecordId,
        expected: Option<Version>,
        new: Value,
        ends_at_ms: u64,
    ) -> Result<Swapped, Refused> {
        let call = Call::swap(self.key(id), expected, &new, ends_at_ms);
        let answer = self.call(id, &call).await?;
        script::swapped(answer).ok_or_else(|| Refused::unknown(NO_ANSWER))
    }

    /// Redis removes them by itself.
    async fn sweep(&self) -> Result<u64, Refused> {
        Ok(0)
    }

    async fn scan(&self, from: Option<Cursor>, most: usize) -> Result<Page, Refused> {
        self.page(from, most).await
    }

    async fn announce(&self, changed: Vec<RecordId>) {
        self.publish(changed).await;
    }

    async fn listen(&self, changed: impl Fn(RecordId) + Send + Sync + 'static) {
        self.hear(changed).await;
    }

    /// But for those that only hear.
    fn connections(&self) -> u64 {
        self.nodes.made()
    }

    fn timeout(&self) -> Duration {
        self.config.timeout
    }
}

const NO_ANSWER: &str = "the server's answer isn't the script's";
