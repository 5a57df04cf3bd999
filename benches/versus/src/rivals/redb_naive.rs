//! One redb transaction per operation, committed by the thread that calls.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use onceward::Key;
use onceward::bytes::Bytes;
use redb::{Database, ReadableTable as _};

use super::Caches;
use super::redb_grouped::{RECORDS, RedbReader, begin_write, open_database};
use crate::rival::{Answer, BoxFuture, Caller, Digest, Reader, Rival, Task, digest};

pub(crate) struct Naive {
    database: Arc<Database>,
}

impl Naive {
    pub(crate) fn open(folder: &Path, caches: Caches) -> Result<Self> {
        let database = Arc::new(open_database(folder, caches)?);
        Ok(Self { database })
    }

    fn handle(&self) -> Handle {
        Handle {
            database: Arc::clone(&self.database),
        }
    }
}

impl Rival for Naive {
    fn caller(&self) -> Result<Box<dyn Caller>> {
        Ok(Box::new(self.handle()))
    }

    fn tasks(&self, count: usize) -> BoxFuture<'_, Result<Vec<Box<dyn Task>>>> {
        let tasks = (0..count).map(|_| Box::new(self.handle()) as Box<dyn Task>);
        Box::pin(std::future::ready(Ok(tasks.collect())))
    }

    fn reader(&self) -> Result<Box<dyn Reader>> {
        Ok(Box::new(RedbReader {
            database: Arc::clone(&self.database),
        }))
    }
}

#[derive(Clone)]
struct Handle {
    database: Arc<Database>,
}

impl Handle {
    fn begin(&self, digest: &Digest) -> Result<Answer> {
        let transaction = begin_write(&self.database)?;
        {
            let mut records = transaction.open_table(RECORDS)?;
            if let Some(record) = records.get(digest)? {
                return Ok(Answer::of_record(record.value()));
            }
            records.insert(digest, &[][..])?;
        }
        transaction.commit()?;
        Ok(Answer::Done)
    }

    fn complete(&self, digest: &Digest, reply: &[u8]) -> Result<()> {
        let transaction = begin_write(&self.database)?;
        transaction.open_table(RECORDS)?.insert(digest, reply)?;
        transaction.commit()?;
        Ok(())
    }
}

impl Caller for Handle {
    fn begin(&mut self, key: &Key) -> Result<Answer> {
        Handle::begin(self, &digest(key))
    }

    fn complete(&mut self, key: &Key, reply: Bytes) -> Result<()> {
        Handle::complete(self, &digest(key), &reply)
    }
}

impl Task for Handle {
    fn begin<'a>(&'a mut self, key: &'a Key) -> BoxFuture<'a, Result<Answer>> {
        let (handle, digest) = (self.clone(), digest(key));
        in_blocking_pool(move || Handle::begin(&handle, &digest))
    }

    fn complete<'a>(&'a mut self, key: &'a Key, reply: Bytes) -> BoxFuture<'a, Result<()>> {
        let (handle, digest) = (self.clone(), digest(key));
        in_blocking_pool(move || Handle::complete(&handle, &digest, &reply))
    }
}

/// A commit blocks its thread, which a task must not do to a worker of its runtime.
fn in_blocking_pool<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> BoxFuture<'static, Result<T>> {
    Box::pin(async {
        tokio::task::spawn_blocking(work)
            .await
            .context("a commit panicked")?
    })
}
