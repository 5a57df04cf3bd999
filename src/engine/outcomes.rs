//! The caller's database as a place of outcomes, whatever its sort.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures_channel::oneshot;
use tokio::runtime::{self, Runtime};
use tokio::time::timeout;

use super::Builder;
use super::reconcile::{Found, Later, Outcomes, Reconciler};
use crate::clock::{Timeline, Timestamp};
use crate::codec;
use crate::error::{Error, ErrorKind, Result};
use crate::outcome::OnAbandon;
use crate::record::Record;
use crate::secret::Digest;
use crate::store::Store;
use crate::store::register::{RecordId, Refused, Value, Version};
use crate::store::transaction::Transaction;
use crate::sync::Mutex;
use crate::sync::block_on;

/// How long the database may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A database of `T`'s sort, to be [opened](Unopened::open).
pub(super) trait Unopened: Send + Sync + fmt::Debug {
    /// Starts the thread that asks the database.
    fn open(&self) -> Result<Arc<dyn Outcomes>>;
}

impl Builder {
    /// Where outcomes are looked for, nothing is granted again before: the store holds it.
    pub(super) fn store_on_abandon(&self) -> OnAbandon {
        match &self.outcomes {
            Some(_) => OnAbandon::Hold,
            None => self.on_abandon,
        }
    }

    /// Opens the outcomes, and completes what they have.
    pub(super) fn reconciler(
        &self,
        store: &Arc<dyn Store>,
        timeline: &Timeline,
    ) -> Result<Option<Arc<Reconciler>>> {
        let Some(outcomes) = &self.outcomes else {
            return Ok(None);
        };
        let reconciler = Reconciler {
            outcomes: outcomes.open()?,
            store: Arc::clone(store),
            timeline: timeline.clone(),
            on_abandon: self.on_abandon,
            keeps_keys: self.keeps_keys,
        };
        let found = block_on(async {
            reconciler.outcomes.prepare().await?;
            reconciler.reconcile_all().await
        });
        found.inspect_err(|_| reconciler.outcomes.stop())?;
        Ok(Some(Arc::new(reconciler)))
    }
}

pub(super) struct Of<T: Transaction>(Arc<T::Database>);

impl<T: Transaction + 'static> Of<T> {
    pub(super) fn new(database: T::Database) -> Self {
        Self(Arc::new(database))
    }
}

impl<T: Transaction + 'static> Unopened for Of<T> {
    fn open(&self) -> Result<Arc<dyn Outcomes>> {
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("onceward-outcomes")
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| {
            Error::with_source(
                ErrorKind::Io,
                "the thread of the outcomes can't be started",
                error,
            )
        })?;
        Ok(Arc::new(Opened::<T> {
            database: Arc::clone(&self.0),
            runtime: Mutex::new(Some(runtime)),
            sort: PhantomData,
        }))
    }
}

struct Opened<T: Transaction> {
    database: Arc<T::Database>,
    /// `None` once the engine is closed.
    runtime: Mutex<Option<Runtime>>,
    sort: PhantomData<fn(T)>,
}

impl<T: Transaction> Opened<T> {
    fn ask<A: Send + 'static>(
        &self,
        work: impl Future<Output = Result<A, Refused>> + Send + 'static,
    ) -> oneshot::Receiver<Result<A>> {
        let (sender, receiver) = oneshot::channel();
        if let Some(runtime) = &*self.runtime.lock() {
            runtime.spawn(async move {
                let done = timeout(TIMEOUT, work).await;
                let result = match done {
                    Ok(done) => done.map_err(|refused| unavailable(refused.into_cause())),
                    Err(late) => Err(unavailable(late.into())),
                };
                drop(sender.send(result));
            });
        }
        receiver
    }
}

impl<T: Transaction + 'static> Outcomes for Opened<T> {
    fn prepare(&self) -> Later<()> {
        let database = Arc::clone(&self.database);
        let prepared = self.ask(async move { T::prepare(&database).await });
        Box::pin(async move { prepared.await.unwrap_or_else(|_| Err(Error::closed())) })
    }

    fn load(&self, digest: &Digest) -> Later<Option<Found>> {
        let (database, digest) = (Arc::clone(&self.database), *digest);
        let loaded = self.ask(async move { T::load(&database, RecordId(digest)).await });
        Box::pin(async move {
            let value = loaded.await.unwrap_or_else(|_| Err(Error::closed()))?;
            value.map(|value| found(&value, &digest)).transpose()
        })
    }

    fn remove(&self, digest: &Digest, found: &Found) -> Later<()> {
        let (database, digest) = (Arc::clone(&self.database), *digest);
        let version = Version::from_bits(found.version);
        let removed =
            self.ask(async move { T::remove(&database, RecordId(digest), version).await });
        Box::pin(async move { removed.await.unwrap_or_else(|_| Err(Error::closed())) })
    }

    fn sweep(&self, now: Timestamp) -> Later<u64> {
        let database = Arc::clone(&self.database);
        let swept = self.ask(async move { T::sweep(&database, now.0).await });
        Box::pin(async move { swept.await.unwrap_or_else(|_| Err(Error::closed())) })
    }

    fn database(&self) -> &(dyn Any + Send + Sync) {
        &*self.database
    }

    fn stop(&self) {
        if let Some(runtime) = self.runtime.lock().take() {
            runtime.shutdown_background();
        }
    }
}

fn found(value: &Value, digest: &Digest) -> Result<Found> {
    let entry = codec::decode(&value.bytes)?;
    let is_its_own = entry.digest == *digest;
    match entry.into_stored().map(|stored| stored.record) {
        Some(Record::Completed(record)) if is_its_own => Ok(Found {
            version: value.version.to_bits(),
            record,
        }),
        _ => Err(Error::new(
            ErrorKind::Corrupt,
            "the database has something else than an outcome under a key; restore it from a backup",
        )),
    }
}

fn unavailable(cause: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::with_source(
        ErrorKind::Unavailable,
        "the database that has the outcomes doesn't answer, and without it an abandoned key isn't granted again; retry later",
        cause,
    )
}

impl<T: Transaction> fmt::Debug for Of<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outcomes").finish_non_exhaustive()
    }
}

impl<T: Transaction> fmt::Debug for Opened<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outcomes").finish_non_exhaustive()
    }
}
