//! The caller's database as a place of outcomes, whatever its sort.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_channel::oneshot;
use tokio::time::timeout;

use super::Builder;
use super::reconcile::{Found, Outcomes, Reconciler, Times};
use crate::clock::{Timeline, Timestamp};
use crate::codec;
use crate::error::{Error, ErrorKind, Result};
use crate::outcome::OnAbandon;
use crate::record::Record;
use crate::secret::Digest;
use crate::store::register::{Jobs, RecordId, Refused, Value, Version, Worker};
use crate::store::transaction::{Database, OutcomeRow, Replaces, Written};
use crate::store::{Later, Store};
use crate::sync::Mutex;
use crate::sync::block_on;

/// How long the database may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A database, to be [opened](Unopened::open).
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
            running: Arc::default(),
        };
        let found = block_on(reconciler.reconcile_all());
        found.inspect_err(|_| reconciler.outcomes.stop())?;
        Ok(Some(Arc::new(reconciler)))
    }
}

pub(super) struct Of<D>(pub(super) Arc<D>);

impl<D: Database> Unopened for Of<D> {
    fn open(&self) -> Result<Arc<dyn Outcomes>> {
        let worker = Worker::start("onceward-outcomes")?;
        let database = Arc::clone(&self.0);
        let mark = ask(worker.jobs(), async move { marked(&database).await });
        Ok(Arc::new(Opened {
            database: Arc::clone(&self.0),
            mark: block_on(mark)?,
            worker: Mutex::new(Some(worker)),
        }))
    }
}

struct Opened<D> {
    database: Arc<D>,
    /// `None` once the engine is closed.
    worker: Mutex<Option<Worker>>,
    mark: Version,
}

/// What a fence is made with.
const NO_BYTES: Bytes = Bytes::new();
/// The mark says whose it is to whoever looks into the database.
const MARK_BYTES: Bytes = Bytes::from_static(b"onceward");
const MARK: RecordId = RecordId(Digest([0; 32]));

/// Runs something in the engine's thread, whether or not anybody waits for it.
fn ask<A: Send + 'static>(
    jobs: &Jobs,
    work: impl Future<Output = Result<A, Refused>> + Send + 'static,
) -> Later<A> {
    let (sender, receiver) = oneshot::channel();
    jobs.run(async move {
        let result = match timeout(TIMEOUT, work).await {
            Ok(done) => done.map_err(|refused| unavailable(refused.into_cause())),
            Err(late) => Err(unavailable(late.into())),
        };
        drop(sender.send(result));
    });
    Box::pin(async move { receiver.await.unwrap_or_else(|_| Err(Error::closed())) })
}

/// What the database is known by from now on: the first engine chooses it.
async fn marked<D: Database>(database: &Arc<D>) -> Result<Version, Refused> {
    loop {
        if let Some(found) = database.load(MARK).await? {
            return Ok(found.version);
        }
        let mut bits = [0; 8];
        getrandom::fill(&mut bits)
            .map_err(|error| Refused::unchanged(std::io::Error::other(error)))?;
        let row = OutcomeRow {
            id: MARK,
            replaces: Replaces::Older(0),
            mark: None,
            value: Value {
                version: Version::from_bits(u64::from_le_bytes(bits) >> 1),
                bytes: MARK_BYTES,
            },
            ends_at_ms: u64::MAX,
        };
        // Whoever was first, its mark is there now.
        let _: Written = database.put(&row).await?;
    }
}

impl<D: Database> Opened<D> {
    fn ask<A: Send + 'static>(
        &self,
        work: impl Future<Output = Result<A, Refused>> + Send + 'static,
    ) -> Later<A> {
        match &*self.worker.lock() {
            Some(worker) => ask(worker.jobs(), work),
            None => Box::pin(async { Err(Error::closed()) }),
        }
    }

    fn fence_row(
        &self,
        digest: &Digest,
        token: u64,
        replaces: Replaces,
        until: Timestamp,
    ) -> OutcomeRow {
        OutcomeRow {
            id: RecordId(*digest),
            replaces,
            mark: Some(self.mark),
            value: Value {
                version: Version::from_bits(token),
                bytes: NO_BYTES,
            },
            ends_at_ms: until.0,
        }
    }
}

impl<D: Database> Outcomes for Opened<D> {
    fn load(&self, digest: &Digest) -> Later<Option<Found>> {
        let (database, digest) = (Arc::clone(&self.database), *digest);
        let loaded = self.ask(async move { database.load(RecordId(digest)).await });
        Box::pin(async move {
            let value = loaded.await?;
            value.map_or(Ok(None), |value| found(&value, &digest))
        })
    }

    fn fence(&self, digest: &Digest, token: u64, times: Times) -> Later<Option<Found>> {
        let (database, digest) = (Arc::clone(&self.database), *digest);
        let row = self.fence_row(&digest, token, Replaces::Older(times.now.0), times.until);
        let put = self.ask(async move {
            Ok(match database.put(&row).await? {
                Written::Done => None,
                Written::Superseded => database.load(row.id).await?,
            })
        });
        Box::pin(async move {
            let value = put.await?;
            value.map_or(Ok(None), |value| found(&value, &digest))
        })
    }

    fn erase(&self, digest: &Digest, found: &Found, times: Times) -> Later<()> {
        let database = Arc::clone(&self.database);
        let replaces = Replaces::Version(Version::from_bits(found.token));
        let row = self.fence_row(digest, found.token, replaces, times.until);
        // Where it isn't there any more, somebody else has erased it.
        let put = self.ask(async move { database.put(&row).await });
        Box::pin(async move { put.await.map(drop) })
    }

    fn sweep(&self, now: Timestamp) -> Later<u64> {
        let database = Arc::clone(&self.database);
        self.ask(async move { database.sweep(now.0).await })
    }

    fn database(&self) -> &(dyn Any + Send + Sync) {
        &*self.database
    }

    fn mark(&self) -> u64 {
        self.mark.to_bits()
    }

    fn run(&self, work: Pin<Box<dyn Future<Output = ()> + Send>>) {
        if let Some(worker) = &*self.worker.lock() {
            worker.jobs().run(work);
        }
    }

    fn stop(&self) {
        drop(self.worker.lock().take());
    }
}

/// `None` for a fence.
fn found(value: &Value, digest: &Digest) -> Result<Option<Found>> {
    if value.bytes.is_empty() {
        return Ok(None);
    }
    let entry = codec::decode(&value.bytes)?;
    let is_its_own = entry.digest == *digest;
    match entry.into_stored().map(|stored| stored.record) {
        Some(Record::Completed(record)) if is_its_own => Ok(Some(Found {
            token: value.version.to_bits(),
            record,
        })),
        _ => Err(Error::new(
            ErrorKind::Corrupt,
            "the database has something else than an outcome under a key; restore it from a backup",
        )),
    }
}

fn unavailable(cause: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::with_source(
        ErrorKind::Unavailable,
        "the database that has the outcomes doesn't answer (a change of it may still be made); without it an abandoned key isn't \
         granted again; retry later",
        cause,
    )
}

impl<D> fmt::Debug for Of<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outcomes").finish_non_exhaustive()
    }
}

impl<D> fmt::Debug for Opened<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outcomes").finish_non_exhaustive()
    }
}
