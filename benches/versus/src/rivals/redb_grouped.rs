//! One redb table behind the group's writer thread: one transaction per batch.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use onceward::Key;
use onceward::bytes::Bytes;
use redb::{
    Database, Durability, ReadableDatabase as _, ReadableTable as _, TableDefinition,
    WriteTransaction,
};

use super::{Caches, SMALL_CACHE_BYTES};
use crate::group::{Backend, Command, Grouped, Step};
use crate::rival::{Answer, Digest, Reader, digest};

/// An empty record is an attempt that is running; any other is the reply.
pub(super) const RECORDS: TableDefinition<'_, &Digest, &[u8]> = TableDefinition::new("records");

pub(crate) fn open(folder: &Path, caches: Caches) -> Result<Grouped> {
    let database = Arc::new(open_database(folder, caches)?);
    let reading = Arc::clone(&database);
    Grouped::start("redb-grouped", Writer { database }, move || {
        let database = Arc::clone(&reading);
        Ok(Box::new(RedbReader { database }) as _)
    })
}

/// With redb's default cache of 1 GiB, unless it is to be small.
pub(super) fn open_database(folder: &Path, caches: Caches) -> Result<Database> {
    let mut builder = Database::builder();
    if caches == Caches::Small {
        builder.set_cache_size(SMALL_CACHE_BYTES);
    }
    let database = builder.create(folder.join("records.redb"))?;
    // The table is there before the first reader looks.
    let transaction = begin_write(&database)?;
    transaction.open_table(RECORDS)?;
    transaction.commit()?;
    Ok(database)
}

/// Puts completed records into the folder, which has no database yet, in large sorted transactions.
pub(crate) fn preload(
    folder: &Path,
    sorted: impl Iterator<Item = (Digest, Bytes)>,
    mut note: impl FnMut(u64) -> Result<()>,
) -> Result<()> {
    const RECORDS_PER_TRANSACTION: usize = 100_000;
    let database = open_database(folder, Caches::Usual)?;
    let mut sorted = sorted.peekable();
    let mut loaded = 0;
    while sorted.peek().is_some() {
        let transaction = begin_write(&database)?;
        {
            let mut records = transaction.open_table(RECORDS)?;
            for (digest, reply) in sorted.by_ref().take(RECORDS_PER_TRANSACTION) {
                records.insert(&digest, &reply[..])?;
                loaded += 1;
            }
        }
        transaction.commit()?;
        note(loaded)?;
    }
    Ok(())
}

pub(super) fn begin_write(database: &Database) -> Result<WriteTransaction> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    Ok(transaction)
}

struct Writer {
    database: Arc<Database>,
}

impl Backend for Writer {
    fn apply(&mut self, batch: &[Command], answers: &mut Vec<Answer>) -> Result<()> {
        let transaction = begin_write(&self.database)?;
        {
            let mut records = transaction.open_table(RECORDS)?;
            for command in batch {
                let answer = match &command.step {
                    Step::Begin => {
                        let known = records
                            .get(&command.digest)?
                            .map(|record| Answer::of_record(record.value()));
                        if known.is_none() {
                            records.insert(&command.digest, &[][..])?;
                        }
                        known.unwrap_or(Answer::Done)
                    }
                    Step::Complete(reply) => {
                        records.insert(&command.digest, &reply[..])?;
                        Answer::Done
                    }
                };
                answers.push(answer);
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

pub(super) struct RedbReader {
    pub(super) database: Arc<Database>,
}

impl Reader for RedbReader {
    fn replay(&mut self, key: &Key) -> Result<Option<Bytes>> {
        let records = self.database.begin_read()?.open_table(RECORDS)?;
        let record = records.get(&digest(key))?;
        Ok(record.and_then(|record| Answer::of_record(record.value()).reply()))
    }
}
