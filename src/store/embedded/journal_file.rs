//! A journal's file: written to while its segment is active, only read once it is rolled.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use redb::{
    Database, DatabaseError, ReadOnlyDatabase, ReadTransaction, ReadableDatabase, TableDefinition,
    TransactionError, WriteTransaction,
};

use super::directory::Name;
use super::disk::{DataFile, data_file, existing_file};
use super::edge::{Owned, redb_call};
use super::frozen_file::FrozenFile;
use super::growing_file::GrowingFile;
use super::tally::SegmentHeader;
use crate::codec;
use crate::error::{Error, ErrorKind, Result};

pub(super) const HEADER: TableDefinition<'_, (), &[u8]> = TableDefinition::new("header");
pub(super) const WHAT: &str = "a segment";

pub(super) struct JournalFile {
    database: Opened,
    /// How many bytes of the disk it takes, holes left out.
    taken: Arc<AtomicU64>,
}

enum Opened {
    Writable(Owned<Database>),
    ReadOnly(Owned<ReadOnlyDatabase>),
    /// As it is on the disk; nothing is written there.
    Frozen(Owned<Database>),
}

/// Is told how many thousandths of a repair are done.
pub(super) type OnRepair = Arc<dyn Fn(u64) + Send + Sync>;

impl JournalFile {
    /// Makes a database of an empty file.
    pub(super) fn create(file: File, name: &Name, cache_bytes: usize) -> Result<Self, redb::Error> {
        Self::writable(data_file(file, name)?, cache_bytes, Arc::new(|_| {}))
    }

    /// Opens the journal of a segment that was closed cleanly, to write to it.
    pub(super) fn open(
        name: &Name,
        cache_bytes: usize,
        on_repair: OnRepair,
    ) -> Result<Self, redb::Error> {
        Self::writable(existing_file(name)?, cache_bytes, on_repair)
    }

    /// Opens the journal of a segment that was rolled, as far as that was ended cleanly.
    pub(super) fn open_rolled(
        name: &Name,
        cache_bytes: usize,
        on_repair: OnRepair,
    ) -> Result<Self, redb::Error> {
        let opened = Database::builder()
            .set_cache_size(cache_bytes)
            .open_read_only_with_backend(data_file(name.open_to_read()?, name)?);
        match opened {
            Ok(database) => Self::unchanging(Opened::ReadOnly(Owned::new(database)), name),
            Err(DatabaseError::RepairAborted) => Self::freeze(name, cache_bytes, on_repair),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a file that nothing is written to, though it may have to be repaired to be read.
    pub(super) fn freeze(
        name: &Name,
        cache_bytes: usize,
        on_repair: OnRepair,
    ) -> Result<Self, redb::Error> {
        let database = Database::builder()
            .set_cache_size(cache_bytes)
            .set_repair_callback(move |repair| on_repair(thousandths(repair.progress())))
            .create_with_backend(FrozenFile::open(name)?)?;
        Self::unchanging(Opened::Frozen(Owned::new(database)), name)
    }

    fn unchanging(database: Opened, name: &Name) -> Result<Self, redb::Error> {
        let taken = Arc::new(AtomicU64::new(taken_by(name)?));
        Ok(Self { database, taken })
    }

    fn writable(
        file: DataFile,
        cache_bytes: usize,
        on_repair: OnRepair,
    ) -> Result<Self, redb::Error> {
        let taken = Arc::new(AtomicU64::new(0));
        let growing = GrowingFile::new(file, Arc::clone(&taken))?;
        let database = Database::builder()
            .set_cache_size(cache_bytes)
            .set_repair_callback(move |repair| on_repair(thousandths(repair.progress())))
            .create_with_backend(growing)?;
        Ok(Self {
            database: Opened::Writable(Owned::new(database)),
            taken,
        })
    }

    pub(super) fn is_writable(&self) -> bool {
        matches!(&self.database, Opened::Writable(_))
    }

    /// Whether nothing can be written, because what is there isn't for sure on the disk.
    pub(super) fn is_frozen(&self) -> bool {
        matches!(&self.database, Opened::Frozen(_))
    }

    pub(super) fn begin_write(&self) -> Result<WriteTransaction, redb::Error> {
        match &self.database {
            Opened::Writable(database) => Ok(database.begin_write()?),
            Opened::ReadOnly(_) | Opened::Frozen(_) => {
                unreachable!("only the active segment is written to")
            }
        }
    }

    pub(super) fn begin_read(&self) -> Result<ReadTransaction, TransactionError> {
        match &self.database {
            Opened::Writable(database) | Opened::Frozen(database) => database.begin_read(),
            Opened::ReadOnly(database) => database.begin_read(),
        }
    }

    pub(super) fn page_cache_bytes(&self) -> u64 {
        let stats = match &self.database {
            Opened::Writable(database) | Opened::Frozen(database) => database.cache_stats(),
            Opened::ReadOnly(database) => database.cache_stats(),
        };
        stats.used_bytes() as u64
    }

    /// Refuses the file of another segment.
    pub(super) fn check_header(&self, expected: &SegmentHeader) -> Result<()> {
        let found = redb_call(WHAT, || {
            let table = self.begin_read()?.open_table(HEADER)?;
            let found = table.get(())?.map(|row| row.value().to_vec());
            Ok(found.unwrap_or_default())
        })?;
        let found: SegmentHeader = codec::decode_sealed(&found, "a segment's header")?;
        if found == *expected {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Corrupt,
            "a segment's file is of another store or another segment; restore it from a backup",
        ))
    }

    /// How many bytes of the disk the file takes.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    pub(super) fn close(self) -> Result<(), redb::Error> {
        match self.database {
            Opened::Writable(database) | Opened::Frozen(database) => {
                Ok(database.into_inner().close()?)
            }
            Opened::ReadOnly(database) => Ok(database.into_inner().close()?),
        }
    }
}

/// How many bytes of the disk a file takes, holes left out where the system tells.
pub(super) fn taken_by(name: &Name) -> std::io::Result<u64> {
    let found = name.look()?.ok_or(std::io::ErrorKind::NotFound)?;
    Ok(found.taken_bytes)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // It is between 0 and 1.
fn thousandths(fraction: f64) -> u64 {
    (fraction * 1_000.0) as u64
}
