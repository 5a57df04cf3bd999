//! A journal's file: written to while its segment is active, only read once it is rolled.

use std::path::Path;
use std::sync::Arc;

use redb::{
    Database, DatabaseError, ReadOnlyDatabase, ReadTransaction, ReadableDatabase, TransactionError,
};

pub(super) enum JournalFile {
    Writable(Database),
    ReadOnly(ReadOnlyDatabase),
}

impl JournalFile {
    /// A rolled segment that was closed cleanly is opened read-only, which writes nothing. Everything else
    /// is repaired first if it has to be; `progress` is told how many thousandths of that are done.
    pub(super) fn open(
        path: &Path,
        is_rolled: bool,
        cache_bytes: usize,
        progress: Arc<dyn Fn(u64) + Send + Sync>,
    ) -> Result<Self, redb::Error> {
        if is_rolled {
            match Database::builder()
                .set_cache_size(cache_bytes)
                .open_read_only(path)
            {
                Ok(database) => return Ok(Self::ReadOnly(database)),
                Err(DatabaseError::RepairAborted) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let database = Database::builder()
            .set_cache_size(cache_bytes)
            .set_repair_callback(move |repair| progress(thousandths(repair.progress())))
            .open(path)?;
        Ok(Self::Writable(database))
    }

    pub(super) fn begin_read(&self) -> Result<ReadTransaction, TransactionError> {
        match self {
            Self::Writable(database) => database.begin_read(),
            Self::ReadOnly(database) => database.begin_read(),
        }
    }

    pub(super) fn page_cache_bytes(&self) -> u64 {
        let stats = match self {
            Self::Writable(database) => database.cache_stats(),
            Self::ReadOnly(database) => database.cache_stats(),
        };
        stats.used_bytes() as u64
    }

    pub(super) fn close(self) -> Result<(), redb::Error> {
        match self {
            Self::Writable(database) => Ok(database.close()?),
            Self::ReadOnly(database) => Ok(database.close()?),
        }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // It is between 0 and 1.
fn thousandths(fraction: f64) -> u64 {
    (fraction * 1_000.0) as u64
}
