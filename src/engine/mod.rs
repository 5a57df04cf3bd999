//! The engine: begin and complete around a handler.

mod builder;
mod core;
// Nothing is to be settled without it.
#[cfg_attr(not(any(test, feature = "register")), allow(dead_code))]
mod fence;
mod granting;
mod guard;
mod hooks;
mod lease;
mod offload;
mod open;
mod operate;
#[cfg_attr(not(any(test, feature = "register")), path = "no_outcomes.rs")]
mod outcomes;
// Nothing is to be reconciled without it.
#[cfg_attr(not(any(test, feature = "register")), allow(dead_code))]
mod reconcile;
mod run;
mod stats;
mod survey;
mod sweeper;
#[cfg(any(test, feature = "register"))]
mod transact;
mod wait;
mod waiters;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use builder::Builder;
pub use guard::{CompleteError, Guard, ReleaseError};
pub use hooks::{Approached, Opening};
pub use lease::{Lease, PendingSettlement};
pub use run::RunError;
pub use stats::{Health, Stats, Sweep};
pub use survey::Export;
#[cfg(any(test, feature = "register"))]
pub use transact::Uncommitted;

use self::core::Core;
use crate::error::Result;
use crate::fingerprint::Fingerprint;
use crate::key::Key;
use crate::limits::Terms;
use crate::store::Reads;
use crate::sync::{block_on, thread, waking};

/// What [`Engine::begin`] found under the key.
pub type Outcome<G = Guard> = crate::outcome::Outcome<G>;

/// An idempotency engine: a folder of records, and the threads that look after it.
///
/// Cloning gives another handle to the same engine; handles are cheap and go to any thread. The engine
/// closes when [`close`](Engine::close) is called or when the last handle goes; guards don't keep it
/// open. Dropping the last handle waits until what is queued has been written, so in async code prefer
/// [`close_async`](Engine::close_async).
///
/// Each call that may wait for the disk has an `_async` form, which works on any executor, blocks no
/// thread of it, and goes the same way through the same code.
#[derive(Clone)]
pub struct Engine {
    core: Arc<Core>,
    handle: Arc<Handle>,
}

/// Closes the engine when its last holder goes.
struct Handle(Arc<Core>);

impl Drop for Handle {
    fn drop(&mut self) {
        let core = Arc::clone(&self.0);
        // Whoever wants to know of an error at the end calls `close`.
        let shut_down = move || drop(core.shut_down());
        let is_own_thread = thread::current()
            .name()
            .is_some_and(|name| name.starts_with("onceward-"));
        if is_own_thread || waking::is_blocking() {
            // A waker that drops its task may drop the last handle with it, in the thread of this
            // engine that wakes, or in that of a caller who commits. That one can't wait for its own end.
            let name = "onceward-close".to_owned();
            drop(thread::Builder::new().name(name).spawn(shut_down));
        } else {
            shut_down();
        }
    }
}

impl Engine {
    /// Opens the engine of a folder with every setting at its default, and makes the folder if there
    /// is none. Its parent has to exist.
    ///
    /// Waits for the disk: after a crash, as long as it takes to repair and index what was written.
    ///
    /// # Errors
    ///
    /// See [`Builder::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::builder().open(path)
    }

    /// A builder, for an engine with other settings.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The lease and the retention that the engine was opened with.
    pub fn terms(&self) -> Terms {
        self.core.limits.terms
    }

    fn new(core: Core) -> Self {
        let core = Arc::new(core);
        let handle = Arc::new(Handle(Arc::clone(&core)));
        Self { core, handle }
    }

    /// Asks for the right to carry out the request `fingerprint` under `key`.
    ///
    /// A grant waits for the disk: once `Proceed` is returned, the grant survives a crash. A replay
    /// or a conflict with a completed attempt may read one record from the disk. An attempt in flight is
    /// told from memory.
    /// Nothing waits for another request's handler; that is [`begin_or_wait`](Engine::begin_or_wait).
    ///
    /// # Errors
    ///
    /// Never `Proceed` in doubt: [`ErrorKind::Full`](crate::ErrorKind::Full) for a new key at the limit
    /// of live keys or disk space, [`ErrorKind::ScopeFull`](crate::ErrorKind::ScopeFull) at the limit of its scope,
    /// [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded) if the queue stayed full,
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) if the key's record is damaged,
    /// [`ErrorKind::Io`](crate::ErrorKind::Io), [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable)
    /// or [`ErrorKind::Closed`](crate::ErrorKind::Closed) if the store can't answer. A grant that
    /// took so long that less than half of its lease is left is renewed once; if that doesn't help
    /// it is released, and the begin is `Unavailable`.
    pub fn begin(&self, key: &Key, fingerprint: &Fingerprint) -> Result<Outcome> {
        let terms = self.core.limits.terms;
        block_on(self.core.begin(key, fingerprint, terms, Reads::Here))
    }

    /// [`begin`](Engine::begin) as a future, for any executor.
    ///
    /// Dropping the future is safe: a grant that it didn't hand over is released at once, since no
    /// handler has run. Only if the engine was closed in between does the key stay taken until its
    /// lease ends.
    ///
    /// # Errors
    ///
    /// As [`begin`](Engine::begin).
    pub async fn begin_async(&self, key: &Key, fingerprint: &Fingerprint) -> Result<Outcome> {
        let terms = self.core.limits.terms;
        self.core
            .begin(key, fingerprint, terms, Reads::Elsewhere)
            .await
    }

    /// [`begin`](Engine::begin) with a lease and a retention of its own.
    ///
    /// Start from [`terms`](Engine::terms) to change one of them. They apply if the key is granted; what is there already keeps the terms that it was given.
    ///
    /// # Errors
    ///
    /// As [`begin`](Engine::begin); and [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) if
    /// the lease isn't between 1 ms and [`MAX_LEASE`](crate::limits::MAX_LEASE), or the retention not
    /// between 1 ms and [`MAX_RETENTION`](crate::limits::MAX_RETENTION).
    pub fn begin_with(
        &self,
        key: &Key,
        fingerprint: &Fingerprint,
        terms: Terms,
    ) -> Result<Outcome> {
        let terms = terms.check()?;
        block_on(self.core.begin(key, fingerprint, terms, Reads::Here))
    }

    /// [`begin_with`](Engine::begin_with) as a future, which may be dropped like
    /// [`begin_async`](Engine::begin_async)'s.
    ///
    /// # Errors
    ///
    /// As [`begin_with`](Engine::begin_with).
    pub async fn begin_with_async(
        &self,
        key: &Key,
        fingerprint: &Fingerprint,
        terms: Terms,
    ) -> Result<Outcome> {
        let terms = terms.check()?;
        self.core
            .begin(key, fingerprint, terms, Reads::Elsewhere)
            .await
    }

    /// [`begin`](Engine::begin), and if the same request is in flight, waits for it to end.
    ///
    /// The wait ends with the other attempt's completion (a replay), its release or its lease's end (a
    /// grant, to one of those who wait), or after `patience`, counted on the engine's clock, with
    /// `Outcome::InFlight`. It is woken, not polled. A held key is waited for like any other.
    ///
    /// # Errors
    ///
    /// As [`begin`](Engine::begin); [`ErrorKind::Closed`](crate::ErrorKind::Closed) also if the engine is
    /// closed during the wait.
    pub fn begin_or_wait(
        &self,
        key: &Key,
        fingerprint: &Fingerprint,
        patience: Duration,
    ) -> Result<Outcome> {
        block_on(
            self.core
                .begin_or_wait(key, fingerprint, patience, Reads::Here),
        )
    }

    /// [`begin_or_wait`](Engine::begin_or_wait) as a future, which may be dropped like
    /// [`begin_async`](Engine::begin_async)'s. A dropped waiter's turn goes to the next one.
    ///
    /// # Errors
    ///
    /// As [`begin_or_wait`](Engine::begin_or_wait).
    pub async fn begin_or_wait_async(
        &self,
        key: &Key,
        fingerprint: &Fingerprint,
        patience: Duration,
    ) -> Result<Outcome> {
        self.core
            .begin_or_wait(key, fingerprint, patience, Reads::Elsewhere)
            .await
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("handles", &Arc::strong_count(&self.handle))
            .finish_non_exhaustive()
    }
}
